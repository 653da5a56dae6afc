//! `virt-maker run`, and `shell --booted`: a machine of a layer or an image, thrown away or kept.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use virt_maker::build::{Ended, LoneMachine, Settings, Subject, run_machine};
use virt_maker::disk::ImageFormat;
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::host::permit::read_regular;
use virt_maker::step::{FirmwareArgument, Seed};

use super::loading;
use crate::arguments::layers::{Firmware, Opening, Run, Shell};
use crate::error::Failure;
use crate::text::harmless;
use crate::{environment, report, settings, signals};

/// The largest file of user data, in bytes.
const USER_DATA_MAX: u64 = 16 << 20;
/// Memory of a machine for a shell, in MiB.
const MEMORY: u32 = 1024;

pub fn run(arguments: &Run) -> Result<(), Failure> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let format = arguments.format.map(Into::into);
    let subject = subject(&arguments.what, format)?;
    let wanted = LoneMachine {
        memory_mib: arguments.memory,
        cpus: arguments.cpus,
        network: !arguments.no_network,
        publish: arguments.publish.clone(),
        display: arguments.display.as_deref().map(std::path::absolute).transpose()?,
        firmware: match arguments.firmware {
            Firmware::Auto => FirmwareArgument::Auto,
            Firmware::Bios => FirmwareArgument::Bios,
            Firmware::Uefi => FirmwareArgument::Uefi,
            Firmware::SecureBoot => FirmwareArgument::SecureBoot,
        },
        tpm: arguments.tpm,
        seed: arguments.seed.as_deref().map(user_data).transpose()?,
        keep_as: arguments.keep_as.clone(),
        shell: false,
        terminal,
    };
    let leave = if terminal { "; Ctrl-] leaves its console" } else { "" };
    said(&arguments.what, &wanted, leave);
    ended(boot(&subject, &wanted, &arguments.opening)?, &wanted);
    Ok(())
}

pub fn shell(arguments: &Shell) -> Result<(), Failure> {
    let wanted = LoneMachine {
        memory_mib: MEMORY,
        cpus: None,
        network: true,
        publish: Vec::new(),
        display: None,
        firmware: FirmwareArgument::Auto,
        tpm: false,
        seed: None,
        keep_as: arguments.keep_as.clone(),
        shell: true,
        terminal: true,
    };
    said(&arguments.layer, &wanted, " (`exit` or Ctrl-D)");
    ended(boot(&Subject::Named(arguments.layer.clone()), &wanted, &arguments.opening)?, &wanted);
    Ok(())
}

/// The user's own file.
fn user_data(path: &Path) -> Result<Seed, Failure> {
    let failed = |error| Failure::Usage(format!("cannot read {}: {error}", harmless(&path.display().to_string())));
    let bytes = read_regular(path, USER_DATA_MAX).map_err(failed)?;
    Ok(Seed::of_user_data(bytes))
}

/// A file of this name is an image, unless its ending is that of a template; anything else is the name of a layer.
fn subject(what: &str, format: Option<ImageFormat>) -> Result<Subject, Failure> {
    let path = Path::new(what);
    let template = path.extension().is_some_and(|ending| ending == "yml" || ending == "yaml");
    if path.is_file() && !template {
        return Ok(Subject::Image(PathBuf::from(what), format));
    }
    if format.is_some() {
        return Err(Failure::Usage(format!("--format is for images, and {} is no file", harmless(what))));
    }
    Ok(Subject::Named(what.to_owned()))
}

fn said(what: &str, wanted: &LoneMachine, leave: &str) {
    let fate = match &wanted.keep_as {
        Some(tag) => format!("kept as a layer of its own, `{tag}`,"),
        None => "thrown away".to_owned(),
    };
    eprintln!("Booting {}. What changes in it is {fate} when you leave{leave}.", harmless(what));
    for (host, guest) in &wanted.publish {
        eprintln!("127.0.0.1:{host} leads to its port {guest}.");
    }
    if let Some(display) = &wanted.display {
        eprintln!("Its screen is at {} (VNC).", display.display());
    }
}

fn ended(ended: Ended, wanted: &LoneMachine) {
    match ended {
        Ended::Kept(key) => {
            eprintln!("kept as {}: layer {}", wanted.keep_as.as_deref().unwrap_or_default(), key.short());
        }
        Ended::PoweredOff => eprintln!("The guest has powered off."),
        Ended::Left => {}
    }
}

fn boot(subject: &Subject, wanted: &LoneMachine, opening: &Opening) -> Result<Ended, Failure> {
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let settings = Settings {
        engine: opening.engine.into(),
        kernel: settings::kernel(opening.kernel.kernel.clone())?,
        network_env: environment::proxies(),
        host_network: loading::host_network(&[])?,
        cancel,
        ..Settings::new(
            settings::store(opening.store.store.clone())?,
            settings::owner()?,
            environment::agent(),
            environment::cache_dir()?,
        )
    };
    Ok(run_machine(subject, wanted, &settings, &Events::new(report::warnings_only))?)
}
