//! Making file systems whose features do not depend on the host: what a newer `mkfs` adds by default, older kernels, boot
//! loaders and checkers refuse, and a base would be another one on another host.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::host::subordinate::SYSTEM_PATH;
use crate::host::{Cancel, Tool};
use crate::template::Node;

/// Features of ext4 that GRUB 2.06 and the `e2fsck` of every suite know. Said in full: what the host's `mke2fs.conf` adds by
/// default (`metadata_csum_seed`, `orphan_file`) is refused by older ones.
pub(super) const EXT4: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                               large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// Features of xfs with the option of `mkfs.xfs` that each belongs to, and what is pinned: what kernels since 4.18 know.
const XFS: [(&str, &str, Option<&str>); 11] = [
    ("crc", "-m", Some("1")),
    ("finobt", "-m", Some("1")),
    ("inobtcount", "-m", Some("0")),
    ("bigtime", "-m", Some("0")),
    ("reflink", "-m", Some("1")),
    ("rmapbt", "-m", Some("0")),
    ("sparse", "-i", Some("1")),
    ("nrext64", "-i", Some("0")),
    ("ftype", "-n", Some("1")),
    ("exchange", "-i", None),
    ("parent", "-n", None),
];
/// Features of xfs that are newer than the others, and switched off where `mkfs.xfs` (since 6.10) knows them.
const XFS_SINCE_6_10: [&str; 2] = ["exchange", "parent"];
/// Features of btrfs that newer programs have by default, and kernels before 6.1 do not know.
const BTRFS_NEWER: [&str; 2] = ["block-group-tree", "raid-stripe-tree"];

/// A file system that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fs {
    Ext4,
    Xfs,
    Btrfs,
    Vfat,
    Swap,
}

/// What a file system has otherwise than by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Mkfs {
    /// Features beside those that are pinned, as the program that makes it calls them: `^64bit` or `orphan_file` for ext4,
    /// `bigtime=1` for xfs, `^no-holes` for btrfs.
    #[serde(default)]
    features: Vec<String>,
    /// Bytes of a block, for ext4 and xfs; 4096 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block_size: Option<u32>,
}

impl Mkfs {
    /// What is wrong with them for this file system.
    pub(super) fn check(&self, fs: Option<Fs>, node: &Node) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        let at = |name: &str| node.get(name).unwrap_or(node);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        for feature in &self.features {
            let name = feature.strip_prefix('^').unwrap_or(feature);
            let right = match fs {
                Some(Fs::Ext4 | Fs::Btrfs) => !name.is_empty() && !name.starts_with('-') && name.bytes().all(plain),
                Some(Fs::Xfs) => feature.split_once('=').is_some_and(|(name, value)| {
                    XFS.iter().any(|(known, ..)| *known == name) && matches!(value, "0" | "1")
                }),
                _ => false,
            };
            if !right {
                let expected = match fs {
                    Some(Fs::Xfs) => {
                        let known: Vec<&str> = XFS.iter().map(|(name, ..)| *name).collect();
                        format!("expected `NAME=0` or `NAME=1` with one of {}", known.join(", "))
                    }
                    Some(Fs::Ext4 | Fs::Btrfs) => "expected a name, with `^` for none of it".to_owned(),
                    _ => "only ext4, xfs and btrfs have features that can be said".to_owned(),
                };
                let text = format!("`{}` is no feature of it: {expected}", feature.escape_debug());
                problems.push(at("features").diagnostic(text));
            }
        }
        let sizes = match fs {
            Some(Fs::Ext4) => &[1024, 2048, 4096][..],
            Some(Fs::Xfs) => &[1024, 2048, 4096],
            _ => &[],
        };
        match self.block_size {
            Some(_) if sizes.is_empty() => {
                problems.push(at("block_size").diagnostic("only ext4 and xfs have blocks of a size that can be said"));
            }
            Some(size) if !sizes.contains(&size) => {
                problems.push(at("block_size").diagnostic("expected 1024, 2048 or 4096"));
            }
            _ => {}
        }
        problems
    }
}

impl Fs {
    pub(super) fn name(self) -> &'static str {
        match self {
            Fs::Ext4 => "ext4",
            Fs::Xfs => "xfs",
            Fs::Btrfs => "btrfs",
            Fs::Vfat => "vfat",
            Fs::Swap => "swap",
        }
    }

    /// The type of a partition that holds it, as `sfdisk` names it.
    pub(super) fn partition_type(self) -> &'static str {
        match self {
            Fs::Swap => "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
            Fs::Vfat => "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
            _ => "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
        }
    }

    /// Makes it in a file that has its size.
    pub(super) fn make(
        self,
        place: &Path,
        label: Option<&str>,
        mkfs: &Mkfs,
        log: &Path,
        cancel: &Cancel,
    ) -> Result<()> {
        let (program, package, name) = match self {
            Fs::Ext4 => ("mke2fs", "e2fsprogs", "-L"),
            Fs::Xfs => ("mkfs.xfs", "xfsprogs", "-L"),
            Fs::Btrfs => ("mkfs.btrfs", "btrfs-progs", "-L"),
            Fs::Vfat => ("mkfs.vfat", "dosfstools", "-n"),
            Fs::Swap => ("mkswap", "util-linux", "-L"),
        };
        let host = || Tool::new(program, package).env("PATH", SYSTEM_PATH);
        let mut options: Vec<String> = match self {
            Fs::Ext4 => {
                let features = [EXT4.to_owned()].into_iter().chain(mkfs.features.iter().cloned());
                let features = features.collect::<Vec<_>>().join(",");
                ["-q", "-F", "-t", "ext4", "-I", "256", "-O", &features].map(str::to_owned).to_vec()
            }
            Fs::Xfs => {
                let version = host().arg("-V").run(cancel)?;
                xfs_options(&mkfs.features, xfs_knows_newer(&String::from_utf8_lossy(&version)))
            }
            Fs::Btrfs => {
                // It lists them where errors go, with a status that depends on its version. A fixed text.
                let script = "mkfs.btrfs -O list-all 2>&1 || true";
                let known = Tool::new("sh", "dash").env("PATH", SYSTEM_PATH).args(["-c", script]).run(cancel)?;
                btrfs_options(&mkfs.features, &String::from_utf8_lossy(&known))
            }
            Fs::Vfat => Vec::new(),
            Fs::Swap => ["-q", "-p", "4096"].map(str::to_owned).to_vec(),
        };
        match (self, mkfs.block_size.unwrap_or(4096)) {
            (Fs::Ext4, size) => options.extend(["-b".to_owned(), size.to_string()]),
            (Fs::Xfs, size) => options.extend(["-b".to_owned(), format!("size={size}")]),
            _ => {}
        }
        if let Some(label) = label {
            options.extend([name.to_owned(), label.to_owned()]);
        }
        host().args(&options).arg(place).log_to(log).run(cancel).map(drop)
    }
}

/// Whether a `mkfs.xfs` that calls itself so knows the features of 6.10.
fn xfs_knows_newer(version: &str) -> bool {
    let numbers = version.split_whitespace().last().unwrap_or_default();
    let mut numbers = numbers.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 10)
}

fn xfs_options(features: &[String], newer: bool) -> Vec<String> {
    let mut options = vec!["-q".to_owned(), "-f".to_owned()];
    for (name, option, pinned) in XFS {
        let own = features.iter().rev().find_map(|feature| feature.strip_prefix(name)?.strip_prefix('='));
        let default = pinned.or((newer && XFS_SINCE_6_10.contains(&name)).then_some("0"));
        if let Some(value) = own.or(default) {
            options.extend([option.to_owned(), format!("{name}={value}")]);
        }
    }
    options
}

fn btrfs_options(features: &[String], known: &str) -> Vec<String> {
    let knows = |name: &&&str| known.lines().any(|line| line.split_whitespace().next() == Some(**name));
    let off = BTRFS_NEWER.iter().filter(knows).map(|name| format!("^{name}"));
    let pinned = ["extref", "skinny-metadata", "no-holes"].map(str::to_owned);
    let all: Vec<String> = pinned.into_iter().chain(off).chain(features.iter().cloned()).collect();
    let mut options = ["-q", "-f", "-n", "16384", "-s", "4096", "-O"].map(str::to_owned).to_vec();
    options.push(all.join(","));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_newer_programs_add_is_left_out() {
        assert!(!xfs_knows_newer("mkfs.xfs version 6.1.0\n") && xfs_knows_newer("mkfs.xfs version 6.13.0\n"));
        assert!(xfs_knows_newer("mkfs.xfs version 7.0.1\n"));
        let old = xfs_options(&["bigtime=1".into()], false).join(" ");
        assert!(old.contains("-m bigtime=1") && old.contains("-i nrext64=0") && !old.contains("exchange"), "{old}");
        let new = xfs_options(&[], true).join(" ");
        assert!(new.contains("-m bigtime=0") && new.contains("-i exchange=0") && new.contains("-n parent=0"), "{new}");

        let old = btrfs_options(&[], "no-holes   - none\n").join(" ");
        assert!(old.ends_with("-O extref,skinny-metadata,no-holes"), "{old}");
        let new = btrfs_options(&["^no-holes".into()], "block-group-tree  - x\n").join(" ");
        assert!(new.ends_with("no-holes,^block-group-tree,^no-holes"), "{new}");
    }
}
