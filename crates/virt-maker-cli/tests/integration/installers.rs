//! The import `isoboot`, and with it the steps of a machine's screen, keyboard and pointer.
//!
//! Machines are emulated here: what can be tried in one boot is tried in one, and what needs no Linux is tried with GRUB or with a
//! program of some bytes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Bench, Ran};
use testkit::{HostState, Machine, appliance_lock, boot_cd, installer_cd};

/// GRUB's own rescue CD: a menu, and a command line behind `c`.
const RESCUE: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";
const MENU: &str =
    "- wait_for: {screen: 'for a command-line', timeout: 60s}\n- keys: c\n- wait_for: {screen: '^grub>', timeout: 30s}";

/// Writes the text at 0x40 by the BIOS, letter by letter, and stands still.
const SAYS: [u8; 24] = [
    0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x40, 0x7c, 0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xac, 0x08, 0xc0, 0x74, 0x04, 0xcd, 0x10,
    0xeb, 0xf7, 0xf4, 0xeb, 0xfd,
];
/// Goes to 320 by 200 pixels, and stands still.
const GRAPHIC: [u8; 8] = [0xb8, 0x13, 0x00, 0xcd, 0x10, 0xf4, 0xeb, 0xfd];
/// Resets the machine by its keyboard controller.
const RESETS: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];
/// Writes its own first sector to the first one of the first hard disk, and resets the machine.
const WRITES: [u8; 26] = [
    0x31, 0xc0, 0x8e, 0xc0, 0xbb, 0x00, 0x7c, 0xb8, 0x01, 0x03, 0xb9, 0x01, 0x00, 0xba, 0x80, 0x00, 0xcd, 0x13, 0xb0,
    0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd, 0x90,
];

/// A template of an installer, with these arguments and steps, a YAML item each.
fn template(bench: &Bench, name: &str, iso: &Path, arguments: &str, steps: &str, export: &str) -> PathBuf {
    let steps = steps.replace('\n', "\n        ");
    let text = format!(
        "format: 2\nspec:\n  import:\n    isoboot:\n      url: {}\n      disk: 16M\n      memory: 128M\n      {}\n      steps:\n        {steps}\n{export}",
        iso.display(),
        arguments.replace('\n', "\n      ")
    );
    let path = bench.path(name);
    fs::write(&path, text).unwrap();
    path
}

fn build(bench: &Bench, template: &Path) -> Ran {
    bench.build("chroot", template, &[])
}

fn cd(bench: &Bench, name: &str, code: Option<&[u8]>, text: &str) -> PathBuf {
    let path = bench.path(name);
    let code = code.map(|code| {
        let mut bytes = code.to_vec();
        bytes.resize(0x40, 0);
        bytes.extend(text.as_bytes());
        bytes
    });
    boot_cd(&path, code.as_deref());
    path
}

/// The pictures that an output names.
fn pictures(said: &str) -> Vec<PathBuf> {
    let words = said.split_whitespace().map(|word| word.trim_end_matches(','));
    words.filter(|word| word.ends_with(".png")).map(PathBuf::from).collect()
}

const INSTALLED: Duration = Duration::from_secs(120);

#[test]
fn an_installer_is_driven_from_its_menu_to_an_image_that_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(PathBuf::from("none"));
    fs::write(bench.path("answer"), "forty-two").unwrap();
    let steps = "- wait_for: {screen: 'Install', timeout: 2m}\n\
                 - screenshot: menu\n\
                 - keys: <down><enter>\n\
                 - wait_for: {screen: '^line 60 of the licence\\nWelcome to the installer\\.\\nName of the system:$', timeout: 3m}\n\
                 - type: {text: \"web-1\\n\", layout: us}\n\
                 - wait_for: {screen: 'The answer is forty-two\\nhttp://169.254.2.4/a/b.txt: served\\nhttp://169.254.2.4/c: none\\nErase the disk', timeout: 1m}\n\
                 - for: {letter: [y, e, s]}\n  keys: '{{ letter }}'\n\
                 - keys: <enter>\n\
                 - wait_for: {screen: 'Done', timeout: 1m}\n\
                 - keys: <enter>";
    // Nothing but the pages is reached.
    let arguments = "files: {answer: {source: answer}, fetch: 'http://169.254.2.4/a/b.txt http://169.254.2.4/c'}\ntimeout: 10m\n\
                     network: false\nserve: {a/b.txt: served}";
    let export = "  export: {raw: {path: out.img}}\n";
    let path = template(&bench, "t.yml", &installer_cd(), arguments, steps, export);
    let text = fs::read_to_string(&path).unwrap().replace("memory: 128M", "memory: 256M");
    fs::write(&path, text).unwrap();
    let ran = build(&bench, &path).exits(0);
    assert_eq!(ran.sealed().len(), 1);
    for line in ["the guest got a/b.txt (6 bytes)", "the guest asked for `GET /c HTTP/1.1`: 404 Not Found"] {
        assert!(ran.said().contains(&format!("virt-maker: {line}\n")), "{}", ran.said());
    }
    let told = ran.of("screenshot");
    let shown: Vec<PathBuf> = told.iter().map(|event| event["path"].as_str().unwrap().into()).collect();
    assert!(shown.len() == 1 && ran.said().contains("as menu.png\n"), "{}", ran.said());
    assert_eq!(fs::read(&shown[0]).unwrap()[..4], *b"\x89PNG");
    assert!(shown[0].starts_with(bench.store().join("layers")), "{shown:?}");
    Machine::boot(&bench.path("out.img"), "raw").wait_for("web-1 is installed", INSTALLED);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    // It is a base as every other one, and what has no part in it makes no other one.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("256M", "512M").replace("timeout: 10m", "timeout: 20m\n      cpus: 1")).unwrap();
    assert_eq!(build(&bench, &path).exits(0).sealed(), Vec::<String>::new());
    before.assert_nothing_left();
}

#[test]
fn a_template_of_the_older_tool_installs_the_same() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(PathBuf::from("none"));
    let text = format!(
        "spec:\n  import:\n    isoboot:\n      isos: ['file://{}']\n      size: 1G\n      cores: 1\n      ram: 256\n      floppies: [{{ks.cfg: \"text\\n\"}}]\n      \
         keystrokes:\n        - ocr: [{{Install: [down, enter]}}, {{'Name of the system:': [Old<1>, enter]}}]\n        \
         - ocr: [{{'(yes/no)': ['y', 'e', s, enter]}}, {{'Done. Press': []}}]\n        - blind: [enter]\n      \
         delay_time: 1\n      key_delay_time: 0.05\n      timeout: 600\n      extra_opts: ''\n  export: {{raw: {{path: out.img}}}}\n",
        installer_cd().display()
    );
    let path = bench.path("old.yml");
    fs::write(&path, text).unwrap();
    build(&bench, &path).exits(0);
    Machine::boot(&bench.path("out.img"), "raw").wait_for("Old<1> is installed", INSTALLED);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// Text mode is read to the letter, signs are typed as the layout has them, a floppy is there, and a graphical screen is read as well as
/// the host can.
#[test]
fn grub_takes_keys_and_shows_what_it_was_told() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(PathBuf::from("none"));
    let steps = format!(
        "{MENU}\n\
         - type: \"echo '~!@#%^&*()_+-={{}}[]:;,.?/<>' 09azAZ\\n\"\n\
         - wait_for: {{screen: '^~!@#%\\^&\\*\\(\\)_\\+-=\\{{\\}}\\[\\]:;,\\.\\?/<> 09azAZ$', timeout: 30s}}\n\
         - keys: \"echo '<lt>a<backspace>b<gt>'<enter>\"\n\
         - wait_for: {{screen: '^<b>$', timeout: 30s}}\n\
         - type: \"cat (fd0)/answers.txt\\n\"\n\
         - wait_for: {{screen: 'on a floppy$', timeout: 30s}}\n\
         - type: \"clear\\nloadfont unicode\\n\"\n\
         - wait_for: {{screen: 'unicode\\n^grub>$', timeout: 30s}}\n\
         - type: \"insmod all_video\\n\"\n\
         - wait_for: {{screen: 'all_video\\n^grub>$', timeout: 30s}}\n\
         - type: \"insmod gfxterm\\n\"\n\
         - wait_for: {{screen: 'gfxterm\\n^grub>$', timeout: 30s}}\n\
         - type: \"terminal_output gfxterm\\n\"\n\
         - type: {{text: \"echo Installation finished\\n\", after: 3s}}\n\
         - wait_for: {{screen: 'Installation finished', timeout: 30s}}\n\
         - click: Installation finished\n\
         - click: {{x: 799, y: 599, button: right}}\n\
         - screenshot: graphic\n\
         - click: {{x: 800, y: 5}}"
    );
    let path = template(&bench, "t.yml", Path::new(RESCUE), "floppy: {answers.txt: on a floppy}", &steps, "");
    let ran = build(&bench, &path).exits(4);
    assert!(ran.stderr.contains("the screen has 800 by 600 pixels, and 800, 5 is none of them"), "{}", ran.stderr);
    // What was asked for is kept though it came to nothing.
    let kept = fs::read_dir(bench.store().join("logs")).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = kept.filter(|path| path.to_str().unwrap().ends_with("-graphic.png")).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// Each is told by what it is, with what was seen, and leaves nothing.
#[test]
fn what_an_installer_does_not_do_is_told() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(PathBuf::from("none"));
    let says = cd(&bench, "says.iso", Some(&SAYS), "Insert disk 2 of 1.");
    let none = cd(&bench, "none.iso", None, "");
    let graphic = cd(&bench, "graphic.iso", Some(&GRAPHIC), "");
    let resets = cd(&bench, "resets.iso", Some(&RESETS), "");
    let key = "- keys: <esc>";
    for (name, iso, arguments, steps, expected) in [
        (
            "text",
            &says,
            "",
            "- wait_for: {screen: 'disk 3', timeout: 3s}",
            &["expected `disk 3` on the screen", "after 3 s"][..],
        ),
        ("end", &says, "timeout: 4s", key, &["the guest did not power off within 4 s"]),
        (
            "late",
            &says,
            "timeout: 3s",
            "- wait_for: {screen: 'disk 3'}",
            &["the machine was not done within 3 s", "`timeout` gives it longer"],
        ),
        ("boots", &none, "", "- wait_for: {screen: 'disk 3'}", &["the firmware found nothing to boot on its disk"]),
        (
            "reset",
            &resets,
            "until: reboot",
            "- wait_for: {screen: 'disk 3'}",
            &["powered off or reset before all steps were done"],
        ),
        ("for ever", &resets, "", "[]", &["the guest restarted 7 times"]),
        ("nothing", &resets, "until: reboot", "[]", &["the installer has ended and written nothing to its disk"]),
    ] {
        let path = template(&bench, "t.yml", iso, arguments, steps, "");
        let text = fs::read_to_string(&path).unwrap().replace("steps:\n        []", "steps: []");
        fs::write(&path, text).unwrap();
        let ran = build(&bench, &path).exits(4);
        for expected in expected {
            assert!(ran.stderr.contains(expected), "{name}: {expected}: {}", ran.stderr);
        }
        if iso == &says {
            assert!(ran.stderr.contains("Insert disk 2 of 1."), "{name}: {}", ran.stderr);
            let shown = pictures(&ran.stderr);
            assert!(!shown.is_empty() && shown.iter().all(|path| path.exists()), "{name}: {}", ran.stderr);
            // The page of the build shows it.
            assert_eq!(ran.of("import_failed")[0]["screen"].as_str(), shown[0].to_str(), "{name}: {}", ran.stdout);
        }
        assert_eq!(bench.left_in_store(), Vec::<String>::new(), "{name}");
    }

    // A reset is the end where the template says so; the base is what was written by then.
    let writes = cd(&bench, "writes.iso", Some(&WRITES), "");
    let path = template(&bench, "t.yml", &writes, "until: reboot", key, "  export: {raw: {path: out.img}}\n");
    let text = fs::read_to_string(&path).unwrap().replace(&format!("steps:\n        {key}"), "steps: []");
    fs::write(&path, text).unwrap();
    build(&bench, &path).exits(0);
    assert_eq!(fs::read(bench.path("out.img")).unwrap()[..WRITES.len()], WRITES);

    // A graphical screen on a host that cannot read it.
    let tools = bench.path("tools");
    fs::create_dir(&tools).unwrap();
    for folder in ["/bin", "/sbin", "/usr/bin", "/usr/sbin"] {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "tesseract")
        {
            let _ = std::os::unix::fs::symlink(entry.path(), tools.join(entry.file_name()));
        }
    }
    let path = template(&bench, "t.yml", &graphic, "", "- keys: {keys: <esc>, after: 2s}\n- wait_for: {screen: x}", "");
    let mut command = bench.command(&["build", path.to_str().unwrap(), "--engine", "chroot", "--progress", "json"]);
    let ran = Ran::from(command.env("PATH", &tools).output().unwrap()).exits(5);
    for expected in ["the screen is in graphics mode", "install the package `tesseract-ocr`"] {
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

#[test]
fn an_installer_ends_with_ctrl_c_and_leaves_nothing() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(PathBuf::from("none"));
    let says = cd(&bench, "says.iso", Some(&SAYS), "Insert disk 2 of 1.");
    let path = template(&bench, "t.yml", &says, "", "- wait_for: {screen: 'disk 3'}", "");
    let mut command = bench.command(&["build", path.to_str().unwrap(), "--engine", "chroot", "--progress", "json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("1 of 1: step: wait_for")));
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let begin = Instant::now();
    lines.for_each(|line| drop(line.unwrap()));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}
