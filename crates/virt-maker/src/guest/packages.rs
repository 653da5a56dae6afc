//! Which packages a guest has, from its own package database.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Exit, Guest, Run};
use crate::error::Result;

/// A package that is installed. Both texts are data of the guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as its package manager writes it.
    pub version: String,
}

const DPKG: &str = "/var/lib/dpkg/status";
const APK: &str = "/lib/apk/db/installed";
const PACMAN: &str = "/var/lib/pacman/local";
/// Where a guest with rpm writes its list; removed right after.
const RPM_LIST: &str = "/var/tmp/.virt-maker-packages";
/// Databases are not larger.
const DATABASE_MAX: u64 = 256 << 20;

/// The packages of a guest, sorted; `None` where it has no package database that is known. The guest may be changed for
/// it (a list is written and removed), so it must be on an overlay that is not kept as a layer.
pub fn installed(guest: &mut dyn Guest) -> Result<Option<Vec<Package>>> {
    let mut packages = if guest.stat(DPKG)?.is_some() {
        let text = guest.read(DPKG, DATABASE_MAX)?;
        paragraphs(&String::from_utf8_lossy(&text), "Package", "Version", |fields| {
            fields.get("Status").is_some_and(|status| status.ends_with(" installed"))
        })
    } else if guest.stat(APK)?.is_some() {
        let text = guest.read(APK, DATABASE_MAX)?;
        paragraphs(&String::from_utf8_lossy(&text), "P", "V", |_| true)
    } else if guest.stat(PACMAN)?.is_some() {
        guest.read_dir(PACMAN)?.iter().filter_map(|name| of_pacman(name)).collect()
    } else if guest.stat("/usr/bin/rpm")?.is_some() {
        let script = format!("#!/bin/sh\nrpm -qa --qf '%{{NAME}} %{{EVR}}\\n' > {RPM_LIST}\n");
        if guest.run(&Run { script: Some(script), ..Run::default() })? != Exit::Status(0) {
            return Ok(None);
        }
        let text = guest.read(RPM_LIST, DATABASE_MAX)?;
        guest.remove(RPM_LIST)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter_map(|line| line.split_once(' ')).map(|(name, version)| package(name, version)).collect()
    } else {
        return Ok(None);
    };
    packages.sort();
    Ok(Some(packages))
}

fn package(name: &str, version: &str) -> Package {
    Package { name: name.to_owned(), version: version.to_owned() }
}

/// Paragraphs of `Name: value` lines (dpkg) or `N:value` lines (apk), parted by empty lines.
fn paragraphs(text: &str, name: &str, version: &str, counts: impl Fn(&BTreeMap<&str, &str>) -> bool) -> Vec<Package> {
    let fields = |paragraph: &'_ str| -> Option<Package> {
        let lines = paragraph.lines().filter(|line| !line.starts_with([' ', '\t']));
        let fields: BTreeMap<&str, &str> =
            lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect();
        counts(&fields).then(|| Some(package(fields.get(name)?, fields.get(version)?)))?
    };
    text.split("\n\n").filter_map(fields).collect()
}

/// `NAME-VERSION-RELEASE`, the name of a folder.
fn of_pacman(name: &str) -> Option<Package> {
    let (rest, release) = name.rsplit_once('-')?;
    let (name, version) = rest.rsplit_once('-')?;
    Some(package(name, &format!("{version}-{release}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_read() {
        let dpkg = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nDescription: x\n Version: no\n\n\
                    Package: b\nStatus: deinstall ok config-files\nVersion: 1\n";
        let installed = |fields: &BTreeMap<&str, &str>| fields["Status"].ends_with(" installed");
        assert_eq!(paragraphs(dpkg, "Package", "Version", installed), [package("a", "1:2-3")]);
        assert_eq!(paragraphs("P:musl\nV:1.2-r0\n\n", "P", "V", |_| true), [package("musl", "1.2-r0")]);
        assert_eq!(of_pacman("lib-x-1.0-2"), Some(package("lib-x", "1.0-2")));
    }
}
