//! Which values of secrets the step of a layer could read, so that one of them is known again when the secret has another
//! value by then.
//!
//! ```text
//! layers/KEY/secrets.json   {"version": 1, "salt": SALT, "values": [{"name", "length", "rolling", "digest"}], "mac": MAC}
//! K                         HMAC-SHA256(secret, virt-maker secrets of a layer 1\nsalt SALT\n)
//! digest                    HMAC-SHA256(K, value\n VALUE)
//! rolling                   the rolling hash of VALUE, xor the first 8 bytes of HMAC-SHA256(K, rolling INDEX\n)
//! MAC                       HMAC-SHA256(K, file\n and the document without `mac`)
//! ```
//! `secret` is that of the user ([`Owner`]), which is in no store: who reads a store can try no value. SALT is random, so
//! equal values do not look equal. The multiplier of the rolling hash is made of the user's secret alone, so that one pass over
//! a text looks for the values of all layers.
//!
//! A layer without the file was made by an older version, or by a step that reads no secret. One that cannot be read is
//! told, and keeps nobody from the layer.

use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::owner::{Owner, mac, same};
use super::record::SECRETS_FILE as FILE;
use super::{LayerRecord, Scratch, Store};
use crate::error::{Context, ErrorKind, Result};
use crate::host::own;
use crate::host::random;
use crate::host::rolling::Rolling;
use crate::host::temporary::{self, Durability};
use crate::key::{Digest, LayerKey};

const VERSION: u32 = 1;
/// A file that is larger is none of ours.
const FILE_MAX: u64 = 1 << 20;
/// Layers below one another that are followed.
const DEPTH_MAX: usize = 100_000;

#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(flatten)]
    body: Body,
    mac: String,
}

#[derive(Serialize, Deserialize)]
struct Body {
    version: u32,
    salt: String,
    values: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    length: usize,
    rolling: String,
    digest: String,
}

/// A value that a step could read.
pub struct HeldValue {
    /// The secret's name.
    pub name: String,
    /// The layer of the step.
    pub layer: LayerKey,
    /// Bytes of the value.
    pub length: usize,
    /// Its rolling hash, with the multiplier of [`Held::rolling`].
    pub hash: u64,
    digest: String,
    key: [u8; 32],
}

impl HeldValue {
    /// Whether this is the value.
    pub fn is(&self, text: &[u8]) -> bool {
        text.len() == self.length && same(&digest(&self.key, text), &self.digest)
    }
}

/// What the layers of a chain could have got.
pub struct Held {
    /// From the last layer down.
    pub values: Vec<HeldValue>,
    /// Layers of which it cannot be said, and why.
    pub problems: Vec<String>,
    /// The hash by which values are looked for.
    pub rolling: Rolling,
}

impl Store {
    /// Writes down which values the step of a draft could read, by the names of their secrets. It is sealed with the draft.
    pub fn hold<'a>(&self, draft: &Scratch, values: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<()> {
        let values: Vec<_> = values.into_iter().collect();
        if values.is_empty() {
            return Ok(());
        }
        let salt = random::id()?;
        let (key, rolling) = (key(&self.owner, &salt)?, rolling(&self.owner)?);
        let entry = |(index, (name, value)): (usize, (&str, &[u8]))| Entry {
            name: name.to_owned(),
            length: value.len(),
            rolling: format!("{:016x}", rolling.hash(value) ^ pad(&key, index)),
            digest: digest(&key, value),
        };
        let body = Body { version: VERSION, salt, values: values.into_iter().enumerate().map(entry).collect() };
        let mac = seal_of(&key, &body);
        let text = serde_json::to_vec(&Document { body, mac }).expect("texts and numbers are serialisable");
        let path = draft.folder.join(FILE);
        temporary::replace(&path, &text, Durability::None)
            .context(ErrorKind::Store, || format!("cannot write {}", path.display()))
    }

    /// What a layer and all below it could have got.
    pub fn held(&self, tip: &LayerRecord) -> Result<Held> {
        let mut held = Held { values: Vec::new(), problems: Vec::new(), rolling: rolling(&self.owner)? };
        let mut at = (tip.key, Some(tip.id.clone()));
        for _ in 0..DEPTH_MAX {
            let (layer, id) = at;
            let Some(record) = self.record_of(layer).filter(|record| Some(&record.id) == id.as_ref()) else {
                held.problems.push(format!("layer {}: it was made anew meanwhile", layer.short()));
                break;
            };
            match self.read_held(layer) {
                Ok(values) => held.values.extend(values),
                Err(problem) => held.problems.push(format!("layer {}: {problem}", layer.short())),
            }
            match record.parent() {
                Some(parent) => at = (parent, record.parent_id),
                None => break,
            }
        }
        Ok(held)
    }

    fn read_held(&self, layer: LayerKey) -> std::result::Result<Vec<HeldValue>, String> {
        let text = match read(&self.layer_dir(layer).join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(|error| format!("{FILE}: {error}"))?,
        };
        let damaged = || format!("{FILE} is damaged");
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let found = serde_json::from_slice::<Version>(&text).map_err(|_| damaged())?.version;
        if found != VERSION {
            return Err(format!("{FILE} has version {found}; this program knows version {VERSION}"));
        }
        let document: Document = serde_json::from_slice(&text).map_err(|_| damaged())?;
        if !random::is_id(&document.body.salt) {
            return Err(damaged());
        }
        let key = key(&self.owner, &document.body.salt).map_err(|error| crate::error::chain(&error))?;
        if !same(&seal_of(&key, &document.body), &document.mac) {
            return Err(format!("{FILE} is damaged, or was written by another user"));
        }
        let value = |(index, entry): (usize, Entry)| {
            let hash = u64::from_str_radix(&entry.rolling, 16).ok()? ^ pad(&key, index);
            let Entry { name, length, digest, .. } = entry;
            (length > 0).then_some(HeldValue { name, layer, length, hash, digest, key })
        };
        document.body.values.into_iter().enumerate().map(value).collect::<Option<_>>().ok_or_else(damaged)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    own::reader(path)?.take(FILE_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn key(owner: &Owner, salt: &str) -> Result<[u8; 32]> {
    owner.derived(&format!("virt-maker secrets of a layer {VERSION}\nsalt {salt}\n"))
}

fn rolling(owner: &Owner) -> Result<Rolling> {
    Ok(Rolling::new(begin(&owner.derived(&format!("virt-maker secrets of layers {VERSION}, rolling hash\n"))?)))
}

fn digest(key: &[u8; 32], value: &[u8]) -> String {
    Digest::from_bytes(mac(key, &[b"value\n", value])).to_string()
}

/// What hides the rolling hash of the value with this index.
fn pad(key: &[u8; 32], index: usize) -> u64 {
    begin(&mac(key, &[format!("rolling {index}\n").as_bytes()]))
}

fn seal_of(key: &[u8; 32], body: &Body) -> String {
    let text = serde_json::to_vec(body).expect("texts and numbers are serialisable");
    Digest::from_bytes(mac(key, &[b"file\n", &text])).to_string()
}

fn begin(bytes: &[u8; 32]) -> u64 {
    bytes[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::tests::{draft_in, material, owner, seal, store};
    use super::*;
    use crate::disk::ImageFormat;
    use crate::store::Layer;

    fn sealed(store: &Store, name: &str, parent: Option<&Layer>, values: &[(&str, &str)]) -> Layer {
        let workspace = store.workspace().unwrap();
        let folder = workspace.subfolder("draft").unwrap();
        let draft = draft_in(store, folder, material(name, parent), parent, ImageFormat::Raw);
        fs::write(draft.image(), [0; 512]).unwrap();
        store.hold(&draft, values.iter().map(|(name, value)| (*name, value.as_bytes()))).unwrap();
        seal(store, draft)
    }

    #[test]
    fn values_are_known_again_and_cannot_be_read() {
        let (folder, store) = store();
        let base = sealed(&store, "base", None, &[]);
        assert!(!base.folder.join(FILE).exists());
        let one = sealed(&store, "one", Some(&base), &[("token", "correct-horse"), ("key", "x y z 1")]);
        let two = sealed(&store, "two", Some(&one), &[("token", "correct-horse")]);
        let text = fs::read_to_string(one.folder.join(FILE)).unwrap();
        assert!(!text.contains("horse") && text.contains("\"token\""), "{text}");
        let mode = fs::metadata(one.folder.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);

        let held = store.held(&two.record).unwrap();
        assert_eq!(held.problems, Vec::<String>::new());
        let names: Vec<_> = held.values.iter().map(|value| (&*value.name, value.length, value.layer)).collect();
        let (first, second) = (one.record.key, two.record.key);
        assert_eq!(names, [("token", 13, second), ("token", 13, first), ("key", 7, first)]);
        assert!(held.values[0].is(b"correct-horse") && !held.values[0].is(b"correct-house"));
        assert!(held.values[..2].iter().all(|value| value.hash == held.rolling.hash(b"correct-horse")));
        // Nothing in the files says that the two are the same.
        let other = fs::read_to_string(two.folder.join(FILE)).unwrap();
        let field = |text: &str, name: &str| {
            serde_json::from_str::<serde_json::Value>(text).unwrap()["values"][0][name].to_string()
        };
        for name in ["digest", "rolling"] {
            assert_ne!(field(&text, name), field(&other, name));
            assert!(!field(&text, name).contains(&format!("{:016x}", held.values[0].hash)));
        }
        // Another user knows nothing of them.
        let stranger = Owner::new(folder.path().join("other/secret"), Some(store.root().to_owned()));
        let held = Store::open(store.root(), &stranger).unwrap().held(&two.record).unwrap();
        assert!(held.values.is_empty() && held.problems.len() == 2, "{:?}", held.problems);
        drop(owner(&folder));
    }

    #[test]
    fn what_is_damaged_is_told_and_nothing_else_is_lost() {
        let (_folder, store) = store();
        let one = sealed(&store, "one", None, &[("token", "correct-horse")]);
        let two = sealed(&store, "two", Some(&one), &[("token", "battery-staple")]);
        let path = two.folder.join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        for (bad, says) in [
            ("{", "is damaged"),
            (&*text.replace("\"length\":14", "\"length\":15"), "is damaged"),
            (&text.replace("\"version\":1", "\"version\":2"), "has version 2"),
        ] {
            fs::write(&path, bad).unwrap();
            let held = store.held(&two.record).unwrap();
            assert!(held.problems.len() == 1 && held.problems[0].contains(says), "{:?}", held.problems);
            assert_eq!(held.values.len(), 1);
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(store.held(&two.record).unwrap().problems[0].contains("link"));
        fs::remove_file(&path).unwrap();
        let held = store.held(&two.record).unwrap();
        assert!(held.problems.is_empty() && held.values.len() == 1, "as older versions left it");
    }
}
