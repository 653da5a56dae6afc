//! One JSON object a line; `docs/events.md` describes it.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use virt_maker::event::{Event, VERSION};

use super::Report;

pub(super) struct Json<W> {
    out: W,
}

#[derive(Serialize)]
struct Line<'a> {
    version: u32,
    time: f64,
    #[serde(flatten)]
    event: &'a Event,
}

impl<W: Write + Send> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Json { out }
    }
}

impl<W: Write + Send> Report for Json<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let mut line = serde_json::to_vec(&Line { version: VERSION, time, event })?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_with_version_time_and_type() {
        let mut out = Vec::new();
        let event = Event::Warning { message: "two\nlines \x1b[2J".into() };
        Json::new(&mut out).event(&event).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.contains('\x1b'));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["version"], 1);
        assert_eq!(line["type"], "warning");
        assert_eq!(line["message"], "two\nlines \x1b[2J");
        assert!(line["time"].as_f64().unwrap() > 1.6e9);
    }
}
