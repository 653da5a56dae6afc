//! Keys: what a layer is called, and what its name covers.
//!
//! A key is the SHA-256 of a canonical form. The encoding is specified in `docs/cache-keys.md`, which also says why
//! each thing is in it or not, and golden tests below pin it: a change of one byte of it is a new [`KEY_FORMAT`].

use std::fmt;

use sha2::{Digest as _, Sha256};

/// The version of the canonical form.
pub const KEY_FORMAT: u32 = 1;

/// A SHA-256 digest of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// A digest from its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits, or `None` where `text` is not 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let read = base16ct::mixed::decode(text, &mut bytes).ok()?.len();
        (read == bytes.len()).then_some(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        f.write_str(base16ct::lower::encode_str(&self.0, &mut digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Digest::parse(&text).ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
    }
}

/// The name of a layer: digest of its step, of the bytes that the step takes from the host, and of its parent's key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct LayerKey(pub Digest);

impl LayerKey {
    /// The first 12 digits, for people.
    pub fn short(&self) -> String {
        self.0.to_string()[..12].to_owned()
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())
    }
}

/// Bytes that a runner takes from the host: what they are called in messages, and what enters the key of them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostInput {
    /// A stable name within the step: a path relative to the copied folder, or `content`. Never an absolute path of
    /// the host.
    pub name: String,
    /// The kind of thing and what lands in the guest: `file`, `directory`, `symlink`.
    pub kind: String,
    /// Digest of the bytes (of the target, for a symbolic link; of nothing, for a folder).
    pub digest: Digest,
    /// Permission bits in the guest.
    pub mode: u32,
}

/// Everything that enters the key of one layer. Nothing else does.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct KeyMaterial {
    /// `import` or `step`.
    pub role: String,
    /// Name of the runner.
    pub kind: String,
    /// Version of the runner's effect on a guest; a runner that starts to do something else raises it.
    pub kind_version: u32,
    /// Arguments after rendering, in the runner's own normal form.
    pub arguments: serde_json::Value,
    /// Bytes from the host, in the order in which they are used.
    pub inputs: Vec<HostInput>,
    /// Key of the parent; `None` for a base.
    pub parent: Option<LayerKey>,
    /// Options beside the runner that shape the layer, by name; where there is none, nothing is hashed for them.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub options: serde_json::Map<String, serde_json::Value>,
}

impl KeyMaterial {
    /// The key; see `docs/cache-keys.md` for the bytes that are hashed.
    pub fn key(&self) -> LayerKey {
        let mut encoder = Encoder(Sha256::new());
        encoder.text("virt-maker layer key");
        encoder.number(KEY_FORMAT.into());
        encoder.text(&self.role);
        encoder.text(&self.kind);
        encoder.number(self.kind_version.into());
        encoder.value(&self.arguments);
        encoder.count(b'I', self.inputs.len());
        for input in &self.inputs {
            encoder.text(&input.name);
            encoder.text(&input.kind);
            encoder.frame(b'D', input.digest.as_bytes());
            encoder.number(input.mode.into());
        }
        match &self.parent {
            Some(parent) => encoder.frame(b'P', parent.0.as_bytes()),
            None => encoder.frame(b'P', &[]),
        }
        if !self.options.is_empty() {
            encoder.text("options");
            encoder.value(&serde_json::Value::Object(self.options.clone()));
        }
        LayerKey(Digest(encoder.0.finalize().into()))
    }
}

/// Writes tagged, length-prefixed items: `tag: u8`, `length: u64` little endian, bytes. No two values share a form.
struct Encoder(Sha256);

impl Encoder {
    fn frame(&mut self, tag: u8, bytes: &[u8]) {
        self.count(tag, bytes.len());
        self.0.update(bytes);
    }

    fn count(&mut self, tag: u8, count: usize) {
        self.0.update([tag]);
        self.0.update((count as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.frame(b'S', text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.frame(b'N', number.to_string().as_bytes());
    }

    fn value(&mut self, value: &serde_json::Value) {
        use serde_json::Value;
        match value {
            Value::Null => self.frame(b'Z', &[]),
            Value::Bool(yes) => self.frame(b'B', &[u8::from(*yes)]),
            Value::Number(number) => self.frame(b'N', number.to_string().as_bytes()),
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                self.count(b'L', items.len());
                items.iter().for_each(|item| self.value(item));
            }
            Value::Object(members) => {
                // Members have no order in YAML; lists have one, which stays.
                let mut members: Vec<_> = members.iter().collect();
                members.sort_by(|a, b| a.0.cmp(b.0));
                self.count(b'M', members.len());
                for (name, value) in members {
                    self.text(name);
                    self.value(value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn material() -> KeyMaterial {
        KeyMaterial {
            role: "step".into(),
            kind: "run".into(),
            kind_version: 1,
            arguments: json!({"script": "echo hello\n"}),
            inputs: Vec::new(),
            parent: Some(LayerKey(Digest::of(b"parent"))),
            options: serde_json::Map::new(),
        }
    }

    fn input(name: &str) -> HostInput {
        HostInput { name: name.into(), kind: "file".into(), digest: Digest::of(b"bytes"), mode: 0o644 }
    }

    /// These keys name layers in users' stores. A change here is a change of the format: raise [`KEY_FORMAT`].
    #[test]
    fn golden_keys() {
        let base = KeyMaterial {
            role: "import".into(),
            kind: "download".into(),
            arguments: json!({}),
            inputs: vec![input("image")],
            parent: None,
            ..material()
        };
        let typed = KeyMaterial {
            arguments: json!({"z": [1, -2, 1.5, true, null, "ä"], "a": {"nested": []}}),
            inputs: vec![input("a"), input("b")],
            ..material()
        };
        let keys = [material().key(), base.key(), typed.key()].map(|key| key.to_string());
        assert_eq!(
            keys,
            [
                "d8aa0c263147b861662ddec3ae8a1859bc1000c64993604dff6705c10c4af294",
                "e8b3fcacfa9c2eb50a02afcd016488758e25a7ab6fbeb1f1b501225eb25fbf1f",
                "4f9bbf512244b04657dd40aab7b11ae28de384355f7fc48389508d349ecb90d9",
            ]
        );
    }

    #[test]
    fn everything_in_the_material_changes_the_key() {
        let one = material();
        let variants = [
            KeyMaterial { role: "import".into(), ..one.clone() },
            KeyMaterial { kind: "firstboot".into(), ..one.clone() },
            KeyMaterial { kind_version: 2, ..one.clone() },
            KeyMaterial { arguments: json!({"script": "echo hello"}), ..one.clone() },
            KeyMaterial { arguments: json!(["script", "echo hello\n"]), ..one.clone() },
            KeyMaterial { inputs: vec![input("a")], ..one.clone() },
            KeyMaterial { inputs: vec![input("a"), input("b")], ..one.clone() },
            KeyMaterial { inputs: vec![input("b"), input("a")], ..one.clone() },
            KeyMaterial { inputs: vec![HostInput { mode: 0o755, ..input("a") }], ..one.clone() },
            KeyMaterial { options: json!({"network": false}).as_object().unwrap().clone(), ..one.clone() },
            KeyMaterial { options: json!({"env": {"A": "b"}}).as_object().unwrap().clone(), ..one.clone() },
            KeyMaterial { parent: None, ..one.clone() },
            KeyMaterial { parent: Some(LayerKey(Digest::of(b"other"))), ..one.clone() },
        ];
        let mut keys: Vec<_> = variants.iter().chain([&one]).map(KeyMaterial::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), variants.len() + 1);
    }

    /// Texts that would be the same bytes without framing, and types that print the same.
    #[test]
    fn values_do_not_run_together() {
        let key = |arguments| KeyMaterial { arguments, ..material() }.key();
        assert_ne!(key(json!(["ab", "c"])), key(json!(["a", "bc"])));
        assert_ne!(key(json!([["a"], "b"])), key(json!([["a", "b"]])));
        assert_ne!(key(json!("1")), key(json!(1)));
        assert_ne!(key(json!(1)), key(json!(1.0)));
        assert_ne!(key(json!(null)), key(json!("")));
        assert_eq!(key(json!({"a": 1, "b": 2})), key(json!({"b": 2, "a": 1})), "members have no order");
        assert_ne!(key(json!([1, 2])), key(json!([2, 1])), "items have one");
    }

    #[test]
    fn digests_are_read_and_written() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        for wrong in ["", "e3b0", &"g".repeat(64), &"ä".repeat(32)] {
            assert_eq!(Digest::parse(wrong), None);
        }
    }
}
