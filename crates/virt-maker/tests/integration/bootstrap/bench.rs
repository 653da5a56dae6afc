//! A folder for one bootstrap, with what a test does with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use virt_maker::diagnostic::Diagnostic;
use virt_maker::error::Error;
use virt_maker::event::{Event, Events};
use virt_maker::host::permit::Permissions;
use virt_maker::host::{Cancel, Certificates};
use virt_maker::import::{self, Import, ImportContext, ImportKey};

/// For what hangs, not for what is slow.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// A folder for one bootstrap, and the settings of it.
pub struct Bench {
    /// What a template may name lies here.
    pub folder: tempfile::TempDir,
    /// Where the image is made. Its name has what could mean more than itself in a list or a URL.
    pub path: PathBuf,
    pub cancel: Cancel,
    /// Whether the user allows packages that no key of the host vouches for.
    pub unverified: bool,
    /// Whether the user allows addresses of the host.
    pub host_network: bool,
    /// What the command line passes on.
    pub env: BTreeMap<String, String>,
    pub certificates: Certificates,
}

impl Bench {
    pub fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b,c");
        fs::create_dir(&path).unwrap();
        Bench {
            path,
            folder,
            cancel: Cancel::default(),
            unverified: true,
            host_network: true,
            env: BTreeMap::new(),
            certificates: Certificates::default(),
        }
    }

    pub fn image(&self) -> PathBuf {
        self.path.join("image")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path.join("log")).unwrap_or_default()
    }

    pub fn parse(&self, arguments: &str) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
        let path = self.folder.path().join("template.yml");
        fs::write(&path, arguments).unwrap();
        let allowed = Permissions { unverified: self.unverified, ..Permissions::default() };
        let node = virt_maker::template::parse_allowing(&path, allowed).unwrap();
        let kind = import::KINDS.iter().find(|kind| kind.name == "bootstrap").unwrap();
        (kind.parse)(&node)
    }

    fn context<'a>(&'a self, cache_dir: &'a Path, events: &'a Events) -> ImportContext<'a> {
        ImportContext {
            cache_dir,
            events,
            cancel: &self.cancel,
            env: &self.env,
            certificates: &self.certificates,
            host_network: self.host_network,
        }
    }

    pub fn key(&self, arguments: &str) -> Result<ImportKey, Error> {
        let (events, cache_dir) = (Events::none(), self.path.join("cache"));
        let context = self.context(&cache_dir, &events);
        self.parse(arguments).map_err(Error::template)?.key_inputs(&context)
    }

    pub fn make(&self, arguments: &str, events: Events) -> Result<(), Error> {
        let runner = self.parse(arguments).map_err(Error::template)?;
        let cache_dir = self.path.join("cache");
        let context = self.context(&cache_dir, &events);
        let key = runner.key_inputs(&context)?;
        runner.make(&key, &self.image(), &self.path.join("log"), &context).map(|_| ())
    }

    /// What comes of a bootstrap that is cancelled when this is said.
    pub fn cancelled_at(&self, said: &'static str, arguments: &str) -> Error {
        let cancel = self.cancel.clone();
        let events = Events::new(move |event| {
            if let Event::Trace { message, .. } = event
                && message.contains(said)
            {
                cancel.cancel();
            }
        });
        self.make(arguments, events).unwrap_err()
    }

    /// Everything that a bootstrap made, besides its log, its image and what is known of sources.
    pub fn strays(&self) -> Vec<String> {
        let names = fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !["log", "image", "cache"].contains(&name.as_str())).collect()
    }

    /// Arguments that are refused: the line that is named, and words of what is said.
    pub fn refuses(&self, arguments: &str, line: usize, words: &[&str]) {
        let problems = self.parse(arguments).err().unwrap_or_else(|| panic!("{arguments} was taken"));
        let said = format!("{} {}", problems[0].message, problems[0].hint.as_deref().unwrap_or_default());
        words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in: {said}"));
        assert_eq!(problems[0].position.as_ref().unwrap().line, line, "{said}");
    }
}
