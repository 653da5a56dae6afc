//! `virt-maker shell`: a shell in a layer, on an overlay that is thrown away or kept.

use std::io::IsTerminal;
use std::time::Instant;

use virt_maker::store::check_tag;

use super::looking;
use crate::arguments::layers::Shell;
use crate::error::Failure;

pub fn run(arguments: &Shell) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("shell needs a terminal; ls, cat and cp do not".into()));
    }
    // A name that cannot be given is better said before the work than after it.
    arguments.keep_as.as_deref().map(check_tag).transpose()?;
    if arguments.booted {
        return super::run::shell(arguments);
    }
    let (store, opener) = looking::prepare(&arguments.opening)?;
    let begin = Instant::now();
    let (mut inside, kept) = looking::inside(&store, &arguments.layer, &opener)?;
    let what = match kept {
        true => "the guest as the failed step left it (a copy)".to_owned(),
        false => format!("layer {}", inside.layer().record.key.short()),
    };
    let fate = match &arguments.keep_as {
        Some(tag) => format!("kept as a layer of its own, `{tag}`,"),
        None => "thrown away".to_owned(),
    };
    eprintln!("This is {what}. What you change is {fate} when you leave (`exit` or Ctrl-D).");
    inside.shell()?;
    match &arguments.keep_as {
        Some(tag) => {
            let key = inside.keep(&store, begin, tag, opener.events())?;
            eprintln!("kept as {tag}: layer {}", key.short());
        }
        None => inside.close(),
    }
    Ok(())
}
