//! Tests: the image is booted on an overlay that is thrown away, and looked at, before anything is exported.
//!
//! A test that this making of the layer has passed does not run again ([`Store::passed`]).

use std::time::Instant;

use super::boot_step::{Booted, check_host};
use super::failure::Said;
use super::log::StepLog;
use super::{Build, Settings, Tests};
use crate::engine::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events, TestName, TestOutcome};
use crate::plan::{Plan, SpecId};
use crate::spec::{Spec, TestEntry};
use crate::step::Action;
use crate::store::{Layer, Store};

/// Says which tests do not run where they were to be left out.
pub(super) fn say_what_is_left_out(specs: &[Spec], tests: Tests, events: &Events) {
    let untested = specs.iter().filter(|spec| tests == Tests::Skip && !spec.tests.is_empty());
    for spec in untested {
        let names: Vec<_> = spec.tests.iter().map(|test| format!("`{}`", test.name)).collect();
        events.warn(format!("{}: tests left out: {}", spec.template.display(), names.join(", ")));
    }
}

/// All tests that are to run, or have passed already.
pub(super) fn names(plan: &Plan, specs: &[Spec], tests: Tests) -> Vec<TestName> {
    let all = SpecId::all(specs).filter(|_| tests != Tests::Skip);
    let named = |id: SpecId| {
        plan.tests(id).iter().map(move |test| TestName { image: id.number(), name: test.info.summary.clone() })
    };
    all.flat_map(named).collect()
}

/// What no machine here can do is told before anything is done.
pub(super) fn check(specs: &[Spec], plan: &Plan, store: &Store, settings: &Settings) -> Result<()> {
    if settings.tests == Tests::Skip {
        return Ok(());
    }
    for id in SpecId::all(specs) {
        let tip = plan[plan.tip(id)].layer.as_ref();
        let to_run = |(number, _): &(usize, &TestEntry)| match tip {
            Some(tip) if !settings.force => store.passed(plan.tests(id)[*number].info.key, &tip.record).is_none(),
            _ => true,
        };
        for (_, test) in id.of(specs).tests.iter().enumerate().filter(to_run) {
            let able = match test.boot.runner.action() {
                Action::Boot(boot) => check_host(boot),
                _ => Ok(()),
            };
            able.map_err(|error| error.at(|| test.boot.place()))?;
        }
    }
    Ok(())
}

impl Build<'_> {
    /// Runs one test of a spec on the layer `tip`, if it has not passed it yet.
    pub(super) fn test(&self, spec: SpecId, number: usize, tip: &Layer) -> Result<()> {
        self.settings.cancel.check()?;
        let step = self.plan.test(self.specs, spec, number);
        let info = &step.node.info;
        let finished = |outcome, seconds: f64, message: Option<String>| {
            self.events.send(Event::TestFinished {
                key: info.key,
                layer: tip.record.key,
                name: info.summary.clone(),
                image: spec.number(),
                outcome,
                seconds,
                message,
            });
        };
        if !self.settings.force
            && let Some(verdict) = self.store.passed(info.key, &tip.record)
        {
            finished(TestOutcome::Cached, verdict.seconds, None);
            return Ok(());
        }
        let Action::Boot(boot) = step.entry.runner.action() else {
            return Err(Error::new(ErrorKind::Internal, "a test that boots nothing"));
        };
        self.events.send(Event::TestStarted {
            key: info.key,
            layer: tip.record.key,
            name: info.summary.clone(),
            image: spec.number(),
            worker: self.worker,
        });
        let mut begin = Instant::now();
        let workspace = self.store.workspace()?;
        let folder = workspace.subfolder(&info.key.to_string())?;
        let scratch = self.store.scratch(folder, step.node.material.clone(), &tip.record)?;
        let log = StepLog::new(self.events);
        self.secrets(spec)?;
        log.begin(info.key, &scratch.log(), &self.shared.values.forms())?;
        let booted = Booted::new(self, step, boot, tip, &workspace, &scratch, &log);
        let mut failed = None;
        let ran = booted.try_out(&mut failed, &mut begin).and_then(|()| log.end());
        let seconds = begin.elapsed().as_secs_f64();
        self.shared.spent.add("tests", begin.elapsed());
        match ran {
            Ok(()) => {
                booted.tell_screenshots();
                self.store.note_passed(info.key, &tip.record, &info.summary, seconds)?;
                finished(TestOutcome::Passed, seconds, None);
                Ok(())
            }
            Err(error) => {
                let left = booted.left(failed.as_deref_mut(), &error);
                let session = failed.map(|machine| machine as Box<dyn Session>);
                let said = Said { last_lines: log.last_lines(), machine: Some(left) };
                let error = self.step_failed(error, session, &scratch, &tip.record, &step, said);
                let error = self.explain_full_disk(error);
                if error.kind() != ErrorKind::Cancelled {
                    finished(TestOutcome::Failed, seconds, Some(crate::error::chain(&error)));
                }
                Err(error)
            }
        }
    }
}
