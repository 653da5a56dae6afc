//! Which feature keeps an ext file system from being written to.
//!
//! The kernel says it in its log at most, by a number; who has to do something about it needs the name that `tune2fs` has.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Features without which a kernel only reads, by their bits: those that all kernels which are met write with are left out.
const READ_ONLY: [(u32, &str); 9] = [
    (0x0080, "snapshot"),
    (0x0800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x0001_0000, "orphan_present"),
    (0x0000_0100, "quota"),
    (0x0000_0200, "bigalloc"),
];
/// What every kernel since 4.0 writes with: sparse_super, large_file, btree_dir, huge_file, uninit_bg, dir_nlink, extra_isize,
/// metadata_csum.
const COMMON: u32 = 0x047f;
/// Features that say by themselves that nothing is written.
const NEVER: u32 = 0x1000 | 0x4000;

/// Names of the features of the ext file system at an offset that may be why it is not written to, those that certainly are
/// alone where there are any; empty where it has none, or is no ext.
pub fn unwritable(disk: &File, start: u64) -> Vec<String> {
    let mut block = [0; 104];
    if disk.read_exact_at(&mut block, start + 1024).is_err() || block[56..58] != [0x53, 0xef] {
        return Vec::new();
    }
    names(u32::from_le_bytes([block[100], block[101], block[102], block[103]]))
}

fn names(features: u32) -> Vec<String> {
    let features = if features & NEVER != 0 { features & NEVER } else { features & !COMMON };
    let known = READ_ONLY.iter().filter(|(bit, _)| features & bit != 0).map(|(_, name)| (*name).to_owned());
    let rest = READ_ONLY.iter().fold(features, |rest, (bit, _)| rest & !bit);
    known.chain((rest != 0).then(|| format!("FEATURE_R{rest:#x}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_the_names_of_tune2fs() {
        assert_eq!(names(0x046b), Vec::<String>::new());
        assert_eq!(names(0x146b), ["read-only"]);
        assert_eq!(names(0x1a46b), ["project", "verity", "orphan_present"]);
        assert_eq!(names(0x8000_046b), ["FEATURE_R0x80000000"]);
    }
}
