//! What a machine is told by cloud-init at its boot: the files of a NoCloud seed
//! (<https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html>), as a template has them.
//!
//! Their names and bytes enter the key as digests, and so no password that is in them gets into a record.

use serde_json::Value;

use super::host_file::{self, Content};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Digest, HostInput};
use crate::template::{Kind, Node};

/// What there may be: the word of a template, and the name of the file on the CD.
const FILES: [(&str, &str); 4] = [USER_DATA, META_DATA, ("network_config", NETWORK), ("vendor_data", "vendor-data")];
const USER_DATA: (&str, &str) = ("user_data", "user-data");
const META_DATA: (&str, &str) = ("meta_data", "meta-data");
const NETWORK: &str = "network-config";
/// The first line of data that is a mapping.
const CLOUD_CONFIG: &str = "#cloud-config\n";
/// How a text begins that is a mail with several parts.
const MAIL: [&str; 3] = ["content-type:", "mime-version:", "from "];
/// Names in data of what lets somebody in.
const CONFIDENTIAL: [&str; 5] = ["passwd", "password", "hashed_passwd", "plain_text_passwd", "ssh_keys"];

/// A seed.
pub struct Seed {
    /// By their names on the CD.
    files: Vec<(&'static str, Data)>,
}

enum Data {
    Given(Content),
    Bytes(Vec<u8>),
    Mapping(Value),
}

impl Seed {
    /// The label of its CD, by which cloud-init knows it.
    pub const LABEL: &str = "cidata";

    /// One of user data alone, which is no template's.
    pub fn of_user_data(bytes: Vec<u8>) -> Seed {
        Seed { files: vec![(USER_DATA.1, Data::Bytes(bytes))] }
    }

    pub(in crate::step) fn read(node: &Node, problems: &mut Vec<Diagnostic>) -> Option<Seed> {
        let names: Vec<&str> = FILES.iter().map(|(word, _)| *word).collect();
        if !matches!(&node.kind, Kind::Map(members) if !members.is_empty()) {
            let found = if matches!(node.kind, Kind::Map(_)) { "an empty one" } else { node.describe() };
            problems.push(node.diagnostic(format!("expected a mapping with {}, found {found}", names.join(", "))));
            return None;
        }
        let mut files = Vec::new();
        for (key, value) in node.members() {
            let word = key.text().unwrap_or_default();
            let Some((word, name)) = FILES.iter().find(|(known, _)| *known == word) else {
                let message = format!("a seed has no `{}`", word.escape_debug());
                problems.push(Diagnostic {
                    hint: Some(format!("it may have {}", names.join(", "))),
                    ..key.diagnostic(message)
                });
                continue;
            };
            match data(word, value) {
                Ok(data) => files.push((*name, data)),
                Err(problem) => problems.push(problem),
            }
        }
        Some(Seed { files })
    }

    /// What of it enters a key.
    pub(in crate::step) fn inputs(&self) -> Result<Vec<HostInput>> {
        let input = |(name, data): &(&'static str, Data)| match data {
            Data::Given(Content::Host(path)) => host_file::input(path, &input_name(name), 0),
            Data::Given(Content::Text(text)) => Ok(given(name, text.as_bytes())),
            Data::Bytes(bytes) => Ok(given(name, bytes)),
            Data::Mapping(value) => Ok(given(name, written(name, value).as_bytes())),
        };
        self.files.iter().map(input).collect()
    }

    /// Its files by their names on the CD. Bytes of the host have to be those of the key, of which these are the inputs; without any,
    /// they are what they are.
    pub fn load(&self, inputs: &[HostInput]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for (name, data) in &self.files {
            let bytes = match data {
                Data::Given(Content::Host(path)) => {
                    let input = inputs.iter().find(|input| input.name == input_name(name));
                    let input =
                        input.ok_or_else(|| Error::new(ErrorKind::Internal, format!("{name} is not in the key")))?;
                    host_file::read(path, input)?
                }
                Data::Given(Content::Text(text)) => text.clone().into_bytes(),
                Data::Bytes(bytes) => bytes.clone(),
                Data::Mapping(value) => written(name, value).into_bytes(),
            };
            files.push(((*name).to_owned(), bytes));
        }
        // Another seed is another machine to cloud-init, which does all of it then.
        let all: Vec<u8> = files.iter().flat_map(|(_, bytes)| *Digest::of(bytes).as_bytes()).collect();
        let id = format!("virt-maker-{}", &Digest::of(&all).to_string()[..16]);
        match self.files.iter().position(|(name, _)| *name == META_DATA.1) {
            Some(place) => {
                if let Data::Mapping(Value::Object(members)) = &self.files[place].1
                    && !members.contains_key("instance-id")
                {
                    let mut members = members.clone();
                    members.insert("instance-id".into(), id.into());
                    files[place].1 = yaml(&Value::Object(members)).into_bytes();
                }
            }
            None => files.push((META_DATA.1.into(), yaml(&serde_json::json!({"instance-id": id})).into_bytes())),
        }
        // Without it there is no seed.
        if !files.iter().any(|(name, _)| name == USER_DATA.1) {
            files.push((USER_DATA.1.into(), CLOUD_CONFIG.into()));
        }
        Ok(files)
    }

    /// Texts in its mappings that let somebody in.
    pub(in crate::step) fn confidential(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (_, data) in &self.files {
            if let Data::Mapping(value) = data {
                collect(value, false, &mut found);
            }
        }
        found
    }
}

fn input_name(name: &str) -> String {
    format!("seed/{name}")
}

fn given(name: &str, bytes: &[u8]) -> HostInput {
    HostInput { name: input_name(name), kind: "file".into(), digest: Digest::of(bytes), mode: 0 }
}

/// A text, a mapping, or a file of the host: `{source: FILE}`.
fn data(word: &str, node: &Node) -> Result<Data, Diagnostic> {
    if let [(key, value)] = node.members()
        && let (Some("source"), Some(path)) = (key.text(), value.text())
    {
        return Content::file(path, value).map(Data::Given);
    }
    if let Kind::Map(_) = &node.kind {
        return Ok(Data::Mapping(node.to_json()));
    }
    let text = node.text().filter(|_| !matches!(node.kind, Kind::List(_)));
    let Some(text) = text else {
        let message = format!("expected a mapping, a text or `{{source: FILE}}`, found {}", node.describe());
        return Err(node.diagnostic(message));
    };
    let begin = text.trim_start().to_lowercase();
    let is_known = begin.starts_with('#') || MAIL.iter().any(|head| begin.starts_with(head));
    // cloud-init would say so in its log alone.
    if (word == USER_DATA.0 || word == "vendor_data") && !is_known {
        return Err(Diagnostic {
            hint: Some("a mapping is written as `#cloud-config`, and a file is named by `{source: FILE}`".into()),
            ..node.diagnostic(
                "expected data that says what it is in its first line, such as `#cloud-config` or `#!/bin/sh`",
            )
        });
    }
    Ok(Data::Given(Content::Text(text.to_owned())))
}

/// A mapping as the file has it.
fn written(name: &str, value: &Value) -> String {
    let head = if name == META_DATA.1 || name == NETWORK { "" } else { CLOUD_CONFIG };
    format!("{head}{}", yaml(value))
}

/// As YAML: JSON is that, but for signs that YAML wants to be written by their numbers.
fn yaml(value: &Value) -> String {
    let json = format!("{value:#}\n");
    let mut text = String::with_capacity(json.len());
    for sign in json.chars() {
        match u32::from(sign) {
            // Controls, ends of lines (YAML 1.1, 5.4), and what is no sign.
            number @ (0x7f..=0x9f | 0x2028 | 0x2029 | 0xfeff | 0xfffe | 0xffff) => {
                text.push_str(&format!("\\u{number:04x}"))
            }
            _ => text.push(sign),
        }
    }
    text
}

/// The texts of all members that have one of the names, and of what is in them.
fn collect(value: &Value, secret: bool, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                collect(value, secret || CONFIDENTIAL.contains(&name.as_str()), found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, secret, found)),
        Value::String(text) if secret => found.push(text.clone()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seed(files: Vec<(&'static str, Data)>) -> Vec<(String, String)> {
        let files = Seed { files }.load(&[]).unwrap();
        files.into_iter().map(|(name, bytes)| (name, String::from_utf8(bytes).unwrap())).collect()
    }

    #[test]
    fn a_mapping_is_written_as_yaml_that_says_what_it_is() {
        let value = json!({"a": ["x: y", "\u{85}\u{7f}ä\u{1f600}"], "n": 1});
        let files = seed(vec![(USER_DATA.1, Data::Mapping(value.clone()))]);
        let (name, text) = &files[0];
        assert_eq!(name, "user-data");
        let text = text.strip_prefix("#cloud-config\n").unwrap();
        assert!(text.contains("\\u0085\\u007fä\u{1f600}"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), value);
    }

    #[test]
    fn each_seed_is_an_instance_of_its_own_unless_it_says_which() {
        let id = |files: Vec<(&'static str, Data)>| {
            let files = seed(files);
            let (_, text) = files.iter().find(|(name, _)| name == "meta-data").unwrap();
            assert!(files.iter().any(|(name, _)| name == "user-data"));
            serde_json::from_str::<Value>(text).unwrap()["instance-id"].as_str().unwrap().to_owned()
        };
        let text = |text: &str| (USER_DATA.1, Data::Given(Content::Text(text.into())));
        let meta = |value| (META_DATA.1, Data::Mapping(value));
        let one = id(vec![text("#!/bin/sh\n")]);
        assert_eq!(one, id(vec![text("#!/bin/sh\n")]));
        assert_ne!(one, id(vec![text("#!/bin/bash\n")]));
        assert!(id(vec![meta(json!({"local-hostname": "web"}))]).starts_with("virt-maker-"));
        assert_eq!(id(vec![meta(json!({"instance-id": "mine"}))]), "mine");
    }

    #[test]
    fn passwords_in_a_mapping_are_known() {
        let users = json!({"users": [{"name": "a", "hashed_passwd": "$6$x"}], "ssh_keys": {"rsa_private": "KEY"},
            "chpasswd": {"users": [{"name": "b", "password": "pw"}]}});
        let seed = Seed { files: vec![(USER_DATA.1, Data::Mapping(users))] };
        assert_eq!(seed.confidential(), ["$6$x", "KEY", "pw"]);
    }
}
