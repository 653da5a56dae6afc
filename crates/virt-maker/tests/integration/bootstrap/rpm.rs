//! Distributions made of RPM packages, for real: dnf, a local repository of signed packages, a disk that boots,
//! and what happens when that cannot be. The distributions' own repositories are not asked.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::{
    HostState, Machine, Volumes, appliance_lock, find_file_in_image, fsck_clean, read_file_from_image, rpm_repository,
    run,
};
use virt_maker::error::ErrorKind;
use virt_maker::event::Events;

use super::bench::{Bench, PATIENCE};

/// With a repository of packages.
fn with_packages() -> Bench {
    let bench = Bench::new();
    rpm_repository(&bench.folder.path().join("packages"));
    bench
}

/// Arguments with the repository as the mirror.
fn with(bench: &Bench, more: &str) -> String {
    let mirror = bench.folder.path().join("packages/repository");
    format!("{{suite: rocky9, size: 1G, mirror: 'file:{}', {more}}}", mirror.display())
}

/// What the host itself has of dnf and rpm: names, lengths and times.
fn of_host() -> Vec<String> {
    let mut find = Command::new("find");
    find.args([
        "/var/lib/rpm",
        "/var/lib/dnf",
        "/var/cache/dnf",
        "/etc/dnf",
        "/etc/yum.repos.d",
        "/root/.rpmdb",
        "/nonexistent",
        "/usr/lib/sysimage",
    ]);
    find.args(["/etc/pki", "/root/.rpmmacros", "/root/.gnupg"]).args(["-printf", "%p %s %T@\\n"]);
    // Most of them are not there on a Debian.
    let mut found: Vec<_> =
        String::from_utf8(find.output().unwrap().stdout).unwrap().lines().map(str::to_owned).collect();
    let logs = fs::read_dir("/var/log").unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    found.extend(logs.filter(|name| name.starts_with("dnf") || name.starts_with("hawkey")));
    found.sort();
    found
}

#[test]
fn a_guest_of_rpm_packages_boots() {
    let _lock = appliance_lock();
    let (before, host) = (HostState::capture(), of_host());
    let bench = with_packages();
    let made = bench.make(&with(&bench, "gpg: packages/key.asc, packages: [tool, owned, rpm]"), Events::none());
    made.unwrap_or_else(|error| panic!("{error}: {:?}\n{}", error.hint(), bench.log()));
    assert_eq!(bench.strays(), Vec::<String>::new());
    assert_eq!(of_host(), host);
    before.assert_nothing_left();

    // The disk, by the word of others.
    let image = bench.image();
    assert_eq!(fs::metadata(&image).unwrap().len(), 1 << 30);
    fsck_clean(&image, "raw");
    let volumes = Volumes::of(&image, "raw");
    let root = volumes.volumes.last().unwrap();
    assert_eq!((volumes.volumes.len(), root.number, root.fs.as_str()), (2, 2, "ext4"));
    let text = |path: &str| String::from_utf8(read_file_from_image(&image, path)).unwrap();
    let debugfs = |command: &str| {
        String::from_utf8(run(Command::new("debugfs").args(["-R", command]).arg(&root.path)).stdout).unwrap()
    };
    assert_eq!(text("/etc/hostname"), "tiny\n");
    assert_eq!(text("/etc/machine-id"), "");
    assert!(text("/etc/fstab").ends_with(" / ext4 errors=remount-ro 0 1\n"));
    // A scriptlet saw a system, and what it saw is gone.
    assert_ne!(text("/etc/installed"), "");
    for folder in ["/dev", "/run", "/tmp", "/proc", "/sys", "/var/log"] {
        let listed = debugfs(&format!("ls -p {folder}"));
        let names: Vec<_> = listed.lines().filter_map(|line| line.split('/').nth(5)).collect();
        assert!(names.iter().all(|name| ["", ".", ".."].contains(name)), "{folder}: {listed}");
    }
    assert!(find_file_in_image(&image, "/var/cache/dnf").is_none());
    // The mirror of the template is the guest's, with its key, and the distribution's own is off.
    assert!(text("/etc/yum.repos.d/rocky.repo").contains("enabled=0\n"));
    let repositories = text("/etc/yum.repos.d/mirror.repo");
    assert!(
        repositories.starts_with("[mirror1]\n")
            && repositories.contains("\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/")
    );
    assert!(text("/etc/pki/rpm-gpg/RPM-GPG-KEY-mirror").starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----\n"));
    // Owners that came with a package, by whichever rpm; files that nobody may read are root's.
    assert!(text("/etc/passwd").contains("\nowner:x:777:777:"));
    let owned = debugfs("stat /var/lib/owned");
    assert!(owned.contains("Mode:  02750") && owned.contains("User:   777   Group:   777"), "{owned}\n{}", bench.log());
    assert!(debugfs("stat /etc/shadow").contains("Mode:  0000"));
    // The guest's rpm, which looks elsewhere for its database, got one.
    assert!(bench.log().contains("so its own database is made"), "{}", bench.log());
    assert!(find_file_in_image(&image, "/var/lib/elsewhere/rpmdb.sqlite").is_some());
    assert!(find_file_in_image(&image, "/var/lib/rpm/rpmdb.sqlite").is_none());
    // Menu, links and their plugin.
    let kernel = debugfs("stat /boot/vmlinuz");
    assert!(kernel.contains("Fast link dest: \"vmlinuz-"), "{kernel}");
    assert!(text("/boot/grub/grub.cfg").contains("linux /boot/vmlinuz root=UUID="));
    assert!(debugfs("stat /etc/kernel/install.d/95-boot-links.install").contains("Mode:  0755"));
    // Labels are for later.
    assert!(find_file_in_image(&image, "/.autorelabel").is_some());

    let machine = Machine::boot(&image, "raw");
    let console = machine.wait_for("@end", PATIENCE);
    let said = console.lines().find(|line| line.contains("@boots")).unwrap();
    assert!(said.contains("@boots tiny a-tool ") && said.contains("console=ttyS0,115200 enforcing=0"), "{console}");
    drop(machine);
    before.assert_nothing_left();
}

#[test]
fn failures_are_explained_and_leave_nothing() {
    let (before, host) = (HostState::capture(), of_host());
    let bench = with_packages();
    let fails = |arguments: &str, kind: ErrorKind, words: &[&str]| {
        let error = bench.make(arguments, Events::none()).unwrap_err();
        let said = format!("{error} | {}", error.hint().unwrap_or_default());
        words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in: {said}\n{}", bench.log()));
        assert_eq!(error.kind(), kind, "{said}");
        assert_eq!(bench.strays(), Vec::<String>::new());
        let _ = fs::remove_file(bench.image());
        let _ = fs::remove_file(bench.path.join("log"));
    };
    let base = ErrorKind::Base;
    fails(
        &with(&bench, "gpg: packages/other.asc"),
        base,
        &["cannot bootstrap rocky9", "Public key", "`gpg` names files"],
    );
    fails(
        &with(&bench, "gpg: packages/key.asc, packages: [unsigned]"),
        base,
        &["unsigned", "not signed", "`signed: false`"],
    );
    fails(&with(&bench, "gpg: packages/key.asc, packages: [no-such]"), base, &["no-such", "`packages`"]);
    let small = with(&bench, "gpg: packages/key.asc, packages: [big]").replace("size: 1G", "size: 512M");
    fails(&small, base, &["`size`"]);
    fails(&with(&bench, "gpg: packages/none.asc"), ErrorKind::Template, &["cannot read the keys in", "none.asc"]);
    fs::write(bench.folder.path().join("no.asc"), "no key\n").unwrap();
    fails(&with(&bench, "gpg: no.asc"), ErrorKind::Host, &["no.asc holds no keys", "public keys"]);
    let nowhere = |url: &str| format!("{{suite: fedora43, mirror: '{url}', signed: false}}");
    let absent = format!("file:{}/nonexistent/$releasever", bench.folder.path().display());
    fails(&nowhere(&absent), base, &["/nonexistent/43/repodata", "`repodata` folder"]);
    // Nobody listens on port 9 of this machine.
    fails(&nowhere("http://127.0.0.1:9/x"), base, &["127.0.0.1:9", "is the mirror reachable"]);
    // So does the proxy of the command line.
    let mut bench = with_packages();
    bench.env.insert("http_proxy".into(), "http://127.0.0.1:9/".into());
    let error = bench.make(&nowhere("http://mirror.invalid/x"), Events::none()).unwrap_err().to_string();
    assert!(error.contains("mirror.invalid") && error.contains("cannot connect to 127.0.0.1:9"), "{error}");
    assert_eq!(of_host(), host);
    before.assert_nothing_left();
}

#[test]
fn unsigned_packages_need_a_word() {
    let bench = with_packages();
    let made = bench.make(&with(&bench, "signed: false, packages: [unsigned, tool]"), Events::none());
    made.unwrap_or_else(|error| panic!("{error}: {:?}\n{}", error.hint(), bench.log()));
    let image = bench.image();
    let text = |path: &str| String::from_utf8(read_file_from_image(&image, path)).unwrap();
    assert_eq!(text("/usr/share/unsigned"), "unsigned\n");
    assert!(text("/etc/yum.repos.d/mirror.repo").contains("gpgcheck=0\n"));
    // Where rpm is none of the guest's, the database is where the distribution has it.
    assert!(find_file_in_image(&image, "/var/lib/rpm/rpmdb.sqlite").is_some());
}

#[test]
fn wrong_arguments_say_where_and_what() {
    let bench = with_packages();
    bench.refuses("suite: fedora-43\n", 1, &["did you mean `fedora43`"]);
    bench.refuses("suite: centos8\n", 1, &["`centos9`", "cloud image"]);
    bench.refuses("suite: rocky9\nmirror: deb http://x rocky main\n", 2, &["base URL of a repository"]);
    bench.refuses("suite: rocky9\nmirror:\n  - http://x\n  - http://x/$arch\n", 4, &["`$releasever`"]);
    bench.refuses("suite: rocky9\nmirror: \"http://x\\ngpgcheck=0\"\n", 2, &["base URL"]);
    bench.refuses("suite: rocky9\npackages: [/tmp/x.rpm]\n", 2, &["not the name of a package"]);
    bench.refuses("suite: rocky9\npackages: --nogpgcheck\n", 2, &["not the name of a package"]);
    bench.refuses("suite: rocky9\nsigned: false\n", 2, &["for a `mirror`"]);
    bench.refuses("suite: rocky9\nmirror: http://x\ngpg: k\nsigned: false\n", 4, &["expected one of them"]);
    bench.refuses("suite: rocky9\nsize: 10M\n", 2, &["512M"]);
    bench.refuses("suite: bookworm\ngpg: keys\n", 2, &["RPM packages", "[signed-by=FILE]"]);
    bench.refuses("suite: noble\nsigned: false\n", 2, &["RPM packages", "[trusted=yes]"]);
    for taken in
        ["suite: fedora43", "{suite: rocky9, packages: ['@core', /usr/bin/vim]}", "{suite: centos10, signed: true}"]
    {
        assert!(bench.parse(taken).is_ok(), "{taken}");
    }
}

#[test]
fn the_key_is_what_the_template_means() {
    let bench = with_packages();
    let key = |arguments: &str| bench.key(arguments).unwrap();
    let plain = key("suite: rocky9");
    assert_eq!(plain, key("{suite: rocky9, size: 4096MiB, packages: [], signed: true}"));
    assert_ne!(plain, key("suite: rocky8"));
    let unsigned = key("{suite: rocky9, mirror: 'http://x', signed: false}");
    assert_ne!(unsigned, key("{suite: rocky9, mirror: 'http://x'}"));
    // Keys count by what is in their files, and not by where these are.
    let one = key("{suite: rocky9, gpg: packages/key.asc}");
    assert_ne!(one, plain);
    assert_ne!(one, key("{suite: rocky9, gpg: packages/other.asc}"));
    fs::copy(bench.folder.path().join("packages/key.asc"), bench.folder.path().join("copy")).unwrap();
    assert_eq!(one, key("{suite: rocky9, gpg: [copy]}"));
    let release = |arguments: &str| bench.parse(arguments).ok().unwrap().release().unwrap();
    let folder = bench.folder.path().display();
    assert_eq!(
        release(&format!("{{suite: rocky9, mirror: 'file:{folder}/$releasever'}}")),
        format!("bootstrap:file://{folder}/9/repodata/repomd.xml")
    );
}

#[test]
fn a_cancelled_bootstrap_is_gone() {
    let before = HostState::capture();
    let bench = with_packages();
    // In the midst of it: packages are being installed.
    let error = bench.cancelled_at("Running transaction", &with(&bench, "gpg: packages/key.asc"));
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    before.assert_nothing_left();
    assert_eq!(bench.strays(), Vec::<String>::new());
}

/// Without keys of the distribution, the error says where they come from; with them nothing else is asked for.
#[test]
fn the_distributions_own_keys_are_looked_for_on_the_host() {
    let bench = with_packages();
    let known = Path::new("/usr/share/distribution-gpg-keys/rocky/RPM-GPG-KEY-Rocky-9").exists();
    let error = bench.make(&with(&bench, ""), Events::none()).unwrap_err();
    let said = format!("{error} | {}", error.hint().unwrap_or_default());
    if known {
        // They are not the keys of these packages.
        assert!(said.contains("Public key"), "{said}");
    } else {
        assert!(said.contains("RPM-GPG-KEY-Rocky-9") && said.contains("`distribution-gpg-keys`"), "{said}");
        assert_eq!(error.kind(), ErrorKind::Host);
    }
    assert_eq!(bench.strays(), Vec::<String>::new());
}
