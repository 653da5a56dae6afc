//! From nodes to a runner's own type: a serde deserializer whose errors know their place.
//!
//! Runners say what they take with `#[derive(Deserialize)] #[serde(deny_unknown_fields)]`. Where a string is wanted,
//! a number or a boolean is taken as it was written, so `0644` and `8.0` keep their text.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};

use super::mistakes;
use super::node::{Kind, Node};
use super::suggest;
use super::truth::says;
use crate::diagnostic::Diagnostic;

/// Reads a runner's arguments.
pub fn from_node<T: DeserializeOwned>(node: &Node) -> Result<T, Vec<Diagnostic>> {
    T::deserialize(Arguments(node)).map_err(|problem| vec![problem.into_diagnostic(node)])
}

/// Several types whose fields stand beside each other in one mapping: groups of arguments that runners have in common, and a
/// runner's own. No two of them have a field of one name.
pub trait Parts: Sized {
    /// Reads all of them; a member that none of them has is an error.
    fn read(node: &Node) -> Result<Self, Vec<Diagnostic>>;

    /// The JSON Schema of the mapping.
    fn schema() -> serde_json::Value;
}

macro_rules! parts {
    ($($part:ident),*) => {
        impl<$($part: DeserializeOwned + JsonSchema),*> Parts for ($($part,)*) {
            fn read(node: &Node) -> Result<Self, Vec<Diagnostic>> {
                let Kind::Map(members) = &node.kind else {
                    return Err(vec![Arguments(node).wrong("a mapping").into_diagnostic(node)]);
                };
                let mut known: Vec<&'static str> = Vec::new();
                let read = ($($part::deserialize(Part { node, known: &mut known }),)*);
                let name = |key: &Node| key.text().unwrap_or_default().to_owned();
                if let Some((key, _)) = members.iter().find(|(key, _)| !known.contains(&name(key).as_str())) {
                    let mut problem = key.diagnostic(format!("unknown argument `{}`", name(key)));
                    problem.hint = Some(suggest::hint(&name(key), known));
                    return Err(vec![problem]);
                }
                #[expect(non_snake_case, reason = "a name for each type")]
                let ($($part,)*) = read;
                Ok(($($part.map_err(|problem| vec![problem.into_diagnostic(node)])?,)*))
            }

            fn schema() -> serde_json::Value {
                let mut whole = serde_json::Map::new();
                $(add_schema(&mut whole, super::arguments::<$part>());)*
                whole.insert("additionalProperties".into(), false.into());
                serde_json::Value::Object(whole)
            }
        }
    };
}

parts!(A);
parts!(A, B);
parts!(A, B, C);
parts!(A, B, C, D);

/// Adds the properties of one schema to those of others.
fn add_schema(whole: &mut serde_json::Map<String, serde_json::Value>, part: serde_json::Value) {
    use serde_json::Value;
    let Value::Object(part) = part else { return };
    for (name, value) in part {
        match (whole.get_mut(&name), value) {
            (Some(Value::Object(all)), Value::Object(more)) => all.extend(more),
            (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
            // What the mapping is for is said by the runner.
            (_, value) if name != "description" => drop(whole.insert(name, value)),
            _ => {}
        }
    }
}

/// One type of several that are read from one mapping: it is given the members that it knows.
struct Part<'a> {
    node: &'a Node,
    known: &'a mut Vec<&'static str>,
}

impl<'de> Deserializer<'de> for Part<'_> {
    type Error = Problem;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.known.extend(fields);
        let own = |(key, _): &&(Node, Node)| key.text().is_some_and(|name| fields.contains(&name));
        let entries = self.node.members().iter().filter(own).map(|(key, value)| (Name(key), Arguments(value)));
        visitor.visit_map(MapDeserializer::new(entries)).map_err(|problem: Problem| problem.at(self.node))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        Arguments(self.node).visit_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A value with a copy of its node, for messages about it that come later.
#[derive(Debug, Clone)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub node: Node,
}

impl<T: DeserializeOwned> Spanned<T> {
    /// Reads the member `name` of a mapping, if it is there.
    pub fn member(node: &Node, name: &str) -> Result<Option<Spanned<T>>, Vec<Diagnostic>> {
        let Some(member) = node.get(name) else { return Ok(None) };
        Ok(Some(Spanned { value: from_node(member)?, node: member.clone() }))
    }
}

/// An error of serde, with the innermost node that it is about.
#[derive(Debug)]
pub(super) struct Problem {
    message: String,
    hint: Option<String>,
    node: Option<Node>,
}

impl Problem {
    fn into_diagnostic(self, whole: &Node) -> Diagnostic {
        let mut diagnostic = self.node.as_ref().unwrap_or(whole).diagnostic(self.message);
        diagnostic.hint = self.hint;
        diagnostic
    }

    fn at(mut self, node: &Node) -> Problem {
        self.node.get_or_insert_with(|| node.clone());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Problem {
        Problem { message: message.to_string(), hint: None, node: None }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Problem {
        let hint = match expected {
            [] => "it takes no arguments".into(),
            known => suggest::hint(field, known.iter().copied()),
        };
        Problem { message: format!("unknown argument `{field}`"), hint: Some(hint), node: None }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Problem {
        let hint = suggest::hint(variant, expected.iter().copied());
        Problem { message: format!("unknown value `{variant}`"), hint: Some(hint), node: None }
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Problem {
        let range = match &*expected.to_string() {
            "u8" => Some((0, u8::MAX.into())),
            "u16" => Some((0, u16::MAX.into())),
            "u32" => Some((0, u32::MAX.into())),
            // A template has no larger integers.
            "u64" | "usize" => Some((0, i64::MAX)),
            "i8" => Some((i8::MIN.into(), i8::MAX.into())),
            "i16" => Some((i16::MIN.into(), i16::MAX.into())),
            "i32" => Some((i32::MIN.into(), i32::MAX.into())),
            _ => None,
        };
        match (found, range) {
            (de::Unexpected::Signed(found), Some((least, _))) if found < least => {
                Problem::custom(format!("expected {least} or more, found {found}"))
            }
            (de::Unexpected::Signed(found), Some((_, most))) => {
                Problem::custom(format!("expected {most} or less, found {found}"))
            }
            (found, _) => Problem::custom(format!("expected {expected}, found {found}")),
        }
    }

    fn missing_field(field: &'static str) -> Problem {
        Problem { message: format!("the argument `{field}` is missing"), hint: None, node: None }
    }
}

struct Arguments<'a>(&'a Node);

impl<'a> Arguments<'a> {
    fn wrong(&self, expected: &str) -> Problem {
        let message = format!("expected {expected}, found {}", self.0.describe());
        let hint = if expected == "a list" { mistakes::no_list(self.0) } else { None };
        Problem { message, hint, node: Some(self.0.clone()) }
    }

    fn visit_map<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let Kind::Map(members) = &self.0.kind else { return Err(self.wrong("a mapping")) };
        let entries = members.iter().map(|(key, value)| (Name(key), Arguments(value)));
        visitor.visit_map(MapDeserializer::new(entries)).map_err(|problem: Problem| problem.at(self.0))
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            match self.0.integer() {
                Some(value) => visitor.visit_i64(value).map_err(|problem: Problem| problem.at(self.0)),
                None => Err(self.wrong("an integer")),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Arguments<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let node = self.0;
        match &node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(*value),
            Kind::Integer { value, .. } => visitor.visit_i64(*value),
            Kind::Float { value, .. } => visitor.visit_f64(*value),
            Kind::String(text) => visitor.visit_str(text),
            Kind::List(_) => return self.deserialize_seq(visitor),
            Kind::Map(_) => return self.visit_map(visitor),
        }
        .map_err(|problem: Problem| problem.at(node))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0.kind {
            Kind::Bool(value) => visitor.visit_bool(value),
            // What YAML 1.1 called booleans.
            _ => match self.0.text().and_then(says) {
                Some(value) => visitor.visit_bool(value),
                None => Err(self.wrong("true or false")),
            },
        }
    }

    numbers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64);
    numbers!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0.kind {
            Kind::Float { value, .. } => visitor.visit_f64(value),
            Kind::Integer { value, .. } => visitor.visit_f64(value as f64),
            _ => match self.0.text().and_then(|text| text.trim().parse::<f64>().ok()).filter(|value| value.is_finite())
            {
                Some(value) => visitor.visit_f64(value),
                None => Err(self.wrong("a number")),
            },
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0.text() {
            Some(text) => visitor.visit_str(text).map_err(|problem: Problem| problem.at(self.0)),
            None => Err(self.wrong("a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0.kind {
            Kind::Null => visitor.visit_unit(),
            _ => Err(self.wrong("nothing")),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let Kind::List(items) = &self.0.kind else { return Err(self.wrong("a list")) };
        visitor
            .visit_seq(SeqDeserializer::new(items.iter().map(Arguments)))
            .map_err(|problem: Problem| problem.at(self.0))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.visit_map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if !matches!(self.0.kind, Kind::Map(_)) && !fields.is_empty() {
            let hint = Some(mistakes::takes(fields));
            return Err(Problem { hint, ..self.wrong("a mapping") });
        }
        self.visit_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.0.text() {
            Some(text) => visitor
                .visit_enum(IntoDeserializer::<Problem>::into_deserializer(text))
                .map_err(|problem: Problem| problem.at(self.0)),
            None => Err(self.wrong("a word")),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }
}

impl<'de> IntoDeserializer<'de, Problem> for Arguments<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The key of a member; an error about it (an unknown argument) points at the key, not at its value.
struct Name<'a>(&'a Node);

impl<'de> IntoDeserializer<'de, Problem> for Name<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Name<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_str(self.0.text().unwrap_or_default()).map_err(|problem: Problem| problem.at(self.0))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
