//! What a layer may be called here, or what `--force-from` may be given, one name a line: asked for by completions while somebody types. Nothing is said where
//! nothing can be known, for an error in the middle of a line helps nobody.

use std::io::Write;

use crate::environment;
use crate::error::Failure;
use crate::settings;

/// How many keys are offered at most: nobody reads a longer list.
const KEYS: usize = 200;

pub fn run(steps: bool) -> Result<(), Failure> {
    let Ok(store) = settings::open_store(None) else { return Ok(()) };
    let mut names = Vec::new();
    if !steps {
        names.extend(store.tags().unwrap_or_default().into_iter().map(|tag| tag.name));
    }
    let here = environment::working_dir().and_then(|folder| folder.canonicalize().ok());
    for note in store.build_notes() {
        // As somebody in this folder would write it.
        let template = here.as_ref().and_then(|here| note.template.strip_prefix(here).ok()).unwrap_or(&note.template);
        let template = template.display().to_string();
        if !steps {
            names.push(template.clone());
        }
        for (number, layer) in note.layers.iter().enumerate() {
            names.push(format!("{template}:{number}"));
            // A base is meant by its kind, and a step by its name too.
            if !steps || number > 0 {
                names.push(format!("{template}:{}", layer.summary));
            }
            if steps {
                names.extend([number.to_string(), layer.kind.clone(), format!("{template}:{}", layer.kind)]);
                names.extend((number > 0).then(|| layer.summary.clone()));
            }
        }
    }
    let keys = if steps { Vec::new() } else { store.layers().map(|(layers, _)| layers).unwrap_or_default() };
    if keys.len() <= KEYS {
        names.extend(keys.iter().map(|layer| layer.record.key.short()));
    }
    // A shell takes each for one word, and nothing in it for a command of its own.
    let plain =
        |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-./:@+=,".contains(c));
    names.retain(plain);
    names.sort();
    names.dedup();
    let mut out = std::io::stdout().lock();
    names.iter().try_for_each(|name| writeln!(out, "{name}"))?;
    Ok(out.flush()?)
}
