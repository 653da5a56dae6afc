//! Checks of a machine that runs: what it is waited for, and what a test expects of it.
//!
//! All of a list are meant, and each is tried until it holds or time is up. A failure says what was found in its place.

use std::time::{Duration, Instant};

use regex_lite::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::running::Running;
use crate::guest::{Exit, FileKind, Run};
use crate::host::Cancel;
use crate::host::escape::{escape, last_lines};
use crate::template::{Node, OneOrMany, from_node};

/// How long it is tried where a template does not say; as many times as long where the machine is emulated.
pub(in crate::step) const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// A file that is looked into is not larger.
const FILE_MAX: u64 = 1 << 20;
/// How many lines of what was found are told.
const TOLD: usize = 6;

/// What is expected. Everything that is named is meant.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read from the node: one text, or a list")]
pub(in crate::step) struct Arguments {
    /// Units of systemd that are active; or a list.
    #[schemars(with = "Option<OneOrMany>")]
    unit: Option<serde::de::IgnoredAny>,
    /// With `true`, no unit of systemd has failed.
    #[serde(default)]
    no_failed_units: bool,
    /// TCP ports that something listens on, on any address; or a list.
    #[schemars(with = "Option<OneOrMany>")]
    port: Option<serde::de::IgnoredAny>,
    /// All TCP ports that are listened on for others than the machine itself; or a list. One that is not in it is a fault.
    #[schemars(with = "Option<OneOrMany>")]
    listening_only: Option<serde::de::IgnoredAny>,
    /// What a web server of the machine answers.
    http: Option<Http>,
    /// A command, and how it ends.
    command: Option<Command>,
    /// A file, and what it is like.
    file: Option<File>,
    /// Packages that are installed; or a list.
    #[schemars(with = "Option<OneOrMany>")]
    package: Option<serde::de::IgnoredAny>,
    /// Users that there are; or a list.
    #[schemars(with = "Option<OneOrMany>")]
    user: Option<serde::de::IgnoredAny>,
    /// How long the last boot may have taken, from the start of the machine until the system had booted, such as `20s`. Four times as long where the
    /// CPU is emulated.
    #[schemars(with = "Option<String>")]
    boot_time: Option<serde::de::IgnoredAny>,
    /// A regular expression that stands on the serial console.
    console: Option<String>,
    /// A regular expression that stands on the screen. In text mode that is read exactly; a graphical one is read by `tesseract`.
    screen: Option<String>,
    /// How long it is tried, such as `90s`. Without it, `expect` tries for 30 s, and two minutes where the machine is emulated; `wait_for` for 5 and
    /// 20 minutes.
    #[schemars(with = "Option<String>")]
    timeout: Option<serde::de::IgnoredAny>,
}

/// A web server's answer.
#[derive(Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Http {
    /// Its TCP port.
    #[serde(default = "eighty")]
    port: u16,
    /// The path that is asked for.
    #[serde(default = "root")]
    path: String,
    /// The status of its answer.
    #[serde(default = "fine")]
    status: u16,
    /// A regular expression that stands in the answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

fn eighty() -> u16 {
    80
}

fn root() -> String {
    "/".to_owned()
}

fn fine() -> u16 {
    200
}

/// A command and its end.
#[derive(Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Command {
    /// A script of `/bin/sh`.
    run: String,
    /// Its exit status.
    #[serde(default)]
    exit: i32,
    /// A regular expression that stands in what it writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

/// A file.
#[derive(Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Its absolute path.
    path: String,
    /// Its permissions, in octal digits such as `0644`.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    /// The name of its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// A regular expression that stands in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// One thing that is expected.
#[derive(Clone, Serialize)]
#[serde(rename_all = "snake_case")]
enum Check {
    Unit(String),
    NoFailedUnits,
    Port(u16),
    ListeningOnly(Vec<u16>),
    Http(Http),
    Command(Command),
    File(File),
    Package(String),
    User(String),
    /// In seconds.
    BootTime(u64),
    Console(String),
    Screen(String),
}

/// Checks, in the order in which they are tried.
#[derive(Clone, Serialize)]
pub(in crate::step) struct Checks {
    checks: Vec<Check>,
    /// Has no part in what holds.
    #[serde(skip)]
    timeout: Option<Duration>,
}

impl Checks {
    /// Reads what a mapping expects.
    pub(in crate::step) fn read(node: &Node) -> Result<Checks, Vec<Diagnostic>> {
        let arguments: Arguments = from_node(node)?;
        let mut problems = Vec::new();
        let names =
            |key: &str, problems: &mut Vec<Diagnostic>| match node.get(key).map(|node| words::texts(node, words::name))
            {
                None => Vec::new(),
                Some(Ok(names)) => names,
                Some(Err(found)) => {
                    problems.extend(found);
                    Vec::new()
                }
            };
        let ports = |key: &str, problems: &mut Vec<Diagnostic>| {
            let nodes = node.get(key).map(words::items).unwrap_or_default();
            let read = nodes.into_iter().filter_map(|node| match from_node::<u16>(node) {
                Ok(port @ 1..) => Some(port),
                _ => {
                    problems
                        .push(node.diagnostic(format!("expected a port from 1 to 65535, found {}", node.describe())));
                    None
                }
            });
            read.collect::<Vec<_>>()
        };
        let time = |key: &str, problems: &mut Vec<Diagnostic>| {
            let node = node.get(key)?;
            match node.text().and_then(|text| crate::host::units::time(text.trim())) {
                Some(time) if !time.is_zero() => Some(time),
                _ => {
                    problems.push(node.diagnostic("expected a time such as `90s` or `10m`"));
                    None
                }
            }
        };
        let mut checks: Vec<Check> = names("unit", &mut problems).into_iter().map(Check::Unit).collect();
        checks.extend(ports("port", &mut problems).into_iter().map(Check::Port));
        checks.extend(arguments.http.map(Check::Http));
        checks.extend(arguments.command.map(Check::Command));
        checks.extend(arguments.file.map(Check::File));
        checks.extend(names("package", &mut problems).into_iter().map(Check::Package));
        checks.extend(names("user", &mut problems).into_iter().map(Check::User));
        checks.extend(time("boot_time", &mut problems).map(|time| Check::BootTime(time.as_secs().max(1))));
        checks.extend(arguments.console.map(Check::Console));
        checks.extend(arguments.screen.map(Check::Screen));
        // Those that could hold too early come last.
        if node.get("listening_only").is_some() {
            checks.push(Check::ListeningOnly(ports("listening_only", &mut problems)));
        }
        checks.extend(arguments.no_failed_units.then_some(Check::NoFailedUnits));
        for check in &checks {
            for (key, pattern) in check.patterns() {
                if let Err(error) = expression(pattern) {
                    let at = check.node(node).and_then(|node| node.get(key)).unwrap_or(node);
                    problems.push(at.diagnostic(format!("no regular expression: {error}")));
                }
            }
            if let Check::File(File { path, mode, .. }) = check {
                let at = check.node(node).unwrap_or(node);
                if !path.starts_with('/') {
                    problems.push(at.get("path").unwrap_or(at).diagnostic("expected an absolute path in the guest"));
                }
                if mode.as_ref().is_some_and(|mode| u32::from_str_radix(mode, 8).is_err()) {
                    problems.push(at.get("mode").unwrap_or(at).diagnostic("expected octal digits, such as `0644`"));
                }
            }
        }
        let timeout = time("timeout", &mut problems);
        if problems.is_empty() && checks.is_empty() {
            problems
                .push(node.diagnostic("expected something to look for, such as `port: 80` or `unit: nginx.service`"));
        }
        if problems.is_empty() { Ok(Checks { checks, timeout }) } else { Err(problems) }
    }

    /// Whether all of them can be told from outside of the guest.
    pub(in crate::step) fn are_outside(&self) -> bool {
        self.checks.iter().all(|check| matches!(check, Check::Console(_) | Check::Screen(_)))
    }

    /// Whether one of them holds while a guest boots, and may not any more when it has.
    pub(in crate::step) fn want_a_whole_boot(&self) -> bool {
        let early =
            |check: &Check| matches!(check, Check::ListeningOnly(_) | Check::NoFailedUnits | Check::BootTime(_));
        self.checks.iter().any(early)
    }

    /// One line for people.
    pub(in crate::step) fn summary(&self) -> String {
        self.checks.iter().map(Check::words).collect::<Vec<_>>().join(", ")
    }

    /// Tries them until all hold. The error names the first that does not, and what was found. `patience` is how long that may take where
    /// the template does not say it; it is longer where the machine is emulated.
    pub(in crate::step) fn hold_within(
        &self,
        patience: Duration,
        machine: &mut dyn Running,
        cancel: &Cancel,
    ) -> Result<()> {
        let limit = patience * machine.slowness();
        self.hold_for(limit, machine, cancel)
    }

    /// The same with a limit that is none of this kind.
    pub(in crate::step) fn hold_for(&self, limit: Duration, machine: &mut dyn Running, cancel: &Cancel) -> Result<()> {
        let limit = self.timeout.unwrap_or(limit);
        let held = self.hold_by(limit, machine, cancel);
        machine.answers_within(None);
        held
    }

    fn hold_by(&self, limit: Duration, machine: &mut dyn Running, cancel: &Cancel) -> Result<()> {
        let begin = Instant::now();
        for check in &self.checks {
            loop {
                machine.answers_within(Some(limit.saturating_sub(begin.elapsed())));
                let found = match check.look(machine, limit)? {
                    Found::Holds => break,
                    Found::Never(found) => return Err(not_as_expected(check, &found, machine)),
                    Found::NotYet(found) => found,
                };
                if begin.elapsed() >= limit {
                    let found = format!("{found}, after {} s", limit.as_secs());
                    return Err(not_as_expected(check, &found, machine));
                }
                cancel.check()?;
                machine.pause(PAUSE)?;
            }
        }
        Ok(())
    }
}

/// What a look gave.
enum Found {
    Holds,
    /// It may come.
    NotYet(String),
    /// It will not.
    Never(String),
}

impl Found {
    fn no_systemd() -> Found {
        Found::Never("that the guest does not run by systemd, so it has no units".to_owned())
    }
}

fn not_as_expected(check: &Check, found: &str, machine: &mut dyn Running) -> Error {
    let mut text = format!("expected {}, and found {found}", check.words());
    if let Check::Screen(_) = check {
        return machine.trouble(text);
    }
    if let Check::Unit(unit) = check {
        let journal = Run {
            argv: ["journalctl", "--no-pager", "-n", "20", "-o", "cat", "-u", unit].map(str::to_owned).into(),
            ..Run::default()
        };
        if let Ok((_, said)) = machine.ask(&journal) {
            let said = String::from_utf8_lossy(&said);
            let lines: Vec<String> = said.lines().map(escape).collect();
            if !lines.is_empty() {
                text.push_str(&format!("\n  its journal says last:\n    {}", lines.join("\n    ")));
            }
        }
    }
    Error::new(ErrorKind::Step, text)
}

impl Check {
    /// What is expected, in words.
    fn words(&self) -> String {
        match self {
            Check::Unit(name) => format!("{name} to be active"),
            Check::NoFailedUnits => "no unit to have failed".to_owned(),
            Check::Port(port) => format!("something to listen on port {port}"),
            Check::ListeningOnly(ports) => format!("nothing to listen for others but on {}", list(ports)),
            Check::Http(Http { port, path, status, .. }) => {
                format!("status {status} of http://localhost:{port}{}", escape(path))
            }
            Check::Command(Command { run, exit, .. }) => {
                format!("`{}` to end with {exit}", crate::step::first_line(run))
            }
            Check::File(File { path, .. }) => format!("the file {}", escape(path)),
            Check::Package(name) => format!("the package {name} to be installed"),
            Check::User(name) => format!("the user {name}"),
            Check::BootTime(seconds) => format!("a boot within {seconds} s"),
            Check::Console(pattern) => format!("`{}` on the serial console", escape(pattern)),
            Check::Screen(pattern) => format!("`{}` on the screen", escape(pattern)),
        }
    }

    /// The argument that it stands in, where that is a mapping.
    fn node<'a>(&self, node: &'a Node) -> Option<&'a Node> {
        match self {
            Check::Http(_) => node.get("http"),
            Check::Command(_) => node.get("command"),
            Check::File(_) => node.get("file"),
            _ => Some(node),
        }
    }

    /// Its regular expressions, by their keys.
    fn patterns(&self) -> Vec<(&'static str, &str)> {
        match self {
            Check::Http(Http { body: Some(body), .. }) => vec![("body", body)],
            Check::Command(Command { output: Some(output), .. }) => vec![("output", output)],
            Check::File(File { content: Some(content), .. }) => vec![("content", content)],
            Check::Console(pattern) => vec![("console", pattern)],
            Check::Screen(pattern) => vec![("screen", pattern)],
            _ => Vec::new(),
        }
    }

    /// `limit` is how long a command may take.
    fn look(&self, machine: &mut dyn Running, limit: Duration) -> Result<Found> {
        Ok(match self {
            Check::Unit(name) => {
                // What has failed is not waited for; what has not been started may be.
                let show = "systemctl show --property=ActiveState,LoadState --value -- \"$1\"";
                let Some(said) = machine.ask_systemd(show, name)? else { return Ok(Found::no_systemd()) };
                let words: Vec<&str> = said.split_whitespace().collect();
                match (words.contains(&"active"), words.contains(&"failed"), words.contains(&"not-found")) {
                    (true, ..) => Found::Holds,
                    (_, true, _) => Found::Never("that it has failed".to_owned()),
                    (_, _, true) => Found::Never("that there is no such unit".to_owned()),
                    _ => Found::NotYet(format!("that it is {}", escape(&words.join(" ")))),
                }
            }
            Check::NoFailedUnits => match machine.failed_units()? {
                None => Found::no_systemd(),
                Some(failed) if failed.is_empty() => Found::Holds,
                Some(failed) => Found::Never(escape(&failed.join("; "))),
            },
            Check::Port(port) => match listening(machine)?.iter().any(|(found, _)| found == port) {
                true => Found::Holds,
                false => Found::NotYet("nothing there".to_owned()),
            },
            Check::ListeningOnly(ports) => {
                let found = listening(machine)?;
                let mut others: Vec<u16> = found
                    .into_iter()
                    .filter(|(port, alone)| !alone && !ports.contains(port))
                    .map(|(port, _)| port)
                    .collect();
                others.sort_unstable();
                others.dedup();
                match others.is_empty() {
                    true => Found::Holds,
                    false => Found::Never(format!("that something listens on {}", list(&others))),
                }
            }
            Check::Http(http) => http.look(machine)?,
            Check::Command(Command { run, exit, output }) => {
                // The last try may begin when time is nearly up.
                let timeout = Some((limit * machine.slowness()).as_secs().max(1));
                let (ended, said) = machine.ask(&Run { timeout, ..shell(run) })?;
                let shown = match last_lines(&said, TOLD) {
                    said if said.is_empty() => "wrote nothing".to_owned(),
                    said => format!("wrote: {said}"),
                };
                match ended {
                    Exit::Status(status) if status == *exit => match says(output.as_deref(), &said) {
                        true => Found::Holds,
                        false => Found::NotYet(format!("that it {shown}")),
                    },
                    Exit::Status(status) => Found::NotYet(format!("that it ended with {status} and {shown}")),
                    Exit::Signal(signal) => Found::NotYet(format!("that it was killed by signal {signal} and {shown}")),
                }
            }
            Check::File(file) => file.look(machine)?,
            Check::Package(name) => {
                let script = "dpkg-query -W -f '${db:Status-Status}' -- \"$1\" 2>/dev/null || rpm -q -- \"$1\" || apk info -e -- \"$1\" || pacman -Q -- \"$1\"";
                let (ended, _) = machine.ask(&Run { argv: vec![name.clone()], ..shell(script) })?;
                match ended {
                    Exit::Status(0) => Found::Holds,
                    _ => Found::Never("that it is not".to_owned()),
                }
            }
            Check::User(name) => {
                let (ended, _) =
                    machine.ask(&Run { argv: ["id", "--", name].map(str::to_owned).into(), ..Run::default() })?;
                match ended {
                    Exit::Status(0) => Found::Holds,
                    _ => Found::Never("nobody of that name".to_owned()),
                }
            }
            Check::BootTime(seconds) => {
                let slowness = machine.slowness();
                let emulated = if slowness > 1 {
                    format!(" ({slowness} times as long is fine without KVM)")
                } else {
                    String::new()
                };
                match machine.booted_after() {
                    Some(took) if took.as_secs_f64() <= (seconds * u64::from(slowness)) as f64 => Found::Holds,
                    Some(took) => Found::Never(format!("that it took {:.1} s{emulated}", took.as_secs_f64())),
                    None => Found::Never("that nothing tells when it had booted".to_owned()),
                }
            }
            Check::Console(pattern) => match says(Some(pattern), machine.console().as_bytes()) {
                true => Found::Holds,
                false => {
                    Found::NotYet(format!("as its last lines: {}", last_lines(machine.console().as_bytes(), TOLD)))
                }
            },
            // What is there is told with the error.
            Check::Screen(pattern) => match says(Some(pattern), machine.screen()?.as_bytes()) {
                true => Found::Holds,
                false => Found::NotYet("something else there".to_owned()),
            },
        })
    }
}

impl Http {
    fn look(&self, machine: &mut dyn Running) -> Result<Found> {
        let Http { port, path, status, body } = self;
        let text = format!("GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
        let answer = match machine.talk(*port, &text) {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::Guest => return Ok(Found::NotYet(crate::error::chain(&error))),
            Err(error) => return Err(error),
        };
        let answer = String::from_utf8_lossy(&answer);
        let found = answer.split_whitespace().nth(1).and_then(|word| word.parse::<u16>().ok());
        let content = answer.split_once("\r\n\r\n").map_or("", |(_, content)| content);
        Ok(match found {
            None => Found::NotYet(format!("an answer that is none of HTTP: {}", last_lines(answer.as_bytes(), 1))),
            Some(found) if found != *status => Found::NotYet(format!("status {found}")),
            Some(_) if says(body.as_deref(), content.as_bytes()) => Found::Holds,
            Some(_) => Found::NotYet(format!("this body: {}", last_lines(content.as_bytes(), TOLD))),
        })
    }
}

impl File {
    fn look(&self, machine: &mut dyn Running) -> Result<Found> {
        let File { path, mode, owner, content } = self;
        let Some(stat) = machine.guest().stat(path)? else { return Ok(Found::NotYet("nothing there".to_owned())) };
        if let Some(mode) = mode
            && u32::from_str_radix(mode, 8) != Ok(stat.mode)
        {
            return Ok(Found::NotYet(format!("the mode {:04o}", stat.mode)));
        }
        if let Some(owner) = owner {
            let (_, said) = machine.ask(&shell(&format!("id -u -- '{}'", owner.replace('\'', ""))))?;
            if String::from_utf8_lossy(&said).trim() != stat.uid.to_string() {
                return Ok(Found::NotYet(format!("that it belongs to the user {}", stat.uid)));
            }
        }
        let Some(content) = content else { return Ok(Found::Holds) };
        if stat.kind != FileKind::File {
            return Ok(Found::NotYet("that it is no regular file".to_owned()));
        }
        let found = machine.guest().read(path, FILE_MAX)?;
        Ok(match says(Some(content), &found) {
            true => Found::Holds,
            false => Found::NotYet(format!("this in it: {}", last_lines(&found, TOLD))),
        })
    }
}

/// TCP ports that are listened on, and whether that is for the machine itself alone. After proc(5), `/proc/net/tcp`.
fn listening(machine: &mut dyn Running) -> Result<Vec<(u16, bool)>> {
    const LISTEN: &str = "0A";
    // Words of 32 bits in the machine's order: 127.0.0.0/8, the same mapped to IPv6, and `::1`.
    let home = |address: &str| match address.len() {
        8 => address.ends_with("7F"),
        _ => {
            address == "00000000000000000000000001000000"
                || address.ends_with("7F") && address.get(16..24) == Some("FFFF0000")
        }
    };
    let mut found = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // A kernel without IPv6 has none.
        let Ok(text) = machine.guest().read(path, FILE_MAX) else { continue };
        for line in String::from_utf8_lossy(&text).lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&LISTEN)) = (words.get(1), words.get(3)) else { continue };
            let Some((address, port)) = local.split_once(':') else { continue };
            let Ok(port) = u16::from_str_radix(port, 16) else { continue };
            found.push((port, home(address)));
        }
    }
    Ok(found)
}

/// Whether a text has what a pattern looks for; without one, any text does.
fn says(pattern: Option<&str>, text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    pattern.is_none_or(|pattern| expression(pattern).is_ok_and(|pattern| pattern.is_match(&text)))
}

/// `^` and `$` are the ends of a line.
fn expression(pattern: &str) -> Result<Regex, regex_lite::Error> {
    regex_lite::RegexBuilder::new(pattern).multi_line(true).build()
}

fn shell(script: &str) -> Run {
    Run { script: Some(script.to_owned()), shell: vec!["/bin/sh".to_owned()], network: true, ..Run::default() }
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}
