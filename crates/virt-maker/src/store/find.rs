//! Which layer a person means: a tag, the beginning of a key, or a template with a step.

use std::path::Path;

use super::names::PREFIX_MIN;
use super::notes::{self, BuildNote, NotedLayer};
use super::{Layer, Lease, Lookup, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Digest, LayerKey};

/// So many candidates are named in a message.
const LISTED: usize = 12;

impl Store {
    /// The key that `name` means: a tag, the unique beginning of a key (four hexadecimal digits or more), or
    /// `TEMPLATE[:STEP]`, where STEP is a number (0 is the base) or a name, and without it the last one is meant.
    ///
    /// Templates are known as they were last built, or tried to be, with this store. Errors: nothing is called so; more
    /// than one layer is, and which.
    pub fn find(&self, name: &str) -> Result<LayerKey> {
        if let Some(key) = self.tagged(name)? {
            return Ok(key);
        }
        if let Some(key) = self.by_prefix(name)? {
            return Ok(key);
        }
        let notes = self.build_notes();
        let of = |template: &str| -> Vec<&BuildNote> {
            let path = notes::absolute(Path::new(template));
            notes.iter().filter(|note| !template.is_empty() && note.template == path).collect()
        };
        let whole = of(name);
        if !whole.is_empty() {
            return pick(name, &whole, |note| note.layers.iter().rev().take(1).collect());
        }
        if let Some((template, step)) = name.rsplit_once(':') {
            let found = of(template);
            if !found.is_empty() {
                return pick(name, &found, |note| steps(note, step));
            }
        }
        let message = format!(
            "`{}` means no layer: there is no such tag, no key begins so, and no template of that name was built with \
             this store",
            name.escape_debug()
        );
        Err(Error::new(ErrorKind::Template, message).with_hint("`virt-maker tree` shows all layers"))
    }

    /// The layer that `name` means, whole from its base on, and kept from being collected as long as the lease is held. To look
    /// is no use: what was looked at goes as early as before.
    pub fn open_layer(&self, name: &str) -> Result<(Layer, Lease)> {
        let key = self.find(name)?;
        let lease = self.lease(&[key])?;
        let chain = self.chain(key)?;
        let layer = chain.into_iter().next_back();
        Ok((layer.ok_or_else(|| Error::new(ErrorKind::Internal, "a chain without layers"))?, lease))
    }

    /// A layer and all below it, the base first. Errors: one of them is not there or cannot be used.
    pub fn chain(&self, key: LayerKey) -> Result<Vec<Layer>> {
        let mut chain: Vec<Layer> = Vec::new();
        let mut next = Some(key);
        while let Some(key) = next {
            let problem = match self.lookup(key) {
                Lookup::Present(layer)
                    if chain.last().is_some_and(|above| above.record.parent_id.as_ref() != Some(&layer.record.id)) =>
                {
                    format!("layer {} was made anew, and what lies on it was not", layer.record.key.short())
                }
                Lookup::Present(layer) => {
                    next = layer.record.parent();
                    chain.push(*layer);
                    continue;
                }
                Lookup::Absent => format!("layer {} is not in the store{}", key.short(), self.collected_text(key)),
                Lookup::Damaged(problem) => format!("layer {} cannot be used: {problem}", key.short()),
            };
            return Err(Error::new(ErrorKind::Template, problem).with_hint("build its template; that makes it again"));
        }
        chain.reverse();
        Ok(chain)
    }

    fn by_prefix(&self, prefix: &str) -> Result<Option<LayerKey>> {
        if prefix.len() < PREFIX_MIN || !prefix.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let prefix = prefix.to_ascii_lowercase();
        if let Some(key) = Digest::parse(&prefix) {
            return Ok(Some(LayerKey(key)));
        }
        let mut found = self.keys()?;
        found.retain(|key| key.to_string().starts_with(&prefix));
        found.sort();
        match found[..] {
            [] => Ok(None),
            [only] => Ok(Some(only)),
            _ => {
                let line = |key: &LayerKey| match self.lookup(*key) {
                    Lookup::Present(layer) => {
                        format!("{}  {}: {}", key.short(), layer.record.material.kind, layer.record.summary)
                    }
                    _ => key.short(),
                };
                Err(ambiguous(&prefix, found.iter().take(LISTED).map(line).collect(), found.len()))
            }
        }
    }
}

/// The layers of a note that `step` means.
fn steps<'a>(note: &'a BuildNote, step: &str) -> Vec<&'a NotedLayer> {
    if let Ok(number) = step.parse::<usize>() {
        return note.layers.get(number).into_iter().collect();
    }
    let named: Vec<_> = note.layers.iter().filter(|layer| layer.summary == step).collect();
    // Without a step of that name, its kind may be enough.
    if named.is_empty() { note.layers.iter().filter(|layer| layer.kind == step).collect() } else { named }
}

fn pick<'a>(
    name: &str,
    notes: &[&'a BuildNote],
    wanted: impl Fn(&'a BuildNote) -> Vec<&'a NotedLayer>,
) -> Result<LayerKey> {
    let mut found: Vec<(&BuildNote, &NotedLayer)> = Vec::new();
    for note in notes {
        for layer in wanted(note) {
            if found.iter().all(|(_, other)| other.key != layer.key) {
                found.push((note, layer));
            }
        }
    }
    let line = |(note, layer): &(&BuildNote, &NotedLayer)| {
        format!("{}  {}: {}, of {}", layer.key.short(), layer.kind, layer.summary, note.title())
    };
    match &found[..] {
        [(_, only)] => Ok(only.key),
        [] => {
            let steps = match notes.first().map_or(0, |note| note.layers.len().saturating_sub(1)) {
                1 => "1 step".to_owned(),
                steps => format!("{steps} steps"),
            };
            let message = format!(
                "`{}` means no layer: as it was last built, the template has {steps}, and none is called so",
                name.escape_debug()
            );
            Err(Error::new(ErrorKind::Template, message)
                .with_hint("a step is meant by its number (0 is the base), its name or its kind"))
        }
        _ => Err(ambiguous(name, found.iter().take(LISTED).map(line).collect(), found.len())),
    }
}

/// The error of a name that means several layers. Its hint lists them.
fn ambiguous(name: &str, lines: Vec<String>, count: usize) -> Error {
    let more = if count > lines.len() { format!("; and {} more", count - lines.len()) } else { String::new() };
    Error::new(ErrorKind::Template, format!("`{}` means {count} layers", name.escape_debug()))
        .with_hint(format!("say one of: {}{more}", lines.join("; ")))
}
