//! `docs/tutorial.md` is right: its template fails and is mended as it says, on a real Debian.
//!
//! A comment before a block says what it is: `<!-- test: file NAME -->`, a file; `<!-- test: run -->`, commands (`$ ...`)
//! with lines that they print, in this order, others between them; `fails CODE`, the same with another exit code; `shell
//! CODE`, a command on a terminal, and what is typed (`# ...`) when a prompt is there. A `…` stands for anything. The
//! base that the template downloads is replaced by a real guest, so that no network is needed.

#![expect(clippy::disallowed_methods, reason = "the program has to be found as a user's shell finds it")]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use regex_lite::Regex;
use testkit::{HostState, debian_guest};

/// No step of it takes longer, on the slowest machine; only a hang does.
const PATIENCE: Duration = Duration::from_secs(300);

/// The blocks of the document, each with the words of the comment before it; in order.
fn blocks() -> Vec<(String, String)> {
    testkit::blocks(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tutorial.md"))
}

struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// A command as a user would type it, in the tutorial's folder.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let programs = Path::new(env!("CARGO_BIN_EXE_virt-maker")).parent().unwrap().to_owned();
        let paths = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<PathBuf>>();
        let paths = std::env::join_paths(std::iter::once(programs).chain(paths)).unwrap();
        testkit::know_kvm(Path::new(env!("CARGO_BIN_EXE_virt-maker")), &self.folder.path().join("cache"));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("PATH", paths)
            .env("VIRT_MAKER_STORE", self.folder.path().join("store"))
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .env("XDG_CONFIG_HOME", self.folder.path().join("config"))
            .env("XDG_STATE_HOME", self.folder.path().join("state"));
        command
    }

    fn run(&self, line: &str, code: i32, expected: &[&str]) {
        let output = self.command("sh", &["-c", &format!("{line} 2>&1")]).stdin(Stdio::null()).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{line}:\n{printed}");
        prints(line, &printed, expected);
    }
}

/// Fails unless these lines are among what was printed, in this order.
fn prints(line: &str, printed: &str, expected: &[&str]) {
    let mut lines = printed.lines();
    for wanted in expected {
        let parts: Vec<_> = wanted.split('…').map(regex_lite::escape).collect();
        let pattern = Regex::new(&format!("^{}$", parts.join(".*"))).unwrap();
        assert!(lines.any(|line| pattern.is_match(line)), "{line}: no `{wanted}` in its place of:\n{printed}");
    }
}

/// A command of a block with the lines below it, which begin with another mark or none.
fn commands<'a>(block: &'a str, mark: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix(mark) {
            Some(command) => found.push((command, Vec::new())),
            None => found.last_mut().expect("a command comes first").1.push(line),
        }
    }
    found
}

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    shown: Arc<Mutex<String>>,
    /// How much of it was waited for.
    seen: usize,
}

impl Terminal {
    fn start(mut command: Command) -> Terminal {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let reader = shown.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = output.read(&mut buffer)
                && count > 0
            {
                reader.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Terminal { child, shown, seen: 0 }
    }

    /// Waits until the shell asks for a command; what was shown since the last time.
    fn prompt(&mut self) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let new = self.shown.lock().unwrap()[self.seen..].to_owned();
            if new.ends_with("# ") {
                self.seen += new.len();
                // Around what is typed, bash has the terminal mark what is pasted.
                return new.replace('\r', "").replace("\x1b[?2004h", "").replace("\x1b[?2004l", "");
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "no prompt ({ended:?}): {new}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn send(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
        input.flush().unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_walk_through_a_failure_is_as_told() {
    let base = debian_guest();
    let before = HostState::capture();
    let world = World { folder: tempfile::tempdir().unwrap() };
    let mut shells = 0;
    for (words, block) in blocks() {
        match words.split_once(' ').unwrap_or((&words, "0")) {
            ("file", name) => {
                let url = Regex::new("url: https://[^}]*").unwrap();
                assert!(url.is_match(&block), "a base from the network");
                let text = url.replace(&block, format!("url: 'file://{}'", base.display()).as_str()).into_owned();
                fs::write(world.folder.path().join(name), text).unwrap();
            }
            ("run" | "fails", code) => {
                for (line, expected) in commands(&block, "$ ") {
                    world.run(line, code.parse().unwrap(), &expected);
                }
            }
            ("shell", code) => {
                let (line, rest) = block.split_once('\n').unwrap();
                let line = line.strip_prefix("$ ").unwrap();
                let mut terminal = Terminal::start(world.command("script", &["-qefc", line, "/dev/null"]));
                let (first, rest) = match rest.find("\n# ") {
                    Some(end) if !rest.starts_with("# ") => rest.split_at(end + 1),
                    _ => ("", rest),
                };
                let shown = terminal.prompt();
                prints(line, &shown, &first.lines().collect::<Vec<_>>());
                for (typed, expected) in commands(rest, "# ") {
                    terminal.send(typed);
                    if typed != "exit" {
                        let printed = terminal.prompt();
                        prints(typed, printed.strip_prefix(typed).unwrap_or(&printed), &expected);
                    }
                }
                let status = terminal.child.wait().unwrap();
                assert_eq!(status.code(), Some(code.parse().unwrap()), "{line}");
                // The shell has its terminal for itself, and says nothing about it.
                let all = terminal.shown.lock().unwrap().clone();
                assert!(all.contains("root@"), "it is bash: {all}");
                for complaint in ["process group", "job control", "can't access tty"] {
                    assert!(!all.contains(complaint), "{all}");
                }
                shells += 1;
            }
            other => panic!("a block `{other:?}`"),
        }
    }
    assert_eq!(shells, 2);
    let image = world.folder.path().join("shop.qcow2");
    let motd = testkit::read_file_from_image(&image, "/etc/motd");
    assert_eq!(String::from_utf8_lossy(&motd), "The shop is open\n");
    before.assert_nothing_left();
}
