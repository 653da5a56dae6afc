//! A program that embeds virt-maker and brings a step of its own: `touch`, which `docs/architecture.md` shows.
//!
//! ```text
//! cargo run -p virt-maker --example own_step -- TEMPLATE AGENT FOLDER
//! ```
//! builds a template whose steps may be `touch: /etc/toy`, on engine `chroot`, so as root. `AGENT` is the path of
//! `virt-maker-agent`, and `FOLDER` one for the store and what else stays.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use virt_maker::build::{Settings, Summary, build};
use virt_maker::engine::select::EngineChoice;
use virt_maker::event::Events;
use virt_maker::spec::Registry;
use virt_maker::store::Owner;
use virt_maker::template::LoadOptions;

/// The step.
mod touch {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use virt_maker::diagnostic::Diagnostic;
    use virt_maker::error::Result;
    use virt_maker::guest::{Attributes, Guest};
    use virt_maker::step::{Action, InGuest, Step, StepContext, StepKey, StepKind};
    use virt_maker::template::{Node, arguments, from_node};

    pub static KIND: StepKind = StepKind {
        name: "touch",
        about: "Makes an empty file.",
        arguments: arguments::<Path>,
        example: "touch: /etc/nologin",
        needs: &[],
        version: 1,
        network: false,
        parse,
    };

    /// An absolute path in the guest, in a folder that is there.
    #[derive(Deserialize, JsonSchema)]
    #[serde(transparent)]
    struct Path(String);

    /// All of it enters the key.
    #[derive(Serialize)]
    struct TouchStep {
        path: String,
    }

    fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
        let Path(path) = from_node(node)?;
        if !path.starts_with('/') {
            return Err(vec![node.diagnostic("expected an absolute path in the guest")]);
        }
        Ok(Box::new(TouchStep { path }))
    }

    impl Step for TouchStep {
        fn summary(&self) -> String {
            self.path.clone()
        }

        fn key_inputs(&self) -> Result<StepKey> {
            StepKey::of(self)
        }

        fn action(&self) -> Action<'_> {
            Action::InGuest(self)
        }
    }

    impl InGuest for TouchStep {
        fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
            guest.write(&self.path, &mut "".as_bytes(), Attributes::default())
        }
    }
}

/// Builds a template that may use the step.
pub fn run(template: PathBuf, agent: PathBuf, folder: &Path) -> virt_maker::error::Result<Summary> {
    let registry = Registry::default().with_step(&touch::KIND);
    let loaded = registry.load_all(&[template], &LoadOptions::default())?;
    let owner = Owner::new(folder.join("state/secret"), None);
    let mut settings = Settings::new(folder.join("store"), owner, agent, folder.join("engines"));
    settings.engine = EngineChoice::Chroot;
    build(&loaded.specs, &settings, &Events::none())
}

#[cfg_attr(test, expect(dead_code, reason = "a test calls what it calls"))]
fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [template, agent, folder] = &arguments[..] else {
        eprintln!("usage: own_step TEMPLATE AGENT FOLDER");
        return ExitCode::from(2);
    };
    match run(template.clone(), agent.clone(), folder) {
        Ok(summary) => {
            println!("{} layers were made, {} were there", summary.built, summary.cached);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", virt_maker::error::chain(&error));
            ExitCode::FAILURE
        }
    }
}
