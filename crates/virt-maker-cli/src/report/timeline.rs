//! A page with the timeline of a build: what ran, what was cached, where time went, on which worker.

use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use virt_maker::event::Event;

use super::Report;
use crate::html::{Page, Pictures};

const BODY: &str = "<header><h1>virt-maker build</h1><span id=\"sum\"></span></header>\n<main></main>";

pub(super) struct Timeline {
    file: PathBuf,
    events: Vec<Value>,
    pictures: Pictures,
}

impl Timeline {
    pub(super) fn new(file: PathBuf) -> Timeline {
        Timeline { file, events: Vec::new(), pictures: Pictures::default() }
    }

    /// The last screen of a machine in which something failed.
    fn last(&mut self, screen: Option<&PathBuf>) -> Value {
        json!(screen.map(|path| self.pictures.take("the screen at the end", path)))
    }
}

impl Report for Timeline {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        // These are many, and the page has no place for them.
        if matches!(
            event,
            Event::Output { .. } | Event::Progress { .. } | Event::Trace { .. } | Event::ConsoleLine { .. }
        ) {
            return Ok(());
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let mut value = serde_json::to_value(event)?;
        value["time"] = json!(time);
        // At the end of the build, they may have been collected.
        match event {
            Event::Screenshot { name, path, .. } => value["picture"] = self.pictures.take(name, path),
            Event::StepFailed { failure, .. } => {
                let screen = failure.machine.as_ref().and_then(|left| left.screen.as_ref());
                value["picture"] = self.last(screen);
            }
            Event::ImportFailed { screen, .. } => value["picture"] = self.last(screen.as_ref()),
            _ => {}
        }
        self.events.push(value);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let data = json!({ "version": 1, "events": self.events });
        let page = Page {
            title: "virt-maker build",
            style: include_str!("../html/build.css"),
            script: include_str!("../html/build.js"),
            body: BODY,
            data: &data,
        };
        let place = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.file.display()));
        page.write(&self.file).map_err(place)
    }
}
