//! The kernel of the appliance: one that the host has installed, with its modules.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, ErrorKind, Result};

/// Where distributions put kernels.
const FOLDER: &str = "/boot";
const PREFIX: &str = "vmlinuz-";
/// A kernel and the modules that were built with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The image.
    pub image: PathBuf,
    /// What `uname -r` will say, such as `6.1.0-40-cloud-amd64`.
    pub version: String,
    /// Folder of its modules.
    pub modules: PathBuf,
}

/// The kernel that was asked for, or the newest that this user may read and whose modules are there.
pub fn find(asked: Option<&Path>) -> Result<Kernel> {
    match asked {
        Some(image) => describe(image),
        None => newest(Path::new(FOLDER)),
    }
}

fn newest(folder: &Path) -> Result<Kernel> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut images: Vec<PathBuf> = entries.filter(|path| name(path).starts_with(PREFIX)).collect();
    images.sort_by_key(|path| natural(&name(path)));
    let mut problem = None;
    for image in images.iter().rev() {
        match describe(image) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => {
                problem.get_or_insert(error);
            }
        }
    }
    Err(problem.unwrap_or_else(|| {
        Error::new(ErrorKind::Host, format!("there is no kernel for the appliance: no {}/{PREFIX}*", folder.display()))
            .with_hint("install a kernel, such as the package `linux-image-cloud-amd64`, or name one with --kernel")
    }))
}

fn describe(image: &Path) -> Result<Kernel> {
    let mut file = File::open(image).map_err(|source| {
        let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
        let error = Error::new(ErrorKind::Host, format!("cannot read the kernel {}", image.display()));
        let error = error.with_source(source);
        match denied {
            true => error.with_hint(format!(
                "`chmod 0644 {0}` mends that until the next update; \
                 `dpkg-statoverride --update --add root root 0644 {0}` mends it for good on Debian and Ubuntu",
                image.display()
            )),
            false => error,
        }
    })?;
    let version = version(&mut file)
        .context(ErrorKind::Host, || format!("cannot read the kernel {}", image.display()))?
        .ok_or_else(|| {
            Error::new(ErrorKind::Host, format!("{} is no Linux kernel for this machine", image.display()))
                .with_hint("expected a bzImage, as distributions install it as /boot/vmlinuz-VERSION")
        })?;
    let found = ["/lib/modules", "/usr/lib/modules"]
        .into_iter()
        .map(|folder| Path::new(folder).join(&version))
        .find(|folder| folder.join("modules.dep").is_file());
    match found {
        Some(modules) => Ok(Kernel { image: image.to_owned(), version, modules }),
        None => {
            let what = format!("the modules of the kernel {} are not at /lib/modules/{version}", image.display());
            Err(Error::new(ErrorKind::Host, what).with_hint("install the package that this kernel is from, completely"))
        }
    }
}

/// The version that a bzImage says in its header (the kernel's Documentation/arch/x86/boot.rst); none where it is no
/// such image.
fn version(file: &mut (impl Read + Seek)) -> std::io::Result<Option<String>> {
    let mut head = [0; 0x264];
    if let Err(error) = file.read_exact(&mut head) {
        return if error.kind() == std::io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let word = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
    if &head[0x202..0x206] != b"HdrS" || word(0x20e) == 0 {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(word(0x20e) + 0x200))?;
    let mut text = Vec::new();
    file.take(256).read_to_end(&mut text)?;
    let word: Vec<u8> = text.into_iter().take_while(|byte| !byte.is_ascii_whitespace() && *byte != 0).collect();
    let sound = |text: &String| {
        !text.is_empty() && text != "." && text != ".." && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
    };
    Ok(String::from_utf8(word).ok().filter(sound))
}

/// Orders names as people do: runs of digits by their value.
fn natural(name: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text: String = rest.chars().take_while(|character| !character.is_ascii_digit()).collect();
        rest = &rest[text.len()..];
        let digits = rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len();
        parts.push((rest[..digits].parse().unwrap_or(0), text));
        rest = &rest[digits..];
    }
    // The text before a number counts before the number does.
    parts.into_iter().flat_map(|(number, text)| [(0, text), (number, String::new())]).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn newer_kernels_come_later() {
        let mut names = ["vmlinuz-6.10.3-amd64", "vmlinuz-6.9.12-amd64", "vmlinuz-5.10.0-8", "vmlinuz-6.9.2-amd64"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["vmlinuz-5.10.0-8", "vmlinuz-6.9.2-amd64", "vmlinuz-6.9.12-amd64", "vmlinuz-6.10.3-amd64"]);
    }

    #[test]
    fn what_is_no_kernel_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let empty = newest(folder.path()).unwrap_err();
        assert!(empty.hint().unwrap().contains("linux-image"), "{empty:?}");
        for (content, says) in [(&b"short"[..], "no Linux kernel"), (&[0; 4096][..], "no Linux kernel")] {
            let image = folder.path().join("vmlinuz-1");
            std::fs::write(&image, content).unwrap();
            let error = newest(folder.path()).unwrap_err();
            assert!(error.to_string().contains(says) && error.to_string().contains("vmlinuz-1"), "{error}");
        }
    }

    #[test]
    fn a_version_that_leads_elsewhere_is_none() {
        let image = |version: &[u8]| {
            let mut image = vec![0; 0x264];
            image[0x202..0x206].copy_from_slice(b"HdrS");
            image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
            image.resize(0x300, 0);
            image.extend_from_slice(version);
            Cursor::new(image)
        };
        assert_eq!(version(&mut image(b"6.1.0-1 (me)\0")).unwrap().as_deref(), Some("6.1.0-1"));
        for bad in [&b""[..], b"..", b"../../etc", b"\xff"] {
            assert_eq!(version(&mut image(bad)).unwrap(), None);
        }
    }
}
