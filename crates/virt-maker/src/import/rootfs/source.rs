//! What a root file system comes as: which files are its layers, from the bottom to the top.
//!
//! Blobs of an image are named by their digests, and each that is used is checked against its name. A list of layers that
//! `docker save` wrote names files of its archive and nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::decompress::{Compression, SIGNATURE};
use crate::host::digest;
use crate::import::ImportContext;
use crate::key::Digest;

/// The entry of an OCI layout.
pub(super) const INDEX: &str = "index.json";
/// Documents of an image are not longer.
const DOCUMENT_MAX: u64 = 16 << 20;
/// Nor has an image more layers.
const LAYERS: usize = 1000;

/// A part of a file, to be read from its beginning.
#[derive(Clone)]
pub(super) struct Section {
    file: Arc<File>,
    start: u64,
    length: u64,
    at: u64,
}

impl Section {
    fn whole(file: File) -> io::Result<Section> {
        let length = file.metadata()?.len();
        Ok(Section { file: Arc::new(file), start: 0, length, at: 0 })
    }

    /// A part of this part; what is beyond its end reads as the end.
    pub(super) fn part(&self, start: u64, length: u64) -> Section {
        let start = start.min(self.length);
        let length = length.min(self.length - start);
        Section { file: self.file.clone(), start: self.start + start, length, at: 0 }
    }

    fn compression(&self) -> io::Result<Compression> {
        let mut head = [0; SIGNATURE];
        let mut known = 0;
        let mut section = self.part(0, SIGNATURE as u64);
        while known < head.len() {
            match section.read(&mut head[known..])? {
                0 => break,
                count => known += count,
            }
        }
        Ok(Compression::of(&head[..known]))
    }

    /// Itself, or what it unpacks to, in a file at `place`.
    fn plain(self, place: &Path, context: &ImportContext<'_>) -> io::Result<Section> {
        let compression = self.compression()?;
        if compression == Compression::None {
            return Ok(self);
        }
        let mut reader = compression.reader(BufReader::with_capacity(1 << 20, self))?;
        let mut file = File::options().read(true).write(true).create_new(true).open(place)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                return Section::whole(file);
            }
            if context.cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            io::Write::write_all(&mut file, &buffer[..count])?;
        }
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.length - self.at).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The layers of a root file system, plain.
pub(super) struct Layers {
    /// From the bottom to the top.
    pub files: Vec<Section>,
    /// Whether a layer may take away what is below it.
    pub whiteouts: bool,
}

/// Files of an image, by name.
enum Files<'a> {
    Folder(&'a Path),
    Archive(BTreeMap<String, Section>),
}

impl Files<'_> {
    fn get(&self, name: &str) -> Result<Section> {
        let missing = || Error::new(ErrorKind::Base, format!("it lacks `{}`", name.escape_debug()));
        match self {
            Files::Archive(files) => files.get(name).cloned().ok_or_else(missing),
            Files::Folder(folder) => {
                let path = folder.join(name);
                if !fs::symlink_metadata(&path).is_ok_and(|stat| stat.is_file()) {
                    return Err(missing());
                }
                File::open(path).and_then(Section::whole).context(ErrorKind::Base, || "cannot read a file of it")
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_ok()
    }

    fn document(&self, name: &str) -> Result<Value> {
        let wrong = || format!("its `{}` is no JSON document", name.escape_debug());
        let mut bytes = Vec::new();
        self.get(name)?.take(DOCUMENT_MAX).read_to_end(&mut bytes).context(ErrorKind::Base, wrong)?;
        serde_json::from_slice(&bytes).map_err(io::Error::from).context(ErrorKind::Base, wrong)
    }

    /// A file that is named by the digest of its content.
    fn blob(&self, descriptor: &Value) -> Result<(String, Section)> {
        let named = descriptor["digest"].as_str().unwrap_or_default();
        let wanted = named.strip_prefix("sha256:").and_then(Digest::parse);
        let wanted = wanted.ok_or_else(|| {
            Error::new(ErrorKind::Base, format!("`{}` is no digest that is known", named.escape_debug()))
        })?;
        let name = format!("blobs/sha256/{wanted}");
        let section = self.get(&name)?;
        let found = digest::of_reader(&mut section.clone()).context(ErrorKind::Base, || "cannot read a blob")?;
        if found != wanted {
            return Err(Error::new(ErrorKind::Base, format!("the content of {name} is not what its name says")));
        }
        Ok((name, section))
    }
}

/// Finds out what is at `path` and opens its layers; what has to be unpacked for it goes into `scratch`.
pub(super) fn open(path: &Path, scratch: &Path, context: &ImportContext<'_>) -> Result<Layers> {
    let failed = || "cannot read it";
    if path.is_dir() {
        let files = Files::Folder(path);
        return plain(layout(&files)?, true, scratch, context);
    }
    let file = File::open(path).and_then(Section::whole).context(ErrorKind::Base, failed)?;
    let whole = file.plain(&scratch.join("whole"), context).context(ErrorKind::Base, failed)?;
    let files = Files::Archive(list(&whole)?);
    let layers = if files.has("manifest.json") {
        saved(&files)?
    } else if files.has("oci-layout") {
        layout(&files)?
    } else {
        return Ok(Layers { files: vec![whole], whiteouts: false });
    };
    plain(layers, true, scratch, context)
}

fn plain(layers: Vec<Section>, whiteouts: bool, scratch: &Path, context: &ImportContext<'_>) -> Result<Layers> {
    if layers.is_empty() || layers.len() > LAYERS {
        return Err(Error::new(ErrorKind::Base, format!("expected from 1 to {LAYERS} layers, found {}", layers.len())));
    }
    let mut files = Vec::new();
    for (index, layer) in layers.into_iter().enumerate() {
        let place = scratch.join(format!("layer-{index}"));
        files.push(layer.plain(&place, context).context(ErrorKind::Base, || "a layer of it cannot be unpacked")?);
    }
    Ok(Layers { files, whiteouts })
}

/// The regular files of an archive; of two with one name, the last.
fn list(whole: &Section) -> Result<BTreeMap<String, Section>> {
    let damaged = || "it is damaged, or neither a tar nor an image";
    let mut files = BTreeMap::new();
    let mut links = Vec::new();
    for entry in tar::Archive::new(whole.clone()).entries().context(ErrorKind::Base, damaged)? {
        let entry = entry.context(ErrorKind::Base, damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular => {
                files.insert(name, whole.part(entry.raw_file_position(), entry.size()));
            }
            // Older programs store a layer that is there twice once.
            tar::EntryType::Symlink => {
                let target = String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned();
                links.push((name, target));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        // `../LAYER/layer.tar`, as that is written.
        let found = target.strip_prefix("../").and_then(|target| files.get(target)).cloned();
        if let Some(found) = found {
            files.entry(name).or_insert(found);
        }
    }
    Ok(files)
}

/// The layers of an image that `docker save` wrote.
fn saved(files: &Files<'_>) -> Result<Vec<Section>> {
    let manifest = files.document("manifest.json")?;
    let [image] = manifest.as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Err(Error::new(ErrorKind::Base, "it does not hold exactly one image"));
    };
    let layers = image["Layers"].as_array().into_iter().flatten();
    layers.map(|name| files.get(name.as_str().unwrap_or_default())).collect()
}

/// The layers of the image for linux/amd64 in an OCI layout.
fn layout(files: &Files<'_>) -> Result<Vec<Section>> {
    let mut index = files.document(INDEX)?;
    // An index may name another one.
    for _ in 0..4 {
        let manifests = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let fits = |manifest: &&Value| {
            let platform = &manifest["platform"];
            platform.is_null() || (platform["architecture"] == "amd64" && platform["os"] == "linux")
        };
        let fitting: Vec<_> = manifests.iter().filter(fits).collect();
        let [manifest] = fitting[..] else {
            let message = format!("expected one image for linux/amd64, found {} of {}", fitting.len(), manifests.len());
            return Err(Error::new(ErrorKind::Base, message));
        };
        let (name, _) = files.blob(manifest)?;
        let document = files.document(&name)?;
        if let Some(layers) = document["layers"].as_array() {
            return layers.iter().map(|layer| files.blob(layer).map(|(_, section)| section)).collect();
        }
        index = document;
    }
    Err(Error::new(ErrorKind::Base, "its index leads to no image"))
}
