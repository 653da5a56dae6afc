//! qemu-guest-agent, where a guest has it: it is asked to start our agent, and to say what became of that.
//!
//! ```text
//! Calling ── guest-sync-delimited is answered ──▶ There ── guest-exec ──▶ Asked ── its number ──▶ Running ── guest-exec-status, again and again
//!    └──────────────────────────────── whatever is wrong: Over, with the reason ────────────────────────────────┘
//! ```
//! It speaks JSON, an object in a line, over a port of its own; see "QEMU Guest Agent Protocol Reference". The port leads to a guest that may
//! say anything, so lines and what is told of them are bounded, and nothing here waits: who looks for our agent looks in here, too, and
//! has a deadline.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::escape::{cut, escape, last_lines};

/// Name of its port.
pub(super) const PORT: &str = "org.qemu.guest_agent.0";
/// Where it is in a guest.
pub(super) const PROGRAMS: [&str; 4] =
    ["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga", "/usr/local/sbin/qemu-ga", "/usr/local/bin/qemu-ga"];
/// The longest answer, in bytes: our agent says a line when it cannot go on.
const LINE_MAX: usize = 64 << 10;
/// How many bytes are read in one turn.
const TURN_MAX: usize = 64 << 10;
/// After how long it is called again: it may have been started anew in the midst of an answer.
const AGAIN: Duration = Duration::from_secs(30);
/// How often it is asked what became of our agent.
const LOOK: Duration = Duration::from_secs(1);
/// How many characters of its own words are told.
const TOLD: usize = 300;

/// A conversation with it, over the machine's port.
pub(super) struct GuestAgent {
    stream: UnixStream,
    talk: Talk,
    /// What the port does not take yet: the guest has not opened it.
    unsent: Vec<u8>,
}

impl GuestAgent {
    /// A conversation with who may be there later. Two of one machine have other numbers: what is left of one may be answered in the next.
    pub(super) fn new(stream: UnixStream, conversation: u32) -> std::io::Result<GuestAgent> {
        stream.set_nonblocking(true)?;
        Ok(GuestAgent { stream, talk: Talk::new(conversation), unsent: Vec::new() })
    }

    /// Takes what was said, and says what is next, without waiting. `program` is to be started as soon as it is there; where that is
    /// `None`, not yet.
    pub(super) fn turn(&mut self, program: Option<&[&str]>) {
        let mut heard = [0; 4096];
        let mut count = 0;
        while count < TURN_MAX {
            match self.stream.read(&mut heard) {
                // The machine is gone, which is told elsewhere.
                Ok(0) => break,
                Ok(part) => {
                    count += part;
                    self.talk.hear(&heard[..part]);
                }
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if self.unsent.is_empty()
            && let Some(request) = self.talk.next(program)
        {
            self.unsent = request;
        }
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    /// Since when it is known to be there.
    pub(super) fn there_since(&self) -> Option<Instant> {
        self.talk.there
    }

    /// Whether it was told to start our agent, and has not said that this went wrong. Our agent may answer before it says anything.
    pub(super) fn was_asked(&self) -> bool {
        matches!(self.talk.state, State::Asked | State::Running { .. })
    }

    /// How far this has come, for people.
    pub(super) fn told(&self) -> String {
        match &self.talk.state {
            State::Calling { .. } => "qemu-guest-agent did not answer".into(),
            State::There => "qemu-guest-agent answers".into(),
            State::Asked => "qemu-guest-agent did not say whether it starts our agent".into(),
            State::Running { .. } => "qemu-guest-agent has started our agent".into(),
            State::Over(why) => format!("qemu-guest-agent could not start our agent: {why}"),
        }
    }
}

enum State {
    /// It was called, or is to be.
    Calling { number: u64, at: Option<Instant> },
    /// It has answered.
    There,
    /// It was told to start our agent.
    Asked,
    /// It has started our agent as this process; whether it was asked how that is doing, and when last.
    Running { process: u64, asked: bool, at: Instant },
    /// It is of no use.
    Over(String),
}

/// The conversation apart from its stream.
struct Talk {
    state: State,
    /// A line that is not whole.
    heard: Vec<u8>,
    there: Option<Instant>,
}

impl Talk {
    fn new(conversation: u32) -> Talk {
        let number = u64::from(conversation) << 32;
        Talk { state: State::Calling { number, at: None }, heard: Vec::new(), there: None }
    }

    /// The next request, where it is time for one.
    fn next(&mut self, program: Option<&[&str]>) -> Option<Vec<u8>> {
        let (begin, request) = match &mut self.state {
            State::Calling { number, at } if at.is_none_or(|at| at.elapsed() >= AGAIN) => {
                *number += 1;
                *at = Some(Instant::now());
                // 0xFF ends whatever it was being told before.
                (&b"\xff"[..], json!({"execute": "guest-sync-delimited", "arguments": {"id": *number}}))
            }
            State::There => {
                let [program, arguments @ ..] = program? else { return None };
                self.state = State::Asked;
                let arguments = json!({"path": program, "arg": arguments, "capture-output": true});
                (&b""[..], json!({"execute": "guest-exec", "arguments": arguments}))
            }
            State::Running { process, asked: asked @ false, at } if at.elapsed() >= LOOK => {
                *asked = true;
                (&b""[..], json!({"execute": "guest-exec-status", "arguments": {"pid": *process}}))
            }
            _ => return None,
        };
        Some([begin, request.to_string().as_bytes(), b"\n"].concat())
    }

    /// Takes what it says.
    fn hear(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.heard);
                    self.line(&line);
                }
                // What it was saying before it was called.
                0xff => self.heard.clear(),
                _ if self.heard.len() == LINE_MAX => {
                    self.heard.clear();
                    self.over(format!("it says more than {LINE_MAX} bytes in a line"));
                }
                _ => self.heard.push(byte),
            }
        }
    }

    fn over(&mut self, why: String) {
        // Before it has answered, it may be anybody, who may be gone a moment later.
        if !matches!(self.state, State::Calling { .. } | State::Over(_)) {
            self.state = State::Over(why);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let said: Value = match serde_json::from_slice(line) {
            Ok(said) => said,
            Err(_) => return self.over(format!("it says {}", quoted(&String::from_utf8_lossy(line)))),
        };
        if let Some(error) = said.get("error").filter(|_| !matches!(self.state, State::Calling { .. })) {
            return self.over(quoted(error["desc"].as_str().unwrap_or_default()));
        }
        let answer = &said["return"];
        match &mut self.state {
            State::Calling { number, .. } => {
                if answer.as_u64() == Some(*number) {
                    (self.state, self.there) = (State::There, Some(Instant::now()));
                }
            }
            State::Asked => match answer["pid"].as_u64() {
                Some(process) => self.state = State::Running { process, asked: false, at: Instant::now() },
                None => self.over("it names no process that it has started".into()),
            },
            State::Running { asked, at, .. } if *asked => match answer["exited"].as_bool() {
                Some(false) => (*asked, *at) = (false, Instant::now()),
                Some(true) => {
                    let output = |name: &str| decoded(answer[name].as_str().unwrap_or_default());
                    let words = last_lines(&[output("out-data"), output("err-data")].concat(), 3);
                    let words = cut(&words, TOLD);
                    self.over(format!("it ended: {}", if words.is_empty() { "without a word" } else { words }));
                }
                None => self.over("it does not say whether that runs".into()),
            },
            // An answer to nothing; one to an earlier call comes late.
            State::There | State::Running { .. } | State::Over(_) => {}
        }
    }
}

fn quoted(words: &str) -> String {
    format!("`{}`", cut(&escape(words.trim()), TOLD))
}

/// Bytes of base64 (RFC 4648, section 4), as far as it is that.
fn decoded(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &[&str] = &["/agent", "--booted"];

    /// A conversation in which it was called, and has answered.
    fn there() -> Talk {
        let mut talk = Talk::new(1);
        let call = talk.next(Some(PROGRAM)).unwrap();
        assert!(call.starts_with(b"\xff{") && call.ends_with(b"}\n"), "{call:?}");
        assert!(talk.next(Some(PROGRAM)).is_none(), "it is called once");
        talk.hear(b"rest of another answer}\n\xff{\"return\": 1}\n\xff{\"return\": 4294967297}\n");
        assert!(matches!(talk.state, State::There));
        talk
    }

    fn running() -> Talk {
        let mut talk = there();
        assert!(talk.next(None).is_none(), "it waits until it is told to");
        let asked: Value = serde_json::from_slice(&talk.next(Some(PROGRAM)).unwrap()).unwrap();
        assert_eq!(asked["arguments"], json!({"path": "/agent", "arg": ["--booted"], "capture-output": true}));
        talk.hear(b"{\"return\": {\"pid\": 7}}\n");
        assert!(matches!(talk.state, State::Running { process: 7, .. }));
        talk
    }

    /// Why it is of no use.
    #[track_caller]
    fn why(talk: &Talk) -> &str {
        match &talk.state {
            State::Over(why) => why,
            _ => panic!("it goes on"),
        }
    }

    #[test]
    fn it_starts_our_agent_and_is_asked_how_that_does() {
        let mut talk = running();
        assert!(talk.next(None).is_none(), "not in each moment");
        for exited in [false, true] {
            if let State::Running { at, .. } = &mut talk.state {
                *at -= LOOK;
            }
            let asked: Value = serde_json::from_slice(&talk.next(None).unwrap()).unwrap();
            assert_eq!((&asked["execute"], &asked["arguments"]["pid"]), (&json!("guest-exec-status"), &json!(7)));
            let answer = json!({"return": {"exited": exited, "exitcode": 1, "err-data": "bm8gcG9ydBsK"}});
            talk.hear(format!("{answer}\n").as_bytes());
        }
        assert_eq!(why(&talk), r"it ended: no port\u{1b}");
    }

    #[test]
    fn whatever_it_says_is_bounded_and_told() {
        // Before it was called by us, or of somebody else.
        let mut talk = Talk::new(1);
        for noise in [
            &b"\xff\xff\n\n{}\n"[..],
            b"{\"return\": 2}\n",
            &[b'x'; 3 * LINE_MAX],
            b"\n[[[[\n",
            b"\xff{\"error\": {}}\n",
        ] {
            talk.hear(noise);
            assert!(matches!(talk.state, State::Calling { .. }) && talk.heard.len() <= LINE_MAX);
        }
        for (answer, expected) in [
            (&b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"disabled\x07\"}}\n"[..], r"it says `"),
            (b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"disabled\"}}\n", "`disabled`"),
            (b"{\"error\": 5}\n", "``"),
            (b"{\"return\": {\"pid\": -1}}\n", "no process"),
            (b"{\"return\": {}}\n", "no process"),
            (b"null\n", "no process"),
            (b"\x1b]0;no JSON\n", r"it says `\u{1b}]0;no JSON`"),
            (&[b'['; LINE_MAX + 1], "more than 65536 bytes"),
        ] {
            let mut talk = there();
            talk.next(Some(PROGRAM)).unwrap();
            talk.hear(answer);
            assert!(why(&talk).contains(expected) && why(&talk).len() < 1000, "{}", why(&talk));
            assert!(talk.next(Some(PROGRAM)).is_none(), "it is left alone");
        }
        let mut deep = there();
        deep.next(Some(PROGRAM)).unwrap();
        deep.hear(&[&[b'['; 60_000][..], b"\n"].concat());
        assert!(why(&deep).starts_with("it says `[[["));
        // An answer that nobody asked for.
        let mut talk = running();
        talk.hear(b"{\"return\": {\"exited\": true}}\n");
        assert!(matches!(talk.state, State::Running { .. }));
    }
}
