//! Which layer a person means: a tag, the beginning of a key, or a template with a step.

use std::path::Path;

use super::names::PREFIX_MIN;
use super::notes::{self, BuildNote, NotedLayer};
use super::{Layer, Lease, Lookup, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::host::escape::escape;
use crate::key::{Digest, LayerKey};

/// How many candidates a message names.
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
        let chain = self.chain(key).map_err(|error| self.why_never_made(name, key).unwrap_or(error))?;
        let layer = chain.into_iter().next_back();
        Ok((layer.ok_or_else(|| Error::new(ErrorKind::Internal, "a chain without layers"))?, lease))
    }

    /// What to say of a layer of a template that is not there because its step failed, or one before it, or since nobody got so
    /// far; `None` where something else is the reason, such as that it was collected.
    fn why_never_made(&self, name: &str, key: LayerKey) -> Option<Error> {
        if !matches!(self.lookup(key), Lookup::Absent) || !self.collected_text(key).is_empty() {
            return None;
        }
        let notes = self.build_notes();
        let template = name.rsplit_once(':').map_or(name, |(template, _)| template);
        let named = notes::absolute(Path::new(template));
        let has = |note: &&BuildNote| note.layers.iter().any(|layer| layer.key == key);
        let note = notes.iter().filter(has).max_by_key(|note| note.template == named)?;
        let template = if note.template == named { template.to_owned() } else { note.template.display().to_string() };
        let at = note.layers.iter().position(|layer| layer.key == key)?;
        let is_there = |layer: &NotedLayer| matches!(self.lookup(layer.key), Lookup::Present(_));
        let last = note.layers[..at].iter().rposition(is_there);
        let failures = self.failures();
        let failed = |number: &usize| failures.iter().rev().find(|failure| failure.key == note.layers[*number].key);
        let failed = (last.map_or(0, |last| last + 1)..=at).find_map(|number| Some((number, failed(&number)?)));
        let step = |number: usize| {
            let NotedLayer { kind, summary, .. } = &note.layers[number];
            let what = if number == 0 { "the base".to_owned() } else { format!("step {number}") };
            format!("{what} (`{kind}: {}`)", escape(summary))
        };
        let of = format!("of {}", escape(&template));
        let message = match &failed {
            Some((number, failure)) if *number == at => {
                format!("{} {of} has no layer, for it failed: {}", step(at), escape(&failure.error))
            }
            Some((number, _)) => format!("{} {of} was never built, for {} failed", step(at), step(*number)),
            None => format!("{} {of} was never built", step(at)),
        };
        let mut hints = Vec::new();
        if let Some((number, _)) = failed {
            hints.push(format!("`log {template}:{number}` shows what it said"));
        }
        hints.push(match last {
            Some(last) => format!("the last one that is there is `{template}:{last}`, {}", step(last)),
            None => "none before it is there".to_owned(),
        });
        Some(Error::new(ErrorKind::Template, message).with_hint(hints.join("; ")))
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
