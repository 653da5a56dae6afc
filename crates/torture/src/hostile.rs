//! What means harm: images, guests, archives, names and texts. Each is refused with its message, or does nothing; a folder of
//! the host that they all aim at is never opened, read or written, and its secret is in nothing that was made or said.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::{TinyOptions, Victim, hostile_images, probed_raw, read_file_from_image, tar, tiny_guest};

use crate::Options;
use crate::field::{Field, on_each_engine};
use crate::random::Random;
use crate::world::Ran;

pub fn run(options: &Options, _: &mut Random) -> String {
    let (members, engines) =
        on_each_engine("hostile", options, |field| images(field) + guests(field) + archives(field) + texts(field));
    format!("{members} members of the corpus on {engines}, each refused or harmless; the host was not touched")
}

impl Field<'_> {
    /// Builds a spec; it ends with one of these codes.
    #[track_caller]
    fn build(&self, what: &str, spec: Value, codes: &[i32]) -> Ran {
        let path = self.world.path("hostile.yml");
        fs::write(&path, json!({ "params": { "data": "none" }, "spec": spec }).to_string())
            .expect("the folder is ours");
        self.run(
            what,
            &["build", path.to_str().expect("text"), "--engine", self.engine, "--progress", "plain", "-v"],
            codes,
        )
    }

    #[track_caller]
    fn run(&self, what: &str, arguments: &[&str], codes: &[i32]) -> Ran {
        self.ended(what, self.world.run(arguments), codes)
    }
}

/// Headers that name files of the host, sizes beyond all disks, chains that bite their tail.
fn images(field: &Field<'_>) -> usize {
    let guest = tiny_guest(&TinyOptions::default());
    let folder = field.world.path("images");
    fs::create_dir(&folder).expect("the folder is ours");
    let images = hostile_images(&guest, &folder, &field.secret());
    for image in &images {
        let ran = field.build(image.name, json!({ "import": { "download": { "url": image.path } } }), &[1]);
        for words in image.words {
            assert!(ran.stderr.contains(words), "{}: no `{words}` in {}", image.name, ran.stderr);
        }
    }
    // Said to be raw, it is raw, whatever its guest wrote to its beginning.
    let (raw, out) = (folder.join("said.raw"), field.world.place.join("said-out.raw"));
    probed_raw(&guest, &raw, field.secret().to_str().expect("text"));
    let spec = json!({
        "import": { "download": { "url": raw, "format": "raw" } },
        "steps": [{ "run": "echo in > /in" }],
        "export": { "raw": { "path": out } },
    });
    field.build("a raw disk with a header", spec, &[0]);
    let exported = fs::read(&out).expect("it was exported");
    assert_eq!(&exported[..4], b"QFI\xfb", "its first bytes are the guest's");
    assert!(!contains(&exported, Victim::SECRET));
    // The reader of the tests takes the header for what it says, so it goes.
    let file = fs::OpenOptions::new().write(true).open(&out).expect("it is ours");
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4], 0).expect("it can be written");
    assert_eq!(read_file_from_image(&out, "/in"), b"in\n");
    images.len() + 1
}

/// Links that lead out of the root, names and a release file that speak to terminals.
fn guests(field: &Field<'_>) -> usize {
    let victim = field.victim();
    let up = format!("/../../../../../..{victim}");
    let prepare = format!(
        "set -e; mkdir -p /srv; ln -s {victim} /srv/abs; ln -s {up} /srv/up; rm -rf /var/log /var/tmp; ln -s {up} /var/log; \
         ln -s {victim} /var/tmp; ln -s {victim}/secret /srv/file; ln -s {victim} /root/.ssh; \
         printf 'ID=debian\\nPRETTY_NAME=\"\\033]0;owned\\007\\033[2Jtiny\"\\n' > /etc/os-release; \
         touch \"/srv/$(printf 'a\\033[31mb')\""
    );
    let steps = |more: Value| json!([{ "run": prepare }, more]);
    let spec = |more: Value| json!({ "import": field.base(), "steps": steps(more) });
    let ways = [
        ("copy through a link", json!({ "copy": { "dest": "/srv/up/planted", "content": "planted" } })),
        ("copy onto a link", json!({ "copy": { "dest": "/srv/file", "content": "planted" } })),
        ("file through a link", json!({ "file": { "path": "/srv/abs/planted", "content": "planted" } })),
        ("mkdir through a link", json!({ "mkdir": "/srv/up/made" })),
        ("delete through a link", json!({ "delete": ["/srv/abs/secret", "/srv/up/secret"] })),
        ("move through a link", json!({ "move": { "from": "/srv/file", "to": "/srv/up/moved" } })),
        (
            "edit through a link",
            json!({ "edit": { "path": "/srv/file", "match": ".", "replace": "x", "optional": true } }),
        ),
        ("keys of a linked home", json!({ "ssh_keygen": "root" })),
        ("traces under links", json!({ "sysprep": null })),
        (
            "reading in the guest",
            json!({ "run": format!("cat /srv/up/secret {victim}/secret /srv/file 2>&1 || true") }),
        ),
    ];
    let count = ways.len();
    for (what, step) in ways {
        // Refused, or done within the guest.
        field.build(what, spec(step), &[0, 1, 4]);
    }
    let out = field.world.place.join("guest-out.raw");
    let mut exported = spec(json!({ "run": "true" }));
    exported["export"] = json!({ "raw": { "path": out, "clean": true } });
    field.build("an export that cleans", exported, &[0, 1]);

    let engine = ["--engine", field.engine];
    for (what, arguments, codes) in [
        ("ls", vec!["ls", "hostile.yml", "/srv"], &[0][..]),
        ("ls through a link", vec!["ls", "hostile.yml", "/srv/up"], &[0, 1, 3, 4]),
        ("cat through a link", vec!["cat", "hostile.yml", "/srv/up/secret"], &[1, 3, 4]),
        ("cat of a link", vec!["cat", "hostile.yml", "/srv/file"], &[1, 3, 4]),
        ("diff", vec!["diff", "hostile.yml:0", "hostile.yml", "--content"], &[0, 1]),
    ] {
        field.run(what, &[&arguments[..], &engine[..]].concat(), codes);
    }
    let target = field.world.path("copied");
    let copy = ["cp", "hostile.yml:/srv", target.to_str().expect("text")];
    field.run("cp of links", &[&copy[..], &engine[..]].concat(), &[0]);
    assert_eq!(fs::read_link(target.join("file")).expect("a link is a link"), field.secret());
    fs::remove_dir_all(&target).expect("it is ours");
    count + 7
}

/// Archives, and folders of the host, that lead out.
fn archives(field: &Field<'_>) -> usize {
    let victim = field.victim();
    let up = format!("../../../../../../../..{victim}/planted");
    let planted = format!("{victim}/planted");
    let archives: [(&str, Vec<testkit::TarEntry<'_>>); 6] = [
        ("a name that climbs", vec![(b'0', &up, "planted")]),
        ("an absolute name", vec![(b'0', &planted, "planted")]),
        ("a link and a file behind it", vec![(b'2', "out", victim), (b'0', "out/planted", "planted")]),
        ("a hard link to a file of the host", vec![(b'1', "hard", victim)]),
        ("a device", vec![(b'3', "disk", "")]),
        ("a name with escapes", vec![(b'0', "a\u{1b}[31mb/../../../../x", "x")]),
    ];
    let count = archives.len();
    for (what, entries) in archives {
        let path = field.world.path("hostile.tar");
        fs::write(&path, tar(&entries)).expect("the folder is ours");
        let step = json!({ "unpack": { "source": path, "dest": "/srv/unpacked" } });
        // An absolute name may be taken for one below the folder; all others are refused.
        let codes: &[i32] = if what == "an absolute name" { &[0, 1, 4] } else { &[1, 4] };
        field.build(what, json!({ "import": field.base(), "steps": [step] }), codes);
    }
    let folder = field.world.path("site");
    fs::create_dir_all(&folder).expect("the folder is ours");
    fs::write(folder.join("index.html"), "hello").expect("the folder is ours");
    std::os::unix::fs::symlink(field.secret(), folder.join("leads-out")).expect("the folder is ours");
    let step = json!({ "copy": { "source": folder, "dest": "/srv/site" } });
    let ran = field.build("a folder with a link out of it", json!({ "import": field.base(), "steps": [step] }), &[1]);
    assert!(ran.stderr.contains("outside of the folder"), "{}", ran.stderr);
    count + 1
}

/// Texts with everything that shells, qemu and templates give a meaning to, wherever a text can stand.
fn texts(field: &Field<'_>) -> usize {
    let planted = format!("{}/planted", field.victim());
    let nasty = format!("a;touch {planted};$(touch {planted})`touch {planted}`'\"\n,:=|&<> {{{{ 7 * 6 }}}}");
    // In a template, an expression yields it: what that says is data.
    let text = json!(format!("{{{{ {} }}}}", json!(nasty.replace("{{", "{").replace("}}", "}"))));
    let plain = nasty.replace("{{", "{").replace("}}", "}");
    let out = field.world.place.join("texts-out.raw");
    let spec = json!({
        "import": field.base(),
        "steps": [{ "copy": { "dest": "/nasty", "content": text } }, { "copy": { "dest": "/data", "content": "{{ data }}\n" } }],
        "export": { "raw": { "path": out } },
    });
    let path = field.world.path("hostile.yml");
    fs::write(&path, json!({ "params": { "data": "none" }, "spec": spec }).to_string()).expect("the folder is ours");
    let arguments =
        ["build", path.to_str().expect("text"), "--engine", field.engine, "-p", "data={{ 7 * 6 }} {% if 1 %}"];
    field.run("data with expressions", &arguments, &[0]);
    assert_eq!(String::from_utf8_lossy(&read_file_from_image(&out, "/nasty")), plain, "a text arrives as it is");
    assert_eq!(read_file_from_image(&out, "/data"), b"{{ 7 * 6 }} {% if 1 %}\n", "data is not rendered");

    let named = format!("/srv/{}", plain.replace('/', "_"));
    let ways = [
        ("hostname", json!({ "hostname": text })),
        ("copy", json!({ "copy": { "dest": named, "content": "x" } })),
        ("mkdir", json!({ "mkdir": { "path": named } })),
        ("link", json!({ "link": { "path": named, "target": plain } })),
        ("delete", json!({ "delete": [named] })),
        ("user", json!({ "user": { "name": text } })),
        ("rootpass", json!({ "rootpass": text })),
        ("grub_append", json!({ "grub_append": [text] })),
        ("service", json!({ "service": { "enable": text } })),
        ("install", json!({ "install": [text] })),
        ("env", json!({ "run": "printf '%s' \"$NASTY\" > /env", "env": { "NASTY": text } })),
        ("name", json!({ "run": "true", "name": text })),
    ];
    let count = ways.len();
    for (what, step) in ways {
        field.build(what, json!({ "import": field.base(), "steps": [step] }), &[0, 1, 4]);
    }
    // Names of files of the host, for qemu and for its lists of options.
    let name = "b,:=;$(touch x)'\" {}%d.raw";
    let base: PathBuf = field.world.path(name);
    fs::copy(tiny_guest(&TinyOptions::default()), &base).expect("room for an image");
    let out = field.world.place.join(format!("out-{name}"));
    let spec = json!({
        "import": { "disk": { "path": base } }, "steps": [{ "run": "echo in > /in" }], "export": { "raw": { "path": out } },
    });
    field.build("names of files", spec, &[0]);
    assert_eq!(read_file_from_image(&out, "/in"), b"in\n");
    for folder in [field.world.path(""), field.world.place.clone()] {
        assert!(!folder.join("x").exists() && !Path::new("x").exists(), "a name was run as a command");
    }
    count + 3
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
