//! `virt-maker cache adopt`: a store without a fitting mark becomes one of this user.

use std::io::Write;
use std::path::Path;

use virt_maker::host::Cancel;
use virt_maker::store::Store;

use crate::error::Failure;
use crate::text::{count, harmless};
use crate::{settings, signals};

pub(super) fn run(store: &Path) -> Result<(), Failure> {
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let adopted = Store::adopt(store, &settings::owner()?, &cancel)?;
    let mut out = std::io::stdout().lock();
    for problem in &adopted.damaged {
        writeln!(out, "not used: {}", harmless(problem))?;
    }
    let place = adopted.root.display().to_string();
    let (place, layers) = (harmless(&place), adopted.layers);
    if adopted.before {
        return Ok(writeln!(out, "{place} was yours already, with {}", count(layers, "layer"))?);
    }
    writeln!(out, "{place} is yours now, with {}", count(layers, "layer"))?;
    writeln!(
        out,
        "From now on its layers count as made by you: whoever made them decides what is in images that are built on"
    )?;
    Ok(writeln!(out, "them, and nothing in a store can show who that was. Where that was not you, remove it.")?)
}
