//! The verdicts of tests as JUnit XML, which CI systems show: a `testsuite` for each image, a `testcase` for each of its tests.
//!
//! The form is what Jenkins, GitLab and the like read in common: `failure` for a test that did not hold, `error` for one that
//! could not run, as its image was not made.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use virt_maker::event::{Event, ImageName, ImageState, Outcome, TestName, TestOutcome};
use virt_maker::host::temporary::{self, Durability};
use virt_maker::key::LayerKey;

use super::Report;
use super::plain::label;

pub(super) struct Junit {
    file: PathBuf,
    wanted: Vec<TestName>,
    images: Vec<ImageName>,
    cases: Vec<Case>,
    /// The log of a test that failed.
    logs: Vec<(LayerKey, String)>,
    ended: Vec<ImageState>,
}

struct Case {
    image: usize,
    name: String,
    seconds: f64,
    outcome: TestOutcome,
    message: Option<String>,
    /// What it said last, and where the whole log is.
    more: String,
}

impl Junit {
    /// Writes this file at the end.
    pub(super) fn new(file: PathBuf) -> Junit {
        let (wanted, images, ended) = (Vec::new(), Vec::new(), Vec::new());
        Junit { file, wanted, images, cases: Vec::new(), logs: Vec::new(), ended }
    }

    fn text(&self) -> String {
        let mut suites = String::new();
        let (mut tests, mut failures, mut errors, mut time) = (0, 0, 0, 0.0);
        for wanted in self.wanted.chunk_by(|one, other| one.image == other.image) {
            let image = wanted[0].image;
            let label = self.images.get(image).map_or_else(|| format!("image {image}"), label);
            let (mut cases, mut failed, mut not_run, mut took) = (String::new(), 0, 0, 0.0);
            for TestName { name, .. } in wanted {
                let case = self.cases.iter().find(|case| case.image == image && case.name == *name);
                // A verdict that was there took no time now.
                let ran = case.filter(|case| case.outcome != TestOutcome::Cached);
                let seconds = ran.map_or(0.0, |case| case.seconds);
                took += seconds;
                let _ = write!(
                    cases,
                    "    <testcase classname=\"{}\" name=\"{}\" time=\"{seconds:.3}\"",
                    escaped(&label),
                    escaped(name)
                );
                match case {
                    Some(Case { outcome: TestOutcome::Failed, message, more, .. }) => {
                        failed += 1;
                        let message = message.as_deref().unwrap_or("it failed");
                        let _ = writeln!(
                            cases,
                            ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>",
                            escaped(message),
                            escaped(more)
                        );
                    }
                    Some(Case { outcome: TestOutcome::Cached, .. }) => {
                        let said = "this layer has passed it before";
                        let _ = writeln!(cases, ">\n      <system-out>{said}</system-out>\n    </testcase>");
                    }
                    Some(_) => cases.push_str("/>\n"),
                    None => {
                        not_run += 1;
                        let state = self.ended.get(image);
                        let why = match state {
                            Some(ImageState { error: Some(error), .. }) => error.as_str(),
                            Some(ImageState { outcome: Outcome::Stopped, .. }) => "the build was stopped before",
                            _ => "the image was not made",
                        };
                        let why = escaped(why);
                        let _ = writeln!(cases, ">\n      <error message=\"{why}\"/>\n    </testcase>");
                    }
                }
            }
            let _ = writeln!(
                suites,
                "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" errors=\"{not_run}\" skipped=\"0\" \
                 time=\"{took:.3}\">\n{cases}  </testsuite>",
                escaped(&label),
                wanted.len()
            );
            (tests, failures, errors, time) = (tests + wanted.len(), failures + failed, errors + not_run, time + took);
        }
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"virt-maker\" tests=\"{tests}\" \
             failures=\"{failures}\" errors=\"{errors}\" time=\"{time:.3}\">\n{suites}</testsuites>\n"
        )
    }
}

impl Report for Junit {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::BuildStarted { images, tests, .. } => {
                (self.images, self.wanted) = (images.clone(), tests.clone());
            }
            Event::StepFailed { key, failure } => {
                let mut text = failure.last_lines.join("\n");
                if !failure.log.as_os_str().is_empty() {
                    let _ = write!(text, "\nthe whole log: {}", failure.log.display());
                }
                self.logs.push((*key, text));
            }
            Event::TestFinished { key, name, image, outcome, seconds, message, .. } => {
                let log = self.logs.iter().rposition(|(of, _)| of == key);
                self.cases.push(Case {
                    image: *image,
                    name: name.clone(),
                    seconds: *seconds,
                    outcome: *outcome,
                    message: message.clone(),
                    more: log.map(|at| self.logs.swap_remove(at).1).unwrap_or_default(),
                });
            }
            Event::BuildFinished { images, .. } | Event::BuildFailed { images, .. } => self.ended.clone_from(images),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let text = self.text();
        let written =
            temporary::replace_with(&self.file, 0o666, Durability::None, |file| file.write_all(text.as_bytes()));
        written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.file.display())))
    }
}

/// Text for an attribute or an element. XML has no control characters but line breaks and tabs, not even as references; each
/// is shown as a person would write it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // In an attribute a line break as such would be read as a blank.
            '\n' => out.push_str("&#10;"),
            '\t' => out.push('\t'),
            '\u{fffe}' | '\u{ffff}' => out.extend(sign.escape_unicode()),
            _ if sign.is_control() => out.extend(sign.escape_unicode()),
            _ => out.push(sign),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each kind of verdict, with whatever a guest can say.
    #[test]
    fn a_report_is_what_its_schema_asks_for() {
        let signs: String =
            ('\u{0}'..='\u{2fff}').chain('\u{fd00}'..='\u{ffff}').chain(['\u{1fffe}', '\u{10ffff}']).collect();
        let hostile = format!("]]> <!-- --> <?xml?> &amp; {signs}");
        let outcomes = [Some(TestOutcome::Passed), Some(TestOutcome::Failed), Some(TestOutcome::Cached), None];
        let name = |number: usize| format!("{number} {hostile}");
        let mut junit = Junit::new(PathBuf::new());
        junit.images = vec![ImageName { template: format!("{hostile}.yml").into(), matrix: Vec::new() }];
        junit.wanted = (0..outcomes.len()).map(|number| TestName { image: 0, name: name(number) }).collect();
        let ran = outcomes.iter().enumerate().filter_map(|(number, outcome)| Some((number, (*outcome)?)));
        junit.cases = ran
            .map(|(number, outcome)| Case {
                image: 0,
                name: name(number),
                seconds: 1_234_567.5,
                outcome,
                message: Some(hostile.clone()),
                more: hostile.clone(),
            })
            .collect();
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/junit/junit-10.xsd");
        let valid = |text: &str| {
            let mut xmllint = std::process::Command::new("xmllint");
            xmllint.args(["--nonet", "--noout", "--schema", schema, "-"]);
            let (input, output) = (std::process::Stdio::piped(), std::process::Stdio::piped());
            let mut child = xmllint.stdin(input).stderr(output).spawn().expect("xmllint is installed");
            child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
            let ended = child.wait_with_output().expect("it ends");
            (ended.status.success(), String::from_utf8_lossy(&ended.stderr).into_owned())
        };
        let text = junit.text();
        assert_eq!(valid(&text), (true, "- validates\n".to_owned()), "{text}");
        // It would be noticed.
        assert!(!valid(&text.replace(" failures=", " faults=")).0);
        assert!(!valid(&text.replacen("]]&gt;", "\u{1}", 1)).0);
    }

    #[test]
    fn what_a_guest_says_stays_text() {
        let mut junit = Junit::new(PathBuf::new());
        junit.wanted = ["a & b", "late"].map(|name| TestName { image: 1, name: name.into() }).into();
        let image = |name: &str| ImageName { template: name.into(), matrix: Vec::new() };
        junit.images = vec![image("x.yml"), image("web.yml")];
        junit.cases.push(Case {
            image: 1,
            name: "a & b".into(),
            seconds: 1.25,
            outcome: TestOutcome::Failed,
            message: Some("</failure>\u{1b}[31m\"\nnext".into()),
            more: "]]>\u{0}".into(),
        });
        let text = junit.text();
        let failure = "<failure message=\"&lt;/failure&gt;\\u{1b}[31m&quot;&#10;next\">]]&gt;\\u{0}</failure>";
        assert!(text.contains(failure), "{text}");
        assert!(text.contains("<testcase classname=\"web\" name=\"a &amp; b\" time=\"1.250\">"), "{text}");
        assert!(text.contains("<testsuite name=\"web\" tests=\"2\" failures=\"1\" errors=\"1\""), "{text}");
        assert!(text.contains("<error message=\"the image was not made\"/>") && !text.contains("\"x\""), "{text}");
    }
}
