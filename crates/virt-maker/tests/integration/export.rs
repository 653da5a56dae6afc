//! Exports of a real chain of layers, read back by qemu and by the real decompressors, and what happens around them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use virt_maker::disk::overlay::{self, Backing};
use virt_maker::disk::{Image, ImageFormat};
use virt_maker::error::{Error, ErrorKind, Result, chain};
use virt_maker::event::{Event, Events};
use virt_maker::export::{ExportContext, KINDS, Published, list, publish};
use virt_maker::host::Cancel;
use virt_maker::key::{Digest, LayerKey};

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A raw base and two overlays with data in each; a store's folder of records; a template's folder.
struct Place {
    folder: tempfile::TempDir,
    layer: PathBuf,
    events: Events,
    seen: Arc<Mutex<Vec<Event>>>,
    cancel: Cancel,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        fs::create_dir_all(store.join("records")).unwrap();
        let base = store.join("base.raw");
        fs::File::create(&base).unwrap().set_len(64 << 20).unwrap();
        run("qemu-io", &["-f", "raw", "-c", "write -P 1 1M 20M", text(&base)]);
        let mut below = ("base.raw".to_owned(), ImageFormat::Raw);
        for (name, command) in [("one.qcow2", "write -P 2 5M 3M"), ("two.qcow2", "write -P 3 50M 10M")] {
            let path = store.join(name);
            overlay::create(&path, 64 << 20, Backing { name: &below.0, format: below.1 }).unwrap();
            run("qemu-io", &["-f", "qcow2", "-c", command, text(&path)]);
            below = (name.to_owned(), ImageFormat::Qcow2);
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let events = Events::new(move |event| sink.lock().unwrap().push(event));
        Place { layer: store.join("two.qcow2"), folder, events, seen, cancel: Cancel::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn parse(&self, kind: &str, arguments: &str) -> Result<Box<dyn virt_maker::export::Export>, String> {
        let template = self.path("template.yml");
        fs::write(&template, arguments).unwrap();
        let node = virt_maker::template::parse(&template).unwrap();
        let kind = KINDS.iter().find(|known| known.name == kind).unwrap();
        (kind.parse)(&node).map_err(|problems| problems[0].message.clone())
    }

    fn publish_as(&self, kind: &str, arguments: &str, layer_id: &str, force: bool) -> Result<Published> {
        let export = self.parse(kind, arguments).unwrap();
        let kind = KINDS.iter().find(|known| known.name == kind).unwrap();
        let key = LayerKey(Digest::of(b"layer"));
        let context = ExportContext {
            layer: &|| Image::chained(&self.layer, ImageFormat::Qcow2, |_, _| Ok(())),
            key,
            virtual_size: 64 << 20,
            overlay: None,
            tree: None,
            look: false,
            labels: 0,
            uefi: false,
            scratch: self.folder.path(),
            layers: &serde_json::json!({"layers": ["one", "two"]}),
            events: &self.events,
            cancel: &self.cancel,
        };
        let from = virt_maker::export::From {
            layer: key,
            layer_id,
            template: Path::new("/web.yml"),
            variant: Digest::of(b""),
        };
        let mut finish = |_: &virt_maker::export::Common, _: &Path| -> Result<virt_maker::export::Finished> {
            panic!("these exports need no guest")
        };
        publish(&*export, kind, from, &self.path("store/records"), force, &context, &mut finish)
    }

    fn publish(&self, kind: &str, arguments: &str) -> Result<Published> {
        self.publish_as(kind, arguments, "id", false)
    }

    fn fails(&self, kind: &str, arguments: &str) -> Error {
        self.publish(kind, arguments).expect_err("it was exported")
    }

    /// Hidden files beside the artifacts.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).collect()
    }

    fn same_disk(&self, path: &Path, format: &str) {
        run("qemu-img", &["compare", "-f", "qcow2", "-F", format, text(&self.layer), text(path)]);
    }

    fn warnings(&self) -> usize {
        let events = std::mem::take(&mut *self.seen.lock().unwrap());
        events.iter().filter(|event| matches!(event, Event::Warning { .. })).count()
    }
}

fn digest_of(path: &Path) -> String {
    let out = run("sha256sum", &[text(path)]);
    String::from_utf8(out).unwrap()[..64].to_owned()
}

#[test]
fn an_artifact_is_the_disk_and_depends_on_nothing() {
    let place = Place::new();
    for (kind, compress) in [("qcow2", ""), ("qcow2", "\ncompress: zstd"), ("raw", "")] {
        let done = place.publish(kind, &format!("path: out.img{compress}")).unwrap();
        let path = place.path("out.img");
        assert_eq!((&done.path, done.current), (&path, false));
        assert_eq!(done.bytes, fs::metadata(&path).unwrap().len());
        assert_eq!(done.digest.to_string(), digest_of(&path));
        place.same_disk(&path, kind);
        let info: serde_json::Value =
            serde_json::from_slice(&run("qemu-img", &["info", "--output=json", "-f", kind, text(&path)])).unwrap();
        assert_eq!(info["virtual-size"], 64 << 20);
        assert!(info.get("backing-filename").is_none(), "{info}");
        if kind == "qcow2" {
            run("qemu-img", &["check", "-f", "qcow2", text(&path)]);
            let wanted = if compress.is_empty() { "zlib" } else { "zstd" };
            assert_eq!(info["format-specific"]["data"]["compression-type"], wanted);
        }
        let allocated = fs::metadata(&path).unwrap().blocks() * 512;
        let most = if compress.is_empty() { 40 << 20 } else { 2 << 20 };
        assert!(allocated < most, "{kind}{compress}: {allocated} bytes");
        assert!(place.left().is_empty(), "{:?}", place.left());
    }
}

#[test]
fn a_compressed_artifact_is_read_by_the_real_tools() {
    let place = Place::new();
    for (kind, compress, unpack) in [
        ("qcow2", "gzip", "gzip"),
        ("qcow2", "xz", "xz"),
        ("qcow2", "lz4", "lz4"),
        ("raw", "zstd", "zstd"),
        ("raw", "gzip\nlevel: 1", "gzip"),
        ("raw", "xz\nlevel: 1", "xz"),
        ("raw", "zstd\nlevel: 9", "zstd"),
    ] {
        let done = place.publish(kind, &format!("path: out.img\ncompress: {compress}")).unwrap();
        assert_eq!(done.digest.to_string(), digest_of(&done.path));
        let plain = place.path("plain");
        let command = format!("{unpack} -dc < \"$0\" > \"$1\"");
        run("sh", &["-c", &command, text(&done.path), text(&plain)]);
        place.same_disk(&plain, kind);
        assert!(place.left().is_empty(), "{:?}", place.left());
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let place = Place::new();
    for (kind, arguments, words) in [
        ("qcow2", "compress: xz", "`path` is missing"),
        ("qcow2", "path: ''", "expected the path of a file"),
        ("qcow2", "path: x\nlevel: 3", "`level` needs `compress`"),
        ("qcow2", "path: x\ncompress: zstd\nlevel: 3", "level of its own"),
        ("raw", "path: x\ncompress: lz4\nlevel: 3", "lz4 is written at one level"),
        ("raw", "path: x\ncompress: xz\nlevel: 10", "from 1 to 9"),
        ("raw", "path: x\ncompress: rar", "unknown value `rar`"),
        ("raw", "path: x\nsize: 1", "unknown argument `size`"),
    ] {
        let problem = place.parse(kind, arguments).err().expect(arguments);
        assert!(problem.contains(words), "{arguments}: {problem}");
    }
}

#[test]
fn an_artifact_that_is_current_is_not_made_again() {
    let place = Place::new();
    let arguments = "path: out.img";
    let path = place.path("out.img");
    let inode = || fs::metadata(&path).unwrap().ino();
    let first = place.publish("qcow2", arguments).unwrap();
    let made = inode();
    let again = place.publish("qcow2", arguments).unwrap();
    assert!(again.current && again.digest == first.digest && again.bytes == first.bytes && inode() == made);
    assert_eq!(list(&place.path("store/records")).len(), 1);

    // Copied away and back: the same bytes in another file.
    fs::copy(&path, place.path("copy")).unwrap();
    fs::rename(place.path("copy"), &path).unwrap();
    assert!(place.publish("qcow2", arguments).unwrap().current);

    // One byte changed, with the size and the time of modification as they were.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 1 << 20).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    let mended = place.publish("qcow2", arguments).unwrap();
    assert!(!mended.current);
    place.same_disk(&path, "qcow2");

    fs::remove_file(&path).unwrap();
    assert!(!place.publish("qcow2", arguments).unwrap().current);
    assert!(!place.publish_as("qcow2", arguments, "id", true).unwrap().current, "forced");
    assert!(!place.publish_as("qcow2", arguments, "made anew", false).unwrap().current, "another layer");
    assert!(!place.publish("raw", arguments).unwrap().current, "another kind");
    assert!(!place.publish("raw", "path: out.img\ncompress: lz4").unwrap().current, "other arguments");
    assert!(place.publish("raw", "path: out.img\ncompress: lz4\ncreate_dir: true").unwrap().current);
    assert_eq!(place.warnings(), 0);

    for record in fs::read_dir(place.path("store/records")).unwrap() {
        fs::write(record.unwrap().path(), "{\"version\": 1").unwrap();
    }
    assert!(!place.publish("raw", "path: out.img\ncompress: lz4").unwrap().current, "a damaged record");
    assert_eq!(place.warnings(), 1);
    assert!(place.left().is_empty(), "{:?}", place.left());
}

#[test]
fn folders_are_made_only_when_asked() {
    let place = Place::new();
    let error = place.fails("qcow2", "path: a/b/out.img");
    assert_eq!(error.kind(), ErrorKind::Export);
    assert!(error.hint().unwrap().contains("create_dir: true"));
    assert!(!place.path("a").exists());
    place.publish("qcow2", "path: a/b/out.img\ncreate_dir: true").unwrap();
    place.same_disk(&place.path("a/b/out.img"), "qcow2");
}

#[test]
fn a_place_where_no_artifact_can_be_is_named() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    fs::create_dir(place.path("locked")).unwrap();
    run("chattr", &["+i", text(&place.path("locked"))]);
    run("mkfifo", &[text(&place.path("pipe"))]);
    for (path, words) in [
        ("file/out.img", "file"),
        ("folder", "no regular file"),
        ("pipe", "no regular file"),
        // Not even root may write there.
        ("locked/out.img", "no artifact can be written in"),
    ] {
        let error = place.fails("qcow2", &format!("path: {path}"));
        assert_eq!(error.kind(), ErrorKind::Export, "{path}");
        assert!(chain(&error).contains(words), "{path}: {}", chain(&error));
    }
    run("chattr", &["-i", text(&place.path("locked"))]);
    assert!(place.left().is_empty());
}

/// What is there stays as it is, and nothing else is left, when an export fails.
#[test]
fn a_failed_export_changes_nothing() {
    let mut place = Place::new();
    fs::write(place.path("out.img"), "precious").unwrap();
    // The place of its L1 table; its header names what it should.
    let image = fs::File::options().write(true).open(place.path("store/one.qcow2")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, &[1; 8], 40).unwrap();
    for arguments in ["path: out.img", "path: out.img\ncompress: xz"] {
        let error = place.publish_as("raw", arguments, "id", true).expect_err("it was exported");
        assert_eq!(error.kind(), ErrorKind::Export);
        assert!(chain(&error).contains("qemu-img failed"), "{}", chain(&error));
    }
    place = Place { cancel: Cancel::default(), ..place };
    place.cancel.cancel();
    let error = place.publish_as("raw", "path: out.img", "id", true).expect_err("it was exported");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(fs::read(place.path("out.img")).unwrap(), b"precious");
    assert!(place.left().is_empty(), "{:?}", place.left());
}

#[test]
fn a_cancelled_export_ends_and_leaves_nothing() {
    let place = Place::new();
    let cancel = place.cancel.clone();
    // The first word about the compression asks for the end of it.
    let events = Events::new(move |event| {
        if matches!(&event, Event::Progress { what, .. } if what == "compress xz") {
            cancel.cancel();
        }
    });
    let place = Place { events, ..place };
    let error = place.fails("raw", "path: out.img\ncompress: xz\nlevel: 9");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!place.path("out.img").exists());
    assert!(place.left().is_empty(), "{:?}", place.left());
}

/// A power cut can take bytes of an artifact and leave its length and all its times. So in the next boot of the host an
/// artifact is read once before it counts as current, and a torn one is made again.
#[test]
fn an_artifact_of_an_earlier_boot_is_read_before_it_counts() {
    use virt_maker::host::checked;
    let place = Place::new();
    let path = place.path("out.img");
    let note = || fs::read_dir(place.path("store/records")).unwrap().next().unwrap().unwrap().path();
    let record = || serde_json::from_slice::<serde_json::Value>(&fs::read(note()).unwrap()).unwrap();
    // The record says of the artifact as it lies there that nothing has changed since an earlier boot.
    let after_boot = || {
        let (mut record, stat) = (record(), fs::metadata(&path).unwrap());
        record.as_object_mut().unwrap().remove("checksum");
        record["boot"] = "00000000-0000-0000-0000-000000000000".into();
        record["stat"]["modified"] = serde_json::json!([stat.mtime(), stat.mtime_nsec()]);
        record["stat"]["changed"] = serde_json::json!([stat.ctime(), stat.ctime_nsec()]);
        fs::write(note(), checked::text(&record)).unwrap();
    };
    place.publish("raw", "path: out.img").unwrap();
    let boot = record()["boot"].clone();
    after_boot();
    assert!(place.publish("raw", "path: out.img").unwrap().current, "it is whole");
    assert_eq!(record()["boot"], boot, "and read once");
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 1 << 20).unwrap();
    drop(file);
    after_boot();
    assert!(!place.publish("raw", "path: out.img").unwrap().current, "it is torn");
    place.same_disk(&path, "raw");
    // A record of an older version says nothing of boots.
    let mut old = record();
    old.as_object_mut().unwrap().retain(|name, _| name != "boot" && name != "checksum");
    fs::write(note(), checked::text(&old)).unwrap();
    assert!(place.publish("raw", "path: out.img").unwrap().current);
    assert_eq!(record()["boot"], boot);
}

/// A record by the name of one artifact that speaks of another file: nothing is believed, and nothing is written there.
#[test]
fn a_record_speaks_of_its_own_artifact_only() {
    use virt_maker::host::checked;
    let place = Place::new();
    place.publish("raw", "path: out.img").unwrap();
    fs::create_dir(place.path("elsewhere")).unwrap();
    fs::rename(place.path("out.img"), place.path("elsewhere/file")).unwrap();
    let note = fs::read_dir(place.path("store/records")).unwrap().next().unwrap().unwrap().path();
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("checksum");
    record["target"] = text(&place.path("elsewhere/file")).into();
    let stat = fs::metadata(place.path("elsewhere/file")).unwrap();
    record["stat"]["changed"] = serde_json::json!([stat.ctime(), stat.ctime_nsec()]);
    fs::write(&note, checked::text(&record)).unwrap();
    let published = place.publish("raw", "path: out.img\nchecksum: true").unwrap();
    assert!(!published.current && published.path == place.path("out.img"));
    assert!(!place.path("elsewhere/SHA256SUMS").exists() && place.path("SHA256SUMS").exists());
}

/// What a killed export left is removed by the next one; what a living one writes is not.
#[test]
fn leftovers_of_the_dead_are_removed() {
    let place = Place::new();
    for ending in ["lock", "tmp", "plain"] {
        fs::write(place.path(&format!(".out.img.virt-maker-1-0.{ending}")), "dead").unwrap();
        fs::write(place.path(&format!(".out.img.virt-maker-2-0.{ending}")), "living").unwrap();
        fs::write(place.path(&format!(".other.img.virt-maker-3-0.{ending}")), "another").unwrap();
    }
    let held = fs::File::open(place.path(".out.img.virt-maker-2-0.lock")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    place.publish("raw", "path: out.img").unwrap();
    let mut left = place.left();
    left.sort();
    assert_eq!(left.len(), 6, "{left:?}");
    assert!(left.iter().all(|name| name.contains("-2-0.") || name.contains("-3-0.")), "{left:?}");
}

/// A mount that goes away with its owner.
struct Small(PathBuf);

impl Small {
    fn new(path: PathBuf) -> Small {
        fs::create_dir(&path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs", text(&path)]);
        Small(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_and_left_as_it_was() {
    let place = Place::new();
    let small = Small::new(place.path("small"));
    for (kind, compress) in [("raw", ""), ("qcow2", ""), ("raw", "\ncompress: gzip")] {
        let error = place.fails(kind, &format!("path: small/out.img{compress}"));
        assert_eq!(error.kind(), ErrorKind::HostFull, "{}", chain(&error));
        assert!(error.to_string().contains(text(&small.0)), "{error}");
        assert_eq!(fs::read_dir(&small.0).unwrap().count(), 0);
    }
    // What fits is exported all the same.
    place.publish("qcow2", "path: small/out.img\ncompress: zstd").unwrap();
}

#[test]
fn names_of_any_length_and_kind_serve() {
    let place = Place::new();
    for name in ["-o,x=\"; $(id)\n.img".to_owned(), "ä".repeat(127), "json:{}".into(), "nbd:host:1".into()] {
        let quoted = serde_json::to_string(&name).unwrap();
        place.publish("qcow2", &format!("path: {quoted}")).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        place.same_disk(&place.path(&name), "qcow2");
    }
    assert!(place.left().is_empty(), "{:?}", place.left());
}
