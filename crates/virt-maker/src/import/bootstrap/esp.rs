//! The EFI system partition of a disk that is made: FAT32 with a signed shim and GRUB, put there by mtools, so no kernel has to know
//! the file system and nothing is mounted.
//!
//! What goes on it lies where a script put it (`loaders.sh`), in the tree of the guest for one, so mtools reads it behind the walls that have nothing but it.

use std::fs::{self, File};
use std::path::Path;

use super::firmware::{ESP_LENGTH, ESP_START};
use crate::disk::table::copy_data;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::walls::{TREE, Walls};
use crate::host::{Cancel, Tool, find_program};

/// Where the guest mounts it, in its tree.
pub(in crate::import) const PLACE: &str = "boot/efi";
/// A folder's shim, GRUB and its few lines are small; what does not fit is no loader.
const MAKE: &str = "mformat -i \"$GUEST_ESP\" -F -c 2 -H 4096 -N \"$GUEST_ESP_ID\" -v ESP ::
    mcopy -s -i \"$GUEST_ESP\" \"$GUEST_TREE/EFI\" ::/";

/// Functions for the scripts that put loaders into a tree.
pub(in crate::import) const LOADERS: &str = include_str!("loaders.sh");

/// The identity of the file system, by that of the root: as its fstab names it.
pub(in crate::import) fn id(root: &str) -> String {
    let digits: String = root.chars().filter(char::is_ascii_hexdigit).take(8).collect::<String>().to_uppercase();
    let (high, low) = digits.split_at(digits.len().min(4));
    format!("{high}-{low}")
}

/// Fails where mtools is missing, before an hour of work is spent.
pub(in crate::import) fn check_host() -> Result<()> {
    match find_program("mformat").and(find_program("mcopy")) {
        Some(_) => Ok(()),
        None => Err(Error::new(ErrorKind::Host, "a disk that boots under UEFI needs `mformat` and `mcopy`")
            .with_hint("they come with the package `mtools`")),
    }
}

/// Makes the file system in the disk at `image`, of what lies in the folder `within` of the tree at `tree`. `scratch` is a folder
/// for it.
pub(in crate::import) fn make(
    image: &Path,
    (tree, within): (&Path, &str),
    root_uuid: &str,
    scratch: &Path,
    log: &Path,
    cancel: &Cancel,
) -> Result<()> {
    let path = scratch.join("esp.img");
    let failed = || "cannot make the EFI system partition";
    let file = File::options().read(true).write(true).create_new(true).open(&path).context(ErrorKind::Store, failed)?;
    file.set_len(ESP_LENGTH).context(ErrorKind::Store, failed)?;
    let walls = Walls::for_tree().read_at(tree, Path::new(TREE)).write(&path)?;
    tool(walls.tool("sh", "dash"))
        .args(["-eu", "-c", MAKE, "sh"])
        .env("GUEST_ESP", std::path::absolute(&path).context(ErrorKind::Host, failed)?)
        .env("GUEST_ESP_ID", id(root_uuid).replace('-', ""))
        .env("GUEST_TREE", format!("{TREE}/{within}"))
        .log_to(log)
        .run(cancel)
        .context(ErrorKind::Base, failed)?;
    let disk = File::options().write(true).open(image).context(ErrorKind::Store, failed)?;
    copy_data(&file, 0, ESP_LENGTH, &disk, ESP_START).context(ErrorKind::Store, failed)?;
    fs::remove_file(&path).context(ErrorKind::Store, failed)
}

/// The owner's own settings of mtools are for his floppies.
fn tool(tool: Tool) -> Tool {
    tool.env("MTOOLSRC", "/dev/null").env("MTOOLS_SKIP_CHECK", "1").env("LC_ALL", "C")
}

/// Copies it from one disk to another one of the same layout.
pub(super) fn copy(from: &File, to: &File) -> std::io::Result<()> {
    copy_data(from, ESP_START, ESP_LENGTH, to, ESP_START)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_one_of_fat() {
        assert_eq!(id("0a1b2c3d-4e5f-6789-abcd-ef0123456789"), "0A1B-2C3D");
    }
}
