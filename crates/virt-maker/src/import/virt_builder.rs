//! `virt-builder`: an image of the index of virt-builder, or of an index of one's own, by the real program.
//!
//! The key covers what the template says, as with `bootstrap`: an index may have another image of that name some day. The
//! root password is disabled, where the program would set a random one that nobody sees; step `rootpass` sets one.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Import, ImportContext, ImportKey, ImportKind, Made};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::disk::inspect::inspect;
use crate::error::{Error, ErrorKind, Result};
use crate::host::guestfs_settings;
use crate::host::Tool;
use crate::host::subordinate::as_root_mounting;
use crate::host::units::disk_size;
use crate::template::{Need, Node, arguments, from_node};

pub(super) static KIND: ImportKind = ImportKind {
    name: "virt-builder",
    about: "Takes an image of virt-builder's index, with a disk of a given size.",
    arguments: arguments::<Arguments>,
    example: "virt-builder: {image: debian-12, size: 10G}",
    needs: &[Need::new("virt-builder", "guestfs-tools")],
    version: 1,
    network: false,
    parse,
};

/// Runs the program without the indexes of the host's configuration.
const ALONE: &str = "if [ -d /etc/virt-builder ]; then mount -t tmpfs none /etc/virt-builder; fi; exec virt-builder \"$@\"";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// Its name in the index, such as `debian-12`.
    image: String,
    /// Size of the disk, such as `10G`; without it, that of the image.
    size: Option<String>,
    /// The URL of an index; virt-builder's own by default.
    source: Option<String>,
    /// Fingerprint of the key that signed the index; that of virt-builder's own by default.
    fingerprint: Option<String>,
    /// Take an index that nobody signed.
    #[serde(default)]
    unsigned: bool,
}

struct VirtBuilder {
    image: String,
    size: Option<u64>,
    source: Option<String>,
    fingerprint: Option<String>,
    unsigned: bool,
}

fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let Arguments { image, size, source, fingerprint, unsigned } = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._+".contains(&byte);
    if !image.starts_with(|first: char| first.is_ascii_alphanumeric()) || !image.bytes().all(plain) {
        problems.push(at("image").diagnostic(format!("`{}` is not the name of an image", image.escape_debug())));
    }
    let size = size.and_then(|text| {
        let size = disk_size(&text).filter(|size| (1 << 20..=1 << 50).contains(size));
        if size.is_none() {
            problems.push(at("size").diagnostic("expected a size such as `10G` or `2500M`"));
        }
        size
    });
    let url = |source: &String| {
        ["http://", "https://", "file:///"].iter().any(|scheme| source.starts_with(scheme))
            && !source.contains(|c: char| c.is_control() || c.is_whitespace())
    };
    if source.as_ref().is_some_and(|source| !url(source)) {
        problems.push(at("source").diagnostic("expected the URL of an index: http, https or file"));
    }
    let hex = |text: &String| {
        let digits: String = text.chars().filter(|c| *c != ' ').collect();
        digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    match &fingerprint {
        Some(text) if !hex(text) => {
            problems.push(at("fingerprint").diagnostic("expected the 40 hexadecimal digits of a fingerprint"));
        }
        Some(_) if unsigned => {
            problems.push(at("unsigned").diagnostic("either `fingerprint` or `unsigned`, not both"));
        }
        _ => {}
    }
    if problems.is_empty() {
        Ok(Box::new(VirtBuilder { image, size, source, fingerprint, unsigned }))
    } else {
        Err(problems)
    }
}

impl Import for VirtBuilder {
    fn summary(&self) -> String {
        self.image.clone()
    }

    fn key_inputs(&self, _: &ImportContext<'_>) -> Result<ImportKey> {
        let VirtBuilder { image, size, source, fingerprint, unsigned } = self;
        let arguments = json!({
            "image": image, "size": size, "source": source, "fingerprint": fingerprint, "unsigned": unsigned,
        });
        Ok(ImportKey { arguments, inputs: Vec::new(), fetched: None })
    }

    fn make(&self, _: &ImportKey, target: &Path, log: &Path, context: &ImportContext<'_>) -> Result<Made> {
        let cache = context.cache_dir.join("virt-builder");
        for settings in guestfs_settings() {
            // With an index of one's own, only that one counts: the program adds those of its configuration, and cannot
            // work where one of them cannot be reached. So it does not see them.
            let mut tool = match self.source {
                None => Tool::new("virt-builder", "guestfs-tools"),
                Some(_) => as_root_mounting().args(["sh", "-eu", "-c", ALONE, "virt-builder"]),
            };
            tool = tool
                .env("LIBGUESTFS_BACKEND", "direct")
                .env("LIBGUESTFS_BACKEND_SETTINGS", *settings);
            for (name, value) in context.env {
                tool = tool.env(name, value);
            }
            tool = tool.args(["--format", "raw", "--root-password", "disabled", "--cache"]).arg(&cache);
            if let Some(size) = self.size {
                tool = tool.arg("--size").arg(format!("{size}b"));
            }
            if let Some(source) = &self.source {
                tool = tool.env("XDG_CONFIG_DIRS", &cache).env("XDG_CONFIG_HOME", &cache).args(["--source", source]);
            }
            if let Some(fingerprint) = &self.fingerprint {
                tool = tool.args(["--fingerprint", fingerprint]);
            }
            if self.unsigned {
                tool = tool.arg("--no-check-signature");
            }
            match tool.arg("--output").arg(target).args(["--", &self.image]).log_to(log).run(context.cancel) {
                Ok(_) => {
                    let format = inspect(target, Some(ImageFormat::Raw), &self.image)?.format;
                    return Ok(format.into());
                }
                // There are hosts whose KVM starts nothing; only an error without it counts.
                Err(error) if settings.is_empty() && error.kind() == ErrorKind::Host && error.hint().is_none() => {
                    let _ = std::fs::remove_file(target);
                    if error.to_string().contains("cannot find") {
                        return Err(self.failed(error));
                    }
                }
                Err(error) => {
                    let _ = std::fs::remove_file(target);
                    return Err(self.failed(error));
                }
            }
        }
        Err(Error::new(ErrorKind::Internal, "virt-builder was not run"))
    }
}

impl VirtBuilder {
    fn failed(&self, error: Error) -> Error {
        if error.hint().is_some() || error.kind() != ErrorKind::Host {
            return error;
        }
        Error::new(ErrorKind::Base, format!("virt-builder cannot make `{}`", self.image)).with_source(error)
    }
}
