//! What is in the guest only while a command runs leaves no trace.

use std::fs;
use std::os::unix::fs::symlink;

use virt_maker_agent::protocol::{Exit, Request, Run};

use super::networked;
use crate::support::*;

/// What `/etc` of a guest looks like from outside: names, inode numbers, content, times.
fn etc(disk: &str) -> String {
    let listing = debugfs(disk, "ls -l /etc");
    let own = debugfs(disk, "stat /etc/resolv.conf");
    let own: Vec<&str> = own.lines().filter(|line| !line.contains("ctime") && !line.contains("checksum")).collect();
    let times = debugfs(disk, "stat /etc");
    let times: Vec<&str> = times.lines().filter(|line| line.contains("mtime")).collect();
    format!("{listing}\n{}\n{}\n{}", own.join("\n"), debugfs(disk, "cat /etc/resolv.conf"), times.join("\n"))
}

#[test]
fn resolv_conf_leaves_no_trace() {
    type Change = fn(&std::path::Path);
    let cases: [(&str, Change); 4] = [
        ("nothing", |_| {}),
        ("a file", |at| {
            fs::write(at.join("etc/resolv.conf"), "own\n").unwrap();
            fs::set_permissions(at.join("etc/resolv.conf"), std::os::unix::fs::PermissionsExt::from_mode(0o640))
                .unwrap();
        }),
        ("a link that leads nowhere", |at| {
            symlink("../run/systemd/resolve/stub-resolv.conf", at.join("etc/resolv.conf")).unwrap()
        }),
        ("a link out of the root", |at| symlink("/../../../../../tmp/outside", at.join("etc/resolv.conf")).unwrap()),
    ];
    for (case, change) in cases {
        let lab = Lab::new();
        let tree = lab.tree(change);
        let disk = lab.ext("disk", "ext4", &[], &tree);
        let before = etc(&disk);
        let (mut agent, _) = lab.mounted(&disk);
        assert_eq!(
            agent.run(&networked("cat /etc/resolv.conf")),
            (Exit::Status(0), "nameserver 192.0.2.1\n".into()),
            "{case}"
        );
        // A command that fails, one that is killed, one that cannot be started.
        assert_eq!(agent.run(&networked("exit 7")).0, Exit::Status(7));
        assert_eq!(agent.run(&networked("kill -9 $$")).0, Exit::Signal(9));
        failed(agent.client.run(&Run { argv: vec!["nosuch".into()], ..networked("") }, &mut |_| {}));
        agent.client.done(&Request::Unmount).unwrap();
        assert_eq!(etc(&disk), before, "{case}");
    }
}

#[test]
fn a_change_of_resolv_conf_is_not_kept_and_said() {
    let lab = Lab::new();
    let tree = lab.tree(|at| {
        fs::write(at.join("etc/resolv.conf"), "own\n").unwrap();
        with_program(at, "/usr/bin/chattr");
    });
    let disk = lab.ext("disk", "ext4", &[], &tree);
    let (mut agent, _) = lab.mounted(&disk);
    for command in [
        "echo changed >/etc/resolv.conf",
        "rm /etc/resolv.conf",
        "rm /etc/resolv.conf; mkdir -p /etc/resolv.conf/deep/er; touch /etc/resolv.conf/deep/x",
        "chattr +i /etc/resolv.conf",
        "chattr +i /etc",
        "chmod 600 /etc/resolv.conf",
    ] {
        let (exit, output) = agent.run(&networked(command));
        assert_eq!(exit, Exit::Status(0), "{command}: {output}");
        // An attribute of the folder is no change of the file; it is kept.
        let of_folder = command == "chattr +i /etc";
        assert_eq!(
            output.contains("/etc/resolv.conf is not kept") && output.contains("copy"),
            !of_folder && !command.starts_with("chattr"),
            "{command}: {output}"
        );
        assert_eq!(
            agent.ok("cat /etc/resolv.conf; ls -A /etc"),
            "own\nhostname\nos-release\npasswd\nresolv.conf\n",
            "{command}"
        );
        agent.ok("chattr -i /etc");
    }
    // Without the network the file is the guest's own, and a change is kept.
    assert_eq!(agent.ok("cat /etc/resolv.conf; echo new >/etc/resolv.conf"), "own\n");
    assert_eq!(agent.ok("cat /etc/resolv.conf"), "new\n");
    // A change of the folder beside it is kept, with its time.
    let (_, output) = agent.run(&networked("touch /etc/other; touch -d @1000000000 /etc"));
    assert_eq!(output, "");
    assert_eq!(agent.ok("stat -c %Y /etc; ls /etc/other"), "1000000000\n/etc/other\n");
    // What packages of resolvers do: a backup of what they find, which is not the guest's own, and a link, which stays. That
    // the file cannot be changed is no matter while a command runs, and is so afterwards.
    agent.ok("echo own >/etc/resolv.conf; mkdir -p /etc/resolvconf/resolv.conf.d; chattr +i /etc/resolv.conf");
    let (_, output) = agent.run(&networked(
        "cp /etc/resolv.conf /etc/.resolv.conf.bak; cp /etc/resolv.conf /etc/resolvconf/resolv.conf.d/original",
    ));
    assert_eq!(output, "");
    let look = "cat /etc/.resolv.conf.bak /etc/resolvconf/resolv.conf.d/original; rm -f /etc/resolv.conf; cat /etc/resolv.conf";
    let (_, output) = agent.shell(look);
    assert!(
        output.starts_with("own\nown\n") && output.contains("not permitted") && output.ends_with("own\n"),
        "{output}"
    );
    let (_, output) =
        agent.run(&networked("mv /etc/resolv.conf /etc/resolv.conf.old; ln -s ../run/stub /etc/resolv.conf"));
    assert_eq!(output, "");
    assert_eq!(agent.ok("readlink /etc/resolv.conf; cat /etc/resolv.conf.old"), "../run/stub\nown\n");
    // The link as it is now is the guest's own: it stays, whatever a command does.
    let (_, output) = agent.run(&networked("ln -sf ../run/stub /etc/resolv.conf"));
    assert_eq!((output.as_str(), agent.ok("readlink /etc/resolv.conf").as_str()), ("", "../run/stub\n"));
    agent.ok("rm /etc/resolv.conf; echo own >/etc/resolv.conf");
    let problem = failed(agent.client.run(&networked("rm -f /etc/.virt-maker-*"), &mut |_| {}));
    assert!(problem.message.contains("/etc/resolv.conf"), "{problem:?}");
}

#[test]
fn services_are_forbidden_without_a_trace() {
    let lab = Lab::new();
    let tree = lab.tree(|at| fs::write(at.join("usr/sbin/policy-rc.d"), "own\n").unwrap());
    let own = lab.ext("own", "ext4", &[], &tree);
    let none = lab.guest();
    for disk in [own, none] {
        let before = debugfs(&disk, "ls -l /usr/sbin");
        let lab = Lab::new();
        let (mut agent, _) = lab.mounted(&disk);
        assert_eq!(agent.shell("/usr/sbin/policy-rc.d nginx start").0, Exit::Status(101));
        assert_eq!(agent.ok("stat -c '%a %u %g' /usr/sbin/policy-rc.d"), "755 0 0\n");
        agent.client.done(&Request::Unmount).unwrap();
        assert_eq!(debugfs(&disk, "ls -l /usr/sbin"), before);
    }
    // A guest without the folder does without.
    let lab = Lab::new();
    let tree = lab.tree(|at| fs::remove_dir_all(at.join("usr/sbin")).unwrap());
    let disk = lab.ext("disk", "ext4", &[], &tree);
    let (mut agent, _) = lab.mounted(&disk);
    assert_ne!(agent.shell("ls /usr/sbin").0, Exit::Status(0));
}

#[test]
fn missing_mount_points_are_made_and_removed() {
    let lab = Lab::new();
    let tree = lab.tree(|at| {
        for name in ["proc", "sys", "dev", "run"] {
            fs::remove_dir(at.join(name)).unwrap();
        }
    });
    let disk = lab.ext("disk", "ext4", &[], &tree);
    let before = (
        debugfs(&disk, "ls -l /"),
        debugfs(&disk, "stat /").lines().find(|line| line.contains("mtime")).unwrap().to_string(),
    );
    let (mut agent, _) = lab.mounted(&disk);
    agent.ok("ls /proc/self /dev/null /run /sys");
    agent.client.done(&Request::Unmount).unwrap();
    let after = (
        debugfs(&disk, "ls -l /"),
        debugfs(&disk, "stat /").lines().find(|line| line.contains("mtime")).unwrap().to_string(),
    );
    assert_eq!(before, after);
}

#[test]
fn mount_points_that_are_links_are_refused() {
    for name in ["run", "dev", "proc", "sys"] {
        let lab = Lab::new();
        let tree = lab.tree(|at| {
            fs::remove_dir(at.join(name)).unwrap();
            symlink("/../../../oldroot/tmp", at.join(name)).unwrap();
        });
        let disk = lab.ext("disk", "ext4", &[], &tree);
        let (mut agent, _) = lab.mounted(&disk);
        let problem = failed(agent.client.run(&Run { argv: vec!["true".into()], ..Run::default() }, &mut |_| {}));
        assert!(problem.message.contains(&format!("/{name} of the guest is no folder")), "{problem:?}");
    }
}
