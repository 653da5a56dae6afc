//! A guest whose disk is full, for every step that writes: one error that says so.

use std::fs;
use std::process::Command;

use testkit::{TinyOptions, tiny_guest};

use crate::common::{Bench, run};

#[test]
fn a_full_guest_is_named() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let big = bench.path("big");
    fs::write(&big, vec![7; 80 << 20]).unwrap();
    let mut tar = Command::new("tar");
    testkit::run(tar.arg("-cf").arg(bench.path("big.tar")).arg("-C").arg(bench.folder.path()).arg("big"));
    let sum = testkit::run(Command::new("sha256sum").arg(&big)).stdout;
    let sum = String::from_utf8(sum).unwrap().split_whitespace().next().unwrap().to_owned();
    for step in [
        format!("copy: {{dest: /big, source: '{}'}}", big.display()),
        format!("unpack: {{source: '{}', dest: /srv}}", bench.path("big.tar").display()),
        format!("download_to: {{url: 'file://{}', checksum: 'sha256:{sum}', dest: /big}}", big.display()),
    ] {
        let template = bench.template("t.yml", std::slice::from_ref(&step), "");
        let ran = bench.build("chroot", &template, &[]).exits(4);
        assert!(ran.stderr.contains("full"), "{step}: {}", ran.stderr);
        assert_eq!(bench.layers().len(), 1, "{step}");
        assert_eq!(bench.left_in_store(), Vec::<String>::new());
    }
}

#[test]
fn a_program_that_fills_the_guest_is_named() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let full = |ran: &crate::common::Ran| {
        ran.stderr.contains("the guest's disk is full: ")
            && ran.stderr.contains(" MiB are left on /\n")
            && ran.stderr.contains("resize")
    };
    // It says so and leaves what it wrote; it says so and cleans up; it says nothing.
    for script in [
        "cat /dev/zero > /big",
        "cat /dev/zero > /big || { echo 'x: No space left on device'; head -c 3000000 /big > /dev/null; rm /big; dd if=/dev/zero of=/most bs=1M count=45; exit 1; }",
        "cat /dev/zero > /big 2> /dev/null",
    ] {
        let ran = bench.build("chroot", &bench.template("t.yml", &[run(script)], ""), &[]).exits(4);
        assert!(full(&ran), "{script}: {}", ran.stderr);
    }
    // A script that fails with room left has an error of its own.
    let ran = bench.build("chroot", &bench.template("t.yml", &[run("echo no; exit 3")], ""), &[]).exits(4);
    assert!(!full(&ran) && ran.stderr.contains("ended with exit status 3"), "{}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

/// The real apt, with its lists and with what it unpacks, on a disk that is nearly full.
#[test]
fn a_full_guest_is_named_by_install() {
    let bench = Bench::new(testkit::debian_guest());
    let fill = "rm -rf /var/lib/apt/lists/*; fallocate -l $(($(df --output=avail -k / | tail -n 1) - 12000))K /filler";
    let steps = |more: &str| [run(fill), more.to_owned()];
    for install in ["install: [vim-runtime]", "install: [vim-runtime]\n      mounts: [{cache: apt}]"] {
        let template = bench.template("t.yml", &steps(install), "");
        let ran = bench.build("chroot", &template, &[]).exits(4);
        for expected in [
            "step 2 of 2 (`install`) failed",
            "the guest's disk is full: ",
            " MiB are left on /\n",
            "`resize: {size: 10G, expand: root}`",
        ] {
            assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
        }
        assert_eq!(bench.layers().len(), 2, "{}", ran.stderr);
        assert_eq!(bench.left_in_store(), Vec::<String>::new());
    }
}
