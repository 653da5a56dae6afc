//! Looking into an image from anywhere: what it carries that an image for many machines should not.

use std::path::Path;

use super::Settings;
use crate::disk::ImageFormat;
use crate::disk::inspect::inspect;
use crate::disk::overlay::{self, Backing};
use crate::engine::select::Selector;
use crate::engine::{Image, OpenRequest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Events;
use crate::host::url;
use crate::hygiene::{self, Finding};
use crate::store::Store;

/// Inspects the guest on the disk `image`, which is only read. `format` is what its user says that it is.
pub fn check_image(
    image: &Path,
    format: Option<ImageFormat>,
    settings: &Settings,
    events: &Events,
) -> Result<Vec<Finding>> {
    let name = image.display().to_string();
    let path = std::fs::canonicalize(image).context(ErrorKind::Base, || format!("cannot read {name}"))?;
    if !path.is_file() {
        return Err(Error::new(ErrorKind::Base, format!("{name} is not a regular file")));
    }
    let inspected = inspect(&path, format, &name)?;
    let Some(backing) = path.to_str() else {
        return Err(Error::new(ErrorKind::Base, format!("{name}: qemu cannot open a name that is not UTF-8")));
    };
    let store = Store::open(&settings.store, &settings.owner)?.waiting(events.waits(&settings.cancel));
    let workspace = store.workspace()?;
    let selector =
        Selector::new(settings.engine, settings.agent.clone(), settings.engine_cache.clone(), settings.kernel.clone());
    let mut count = 0;
    let mut session = selector.first_that_opens(events, |candidate| {
        count += 1;
        let work_dir = workspace.subfolder(&format!("check-{count}"))?;
        // What mounting changes (a journal, times) goes into an overlay that is thrown away.
        let overlay = work_dir.join("overlay.qcow2");
        overlay::create(&overlay, inspected.virtual_size, Backing { name: backing, format: inspected.format })?;
        candidate.engine.open(OpenRequest {
            parent: &Image::alone(&path, inspected.format)?,
            overlay: &overlay,
            overlays: 1,
            work_dir: &work_dir,
            caches: &[],
            to_mend: true,
            network_env: &url::for_guests(&settings.network_env).0,
            network: false,
            host_network: settings.host_network,
            output: std::sync::Arc::new(|_| {}),
            events: events.clone(),
            cancel: settings.cancel.clone(),
        })
    })?;
    let findings = hygiene::inspect(session.guest());
    session.finish()?;
    findings
}
