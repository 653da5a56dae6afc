//! What a template may do on the host without its user's word: read beside itself, write beside itself and into the working
//! folder, and nothing else. Each runner that takes something from the host is tried with something that is none of its
//! business.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::{Bench, Ran};
use testkit::{HOST_FILE_WAYS as WAYS, TinyOptions, Victim, tiny_guest};

/// A project from elsewhere, and a folder of the user's that it aims at.
struct Clone {
    bench: Bench,
    victim: Victim,
}

impl Clone {
    fn new() -> Clone {
        let clone = Clone { bench: Bench::new(tiny_guest(&TinyOptions::default())), victim: Victim::new() };
        fs::create_dir_all(clone.bench.path("clone/sub")).unwrap();
        symlink(clone.victim.path(), clone.bench.path("clone/link")).unwrap();
        clone
    }

    fn secret(&self) -> String {
        self.victim.secret().to_str().unwrap().to_owned()
    }

    /// Writes `clone/NAME`.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.bench.path("clone").join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs a verb on `clone/t.yml`, from within the folder.
    fn run(&self, verb: &str, more: &[&str]) -> Ran {
        let mut command = self.bench.command(&[&[verb, "t.yml"], more].concat());
        Ran::from(command.current_dir(self.bench.path("clone")).output().unwrap())
    }
}

fn with(clone: &Clone, text: &str, path: &str) -> String {
    testkit::host_file_way(text, &clone.bench.base, path)
}

/// What is outside of the template's folder is read by no runner, by its own name, through a link or by climbing; and nothing
/// of it is in a message.
#[test]
fn no_way_leads_to_a_file_outside_of_the_template_s_folder() {
    let clone = Clone::new();
    clone.write("keys", "");
    clone.write("tree", "");
    let folder = clone.victim.path().canonicalize().unwrap();
    let link = format!("{}/secret", clone.bench.path("clone/link").display());
    let climbs = format!("{}/../../../../../../../../..{}", clone.bench.path("clone/sub").display(), clone.secret());
    for (what, text) in WAYS {
        for path in [&clone.secret(), &link, &climbs] {
            clone.write("t.yml", &with(&clone, text, path));
            let ran = clone.run("plan", &["--allow", "host-exec", "--allow", "unverified"]);
            let ran = ran.exits(1);
            assert!(ran.stderr.contains("may not read"), "{what}: {}", ran.stderr);
            let hint = format!("--allow read={}", folder.display());
            assert!(ran.stderr.contains(&hint), "{what}: no `{hint}` in {}", ran.stderr);
            assert!(!ran.stderr.contains(Victim::SECRET), "{what}: {}", ran.stderr);
            // Whether it is a disk image is told by its first bytes; for anything else it is not even opened.
            match testkit::looks_for_an_image(text) {
                true => clone.victim.forget(),
                false => clone.victim.assert_untouched(what),
            }
        }
    }
}

/// The same with the user's word: what is said then is about something else, if anything is.
#[test]
fn a_permission_opens_each_of_these_ways() {
    let clone = Clone::new();
    clone.write("keys", "");
    clone.write("tree", "");
    // Not the victim: this one may be read.
    let given = clone.bench.path("given");
    fs::create_dir(&given).unwrap();
    fs::write(given.join("secret"), "text\n").unwrap();
    let path = given.join("secret");
    for (what, text) in WAYS {
        clone.write("t.yml", &with(&clone, text, path.to_str().unwrap()));
        let read = format!("read={}", given.display());
        let ran = clone.run("validate", &["--allow", "host-exec", "--allow", "unverified", "--allow", &read]);
        assert!(!ran.stderr.contains("may not read"), "{what}: {}", ran.stderr);
    }
}

#[test]
fn variables_are_read_where_the_user_names_them() {
    let clone = Clone::new();
    let text = "secrets: {token: {env: MY_TOKEN}}\nspec: {import: IMPORT, steps: [{run: 'true', secrets: token}]}";
    clone.write("t.yml", &with(&clone, text, "/x"));
    let ran = clone.run("validate", &[]).exits(1);
    assert!(ran.stderr.contains("t.yml:1:24") && ran.stderr.contains("--allow env=MY_TOKEN"), "{}", ran.stderr);
    clone.run("validate", &["--allow", "env=OTHER"]).exits(1);
    clone.run("validate", &["--allow", "env=MY_TOKEN"]).exits(0);
    let ran = clone.run("validate", &["--allow", "everything"]).exits(2);
    assert!(ran.stderr.contains("`env=NAME`"), "{}", ran.stderr);
}

/// A base may lie anywhere, also compressed; its bytes say what it is, and a private key's do not.
#[test]
fn a_base_elsewhere_needs_no_permission() {
    let clone = Clone::new();
    let elsewhere = clone.bench.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\n".repeat(100);
    fs::write(elsewhere.join("key"), &key).unwrap();
    let gzip = |from: &Path, to: &str| {
        let out = fs::File::create(elsewhere.join(to)).unwrap();
        let status = std::process::Command::new("gzip").args(["-1", "-c"]).arg(from).stdout(out).status().unwrap();
        assert!(status.success());
    };
    gzip(&clone.bench.base, "base.gz");
    gzip(&elsewhere.join("key"), "key.gz");
    let plan = |import: String| {
        clone.write("t.yml", &format!("spec: {{import: {import}}}\n"));
        clone.run("plan", &[])
    };
    for (path, good) in [
        (clone.bench.base.clone(), true),
        (elsewhere.join("base.gz"), true),
        (elsewhere.join("key"), false),
        (elsewhere.join("key.gz"), false),
        ("/dev/zero".into(), false),
        ("/proc/kcore".into(), false),
    ] {
        for import in [
            format!("{{disk: {{path: '{}'}}}}", path.display()),
            format!("{{download: {{url: 'file://{}'}}}}", path.display()),
        ] {
            let ran = plan(import.clone());
            assert_eq!(ran.status, Some(if good { 0 } else { 1 }), "{import}: {}", ran.stderr);
        }
    }
    // Said to be raw, a key would be one: not without a word.
    let ran = plan(format!("{{disk: {{path: '{}', format: raw}}}}", elsewhere.join("key").display())).exits(1);
    assert!(ran.stderr.contains("may not read"), "{}", ran.stderr);
}

/// A project's own file lets its templates read what lies in the project, and nothing else.
#[test]
fn a_project_opens_its_own_folder_and_no_other() {
    let clone = Clone::new();
    fs::create_dir_all(clone.bench.path("clone/images")).unwrap();
    clone.write("motd", "welcome\n");
    clone.write(
        "images/t.yml",
        &with(&clone, "spec: {import: IMPORT, steps: [{copy: {dest: /a, source: ../motd}}]}", "/x"),
    );
    let validate = || {
        Ran::from(
            clone.bench.command(&["validate", "images/t.yml"]).current_dir(clone.bench.path("clone")).output().unwrap(),
        )
    };
    assert!(validate().exits(1).stderr.contains("may not read"));
    clone.write("virt-maker.toml", "allow = ['read=.']\n");
    validate().exits(0);
    clone.write("virt-maker.toml", "allow = ['read=..']\n");
    let ran = validate().exits(1);
    assert!(ran.stderr.contains("a project cannot decide this by itself"), "{}", ran.stderr);
    clone.write("virt-maker.toml", "allow = ['write=.', 'env=HOME']\n");
    let ran = validate().exits(1);
    assert!(ran.stderr.contains("write=") && ran.stderr.contains("env=HOME"), "{}", ran.stderr);
}

/// A mirror is fetched from by programs of the host: its address is judged before one is started.
#[test]
fn a_mirror_on_the_host_needs_the_user_s_word() {
    let clone = Clone::new();
    clone.write("tree", "");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mirror = format!("http://{}/debian", listener.local_addr().unwrap());
    for import in [
        format!("{{bootstrap: {{suite: bookworm, size: 2G, mirror: '{mirror}'}}}}"),
        format!("{{bootstrap: {{suite: bookworm, size: 2G, mirror: 'deb {mirror} bookworm main'}}}}"),
        format!("{{bootstrap: {{suite: fedora41, size: 2G, mirror: '{mirror}'}}}}"),
        "{bootstrap: {suite: bookworm, size: 2G, mirror: 'http://169.254.169.254/debian'}}".to_owned(),
    ] {
        clone.write("t.yml", &format!("spec: {{import: {import}}}\n"));
        let ran = clone.run("build", &["--progress", "plain"]).exits(1);
        assert!(ran.stderr.contains("--allow host-network"), "{import}: {}", ran.stderr);
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{import}");
    }
}

fn export(clone: &Clone, path: &str) -> PathBuf {
    clone.write("t.yml", &with(clone, &format!("spec: {{import: IMPORT, export: {{raw: {{path: '{path}'}}}}}}"), "/x"))
}

#[test]
fn artifacts_replace_nobody_s_files() {
    let clone = Clone::new();
    let build = |more: &[&str]| clone.run("build", &[&["--progress", "plain"], more].concat());
    // Elsewhere, hidden, through a link: not without a word.
    let outside = clone.bench.path("out.raw");
    for path in [outside.to_str().unwrap(), "link/out.raw", ".git/hooks/post-checkout", ".profile", "../out.raw"] {
        export(&clone, path);
        let ran = build(&["--force-export"]).exits(1);
        assert!(
            ran.stderr.contains("may not write") && ran.stderr.contains("--allow write="),
            "{path}: {}",
            ran.stderr
        );
        assert!(!outside.exists());
        clone.victim.assert_untouched(path);
    }
    export(&clone, outside.to_str().unwrap());
    build(&["--allow", &format!("write={}", clone.bench.folder.path().display())]).exits(0);
    assert!(outside.exists());

    // What is there and is not ours stays, unless the user says so.
    let mine = clone.write("mine.raw", "mine");
    export(&clone, "mine.raw");
    let ran = build(&[]).exits(1);
    assert!(
        ran.stderr.contains("was not exported with this store") && ran.stderr.contains("--force-export"),
        "{}",
        ran.stderr
    );
    assert_eq!(fs::read(&mine).unwrap(), b"mine");
    let ran = build(&["--force-export"]).exits(0);
    assert!(ran.stderr.contains("was not exported with this store; it is replaced"), "{}", ran.stderr);
    assert!(fs::metadata(&mine).unwrap().len() > 4);
    // From now on it is ours, also after it was changed.
    assert!(!build(&[]).exits(0).stderr.contains("replaced"));
    fs::write(&mine, "changed").unwrap();
    let said = build(&[]).exits(0).stderr;
    assert!(said.contains("mine.raw is replaced: it was changed since it was exported"), "{said}");
    assert!(fs::metadata(&mine).unwrap().len() > 7);
}

#[test]
fn another_image_in_the_same_place_is_told() {
    let clone = Clone::new();
    let text = "params: {role: web}\nspec: {import: IMPORT, steps: [{copy: {dest: /role, content: 'it is {{ role }}'}}], export: {raw: {path: out.raw}}}";
    clone.write("t.yml", &with(&clone, text, "/x"));
    let build = |more: &[&str]| {
        clone.run("build", &[&["--progress", "plain", "--engine", "chroot"], more].concat()).exits(0).stderr
    };
    assert!(!build(&[]).contains("is replaced"));
    let said = build(&["-p", "role=db"]);
    assert!(said.contains("out.raw is replaced: it was exported by this template with other values"), "{said}");
    assert!(!build(&["-p", "role=db"]).contains("is replaced"));
    fs::copy(clone.bench.path("clone/t.yml"), clone.bench.path("clone/u.yml")).unwrap();
    let ran = Ran::from(
        clone
            .bench
            .command(&["build", "u.yml", "--progress", "plain", "--engine", "chroot"])
            .current_dir(clone.bench.path("clone"))
            .output()
            .unwrap(),
    );
    assert!(ran.exits(0).stderr.contains("is replaced: it was exported by "));
}

/// Not even with the user's word: an input of any template of the call.
#[test]
fn no_artifact_replaces_an_input() {
    let clone = Clone::new();
    fs::copy(&clone.bench.base, clone.bench.path("clone/base.qcow2")).unwrap();
    fs::create_dir(clone.bench.path("clone/files")).unwrap();
    clone.write("files/motd", "welcome");
    clone.write("SHA256SUMS", "");
    clone.write("keys", "");
    symlink("files", clone.bench.path("clone/also")).unwrap();
    let import = "import: {disk: {path: base.qcow2}}";
    let before = fs::read(clone.bench.path("clone/base.qcow2")).unwrap();
    for (what, spec) in [
        ("the base", format!("{import}, export: {{qcow2: {{path: base.qcow2}}}}")),
        ("the base by another name", format!("{import}, export: {{qcow2: {{path: sub/../base.qcow2}}}}")),
        ("the template", format!("{import}, export: {{raw: {{path: t.yml}}}}")),
        ("a file of a folder", format!("{import}, steps: [{{copy: {{dest: /a, source: files}}}}], export: {{raw: {{path: also/motd}}}}")),
        (
            "the list of checksums",
            "import: {download: {url: base.qcow2, checksums: {url: SHA256SUMS, gpg: keys}}}, export: {raw: {path: out.raw, checksum: true}}".to_owned(),
        ),
    ] {
        clone.write("t.yml", &format!("spec: {{{spec}}}\n"));
        let ran = clone.run("build", &["--force-export", "--progress", "plain"]).exits(1);
        assert!(ran.stderr.contains("no export replaces it") && ran.stderr.contains("t.yml:1:"), "{what}: {}", ran.stderr);
    }
    assert_eq!(fs::read(clone.bench.path("clone/base.qcow2")).unwrap(), before);
    // That of another template of the call counts as well.
    clone.write("t.yml", &format!("spec: {{{import}}}\n"));
    clone.write("u.yml", &with(&clone, "spec: {import: IMPORT, export: {qcow2: {path: base.qcow2}}}", "/x"));
    let ran = clone.run("build", &["u.yml", "--force-export", "--progress", "plain"]).exits(1);
    assert!(ran.stderr.contains("u.yml") && ran.stderr.contains("no export replaces it"), "{}", ran.stderr);
}

/// What a guest's files say when they are exported leads no other export anywhere, and a list of checksums is no link.
#[test]
fn a_guest_s_links_lead_no_export_out() {
    let clone = Clone::new();
    let text = "spec: {import: IMPORT, steps: [{run: 'ln -s VICTIM /l; ln -s VICTIM/secret /SHA256SUMS'}], export: [{dir: {path: out}}, OTHER]}";
    let engine = ["--engine", "chroot", "--progress", "plain", "--force-export"];
    for other in [
        "{tar: {path: out/l/evil}}",
        "{raw: {path: out/x.raw, checksum: true}}",
        "{dir: {path: out/l/d, create_dir: true}}",
    ] {
        let text = text.replace("VICTIM", clone.victim.path().to_str().unwrap()).replace("OTHER", other);
        clone.write("t.yml", &with(&clone, &text, "/x"));
        let ran = clone.run("build", &engine).exits(1);
        assert!(ran.stderr.contains("another export fills"), "{other}: {}", ran.stderr);
    }
    // Alone it is exported; from then on it is as any folder of a stranger's.
    let text = text.replace("VICTIM", clone.victim.path().to_str().unwrap()).replace(", OTHER", "");
    clone.write("t.yml", &with(&clone, &text, "/x"));
    clone.run("build", &engine).exits(0);
    for (path, words) in
        [("out/l/evil.raw", "may not write"), ("out/x.raw, checksum: true", "cannot note the checksum")]
    {
        clone.write(
            "t.yml",
            &with(&clone, &format!("spec: {{import: IMPORT, export: {{raw: {{path: {path}}}}}}}"), "/x"),
        );
        let ran = clone.run("build", &engine).exits(1);
        assert!(ran.stderr.contains(words) && !ran.stderr.contains(Victim::SECRET), "{path}: {}", ran.stderr);
    }
    clone.victim.assert_untouched("links of a guest");
    let sums = fs::symlink_metadata(clone.bench.path("clone/out/SHA256SUMS")).unwrap();
    assert!(sums.is_symlink(), "it is left as it is");
}

/// Files that the program looks for by itself in a project: a link or a pipe in their place shows nothing and hangs nobody.
#[test]
fn files_of_a_project_are_neither_links_nor_pipes() {
    let clone = Clone::new();
    let good =
        with(&clone, "spec: {import: IMPORT, export: {raw: {path: a.raw, checksum: true, manifest: true}}}", "/x");
    clone.write("t.yml", &good);
    let at = |name: &str| clone.bench.path("clone").join(name);
    symlink(clone.victim.secret(), at("virt-maker.toml")).unwrap();
    let ran = clone.run("validate", &[]).exits(1);
    assert!(ran.stderr.contains("virt-maker.toml") && !ran.stderr.contains(Victim::SECRET), "{}", ran.stderr);
    fs::remove_file(at("virt-maker.toml")).unwrap();
    symlink(clone.victim.secret(), at("u.yml")).unwrap();
    let ran = Ran::from(clone.bench.command(&["validate", "u.yml"]).current_dir(at("")).output().unwrap()).exits(1);
    assert!(ran.stderr.contains("may not read") && !ran.stderr.contains(Victim::SECRET), "{}", ran.stderr);
    // Its first letter makes it a template of the 2015 format.
    let outside = clone.bench.path("outside");
    fs::write(&outside, "@a secret of the user\n").unwrap();
    symlink(&outside, at("old.vbp")).unwrap();
    testkit::run(std::process::Command::new("mkfifo").arg(at("pipe.yml")));
    symlink("/dev/zero", at("endless.yml")).unwrap();
    for (name, words) in [
        ("old.vbp", "may not read"),
        ("u.yml", "may not read"),
        ("pipe.yml", "the template pipe.yml: it is not a regular file"),
        ("endless.yml", "it is not a regular file"),
        ("/dev/zero", "a template may come through a pipe as `/dev/stdin`"),
    ] {
        for verb in ["migrate", "validate", "render"] {
            let ran = Ran::from(clone.bench.command(&[verb, name]).current_dir(at("")).output().unwrap()).exits(1);
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(ran.stderr.contains(words), "{verb} {name}: {said}");
            assert!(!said.contains("a secret") && !said.contains(Victim::SECRET), "{verb} {name}: {said}");
        }
    }
    // What the user hands over is read as ever.
    let mut handed = clone.bench.command(&["render", "/dev/stdin"]);
    let (read, mut write) = std::io::pipe().unwrap();
    let handed = handed.stdin(read).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut write, b"spec: {import: {disk: {path: /x.img}}}\n").unwrap();
    drop(write);
    let handed = handed.wait_with_output().unwrap();
    assert!(handed.status.success() && String::from_utf8_lossy(&handed.stdout).contains("x.img"), "{handed:?}");
    clone.victim.assert_untouched("links in the place of a project's files");

    let pipe = |name: &str| testkit::run(std::process::Command::new("mkfifo").arg(at(name)));
    pipe("virt-maker.toml");
    clone.run("validate", &[]).exits(1);
    fs::remove_file(at("virt-maker.toml")).unwrap();
    pipe("SHA256SUMS");
    clone.run("build", &["--engine", "chroot"]).exits(1);
    fs::remove_file(at("SHA256SUMS")).unwrap();
    clone.run("build", &["--engine", "chroot"]).exits(0);
    fs::remove_file(at("a.raw.manifest.json")).unwrap();
    pipe("a.raw.manifest.json");
    clone.run("build", &["--engine", "chroot"]).exits(0);
}

fn key(clone: &Clone, more: &[&str]) -> String {
    let ran = clone.run("plan", &[&["--json"], more].concat()).exits(0);
    let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    plan["tips"][0].as_str().unwrap().to_owned()
}

/// `content` that names a file is that file, and it is said; in the new format it is a text, whatever it looks like.
#[test]
fn content_is_a_file_only_in_templates_of_the_older_format() {
    let clone = Clone::new();
    clone.write("motd", "one");
    let text = "spec: {import: IMPORT, steps: [{copy: {dest: /etc/motd, content: motd}}]}\n";
    let keys = |format: &str| {
        clone.write("t.yml", &format!("{format}{}", with(&clone, text, "/x")));
        clone.write("motd", "one");
        let one = key(&clone, &[]);
        clone.write("motd", "two");
        (one, key(&clone, &[]))
    };
    let (one, two) = keys("");
    assert_ne!(one, two, "the file is the content");
    let ran = clone.run("validate", &[]).exits(0);
    let motd = clone.bench.path("clone/motd");
    let words = format!("`content` names the file {}, which is copied", motd.display());
    let hint = "say `source` in place of `content`, and `format: 2` at the template's begin";
    assert!(
        ran.stderr.contains(&words) && ran.stderr.contains("t.yml:1:") && ran.stderr.contains(hint),
        "{}",
        ran.stderr
    );
    let (one, two) = keys("format: 2\n");
    assert_eq!(one, two, "the word is the content");
    assert!(!clone.run("validate", &[]).exits(0).stderr.contains("names the file"));
    clone.write("t.yml", &format!("format: 3\n{}", with(&clone, text, "/x")));
    let ran = clone.run("plan", &[]).exits(1);
    assert!(ran.stderr.contains("t.yml:1:9") && ran.stderr.contains("formats 1 and 2"), "{}", ran.stderr);
}

/// A path is one of the file that says it, whoever uses the value: a step of the library, or of another folder.
#[test]
fn a_value_is_a_path_where_it_was_written() {
    let clone = Clone::new();
    for folder in ["certs", "steps/certs"] {
        fs::create_dir_all(clone.bench.path("clone").join(folder)).unwrap();
        clone.write(&format!("{folder}/ca.pem"), folder);
    }
    clone.write(
        "steps/own.yml",
        "define: {own: {params: {file: {type: string, default: certs/ca.pem}}, steps: [{copy: {dest: /a, source: '{{ file }}'}}]}}\n",
    );
    // The step, and the file whose change has to be noticed.
    for (step, file) in [
        ("ca_cert: {name: a, text: certs/ca.pem}", "certs/ca.pem"),
        ("ca_cert: {name: a, text: '{{ cert }}'}", "certs/ca.pem"),
        ("own: {file: certs/ca.pem}", "certs/ca.pem"),
        ("own: {}", "steps/certs/ca.pem"),
        ("copy: {dest: /a, source: '{{ folder }}/ca.pem'}", "certs/ca.pem"),
    ] {
        let text = format!(
            "use: steps/own.yml\nparams: {{cert: certs/ca.pem, folder: certs}}\nspec: {{import: IMPORT, steps: [{{{step}}}]}}\n"
        );
        clone.write("t.yml", &with(&clone, &text, "/x"));
        clone.write(file, "before");
        let before = key(&clone, &[]);
        clone.write(file, "after");
        assert_ne!(before, key(&clone, &[]), "{step}: {file}");
    }
}

/// What a step reads or does is in its key: the folder of a script, what lies behind a playbook's links, what may be executed.
#[test]
fn a_key_says_all_that_a_step_takes() {
    let clone = Clone::new();
    let allowed = ["--allow", "host-exec"];
    clone.write("t.yml", &with(&clone, "spec: {import: IMPORT, steps: [{local_run: ./build.sh}]}", "/x"));
    let here = key(&clone, &allowed);
    fs::create_dir(clone.bench.path("other")).unwrap();
    fs::copy(clone.bench.path("clone/t.yml"), clone.bench.path("other/t.yml")).unwrap();
    let there = clone
        .bench
        .command(&["plan", "t.yml", "--json", "--allow", "host-exec"])
        .current_dir(clone.bench.path("other"))
        .output()
        .unwrap();
    let there: serde_json::Value = serde_json::from_slice(&there.stdout).unwrap();
    assert_ne!(there["tips"][0], here.as_str());

    fs::create_dir_all(clone.bench.path("clone/play")).unwrap();
    fs::create_dir_all(clone.bench.path("clone/shared")).unwrap();
    clone.write("play/site.yml", "[]\n");
    clone.write("shared/task.yml", "one\n");
    symlink("../shared", clone.bench.path("clone/play/roles")).unwrap();
    clone.write(
        "t.yml",
        &with(&clone, "spec: {import: IMPORT, steps: [{ansible: {source: play, playbook: site.yml}}]}", "/x"),
    );
    let one = key(&clone, &allowed);
    clone.write("shared/task.yml", "two\n");
    let two = key(&clone, &allowed);
    fs::set_permissions(clone.bench.path("clone/shared/task.yml"), fs::Permissions::from_mode(0o755)).unwrap();
    let three = key(&clone, &allowed);
    assert!(one != two && two != three);
    // What lies behind a link is asked for as anything else is.
    symlink(clone.victim.path(), clone.bench.path("clone/play/stolen")).unwrap();
    let ran = clone.run("plan", &allowed).exits(1);
    assert!(ran.stderr.contains("may not read"), "{}", ran.stderr);
    clone.victim.assert_untouched("a link in a playbook's folder");
}

/// An archive of a stranger's brings no file that runs as its owner, unless that is asked for.
#[test]
fn set_id_bits_of_archives_are_dropped() {
    let clone = Clone::new();
    let folder = clone.bench.path("made");
    fs::create_dir(&folder).unwrap();
    for (name, mode) in [("user", 0o4755), ("group", 0o2755), ("plain", 0o755)] {
        fs::write(folder.join(name), "x").unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut tar = std::process::Command::new("tar");
    testkit::run(tar.arg("-C").arg(&folder).arg("-cf").arg(clone.bench.path("clone/a.tar")).arg("."));
    let modes = |options: &str| {
        let text = format!(
            "spec: {{import: IMPORT, steps: [{{unpack: {{source: a.tar, dest: /opt/a{options}}}}}, {{run: 'stat -c %a:%n /opt/a/*'}}]}}"
        );
        clone.write("t.yml", &with(&clone, &text, "/x"));
        clone.run("build", &["--engine", "chroot", "--progress", "plain", "-v"]).exits(0).stderr
    };
    let said = modes("");
    for line in ["755:/opt/a/user", "755:/opt/a/group", "755:/opt/a/plain"] {
        assert!(
            said.lines().any(|said| said.trim_end().ends_with(&format!(" {line}")) || said.trim() == line),
            "{said}"
        );
    }
    let said = modes(", setid: true");
    assert!(said.contains("4755:/opt/a/user") && said.contains("2755:/opt/a/group"), "{said}");
}
