//! Where something that means harm is tried: a world, an engine, and a victim, a folder of the host that all of it aims at.

use std::path::PathBuf;

use serde_json::{Value, json};
use testkit::{HostState, Victim};

use crate::Options;
use crate::world::{Ran, World};

/// Where it is tried.
pub struct Field<'a> {
    pub world: World,
    pub engine: &'a str,
    watched: Victim,
}

/// Tries something on each engine, and on one in the short form. `on` returns how many members of `name` it tried. The host has
/// to be as it was after each. Returns their sum, and the engines.
pub fn on_each_engine(name: &str, options: &Options, on: impl Fn(&Field<'_>) -> usize) -> (usize, String) {
    let engines = engines(options);
    let mut members = 0;
    for engine in &engines {
        let _turn = turn(engine);
        let before = HostState::capture();
        let mut world = World::new(&options.binary);
        // Elsewhere than the templates: the user of this world lets these write there.
        world.place = world.path("place");
        std::fs::create_dir(&world.place).expect("the folder is ours");
        let field = Field { world, engine, watched: Victim::new() };
        members += on(&field);
        before.assert_nothing_left();
        assert_eq!(field.world.left_in_store(), Vec::<String>::new());
        println!("{name}: done on {engine}");
    }
    (members, engines.join(", "))
}

/// Held while an engine runs that emulates a machine.
pub fn turn(engine: &str) -> Option<testkit::ApplianceLock> {
    (engine != "chroot").then(testkit::appliance_lock)
}

/// The engines that a campaign is for.
pub fn engines(options: &Options) -> Vec<&'static str> {
    let engines: &[&str] = if options.short { &["chroot"] } else { &["chroot", "vm", "libguestfs"] };
    match &options.engine {
        Some(wanted) => engines.iter().copied().filter(|known| wanted.split(',').any(|name| name == *known)).collect(),
        None => engines.into(),
    }
}

impl Field<'_> {
    /// The folder of the host.
    pub fn victim(&self) -> &str {
        self.watched.path().to_str().expect("a path of ours is text")
    }

    /// The file in it.
    pub fn secret(&self) -> PathBuf {
        self.watched.secret()
    }

    /// What was done to it until now was right.
    pub fn forget(&self) {
        self.watched.forget();
    }

    /// The program ended by itself and said what it had to say; nobody touched the victim, and its secret is in nothing that
    /// was said.
    #[track_caller]
    pub fn untouched(&self, what: &str, ran: &Ran) {
        let code = ran.code.unwrap_or_else(|| panic!("{what}: the program was killed"));
        assert!(code == 0 || ran.stderr.contains("error"), "{what} failed and said nothing: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!said.contains(Victim::SECRET), "{what}: {said}");
        assert!(!said.contains('\u{1b}'), "{what} reaches the terminal: {said:?}");
        self.watched.assert_untouched(what);
    }

    /// The same of a run that has to end with one of these codes.
    #[track_caller]
    pub fn ended(&self, what: &str, ran: Ran, codes: &[i32]) -> Ran {
        self.untouched(what, &ran);
        assert!(ran.code.is_some_and(|code| codes.contains(&code)), "{what} ended with {:?}: {}", ran.code, ran.stderr);
        ran
    }

    /// The import of the small guest.
    pub fn base(&self) -> Value {
        json!({ "download": { "url": self.world.base() } })
    }
}
