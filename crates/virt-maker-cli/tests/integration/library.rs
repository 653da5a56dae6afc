//! The library of steps in YAML, on a real Debian: what each leaves there, as the guest's own programs see it.

use std::process::Command;

use crate::common::{Bench, run};
use testkit::{Mirror, appliance_lock, debian_guest};

#[test]
fn steps_of_the_library_do_what_they_say_with_chroot() {
    do_what_they_say("chroot");
}

#[test]
fn steps_of_the_library_do_what_they_say_with_vm_appliance() {
    let _lock = appliance_lock();
    do_what_they_say("vm");
}

fn do_what_they_say(engine: &str) {
    let mut bench = Bench::new(debian_guest());
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE me@there";
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=An Example Authority", "-days", "30"]);
    testkit::run(openssl.arg("-keyout").arg(bench.path("ca.key")).arg("-out").arg(bench.path("ca.pem")));
    let isolated = engine != "chroot";
    // What an emulated machine takes minutes for, and other tests show there: its steps find their packages.
    let more = if isolated { ", unattended-upgrades, qemu-guest-agent, cloud-init" } else { "" };
    let packages = format!("install: [locales, tzdata{more}]");
    if isolated {
        let template = bench.template("packages.yml", std::slice::from_ref(&packages), "");
        bench.build("chroot", &template, &[]).exits(0);
        bench.mirror = Some(Mirror::start());
    }
    let trust = if isolated { Mirror::TRUST } else { "true" };
    let steps = [
        packages,
        run(trust),
        "timezone: Europe/Berlin".to_owned(),
        "locale: de_DE.UTF-8".to_owned(),
        "keyboard: {layout: de, variant: nodeadkeys}".to_owned(),
        "sysctl: {settings: {net.ipv4.ip_forward: 1, kernel.printk: 3 4 1 3}}".to_owned(),
        "kernel_module: {name: loop, options: max_loop=64}".to_owned(),
        "kernel_module: {name: floppy, blacklist: true}".to_owned(),
        r#"append_line: {path: /etc/odd name, line: "it's $(a) `line` \"x\""}"#.to_owned(),
        r#"append_line: {path: /etc/odd name, line: "it's $(a) `line` \"x\""}"#.to_owned(),
        "append_line: {path: /etc/hosts, line: 10.0.0.1 db}".to_owned(),
        format!("ssh_key: {{key: '{key}'}}"),
        "ca_cert: {name: example, text: ca.pem}".to_owned(),
        "swap_file: 64".to_owned(),
        "motd: Welcome".to_owned(),
        "unattended_upgrades: {reboot: true}".to_owned(),
        "qemu_guest_agent:".to_owned(),
        "cloud_init: {datasources: [NoCloud, None], user_data: \"#cloud-config\\n\"}".to_owned(),
        run(
            "readlink -f /etc/localtime; date +%Z; locale -a | grep de_DE; cat /etc/default/locale; cat /etc/default/keyboard; \
            cat /etc/sysctl.d/*virt-maker*; cat /etc/modprobe.d/*; cat /etc/modules-load.d/loop.conf; cat '/etc/odd name' | sed 's/^/odd: /'; tail -n 1 /etc/hosts; \
            cat /root/.ssh/authorized_keys; openssl version >/dev/null; grep -c . /etc/ssl/certs/ca-certificates.crt; ls -l /etc/ssl/certs/example.pem; \
            tail -n 7 /usr/lib/virt-maker/firstboot.d/0001; cat /etc/motd; apt-config dump | grep -i 'periodic\\|Automatic-Reboot'; \
            systemctl is-enabled unattended-upgrades; ls /usr/sbin/qemu-ga; cloud-init --version; cat /etc/cloud/cloud.cfg.d/90-virt-maker.cfg; cat /var/lib/cloud/seed/nocloud/*; true",
        ),
    ];
    if !isolated {
        // Without the package that has it, a step fails and names the package.
        for (step, hint) in [
            ("locale: de_DE.UTF-8", "`install: locales` in a step before"),
            ("timezone: Europe/Berlin", "`install: tzdata` in a step before"),
        ] {
            let remove = run("dpkg --purge --force-depends tzdata >/dev/null 2>&1; rm -rf /usr/share/zoneinfo");
            let template = bench.template("lacks.yml", &[remove, step.to_owned()], "");
            let ran = bench.build(engine, &template, &[]).exits(4);
            assert!(ran.stderr.contains(hint), "{step}: {}", ran.stderr);
        }
    }
    let template = bench.template("t.yml", &steps, "");
    let ran = bench.build(engine, &template, &[]).exits(0);
    let said = ran.said();
    for expected in [
        "/usr/share/zoneinfo/Europe/Berlin\n",
        "de_DE.utf8\nLANG=de_DE.UTF-8\n",
        "XKBLAYOUT=\"de\"\nXKBVARIANT=\"nodeadkeys\"\n",
        "net.ipv4.ip_forward = 1\nkernel.printk = 3 4 1 3\n",
        "options loop max_loop=64\n",
        "blacklist floppy\ninstall floppy /bin/false\n",
        "odd: it's $(a) `line` \"x\"\n10.0.0.1 db\n",
        key,
        "/etc/ssl/certs/example.pem -> /usr/local/share/ca-certificates/example.crt",
        "file='/swapfile'\ndd if=/dev/zero of=\"$file\" bs=1M count=64\n",
        "Welcome\n",
        "APT::Periodic::Unattended-Upgrade \"1\";",
        "Unattended-Upgrade::Automatic-Reboot \"true\";",
        "/usr/sbin/qemu-ga\n",
        "datasource_list: [ NoCloud, None ]\n",
        "instance-id: nocloud\n#cloud-config\n",
    ] {
        assert!(said.contains(expected), "{engine}: {expected}: {said}");
    }
}
