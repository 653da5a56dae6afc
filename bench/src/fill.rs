//! A store that is full, without the work: layers as a build would seal them, with nothing in them.

use std::fs;
use std::path::Path;

use virt_maker::disk::ImageFormat;
use virt_maker::disk::overlay::{self, Backing};
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::import::ImportContext;
use virt_maker::plan::{PlanContext, make};
use virt_maker::spec::{HostAccess, load_all, load_options};
use virt_maker::store::{LayerRecord, Owner, Store};

/// Whose stores these are: as `XDG_STATE_HOME=FOLDER/state` says.
pub fn owner(folder: &Path) -> Owner {
    Owner::new(folder.join("state/virt-maker/secret"), None)
}

/// Seals an empty layer for every node of the plan of `matrix.yml` in the folder, in a store of this name beside it. Returns
/// their records, parents before their children.
pub fn fill(folder: &Path, store: &str) -> Result<Vec<LayerRecord>, Box<dyn std::error::Error>> {
    let store = Store::open(&folder.join(store), &owner(folder))?;
    let (events, cancel) = (Events::none(), Cancel::default());
    let access = HostAccess {
        cache_dir: folder.join("cache"),
        permissions: Default::default(),
        homes: Vec::new(),
        env: Default::default(),
        certificates: Default::default(),
        events: events.clone(),
        cancel: cancel.clone(),
    };
    let loaded = load_all(&[folder.join("matrix.yml")], &load_options(&[], None, &access))?;
    let cache_dir = store.cache_dir();
    let import = ImportContext { cache_dir: &cache_dir, ..access.import_context() };
    let context = PlanContext {
        store: &store,
        import,
        force: false,
        again: &[],
        explain: false,
        events: &events,
        cancel: &cancel,
    };
    let plan = make(&loaded.specs, &context)?;
    let workspace = store.workspace()?;
    let mut records: Vec<LayerRecord> = Vec::new();
    for node in &plan.nodes {
        let made = workspace.subfolder(&node.info.key.to_string())?;
        let parent = node.parent.map(|parent| &records[parent]);
        let format = if parent.is_some() { ImageFormat::Qcow2 } else { ImageFormat::Raw };
        let mut draft = store.draft(made, node.material.clone(), format, 1 << 20)?;
        match parent {
            Some(parent) => {
                let name = parent.image_name();
                overlay::create(&draft.image(), 1 << 20, Backing { name: &name, format: parent.format })?;
            }
            None => fs::write(draft.image(), vec![0; 1 << 20])?,
        }
        draft.describe(node.info.summary.clone(), parent.map(|parent| parent.id.clone()), None, 0.0);
        records.push(store.seal(draft)?.record);
    }
    Ok(records)
}
