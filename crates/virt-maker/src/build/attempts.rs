//! One step, tried as often as its options say (`retries`), in a guest that is open already.

use super::Build;
use super::log::StepLog;
use super::options;
use crate::error::{ErrorKind, Result, chain};
use crate::host::Limit;
use crate::import;
use crate::plan::PlanNode;
use crate::spec::StepEntry;
use crate::step::StepContext;
use crate::store::Workspace;

/// What stays the same for all attempts.
pub(super) struct Attempts<'a> {
    pub(super) build: &'a Build<'a>,
    pub(super) workspace: &'a Workspace,
    pub(super) log: &'a StepLog,
    /// The layer that it is for.
    pub(super) node: &'a PlanNode,
    pub(super) entry: &'a StepEntry,
    /// Whether no step follows in the template.
    pub(super) last: bool,
}

impl Attempts<'_> {
    /// Tries it, with the time limit of each attempt. `failed` are the words for an attempt that failed, before its reason.
    pub(super) fn run(
        &self,
        failed: impl Fn(u32, u32) -> String,
        mut attempt: impl FnMut(&StepContext<'_>, Option<Limit>) -> Result<()>,
    ) -> Result<()> {
        let Attempts { build, workspace, log, node, entry, last } = self;
        let cache_dir = build.store.cache_dir();
        let caches: Vec<String> = entry.options.shaping.mounts.iter().map(|mount| mount.cache.clone()).collect();
        let attempts = entry.options.running.retries.unwrap_or(0) + 1;
        let mut ran = Ok(());
        for number in 1..=attempts {
            let limit = options::limit(&entry.options);
            let cancel = build.settings.cancel.limited(limit);
            let import = build.settings.import_context(&cache_dir, build.events);
            let import = import::ImportContext { cancel: &cancel, ..import };
            let context = StepContext {
                caches: &caches,
                warn: &|text| build.events.warn(node.info.placed(text)),
                last: *last,
                output: log.sink(),
                cancel: &cancel,
                scratch: workspace.path(),
                fetch: &|url, digest| import::fetch_checked(url, digest, &import),
            };
            ran = attempt(&context, limit);
            match &ran {
                // What a cancelled build, a full disk or a broken engine does is no better the next time.
                Err(error) if error.kind() == ErrorKind::Step && number < attempts => {
                    build.events.warn(format!("{}: {}", failed(number, attempts), chain(error)));
                }
                _ => break,
            }
        }
        ran
    }
}
