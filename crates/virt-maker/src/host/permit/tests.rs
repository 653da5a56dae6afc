use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A folder of a user: `home/clone` is a project from elsewhere, `home/.ssh` and `secret` are the user's own.
struct Field {
    folder: tempfile::TempDir,
}

impl Field {
    fn new() -> Field {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home/clone/files", "home/.ssh", "secret", "work"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        for name in ["home/clone/web.yml", "home/clone/files/motd", "home/.ssh/id", "home/notes", "secret/key"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        Field { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn door(&self, template: &str, allowed: &[&str]) -> Door {
        let mut permissions = Permissions::default();
        for text in allowed {
            permissions.add(&Permission::parse(text).unwrap(), self.folder.path());
        }
        let places = Places {
            templates: vec![self.at(template)],
            working_dir: Some(self.at("work")),
            downloads: vec![self.at("home/.cache/downloads")],
            homes: vec![self.at("home")],
        };
        Door::new(permissions, &places)
    }
}

#[test]
fn reads_stay_in_the_folder_of_the_template() {
    let field = Field::new();
    let door = field.door("home/clone/web.yml", &[]);
    let may = |name: &str| door.read(&field.at(name)).is_ok();
    assert!(may("home/clone/files/motd") && may("home/clone/../clone/files/motd"));
    // What is not there is allowed, and is not there.
    assert_eq!(door.read(&field.at("home/clone/no")).unwrap().open().unwrap_err().kind(), io::ErrorKind::NotFound);
    for name in
        ["secret/key", "home/notes", "home/clone/../../secret/key", "home/clone/no/../../../secret/key", "work/x"]
    {
        let refusal = door.read(&field.at(name)).unwrap_err();
        assert!(refusal.hint.is_some(), "{refusal:?}");
    }
    let refusal = door.read(&field.at("secret/key")).unwrap_err();
    let folder = field.at("secret").canonicalize().unwrap();
    assert_eq!(refusal.hint.unwrap(), format!("allow it with --allow read={}", folder.display()));
    // What we downloaded for templates is theirs.
    assert!(may("home/.cache/downloads/list"));
    assert!(!may("home/.cache/other"));
}

#[test]
fn links_are_followed_and_judged_by_where_they_lead() {
    let field = Field::new();
    for (target, name) in [
        (field.at("secret"), "out"),
        (field.at("secret/key"), "files/key"),
        (field.at("secret/later"), "files/later"),
        ("files".into(), "in"),
        (field.at("home/clone/files/motd"), "absolute"),
        ("/proc/self/environ".into(), "environ"),
    ] {
        symlink(target, field.at("home/clone").join(name)).unwrap();
    }
    let door = field.door("home/clone/web.yml", &[]);
    let read = |name: &str| door.read(&field.at("home/clone").join(name));
    for name in ["out", "out/key", "out/new", "files/key", "files/later", "environ"] {
        assert!(read(name).is_err(), "{name}");
    }
    assert_eq!(read("in/motd").unwrap().read_to_string(100).unwrap(), "home/clone/files/motd");
    assert!(read("absolute").unwrap().is_file());
    // A name keeps what the template says.
    assert_eq!(read("absolute").unwrap().name(), "absolute");

    // A link that changes after it was judged leads nowhere.
    let judged = read("in/motd").unwrap();
    fs::rename(field.at("home/clone/files"), field.at("home/clone/moved")).unwrap();
    symlink(field.at("secret"), field.at("home/clone/files")).unwrap();
    fs::write(field.at("secret/motd"), "secret").unwrap();
    assert!(judged.open().is_err() && judged.metadata().is_err());
    // Nor does a name below a folder that climbs, or a link below it.
    let folder = read("moved").unwrap();
    assert!(folder.below("../../../secret/key").open().is_err());
    assert!(folder.below("key").open().is_err() && folder.below("key").metadata().unwrap().is_symlink());
}

#[test]
fn what_is_hidden_in_the_user_s_folder_is_no_part_of_it() {
    let field = Field::new();
    fs::write(field.at("home/web.yml"), "").unwrap();
    let door = field.door("home/web.yml", &[]);
    assert!(door.read(&field.at("home/notes")).is_ok());
    assert!(door.read(&field.at("home/clone/files/motd")).is_ok());
    assert!(door.read(&field.at("home/.ssh/id")).is_err());
    assert!(field.door("home/web.yml", &["read=home/.ssh"]).read(&field.at("home/.ssh/id")).is_ok());
    // Not by way of the whole folder.
    assert!(field.door("home/web.yml", &["read=home"]).read(&field.at("home/.ssh/id")).is_err());
    // A template that lies in there has its own folder.
    fs::create_dir_all(field.at("home/.config/images")).unwrap();
    fs::write(field.at("home/.config/images/web.yml"), "").unwrap();
    let door = field.door("home/.config/images/web.yml", &[]);
    assert!(door.read(&field.at("home/.config/images/motd")).is_ok());
    assert!(door.read(&field.at("home/.config/other")).is_err());
}

#[test]
fn pipes_and_devices_are_neither_read_nor_waited_for() {
    let field = Field::new();
    let pipe = field.at("home/clone/pipe");
    rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let door = field.door("home/clone/web.yml", &["read=/dev"]);
    for path in [&pipe, Path::new("/dev/zero")] {
        let error = door.read(path).unwrap().open().unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
    assert!(door.read_image(Path::new("/dev/zero"), |_| true).unwrap().open().is_err());
}

#[test]
fn an_image_may_lie_anywhere_and_nothing_else() {
    let field = Field::new();
    let door = field.door("home/clone/web.yml", &[]);
    assert!(door.read_image(&field.at("secret/key"), |_| true).is_ok());
    assert!(door.read_image(&field.at("secret/key"), |_| false).is_err());
    assert!(door.read_image(&field.at("secret"), |_| true).is_err(), "a folder is no image");
    let blind = field.door("home/clone/web.yml", &[]);
    assert!(blind.read_image(Path::new("/dev/zero"), |_| true).is_err(), "a device is no image");
}

#[test]
fn artifacts_go_beside_the_template_or_into_the_working_folder() {
    let field = Field::new();
    symlink(field.at("secret"), field.at("home/clone/out")).unwrap();
    let door = field.door("home/clone/web.yml", &["write=secret/given"]);
    let may = |name: &str| door.write(&field.at(name)).is_ok();
    for name in ["home/clone/web.qcow2", "home/clone/new/deep/web.qcow2", "work/web.qcow2", "secret/given/web.qcow2"] {
        assert!(may(name), "{name}");
    }
    for name in [
        "home/web.qcow2",
        "secret/web.qcow2",
        "home/clone/out/web.qcow2",
        "home/clone/../web.qcow2",
        "home/clone/.git/hooks/post-checkout",
        "home/clone/.bashrc",
        "work/.profile",
        "work/no/../../secret/web.qcow2",
    ] {
        let refusal = door.write(&field.at(name)).unwrap_err();
        assert!(refusal.message.contains("may not write") || refusal.message.contains("leads nowhere"), "{refusal:?}");
    }
}

/// What an export wrote is a guest's: a link in it leads no later export anywhere.
#[test]
fn a_place_that_has_become_another_one_is_not_written_to() {
    let field = Field::new();
    let door = field.door("home/clone/web.yml", &[]);
    let output = door.write(&field.at("home/clone/out/link/evil.raw")).unwrap();
    output.check().unwrap();
    fs::create_dir(field.at("home/clone/out")).unwrap();
    output.check().unwrap();
    symlink(field.at("secret"), field.at("home/clone/out/link")).unwrap();
    assert!(output.check().is_err() && output.beside("SHA256SUMS").check().is_err());
    assert!(door.write(&field.at("home/clone/out/link/evil.raw")).is_err());
    // What templates download is theirs to keep, and no place for artifacts.
    let kept = field.at("home/.cache/downloads/tool");
    assert!(door.keep(&kept).is_ok() && door.write(&kept).is_err());
}

#[test]
fn what_is_read_is_not_replaced() {
    let field = Field::new();
    symlink("files", field.at("home/clone/link")).unwrap();
    let door = field.door("home/clone/web.yml", &[]);
    let replaces = |name: &str| door.replaces(&door.write(&field.at("home/clone").join(name)).unwrap());
    assert_eq!(replaces("base.qcow2"), None);
    door.read(&field.at("home/clone/base.qcow2")).unwrap();
    assert!(replaces("base.qcow2").is_some());
    door.read(&field.at("home/clone/files")).unwrap();
    assert!(replaces("files/motd").is_some() && replaces("link/motd").is_some());
    assert_eq!(replaces("files/web.qcow2"), None, "nothing is lost there");
    assert_eq!(door.write(&field.at("work/a")).unwrap().beside("SHA256SUMS").named(), field.at("work/SHA256SUMS"));
}

#[test]
fn the_rest_is_asked_for_by_name() {
    let field = Field::new();
    let closed = field.door("home/clone/web.yml", &[]);
    let open = field.door("home/clone/web.yml", &["env=TOKEN", "host-exec", "unverified"]);
    assert!(closed.variable("TOKEN").is_err() && open.variable("TOKEN").is_ok() && open.variable("TOKEN2").is_err());
    assert!(closed.program("local_run").is_err() && open.program("local_run").is_ok());
    assert!(closed.unverified("a mirror").is_err() && open.unverified("a mirror").is_ok());
}

#[test]
fn permissions_are_written_and_read_alike() {
    for kind in KINDS {
        let text = kind.form().replace("DIR", "/srv").replace("NAME", "TOKEN");
        assert_eq!(Permission::parse(&text).unwrap().to_string(), text);
    }
    for wrong in ["", "all", "read", "read=", "write=", "env=", "env=A B", "net=yes", "host-exec=", "READ=/"] {
        let error = Permission::parse(wrong).unwrap_err();
        assert!(error.contains("`read=DIR`") && error.contains("`host-network`"), "{error}");
    }
}

/// What the hint says is enough, also for what is hidden in a home, and for a name that a shell would take for two words.
#[test]
fn whoever_follows_the_hint_is_let_in() {
    let field = Field::new();
    fs::create_dir(field.at("two words")).unwrap();
    for name in ["secret/key", "home/.netrc", "home/.ssh/id", "home/notes", "two words/it's", "secret/none"] {
        fs::write(field.at(name), name).unwrap();
        let refusal = field.door("home/clone/web.yml", &[]).read(&field.at(name)).unwrap_err();
        let hint = refusal.hint.unwrap();
        let word = hint.strip_prefix("allow it with --allow ").unwrap();
        let said = std::process::Command::new("sh").args(["-c", &format!("printf %s {word}")]).output().unwrap().stdout;
        let word = String::from_utf8(said).unwrap();
        let door = field.door("home/clone/web.yml", &[&word]);
        assert!(door.read(&field.at(name)).is_ok(), "{name}: {word}");
    }
}
