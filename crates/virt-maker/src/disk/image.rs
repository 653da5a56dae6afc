//! Images that may be given to qemu: all headers of the chain were read here before.
//!
//! qemu opens what a header names: a file below, an external data file, by any path or protocol. So no path of an image
//! reaches qemu, its tools, its storage daemon or libguestfs but as an [`Image`], and there is no [`Image`] without a look at
//! each header from the top down to the base. What each may name is said by whoever knows (the store's records); what none
//! may name is refused here: another folder, another format than it says, an external data file.

use std::path::{Path, PathBuf};

use virt_maker_agent::protocol::Root;

use super::{ImageFormat, qcow2};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::own;

/// Longest chain, in images.
const CHAIN_MAX: usize = 1000;

/// An image file with its format, which is known and never probed, and whose chain was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    path: PathBuf,
    format: ImageFormat,
    images: usize,
    root: Option<Root>,
}

/// The image below another one, by the other's header: its name and its format. It lies in the same folder.
pub type Below<'a> = Option<(&'a str, ImageFormat)>;

impl Image {
    /// One that lies on no other. Links above it are followed; it is no link itself.
    pub fn alone(path: &Path, format: ImageFormat) -> Result<Image> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder =
            folder.canonicalize().context(ErrorKind::Base, || format!("cannot open the image {}", path.display()))?;
        let path = &folder.join(path.file_name().unwrap_or_default());
        let nothing = |_: &str, below: Below<'_>| match below {
            None => Ok(()),
            Some((name, _)) => Err(format!("it lies on another one, {}", name.escape_debug())),
        };
        Image::chained(path, format, nothing)
    }

    /// The topmost of a chain in one folder, no part of whose path is a link. `judge` gets the name of each image, from the
    /// top down, with what its header says of the one below it; where it says what is wrong, there is no image.
    pub fn chained(
        path: &Path,
        format: ImageFormat,
        mut judge: impl FnMut(&str, Below<'_>) -> Result<(), String>,
    ) -> Result<Image> {
        let (mut at, mut of) = (path.to_owned(), format);
        let mut images = 0;
        loop {
            let refuse = |problem: &str| {
                Error::new(ErrorKind::Store, format!("the image {} is not opened: {problem}", at.display()))
            };
            images += 1;
            if images > CHAIN_MAX {
                return Err(refuse("its chain has no end"));
            }
            let file =
                own::reader(&at).context(ErrorKind::Store, || format!("cannot open the image {}", at.display()))?;
            let below = match of {
                // Whatever a guest has written into it is no header.
                ImageFormat::Raw => None,
                ImageFormat::Qcow2 => qcow2::below(&file).map_err(|problem| refuse(&problem))?,
            };
            let below = match &below {
                None => None,
                Some((name, format)) => {
                    Some((name.as_str(), known(name, format.as_deref()).map_err(|problem| refuse(&problem))?))
                }
            };
            let name = at.file_name().unwrap_or_default().to_string_lossy();
            judge(&name, below).map_err(|problem| refuse(&problem))?;
            match below {
                None => return Ok(Image { path: path.to_owned(), format, images, root: None }),
                Some((name, format)) => (at, of) = (at.with_file_name(name), format),
            }
        }
    }

    /// The same, of a guest whose root was named.
    pub fn with_root(self, root: Option<Root>) -> Image {
        Image { root, ..self }
    }

    /// Which file system is the guest's root, where somebody said so.
    pub fn root(&self) -> Option<&Root> {
        self.root.as_ref()
    }

    /// Absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> ImageFormat {
        self.format
    }

    /// How many images its chain has.
    pub fn images(&self) -> usize {
        self.images
    }
}

/// The format of the image below, where it is named as one in the same folder.
fn known(name: &str, format: Option<&str>) -> Result<ImageFormat, String> {
    // A colon ends the name of a protocol for qemu: `nbd:...`, `json:...`.
    if name.is_empty() || name.starts_with('.') || name.contains(['/', ':', '\0']) {
        return Err(format!("its header names `{}` below it, which is no image beside it", name.escape_debug()));
    }
    let formats = [ImageFormat::Qcow2, ImageFormat::Raw];
    formats.into_iter().find(|known| format == Some(known.name())).ok_or_else(|| {
        let format = format.unwrap_or("none").escape_debug().to_string();
        format!("its header says that the image below it has the format `{format}`")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::super::overlay::{self, Backing};
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn qemu_img(arguments: &[&str]) {
        let out = Command::new("qemu-img").args(arguments).output().unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn any(_: &str, _: Below<'_>) -> Result<(), String> {
        Ok(())
    }

    fn refused(path: &Path) -> String {
        crate::error::chain(&Image::chained(path, ImageFormat::Qcow2, any).unwrap_err())
    }

    #[test]
    fn each_header_of_a_chain_is_judged_from_the_top_down() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::write(root.join("base.raw"), vec![0; SIZE as usize]).unwrap();
        let below = |name, format| Backing { name, format };
        overlay::create(&root.join("one.qcow2"), SIZE, below("base.raw", ImageFormat::Raw)).unwrap();
        overlay::create(&root.join("two.qcow2"), SIZE, below("one.qcow2", ImageFormat::Qcow2)).unwrap();
        let mut seen = Vec::new();
        let image = Image::chained(&root.join("two.qcow2"), ImageFormat::Qcow2, |name, below| {
            seen.push((name.to_owned(), below.map(|(name, format)| (name.to_owned(), format))));
            Ok(())
        });
        assert_eq!(image.unwrap().images(), 3);
        let named = |name: &str, format| Some((name.to_owned(), format));
        let expected = [
            ("two.qcow2".to_owned(), named("one.qcow2", ImageFormat::Qcow2)),
            ("one.qcow2".to_owned(), named("base.raw", ImageFormat::Raw)),
            ("base.raw".to_owned(), None),
        ];
        assert_eq!(seen, expected);
        let judged = Image::chained(&root.join("two.qcow2"), ImageFormat::Qcow2, |name, _| match name {
            "base.raw" => Err("it is not the base".into()),
            _ => Ok(()),
        });
        assert!(judged.unwrap_err().to_string().ends_with("base.raw is not opened: it is not the base"));
        assert!(Image::alone(&root.join("one.qcow2"), ImageFormat::Qcow2).is_err());
        assert_eq!(Image::alone(&root.join("one.qcow2"), ImageFormat::Raw).unwrap().images(), 1);
    }

    /// What a forged header may name, as qemu itself writes it. The file of the host is not even looked at.
    #[test]
    fn files_of_the_host_and_data_files_are_refused_anywhere_in_a_chain() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let path = |name: &str| root.join(name).display().to_string();
        fs::write(root.join("secret"), vec![0; SIZE as usize]).unwrap();
        fs::create_dir(root.join("images")).unwrap();
        let on = |name: &str, format| {
            overlay::create(&root.join("images/top.qcow2"), SIZE, Backing { name, format }).unwrap();
            let problem = refused(&root.join("images/top.qcow2"));
            fs::remove_file(root.join("images/top.qcow2")).unwrap();
            problem
        };
        for name in [&*path("secret"), "../secret", "nbd:localhost:10809", "json:{}", ".", ".."] {
            assert!(on(name, ImageFormat::Raw).contains("no image beside it"), "{name}");
        }
        symlink("../secret", root.join("images/link.raw")).unwrap();
        assert!(on("link.raw", ImageFormat::Raw).contains("is a link"));
        assert!(on("missing.raw", ImageFormat::Raw).contains("cannot open"));

        let data = format!("data_file={},data_file_raw=on", path("secret"));
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data, &path("images/data.qcow2"), "1M"]);
        assert!(refused(&root.join("images/data.qcow2")).contains("external data file"));
        assert!(on("data.qcow2", ImageFormat::Qcow2).contains("external data file"), "below another one");
        // A header without the format would be probed.
        qemu_img(&["create", "-q", "-f", "raw", &path("images/base.raw"), "1M"]);
        qemu_img(&["create", "-q", "-f", "qcow2", "-u", "-b", "base.raw", "-F", "raw", &path("images/x.qcow2"), "1M"]);
        assert_eq!(Image::chained(&root.join("images/x.qcow2"), ImageFormat::Qcow2, any).unwrap().images(), 2);
        let mut header = fs::read(root.join("images/x.qcow2")).unwrap();
        let place = header.windows(4).position(|word| word == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
        header[place..place + 4].copy_from_slice(&[1, 2, 3, 4]);
        fs::write(root.join("images/x.qcow2"), header).unwrap();
        assert!(refused(&root.join("images/x.qcow2")).contains("the format `none`"));
        // One that lies on itself.
        assert!(on("top.qcow2", ImageFormat::Qcow2).contains("no end"));
    }
}
