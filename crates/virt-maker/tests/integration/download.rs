//! `download` against a real HTTP server with faults, real compressed files, and every way to name a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use testkit::http_server::{Fault, Server};
use virt_maker::disk::ImageFormat;
use virt_maker::error::{Error, ErrorKind, Result, chain};
use virt_maker::event::{Event, Events};
use virt_maker::host::{Cancel, Certificates};
use virt_maker::import::{Import, ImportContext, ImportKey, KINDS};
use virt_maker::key::Digest;

/// A folder with a template, a cache and a place for the base.
struct Place {
    folder: tempfile::TempDir,
    events: Events,
    seen: Arc<Mutex<Vec<Event>>>,
    cancel: Cancel,
    env: BTreeMap<String, String>,
    certificates: Certificates,
    /// The servers of these tests are on the loopback.
    host_network: bool,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("cache")).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let events = Events::new(move |event| sink.lock().unwrap().push(event));
        Place {
            folder,
            events,
            seen,
            cancel: Cancel::default(),
            env: BTreeMap::new(),
            certificates: Certificates::default(),
            host_network: true,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn parse(&self, arguments: &str) -> Result<Box<dyn Import>, String> {
        let template = self.put("template.yml", arguments.as_bytes());
        let node = virt_maker::template::parse(&template).map_err(|error| chain(&error))?;
        let kind = KINDS.iter().find(|kind| kind.name == "download").unwrap();
        (kind.parse)(&node).map_err(|problems| {
            problems
                .iter()
                .map(|problem| format!("{}: {}", problem.position.as_ref().unwrap().line, problem.message))
                .collect()
        })
    }

    fn with<T>(&self, work: impl FnOnce(&ImportContext<'_>) -> T) -> T {
        work(&ImportContext {
            cache_dir: &self.path("cache"),
            events: &self.events,
            cancel: &self.cancel,
            env: &self.env,
            certificates: &self.certificates,
            host_network: self.host_network,
        })
    }

    fn key(&self, import: &dyn Import) -> Result<ImportKey> {
        self.with(|context| import.key_inputs(context))
    }

    /// Keys and makes; returns the base's content and format. Whatever happens, no half base is left.
    fn import(&self, arguments: &str) -> Result<(Vec<u8>, ImageFormat)> {
        let import = self.parse(arguments).unwrap();
        let key = self.key(&*import)?;
        let target = self.path("base");
        let format = self.with(|context| import.make(&key, &target, &self.path("log"), context));
        if format.is_err() {
            assert!(!target.exists(), "a failed import left a base");
        }
        let bytes = fs::read(&target).unwrap_or_default();
        let _ = fs::remove_file(&target);
        Ok((bytes, format?.format))
    }

    fn fails(&self, arguments: &str) -> Error {
        self.import(arguments).map(|(bytes, _)| bytes.len()).expect_err("it was taken")
    }

    /// Names of partial downloads and notes.
    fn downloads(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("cache/downloads")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.seen.lock().unwrap());
        let warnings = events.into_iter().filter_map(|event| match event {
            Event::Warning { message } => Some(message),
            _ => None,
        });
        warnings.collect()
    }
}

/// A raw disk with a boot signature, incompressible data, and holes.
fn disk() -> Vec<u8> {
    let mut state = 7u32;
    let mut bytes = vec![0; 3 << 20];
    for byte in &mut bytes[1 << 20..2 << 20] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

fn checksum(bytes: &[u8]) -> String {
    format!("sha256:{}", Digest::of(bytes))
}

fn tool(arguments: &[&str], path: &Path) {
    let out = Command::new(arguments[0]).args(&arguments[1..]).arg(path).output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn every_way_to_name_a_file_leads_to_it() {
    let place = Place::new();
    let path = place.put("images/a disk%41.img", &disk());
    let absolute = path.display().to_string();
    let quoted = absolute.replace('%', "%25").replace(' ', "%20");
    for url in [
        absolute.clone(),
        "images/a disk%41.img".into(),
        format!("file://{quoted}"),
        format!("file://localhost{quoted}"),
        "file://images/a%20disk%2541.img".into(),
    ] {
        let (bytes, format) = place.import(&format!("url: '{url}'")).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert!(bytes == disk() && format == ImageFormat::Raw, "{url}");
    }
    assert!(place.warnings().is_empty());
}

#[test]
fn wrong_arguments_are_named_with_their_line() {
    let place = Place::new();
    for (arguments, words) in [
        ("url: ''", "1: expected a URL"),
        ("url: 'ftp://host/x'", "1: expected a URL"),
        ("url: 'http://'", "1: expected a URL"),
        ("url: 'file:///a%2'", "1: expected two hexadecimal digits"),
        ("url: x\nchecksum: md5:abc", "2: expected `sha256:`"),
        ("url: x\nchecksum: sha256:abc", "2: expected `sha256:`"),
        ("url: x\nchecksum: sha512:abc", "or `sha512:` and 128"),
        ("url: x\nformat: vmdk", "2: unknown value `vmdk`"),
        ("checksum: x", "the argument `url` is missing"),
        ("url: x\nchecksumz: y", "2: unknown argument `checksumz`"),
    ] {
        let problem = place.parse(arguments).err().expect(arguments);
        assert!(problem.contains(words), "{arguments}: {problem}");
    }
}

/// Made by the real tools, named wrongly on purpose: only the bytes count.
#[test]
fn every_compression_is_unpacked_and_stays_sparse() {
    let place = Place::new();
    for (index, compress) in
        [&["gzip"][..], &["bzip2"], &["xz"], &["zstd", "--rm", "-q"], &["lz4", "--rm", "-q", "-m"]].iter().enumerate()
    {
        let plain = place.put(&format!("{index}.img"), &disk());
        tool(compress, &plain);
        let packed = fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let packed = packed.into_iter().find(|path| path.to_string_lossy().contains(&format!("{index}.img."))).unwrap();
        let bytes = fs::read(&packed).unwrap();
        fs::rename(&packed, &plain).unwrap();
        let arguments = format!("url: {index}.img\nchecksum: {}", checksum(&bytes));
        assert!(place.import(&arguments).unwrap() == (disk(), ImageFormat::Raw), "{compress:?}");

        // Truncated: the checksum says so; without one the unpacking does.
        fs::write(&plain, &bytes[..bytes.len() - 5]).unwrap();
        assert!(place.fails(&arguments).to_string().contains("wrong checksum"), "{compress:?}");
        let error = place.fails(&format!("url: {index}.img"));
        assert_eq!(error.kind(), ErrorKind::Base);
        assert!(error.to_string().contains("cannot unpack"), "{compress:?}: {error}");
    }
}

#[test]
fn qcow2_images_are_checked_before_anything_opens_them() {
    let place = Place::new();
    let path = place.path("good.qcow2");
    tool(&["qemu-img", "create", "-q", "-f", "qcow2", "-o", "size=64M"], &path);
    let good = fs::read(&path).unwrap();
    assert!(place.import("url: good.qcow2").unwrap() == (good.clone(), ImageFormat::Qcow2));
    assert!(place.import("url: good.qcow2\nformat: qcow2").unwrap() == (good.clone(), ImageFormat::Qcow2));
    place.put("named.raw", &good);
    assert_eq!(place.import("url: named.raw").unwrap().1, ImageFormat::Qcow2);

    let overlay = place.path("overlay.qcow2");
    tool(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd"], &overlay);
    let error = place.fails("url: overlay.qcow2");
    assert!(error.to_string().contains("backing file") && error.kind() == ErrorKind::Base, "{error}");
    place.put("page.img", b"<html>404</html>");
    assert!(place.fails("url: page.img").to_string().contains("a web page"));
    place.put("disk.img", &disk());
    assert!(place.fails("url: disk.img\nformat: qcow2").to_string().contains("expected a qcow2 image"));
}

#[test]
fn a_source_that_cannot_be_read_is_named() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    tool(&["mkfifo"], &place.path("pipe"));
    let checked = format!("\nchecksum: {}", checksum(b""));
    for (url, words) in [("none.img", "No such file"), ("folder", "not a regular file"), ("pipe", "not a regular file")]
    {
        for arguments in [format!("url: {url}"), format!("url: {url}{checked}")] {
            let error = place.fails(&arguments);
            assert_eq!(error.kind(), ErrorKind::Base);
            assert!(chain(&error).contains(words) && chain(&error).contains(url), "{}", chain(&error));
        }
    }
}

#[test]
fn the_key_covers_the_bytes_and_nothing_else() {
    let place = Place::new();
    place.put("one.img", &disk());
    place.put("two.img", &disk());
    let server = Server::new(&disk());
    let key = |arguments: &str| {
        let key = place.key(&*place.parse(arguments).unwrap()).unwrap();
        (key.arguments, key.inputs)
    };
    let one = key("url: one.img");
    assert_eq!(one, key("url: two.img"));
    assert_eq!(one, key(&format!("url: {}", server.url())));
    assert_eq!(server.requests().len(), 1);
    // The same with a checksum, and then nothing is fetched.
    assert_eq!(one, key(&format!("url: {}/other\nchecksum: {}", server.url(), checksum(&disk()))));
    assert!(server.requests().is_empty());
    assert_ne!(one, key("url: one.img\nformat: raw"));

    // A SHA-512 says which bytes are meant as well; what they are is asked once.
    let sums = Command::new("sha512sum").arg(place.path("one.img")).output().unwrap();
    let sha512 = String::from_utf8(sums.stdout).unwrap()[..128].to_owned();
    let by_url = format!("url: {}/third\nchecksum: sha512:{sha512}", server.url());
    assert_eq!(one, key(&by_url));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(one, key(&by_url));
    assert_eq!(one, key(&format!("url: two.img\nchecksum: sha512:{}", sha512.to_uppercase())));
    assert!(server.requests().is_empty());
    assert!(place.import(&by_url).unwrap() == (disk(), ImageFormat::Raw));
    let wrong = format!("url: two.img\nchecksum: sha512:{}", "0".repeat(128));
    assert!(place.fails(&wrong).to_string().contains("wrong checksum: expected sha512:000"));
}

#[test]
fn a_file_that_changes_after_its_digest_is_refused() {
    let place = Place::new();
    let path = place.put("disk.img", &disk());
    let import = place.parse("url: disk.img").unwrap();
    let key = place.key(&*import).unwrap();
    let mut changed = disk();
    changed[100] = 1;
    fs::write(path, changed).unwrap();
    let error = place.with(|context| import.make(&key, &place.path("base"), &place.path("log"), context)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Base);
    assert!(error.to_string().contains("no longer what it was"), "{error}");
    assert!(!place.path("base").exists());
}

/// Keyed once, made once, fetched once; then known without asking the server.
#[test]
fn a_url_is_fetched_once() {
    let place = Place::new();
    let server = Server::new(&disk());
    let arguments = format!("url: {}", server.url());
    assert!(place.import(&arguments).unwrap() == (disk(), ImageFormat::Raw));
    assert_eq!(server.requests().len(), 1);
    assert!(place.downloads().is_empty(), "{:?}", place.downloads());
    place.key(&*place.parse(&arguments).unwrap()).unwrap();
    assert!(server.requests().is_empty());
}

/// A power cut can take the end of a file whose note says that it is complete, and nothing else says what it has to be.
#[test]
fn a_download_that_lost_its_end_is_fetched_again() {
    let place = Place::new();
    let server = Server::new(&disk());
    let import = place.parse(&format!("url: {}", server.url())).unwrap();
    let key = place.key(&*import).unwrap();
    let part = fs::read_dir(place.path("cache/downloads")).unwrap().map(|entry| entry.unwrap().path());
    let part = part.into_iter().find(|path| path.extension().is_some_and(|end| end == "part")).unwrap();
    for length in [disk().len() as u64 / 2, 0] {
        fs::remove_dir_all(place.path("cache/sources")).unwrap();
        fs::File::options().write(true).open(&part).unwrap().set_len(length).unwrap();
        assert_eq!(place.key(&*import).unwrap(), key, "with {length} bytes left");
        assert_eq!(fs::metadata(&part).unwrap().len(), disk().len() as u64);
    }
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_broken_transfer_is_taken_up_where_it_stopped() {
    let place = Place::new();
    let server = Server::new(&disk());
    server.fail([Fault::Status("503 Service Unavailable"), Fault::DropAfter(1_000_000), Fault::DropAfter(500_000)]);
    assert!(place.import(&format!("url: {}", server.url())).unwrap().0 == disk());
    let requests = server.requests();
    let ranges: Vec<_> = requests.iter().map(|request| request.range.as_deref()).collect();
    assert_eq!(ranges, [None, None, Some("bytes=1000000-"), Some("bytes=1500000-")]);
    assert_eq!(requests[3].if_range.as_deref(), Some("\"one\""));
    assert_eq!(place.warnings().len(), 3);
}

/// A build that was killed or cancelled: the next one goes on from what is there.
#[test]
fn another_build_takes_it_up() {
    let mut place = Place::new();
    let server = Server::new(&disk());
    server.fail([Fault::SilenceAfter(1_000_000)]);
    let arguments = format!("url: {}\nchecksum: {}", server.url(), checksum(&disk()));
    let (cancel, part) = (place.cancel.clone(), place.path("cache/downloads"));
    let canceller = std::thread::spawn(move || {
        let bytes = || -> u64 {
            let entries = fs::read_dir(&part).into_iter().flatten().flatten();
            entries.map(|entry| entry.metadata().map_or(0, |stat| stat.len())).sum()
        };
        while bytes() < 1_000_000 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        cancel.cancel();
    });
    // The server never ends its answer, so that this returns at all is the cancellation's doing.
    assert_eq!(place.fails(&arguments).kind(), ErrorKind::Cancelled);
    canceller.join().unwrap();
    place.cancel = Cancel::default();
    assert!(place.import(&arguments).unwrap().0 == disk());
    assert_eq!(server.requests()[1].range.as_deref(), Some("bytes=1000000-"));
    assert!(place.downloads().is_empty());
}

/// A server that says nothing at all is left at once when the build is cancelled.
#[test]
fn a_silent_server_does_not_hold_a_cancelled_build() {
    let place = Place::new();
    let server = Server::new(&disk());
    server.fail([Fault::Silence]);
    let (cancel, watched) = (place.cancel.clone(), server.clone());
    let canceller = std::thread::spawn(move || {
        while watched.requests().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        cancel.cancel();
    });
    assert_eq!(place.fails(&format!("url: {}", server.url())).kind(), ErrorKind::Cancelled);
    canceller.join().unwrap();
}

#[test]
fn parts_of_two_images_are_never_joined() {
    let mut other = disk();
    other[1 << 20..2 << 20].reverse();
    for lies in [false, true] {
        let place = Place::new();
        let server = Server::new(&disk());
        // The transfer breaks off, and then the server has nothing for a while.
        server.fail([Fault::DropAfter(1_500_000), Fault::Status("404 Not Found")]);
        let arguments = format!("url: {}", server.url());
        let error = place.fails(&arguments);
        assert!(error.to_string().contains("404"), "{error}");
        server.requests();
        server.change(&other, "\"two\"");
        if lies {
            server.fail([Fault::IgnoreIfRange]);
        }
        assert!(place.import(&arguments).unwrap().0 == other, "lies: {lies}");
        assert_eq!(server.requests()[0].range.as_deref(), Some("bytes=1500000-"));
    }
}

#[test]
fn without_ranges_or_a_validator_it_begins_anew() {
    for server in [Server::new(&disk()).without_ranges(), Server::new(&disk()).without_etag()] {
        let place = Place::new();
        server.fail([Fault::DropAfter(1_000_000)]);
        assert!(place.import(&format!("url: {}", server.url())).unwrap().0 == disk());
        assert_eq!(server.requests().len(), 2);
    }
}

#[test]
fn a_server_that_fails_again_and_again_is_given_up() {
    let place = Place::new();
    let server = Server::new(&disk());
    server.fail(vec![Fault::Status("503 Service Unavailable"); 9]);
    let error = place.fails(&format!("url: {}", server.url()));
    assert!(error.to_string().contains("503"), "{error}");
    assert_eq!(error.hint(), None, "nothing came that could be kept");
    assert_eq!((server.requests().len(), place.warnings().len()), (5, 4));

    let faults = [Fault::DropAfter(1_000_000)].into_iter().chain(vec![Fault::Status("503 Service Unavailable"); 9]);
    let (place, server) = (Place::new(), Server::new(&disk()));
    server.fail(faults);
    let error = place.fails(&format!("url: {}", server.url()));
    assert!(error.hint().unwrap().contains("another build continues"));
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn an_answer_that_will_not_change_is_not_asked_for_again() {
    let place = Place::new();
    let server = Server::new(&disk());
    server.fail([Fault::Status("404 Not Found")]);
    let error = place.fails(&format!("url: http://user:secret@{}/image", server.address));
    assert_eq!(error.kind(), ErrorKind::Base);
    assert!(error.to_string().contains("404"), "{error}");
    assert!(!chain(&error).contains("secret"), "{}", chain(&error));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_redirect_is_followed() {
    let place = Place::new();
    let server = Server::new(&disk());
    server.fail([Fault::Redirect(format!("http://{}/elsewhere", server.address))]);
    assert!(place.import(&format!("url: {}", server.url())).unwrap().0 == disk());
    assert!(server.requests()[1].line.contains("/elsewhere"));
}

#[test]
fn a_wrong_checksum_leaves_nothing_to_build_on() {
    let place = Place::new();
    let server = Server::new(&disk());
    let wrong = checksum(b"something else");
    let error = place.fails(&format!("url: {}\nchecksum: {wrong}", server.url()));
    assert_eq!(error.kind(), ErrorKind::Base);
    let text = error.to_string();
    assert!(
        text.contains(&format!("expected {wrong}")) && text.contains(&format!("found {}", checksum(&disk()))),
        "{text}"
    );
    assert!(place.downloads().is_empty(), "{:?}", place.downloads());
    assert_eq!(server.requests().len(), 1);
}

/// The bases were collected, and the URL gives something else than when it was keyed: one clear error, and the next
/// build takes what is there now.
#[test]
fn a_url_that_changed_does_not_fail_for_ever() {
    let place = Place::new();
    let server = Server::new(&disk());
    let arguments = format!("url: {}", server.url());
    place.import(&arguments).unwrap();
    let mut other = disk();
    other[0] = 1;
    server.change(&other, "\"two\"");
    let error = place.fails(&arguments);
    assert!(error.to_string().contains("no longer what it was"), "{error}");
    assert!(error.hint().unwrap().contains("build again"));
    assert!(place.import(&arguments).unwrap().0 == other);
}

/// A plan fetches to know a key; a power failure then damages what it fetched.
#[test]
fn a_damaged_download_is_fetched_again() {
    let place = Place::new();
    let server = Server::new(&disk());
    let arguments = format!("url: {}", server.url());
    place.key(&*place.parse(&arguments).unwrap()).unwrap();
    let data = place.downloads().into_iter().find(|name| name.ends_with(".part")).unwrap();
    fs::write(place.path("cache/downloads").join(data), b"zeroes").unwrap();
    assert!(place.import(&arguments).unwrap().0 == disk());
    assert_eq!(server.requests().len(), 2);
    assert!(place.downloads().is_empty());
}

/// A process was killed after the last byte and before its note.
#[test]
fn a_download_that_lacks_nothing_is_taken() {
    let place = Place::new();
    let server = Server::new(&disk());
    let arguments = format!("url: {}\nchecksum: {}", server.url(), checksum(&disk()));
    place.key(&*place.parse(&format!("url: {}", server.url())).unwrap()).unwrap();
    let note = place.downloads().into_iter().find(|name| name.ends_with(".json")).unwrap();
    let note = place.path("cache/downloads").join(note);
    let text = fs::read_to_string(&note).unwrap();
    assert!(text.contains("\"complete\":true"), "{text}");
    fs::write(&note, text.replace("\"complete\":true", "\"complete\":false")).unwrap();
    assert!(place.import(&arguments).unwrap().0 == disk());
    assert_eq!(server.requests()[1].range.as_deref(), Some(format!("bytes={}-", disk().len()).as_str()));
}

/// Two builds at once: each gets the image, and neither takes away what the other reads.
#[test]
fn two_builds_want_the_same_url() {
    let place = Place::new();
    let server = Server::new(&disk());
    let arguments = format!("url: {}\nchecksum: {}", server.url(), checksum(&disk()));
    let imports: Vec<_> = (0..4).map(|_| place.parse(&arguments).unwrap()).collect();
    std::thread::scope(|scope| {
        let place = &place;
        for (index, import) in imports.iter().enumerate() {
            scope.spawn(move || {
                let key = place.key(&**import).unwrap();
                let target = place.path(&format!("base-{index}"));
                place.with(|context| import.make(&key, &target, &place.path("log"), context)).unwrap();
                assert!(fs::read(target).unwrap() == disk());
            });
        }
    });
}

#[test]
fn a_proxy_is_asked_for_http() {
    let mut place = Place::new();
    let proxy = Server::new(&disk());
    place.env.insert("http_proxy".into(), format!("http://{}", proxy.address));
    let (bytes, _) = place.import("url: http://images.invalid/disk.img").unwrap();
    assert!(bytes == disk());
    let requests = proxy.requests();
    // As every proxy of the web can be asked; many refuse CONNECT to port 80.
    assert_eq!(requests[0].line, "GET http://images.invalid/disk.img HTTP/1.1", "{requests:?}");
    assert_eq!(requests[0].proxy_authorization, None);

    place.env.insert("http_proxy".into(), format!("http://me:pass%20word@{}", proxy.address));
    place.import("url: 'http://me:secret@images.invalid:8080/another.img?x'").unwrap();
    let requests = proxy.requests();
    assert_eq!(requests[0].line, "GET http://images.invalid:8080/another.img?x HTTP/1.1", "{requests:?}");
    // printf 'me:pass word' | base64
    assert_eq!(requests[0].proxy_authorization.as_deref(), Some("Basic bWU6cGFzcyB3b3Jk"));
}

/// An address and a name that leads to one: neither reaches what is only the host's own. What a
/// proxy of the user reaches is the proxy's affair, and so is where it is.
#[test]
fn the_hosts_own_addresses_are_refused_without_the_users_word() {
    let mut place = Place::new();
    place.host_network = false;
    let server = Server::new(&disk());
    let (_, port) = server.address.rsplit_once(':').unwrap();
    for (host, why) in [
        ("127.0.0.1", "the host's loopback"),
        ("localhost", "the host's loopback"),
        ("0.0.0.0", "the host's loopback"),
        ("2130706433", "the host's loopback"),
        ("[::1]", "the host's loopback"),
        ("[::ffff:127.0.0.1]", "the host's loopback"),
        ("169.254.169.254", "link-local"),
        ("[fe80::1]", "link-local"),
        ("[fd00:ec2::254]", "where a cloud keeps"),
    ] {
        let error = place.import(&format!("{{url: 'http://{host}:{port}/image', format: raw}}")).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(why), "{host}: {text}");
        assert!(error.hint().is_some_and(|hint| hint.contains("--allow host-network")), "{host}: {:?}", error.hint());
    }
    assert_eq!(server.requests().len(), 0);
    assert_eq!(place.warnings(), Vec::<String>::new(), "nothing was tried again");

    let proxy = Server::new(&disk());
    place.env.insert("http_proxy".into(), format!("http://{}", proxy.address));
    place.import("{url: 'http://images.invalid/image', format: raw}").unwrap();
    assert!(!proxy.requests().is_empty());
}
