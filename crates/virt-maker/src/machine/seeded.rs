//! cloud-init in a guest that gets a seed: it finds that and nothing else, and what came of it is asked for.
//!
//! What it says of itself is `result.json`
//! (<https://cloudinit.readthedocs.io/en/latest/explanation/instancedata.html>): `{"v1": {"datasource": ..., "errors": [...]}}`.

use serde::Deserialize;

use super::watch::Deadline;
use super::{Machine, shell};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::running::Running;
use crate::guest::{Guest, Run};
use crate::host::escape::escape;

/// A file that keeps cloud-init from looking for a source of data.
pub(super) const NO_CLOUD_INIT: &str = "/etc/cloud/cloud-init.disabled";
pub(super) const FOLDER: &str = "/etc/cloud/cloud.cfg.d";
/// Read after all other settings of the guest, and before the seed, whose words count more.
pub(super) const SETTINGS: &str = "/etc/cloud/cloud.cfg.d/zz-virt-maker.cfg";
/// No other source is asked. Keys that the host has stay; one that has none gets one for the time of this boot. The locale is the
/// image's, which may not have the one that cloud-init would set where nobody says any.
pub(super) const TEXT: &str =
    "datasource_list: [NoCloud]\nssh_deletekeys: false\nssh_genkeytypes: [ed25519]\nlocale: false\n";
const PROGRAMS: [&str; 2] = ["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"];
/// What it says of itself, on the disk.
const RESULT: &str = "/var/lib/cloud/data/result.json";
const RESULT_MAX: u64 = 1 << 20;
/// The file of a seed that says what the network is like.
const NETWORK: &str = "network-config";
/// Its source.
const NO_CLOUD: &str = "NoCloud";

/// What it says of itself while it runs; one word where that will not come any more.
const ASK: &str = "state=; [ ! -d /run/systemd/system ] || state=$(systemctl is-active cloud-final.service)\n\
    if [ -s /run/cloud-init/result.json ]; then cat /run/cloud-init/result.json\n\
    elif [ -e /run/cloud-init/disabled ]; then echo disabled\n\
    else case $state in failed | inactive) echo $state ;; esac; fi";
/// The end of what it and its commands said.
const LOG: &str = "tail -n 12 /var/log/cloud-init-output.log";

/// A guest whose cloud-init gets a seed: what of its work is meant to stay.
#[derive(Debug, Clone, Copy)]
pub struct Seeded {
    /// Whether the seed says what the network is like.
    pub(super) has_network: bool,
    /// Whether it brings the host's keys.
    pub(super) has_host_keys: bool,
}

impl Seeded {
    /// By the files of a seed, with their names.
    pub fn of(files: &[(String, Vec<u8>)]) -> Seeded {
        let has = |bytes: &[u8], word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
        Seeded {
            has_network: files.iter().any(|(name, _)| name == NETWORK),
            has_host_keys: files.iter().any(|(_, bytes)| has(bytes, b"ssh_keys:") || has(bytes, b"\"ssh_keys\"")),
        }
    }

    /// An error where the guest would not look at a seed.
    pub(super) fn check(self, guest: &mut dyn Guest) -> Result<()> {
        let mut there = false;
        for program in PROGRAMS {
            there |= guest.stat(program)?.is_some();
        }
        if !there {
            let message = "the guest has no cloud-init, so nothing in it looks at the seed";
            return Err(Error::new(ErrorKind::Step, message).with_hint("`install: cloud-init` before the `boot`"));
        }
        if guest.stat(NO_CLOUD_INIT)?.is_some() {
            let message = format!("cloud-init does not look at the seed: the guest has {NO_CLOUD_INIT}");
            return Err(Error::new(ErrorKind::Step, message).with_hint("`delete` it before the `boot`"));
        }
        Ok(())
    }

    /// An error where cloud-init did not do all of it, by what a guest has on its disk that booted by itself alone.
    pub fn check_result(self, guest: &mut dyn Guest) -> Result<()> {
        let said = match guest.stat(RESULT)? {
            Some(_) => guest.read(RESULT, RESULT_MAX)?,
            None => return Err(Error::new(ErrorKind::Step, "the guest powered off before cloud-init was done")),
        };
        match problem(&said) {
            Some(problem) => Err(Error::new(ErrorKind::Step, problem)),
            None => Ok(()),
        }
    }
}

impl Machine {
    /// Waits until cloud-init has done what its seed says.
    pub(super) fn until_seeded(&mut self, deadline: &Deadline) -> Result<()> {
        let pause = self.scaled(std::time::Duration::from_millis(100));
        let said = self.until("cloud-init to be done", deadline, pause, |machine| {
            let (_, said) = machine.ask(&Run { script: Some(ASK.into()), shell: shell(), ..Run::default() })?;
            Ok((!said.trim_ascii().is_empty()).then_some(said))
        })?;
        let Some(mut problem) = problem(&said) else { return Ok(()) };
        if let Ok((_, log)) = self.ask(&Run { script: Some(LOG.into()), shell: shell(), ..Run::default() }) {
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<String> =
                log.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(escape).collect();
            if !lines.is_empty() {
                problem.push_str(&format!("\n  in its log last:\n    {}", lines.join("\n    ")));
            }
        }
        Err(self.trouble(problem))
    }
}

#[derive(Deserialize)]
struct Outcome {
    v1: Version1,
}

#[derive(Deserialize)]
struct Version1 {
    datasource: Option<String>,
    #[serde(default)]
    errors: Vec<String>,
}

/// What is wrong with what cloud-init says of itself.
fn problem(said: &[u8]) -> Option<String> {
    match said.trim_ascii() {
        b"disabled" => return Some("cloud-init is disabled in the guest, and does not look at the seed".into()),
        b"failed" | b"inactive" => return Some("cloud-init ended before it was done".into()),
        _ => {}
    }
    let Ok(Outcome { v1: Version1 { datasource, errors } }) = serde_json::from_slice(said) else {
        return Some("what cloud-init says of itself cannot be read".into());
    };
    if !errors.is_empty() {
        let errors: Vec<String> = errors.iter().map(|error| escape(error)).collect();
        return Some(format!("cloud-init has failed: {}", errors.join("; ")));
    }
    let source = datasource.unwrap_or_default();
    match source.contains(NO_CLOUD) {
        true => None,
        false => Some(format!("cloud-init did not take the seed, but `{}`", escape(&source))),
    }
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn what_cloud_init_says_is_read() {
        let fine = br#"{"v1": {"datasource": "DataSourceNoCloud [seed=/dev/sr0][dsmode=net]", "errors": []}}"#;
        assert_eq!(problem(fine), None);
        for (said, expected) in [
            (
                &br#"{"v1": {"datasource": "DataSourceNoCloud", "errors": ["('scripts_user', RuntimeError('x'))"]}}"#[..],
                "x",
            ),
            (br#"{"v1": {"datasource": "DataSourceNone", "errors": []}}"#, "`DataSourceNone`"),
            (br#"{"v1": {"datasource": null, "errors": []}}"#, "did not take"),
            (b"disabled\n", "disabled"),
            (b"failed\n", "ended before"),
            (b"{", "cannot be read"),
            (br#"{"v1": {"datasource": "NoCloud", "errors": ["\u001b[31m"]}}"#, "\\u{1b}"),
        ] {
            let found = problem(said).unwrap();
            assert!(found.contains(expected) && !found.contains('\u{1b}'), "{found}");
        }
    }
}
