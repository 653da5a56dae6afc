//! A store that is full, without the work: layers as a build would seal them, with nothing in them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use virt_maker::disk::ImageFormat;
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::import::ImportContext;
use virt_maker::key::LayerKey;
use virt_maker::plan::{PlanContext, make};
use virt_maker::spec::{HostAccess, load_all, load_options};
use virt_maker::store::{LayerRecord, Outcome, Owner, Store};

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
    let mut made: HashMap<LayerKey, LayerRecord> = HashMap::new();
    for node in plan.nodes() {
        let key = node.info.key;
        let folder = workspace.subfolder(&key.to_string())?;
        let scratch = match node.parent().and_then(|parent| made.get(&plan[parent].info.key)) {
            Some(parent) => store.scratch(folder, node.material.clone(), parent)?,
            None => {
                let base = store.scratch_base(folder, node.material.clone(), ImageFormat::Raw, 1 << 20)?;
                fs::write(base.image(), vec![0; 1 << 20])?;
                base
            }
        };
        let lock = store.try_lock(key)?.ok_or("somebody else works in this store")?;
        let outcome = Outcome { summary: node.info.summary.clone(), ..Outcome::default() };
        let layer = scratch.into_draft(lock).commit(&store, outcome, |_| {})?;
        made.insert(key, layer.record.clone());
        records.push(layer.record);
    }
    Ok(records)
}
