//! Opening the guest once more for an export: to clean it, to label its files, to see its packages, to drop unused blocks.
//!
//! It is opened on an overlay that is never sealed: the layer stays as it is, and other exports of it too.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::log::StepLog;
use super::session::NewSession;
use super::{Build, leaks};
use crate::error::{Context, ErrorKind, Result};
use crate::event::Event;
use crate::export::{Common, Finished};
use crate::guest::{Guest, packages, selinux};
use crate::hygiene;
use crate::plan::SpecId;
use crate::store::Layer;

/// Does what `wanted` says to the guest on `tip`; a tar of its tree goes to `tree`.
///
/// Secrets that its steps could read are looked for in the result. One that is found is a warning, and with `clean` an
/// error: what is for many machines carries none, and nobody but the template knows how it got there.
pub(super) fn finish(build: &Build<'_>, spec: SpecId, tip: &Layer, wanted: &Common, tree: &Path) -> Result<Finished> {
    let begin = Instant::now();
    // Before the guest is opened: without their values nobody knows what it carries.
    let secrets = leaks::wanted(build, spec, &tip.record)?;
    let workspace = build.store.workspace()?;
    let folder = workspace.subfolder("finish")?;
    let scratch = build.store.scratch(folder, tip.record.material.clone(), &tip.record)?;
    let log = StepLog::new(build.events);
    log.begin(tip.record.key, &scratch.log(), &build.shared.values.forms())?;
    let session = NewSession {
        workspace: &workspace,
        parent: tip,
        scratch: &scratch,
        log: &log,
        overlays: 1,
        privileged: false,
        goes_on: false,
        network: false,
        caches: &BTreeSet::new(),
    };
    let (begun, _, mut session) = session.open(build)?;
    let guest = session.guest();
    let failed = || "cannot prepare the guest for its export";
    let (mut found, mut refused) = (Vec::new(), None);
    if wanted.every.clean {
        let findings = hygiene::clean(guest).context(ErrorKind::Export, failed)?;
        for finding in findings.iter().filter(|finding| finding.cleaned) {
            build.events.send(Event::Trace { source: "clean", message: finding.to_string() });
        }
        found.extend(hygiene::left(&findings));
    }
    if tip.record.selinux == Some(true) {
        label(guest, build)?;
    }
    let mut list = Value::Null;
    if wanted.every.manifest {
        list = json!(packages::installed(guest).context(ErrorKind::Export, failed)?);
    }
    // Nothing writes to the guest after this.
    if wanted.every.clean {
        let left = guest.erase().context(ErrorKind::Export, failed)?;
        if !left.is_empty() {
            let kinds = left.join(", ").escape_debug().to_string();
            build
                .events
                .warn(format!("what deleted files held may still be in the image, on its file systems: {kinds}"));
        }
    } else if wanted.disk.sparsify {
        guest.trim().context(ErrorKind::Export, failed)?;
    }
    if wanted.tree {
        guest.archive(tree).context(ErrorKind::Export, failed)?;
    }
    if !secrets.is_empty() {
        let own = workspace.path().join("tree.tar");
        let archive = if wanted.tree { tree } else { &own };
        if !wanted.tree {
            guest.archive(archive).context(ErrorKind::Export, failed)?;
        }
        let leaked = secrets.find(archive, &build.settings.cancel);
        let _ = std::fs::remove_file(&own);
        let (warnings, refusal) = leaks::tell(leaked.context(ErrorKind::Export, failed)?, wanted.every.clean);
        found.extend(warnings);
        refused = refusal;
    }
    session.finish()?;
    drop(begun);
    log.end()?;
    build.shared.spent.add("finish", begin.elapsed());
    Ok(Finished { overlay: scratch.image(), packages: list, found, refused, workspace })
}

/// Gives the files their SELinux labels, after all that writes some.
fn label(guest: &mut dyn Guest, build: &Build<'_>) -> Result<()> {
    let labelled = selinux::relabel(guest, &build.settings.cancel).map_err(|error| match error.kind() {
        // Such as a host that enforces a policy of its own, and does not know the guest's labels.
        ErrorKind::Internal => error.with_hint("with `--engine vm` no policy of this host is in the way"),
        _ => error,
    });
    let Some(done) = labelled.context(ErrorKind::Export, || "cannot label the guest's files for SELinux")? else {
        return Ok(());
    };
    let policy = done.policy.escape_debug();
    if done.unreadable > 0 {
        let count = done.unreadable;
        let rules = if count == 1 { "1 rule".to_owned() } else { format!("{count} rules") };
        let message = format!("left out, for they cannot be read: {rules} of the guest's SELinux policy `{policy}`");
        build.events.warn(message);
    }
    let message = format!("files labelled by the policy `{policy}`: {}", done.labelled);
    build.events.send(Event::Trace { source: "selinux", message });
    Ok(())
}
