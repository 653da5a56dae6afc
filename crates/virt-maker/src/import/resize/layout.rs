//! Where partitions lie when a disk and some of them are larger: nothing moves that does not have to.

use crate::disk::table::{Partition, SECTOR, Table};
use crate::error::{Error, ErrorKind, Result};

/// Places of what has to move are whole MiB, as partitioning programs have them.
const GRAIN: u64 = (1 << 20) / SECTOR;
/// Sectors at the end of a disk for the second table of a GPT.
const GPT_END: u64 = 33;
/// The type of a partition in which GRUB's own code lies, which the first sector finds by its place.
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";

/// What is wanted of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All that is left.
    Rest,
    /// This size, in bytes.
    Bytes(u64),
}

/// The partitions of a disk of so many bytes, in the order of `table`, with what is `wanted` by number.
pub(super) fn layout(table: &Table, size: u64, wanted: &[(u32, Wanted)]) -> Result<Vec<Partition>> {
    let cannot = |what: String| Error::new(ErrorKind::Base, what);
    let end = size / SECTOR - if table.gpt { GPT_END } else { 0 };
    let mut places = table.partitions.clone();
    // An extended partition of MBR is a frame around those that are numbered from 5.
    let mut order: Vec<usize> = (0..places.len()).filter(|at| table.gpt || !places[*at].is_extended()).collect();
    order.sort_by_key(|at| places[*at].start);
    let mut rest = None;
    for (number, wanted) in wanted {
        let Some(at) = order.iter().copied().find(|at| places[*at].number == *number) else {
            let there: Vec<String> = table.partitions.iter().map(|found| found.number.to_string()).collect();
            return Err(cannot(format!("the base has no partition {number}; it has {}", there.join(", "))));
        };
        let old = places[at].sectors;
        match wanted {
            Wanted::Rest => rest = Some(at),
            Wanted::Bytes(bytes) if bytes.div_ceil(SECTOR) < old => {
                let message = format!("partition {number} has {} bytes, more than `resize` says", old * SECTOR);
                return Err(cannot(message).with_hint("a partition is only made larger"));
            }
            Wanted::Bytes(bytes) => places[at].sectors = bytes.div_ceil(SECTOR),
        }
    }
    push(&mut places, &table.partitions, &order);
    if let Some(at) = rest {
        let is_last = order.last() == Some(&at);
        loop {
            let last = order.last().map_or(0, |last| places[*last].end());
            let room = end.saturating_sub(last);
            let room = if is_last { room } else { room / GRAIN * GRAIN };
            if room == 0 {
                break;
            }
            places[at].sectors += room;
            push(&mut places, &table.partitions, &order);
        }
    }
    for at in &order {
        let (old, new) = (&table.partitions[*at], &places[*at]);
        // One that reaches further than it could on a new disk is left as it is.
        if new.end() > end.max(old.end()) {
            let (needs, has) = (new.end() * SECTOR, end * SECTOR);
            let message = format!("the partitions of the base need {needs} bytes, and the disk has room for {has}");
            return Err(cannot(message).with_hint("a larger `size` of `resize`, or smaller partitions"));
        }
        if new.start == old.start {
            continue;
        }
        if order.len() < places.len() || new.number > 4 && !table.gpt {
            return Err(cannot(format!("partition {} would have to move, and the disk has logical ones", new.number))
                .with_hint("expand the last partition of the disk, which is done in its place"));
        }
        if new.kind.eq_ignore_ascii_case(BIOS_BOOT) {
            return Err(cannot(format!("partition {} would have to move, and GRUB is started from it", new.number))
                .with_hint("expand the last partition of the disk, which is done in its place"));
        }
    }
    let last = order.iter().map(|at| &places[*at]).filter(|place| place.number > 4).map(Partition::end).max();
    if let (false, Some(last)) = (table.gpt, last) {
        for frame in places.iter_mut().filter(|place| place.is_extended()) {
            frame.sectors = frame.sectors.max(last.saturating_sub(frame.start));
        }
    }
    Ok(places)
}

/// Moves what the one before it has grown into.
fn push(places: &mut [Partition], old: &[Partition], order: &[usize]) {
    for pair in order.windows(2) {
        let before = places[pair[0]].end();
        let start = old[pair[1]].start;
        places[pair[1]].start = if before <= start { start } else { before.next_multiple_of(GRAIN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn table(gpt: bool, parts: &[(u32, u64, u64, &str)]) -> Table {
        let part = |&(number, start, sectors, kind): &(u32, u64, u64, &str)| Partition {
            number,
            start: start * GRAIN,
            sectors: sectors * GRAIN,
            kind: kind.into(),
            ..Partition::default()
        };
        Table { gpt, partitions: parts.iter().map(part).collect() }
    }

    /// Starts and lengths in MiB.
    fn places(table: &Table, size: u64, wanted: &[(u32, Wanted)]) -> Result<Vec<(u64, u64)>, String> {
        let places = layout(table, size * MIB, wanted).map_err(|error| error.to_string())?;
        Ok(places.iter().map(|place| (place.start / GRAIN, place.sectors / GRAIN)).collect())
    }

    #[test]
    fn only_what_is_in_the_way_moves() {
        // Numbers are not in the order of the disk, as cloud images have them: 14, 15, 1.
        let cloud = table(true, &[(1, 128, 400, "x"), (14, 1, 3, BIOS_BOOT), (15, 4, 124, "esp")]);
        assert_eq!(places(&cloud, 1000, &[(1, Wanted::Rest)]).unwrap(), [(128, 871), (1, 3), (4, 124)]);
        assert_eq!(places(&cloud, 1000, &[(1, Wanted::Bytes(500 * MIB))]).unwrap(), [(128, 500), (1, 3), (4, 124)]);
        // The last has room enough beside the one that grows.
        let found = places(&cloud, 1000, &[(15, Wanted::Bytes(224 * MIB))]).unwrap();
        assert_eq!(found, [(228, 400), (1, 3), (4, 224)]);
        assert_eq!(places(&cloud, 1000, &[(15, Wanted::Rest)]).unwrap(), [(599, 400), (1, 3), (4, 595)]);
        // A gap is used first.
        let gap = table(true, &[(1, 1, 99, "x"), (2, 200, 100, "y")]);
        assert_eq!(places(&gap, 400, &[(1, Wanted::Bytes(150 * MIB))]).unwrap(), [(1, 150), (200, 100)]);
        assert_eq!(places(&gap, 400, &[(1, Wanted::Rest)]).unwrap(), [(1, 298), (299, 100)]);
        assert_eq!(places(&gap, 400, &[]).unwrap(), [(1, 99), (200, 100)]);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let grub = table(true, &[(1, 1, 99, "x"), (2, 100, 1, BIOS_BOOT)]);
        assert!(places(&grub, 400, &[(1, Wanted::Rest)]).unwrap_err().contains("GRUB"));
        assert!(places(&grub, 400, &[(1, Wanted::Bytes(MIB))]).unwrap_err().contains("more than `resize` says"));
        assert!(places(&grub, 400, &[(2, Wanted::Bytes(400 * MIB))]).unwrap_err().contains("room for"));
        assert!(places(&grub, 400, &[(7, Wanted::Rest)]).unwrap_err().contains("no partition 7; it has 1, 2"));
    }

    #[test]
    fn logical_partitions_grow_at_the_end_of_the_disk() {
        let mbr = table(false, &[(1, 1, 99, "83"), (2, 100, 200, "5"), (5, 101, 99, "83"), (6, 201, 99, "83")]);
        let found = places(&mbr, 500, &[(6, Wanted::Rest)]).unwrap();
        assert_eq!(found, [(1, 99), (100, 400), (101, 99), (201, 299)]);
        assert!(places(&mbr, 500, &[(1, Wanted::Rest)]).unwrap_err().contains("logical"));
        assert!(places(&mbr, 500, &[(2, Wanted::Rest)]).unwrap_err().contains("no partition 2"));
    }
}
