use std::io::Cursor;

use super::*;

const SECTORS: u64 = 8192;

/// A disk with a GPT as every tool writes it, of the given entries (first and last sector), both copies.
fn gpt(entries: &[(u64, u64)]) -> Vec<u8> {
    let mut disk = vec![0u8; (SECTORS * SECTOR) as usize];
    disk[446 + 4] = 0xee;
    disk[446 + 8..446 + 16].copy_from_slice(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut table = vec![0u8; 128 * 128];
    for (index, (first, last)) in entries.iter().enumerate() {
        let entry = &mut table[index * 128..(index + 1) * 128];
        entry[..16].copy_from_slice(&[
            0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
        ]);
        entry[16..32].fill(index as u8 + 1);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        entry[56..60].copy_from_slice(&[b'r', 0, b'0' + index as u8, 0]);
    }
    for (sector, table_sector) in [(1, 2), (SECTORS - 1, SECTORS - 33)] {
        let at = (table_sector * SECTOR) as usize;
        disk[at..at + table.len()].copy_from_slice(&table);
        let mut header = [0u8; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&sector.to_le_bytes());
        header[56..72].fill(7);
        header[72..80].copy_from_slice(&table_sector.to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&table).to_le_bytes());
        put_header(&mut disk, sector, header);
    }
    disk
}

fn put_header(disk: &mut [u8], sector: u64, mut header: [u8; 92]) {
    header[16..20].fill(0);
    let sum = crc32(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    disk[(sector * SECTOR) as usize..][..92].copy_from_slice(&header);
}

/// Changes both headers by `change`, with a right checksum.
fn with_header(mut disk: Vec<u8>, change: impl Fn(&mut [u8; 92])) -> Vec<u8> {
    for sector in [1, SECTORS - 1] {
        let mut header: [u8; 92] = disk[(sector * SECTOR) as usize..][..92].try_into().unwrap();
        change(&mut header);
        put_header(&mut disk, sector, header);
    }
    disk
}

fn table(disk: &[u8]) -> Result<Option<Table>, TableError> {
    read(&mut Cursor::new(disk), disk.len() as u64)
}

fn refusal(disk: &[u8]) -> String {
    match table(disk) {
        Err(error @ TableError::Broken(_)) => error.to_string(),
        other => panic!("expected a broken table, got {other:?}"),
    }
}

#[test]
fn checksum_is_the_common_crc32() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn a_sound_gpt_is_read() {
    let found = table(&gpt(&[(2048, 4095), (64, 127)])).unwrap().unwrap();
    assert_eq!(found.scheme, Scheme::Gpt);
    assert_eq!(found.partitions.len(), 2);
    assert_eq!((found.partitions[0].start, found.partitions[0].length), (2048 * 512, 2048 * 512));
    assert_eq!(found.partitions[1].index, 2);
    assert_eq!(found.partitions[1].label, "r1");
    assert_eq!(found.partitions[0].uuid, "01010101-0101-0101-0101-010101010101");
    assert_eq!(found.partitions[0].kind, Kind::Guid("0fc63daf-8483-4772-8e79-3d69d8477de4".into()));
}

#[test]
fn the_copy_at_the_end_serves() {
    let mut disk = gpt(&[(2048, 4095)]);
    disk[512..1024].fill(0);
    assert_eq!(table(&disk).unwrap().unwrap().partitions.len(), 1);
    disk[SECTOR as usize * (SECTORS as usize - 1)..].fill(0);
    assert!(refusal(&disk).contains("GPT"));
}

#[test]
fn hostile_gpts_are_refused() {
    assert!(refusal(&gpt(&[(2048, 4095), (4095, 5000)])).contains("partitions 1 and 2 overlap"));
    assert!(refusal(&gpt(&[(2048, SECTORS)])).contains("partition 1 is from sector 2048"));
    assert!(refusal(&gpt(&[(4095, 2048)])).contains("partition 1"));
    assert!(refusal(&gpt(&[(0, 2048)])).contains("partition 1"));
    assert!(refusal(&gpt(&[(u64::MAX, u64::MAX)])).contains("partition 1"));
    assert!(refusal(&gpt(&[(1, u64::MAX)])).contains("partition 1"));
    let sound = gpt(&[(2048, 4095)]);
    for (count, size) in [(u32::MAX, 128u32), (128, u32::MAX), (128, 0), (128, 127), (u32::MAX, u32::MAX), (1025, 128)]
    {
        let disk = with_header(sound.clone(), |header| {
            header[80..84].copy_from_slice(&count.to_le_bytes());
            header[84..88].copy_from_slice(&size.to_le_bytes());
        });
        assert!(refusal(&disk).contains("entries of"), "{count} {size}");
    }
    for sector in [0, 1, SECTORS, SECTORS - 1, u64::MAX, u64::MAX / 512] {
        let disk = with_header(sound.clone(), |header| header[72..80].copy_from_slice(&sector.to_le_bytes()));
        assert!(refusal(&disk).contains("outside of the disk"), "{sector}");
    }
    for size in [0u32, 91, 513, u32::MAX] {
        let mut disk = sound.clone();
        for sector in [1, SECTORS - 1] {
            disk[(sector * SECTOR) as usize + 12..][..4].copy_from_slice(&size.to_le_bytes());
        }
        assert!(refusal(&disk).contains("a header of"), "{size}");
    }
    // One bit of an entry, in both copies.
    let mut disk = sound;
    disk[1024 + 40] ^= 1;
    disk[((SECTORS - 33) * SECTOR) as usize + 40] ^= 1;
    assert!(refusal(&disk).contains("checksum of the entries"));
}

/// Writes an MBR entry: slot, type, first sector, count.
fn entry(sector: &mut [u8], slot: usize, kind: u8, first: u32, count: u32) {
    let at = 446 + slot * 16;
    sector[at + 4] = kind;
    sector[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
    sector[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn mbr(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut disk = vec![0u8; (SECTORS * SECTOR) as usize];
    disk[440..444].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
    for (slot, (kind, first, count)) in entries.iter().enumerate() {
        entry(&mut disk, slot, *kind, *first, *count);
    }
    disk
}

#[test]
fn logical_partitions_are_counted_from_five() {
    let mut disk = mbr(&[(0x83, 64, 100), (0x05, 1000, 2000)]);
    entry(&mut disk[1000 * 512..1001 * 512], 0, 0x83, 10, 100);
    entry(&mut disk[1000 * 512..1001 * 512], 1, 0x05, 500, 200);
    entry(&mut disk[1500 * 512..1501 * 512], 0, 0x82, 10, 100);
    let found = table(&disk).unwrap().unwrap();
    assert_eq!(found.scheme, Scheme::Mbr);
    assert_eq!(found.id, "deadbeef");
    let list: Vec<_> =
        found.partitions.iter().map(|one| (one.index, one.start / 512, one.length / 512, one.uuid.as_str())).collect();
    assert_eq!(list, [(1, 64, 100, "deadbeef-01"), (5, 1010, 100, "deadbeef-05"), (6, 1510, 100, "deadbeef-06")]);
}

#[test]
fn hostile_mbrs_are_refused() {
    assert!(refusal(&mbr(&[(0x83, 64, 100), (0x83, 163, 10)])).contains("overlap"));
    assert!(refusal(&mbr(&[(0x83, 64, SECTORS as u32)])).contains("partition 1"));
    assert!(refusal(&mbr(&[(0x83, u32::MAX, u32::MAX)])).contains("partition 1"));
    assert!(refusal(&mbr(&[(0x83, 0, 10)])).contains("partition 1"));
    assert!(refusal(&mbr(&[(0x05, 64, 10), (0x0f, 100, 10)])).contains("two extended"));
    // A chain that leads back to itself, backwards, outside, or to no boot record.
    for (first, kind) in [(0, 0x05), (2500, 0x05), (u32::MAX, 0x05), (500, 0x83)] {
        let mut disk = mbr(&[(0x05, 1000, 2000)]);
        entry(&mut disk[1000 * 512..1001 * 512], 0, 0x83, 10, 100);
        entry(&mut disk[1000 * 512..1001 * 512], 1, kind, first, 200);
        assert!(refusal(&disk).contains("astray"), "{first}");
    }
    let mut disk = mbr(&[(0x05, 1000, 2000)]);
    assert!(refusal(&disk).contains("no boot record"));
    entry(&mut disk[1000 * 512..1001 * 512], 0, 0x83, 10, 5000);
    assert!(refusal(&disk).contains("leaves the extended partition"));
    // A chain of more links than there is room for in any real disk.
    let mut disk = mbr(&[(0x05, 1000, 2000)]);
    for link in 0..300usize {
        let at = (1000 + link) * 512;
        entry(&mut disk[at..at + 512], 1, 0x05, link as u32 + 1, 1);
    }
    assert!(refusal(&disk).contains("more than 128"));
}

#[test]
fn no_table_is_no_error() {
    assert_eq!(table(&[]).unwrap(), None);
    assert_eq!(table(&[0; 512]).unwrap(), None);
    assert_eq!(table(&vec![0; 65536]).unwrap(), None);
    assert_eq!(table(&mbr(&[])).unwrap(), None);
    // A file system's boot sector: code where the entries would be, or its name.
    let mut boot = mbr(&[(0x83, 64, 100)]);
    boot[446] = 0x31;
    assert_eq!(table(&boot).unwrap(), None);
    let mut fat = mbr(&[(0x83, 64, 100)]);
    fat[0x52..0x5a].copy_from_slice(b"FAT32   ");
    assert_eq!(table(&fat).unwrap(), None);
}

/// Flips and random fills of sound tables: whatever comes out, nothing panics, and what is accepted lies on the disk.
#[test]
fn damage_is_never_fatal() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut extended = mbr(&[(0x83, 64, 100), (0x05, 1000, 2000)]);
    entry(&mut extended[1000 * 512..1001 * 512], 0, 0x83, 10, 100);
    for original in [gpt(&[(2048, 4095), (64, 127)]), extended] {
        let mut disk = original.clone();
        for round in 0..3000 {
            let sector = [0, 1, 2, 1000, SECTORS - 1][(random() % 5) as usize];
            let at = (sector * SECTOR + random() % SECTOR) as usize;
            disk[at] = random() as u8;
            if let Ok(Some(found)) = table(&disk) {
                assert!(
                    found.partitions.iter().all(|one| one.length > 0 && one.start + one.length <= SECTORS * SECTOR)
                );
            }
            if round % 8 == 0 {
                disk.copy_from_slice(&original);
            }
        }
    }
    // A disk that ends before its table does.
    let disk = gpt(&[(2048, 4095)]);
    for length in [1024, 1536, 4096, 16384] {
        assert!(table(&disk[..length]).is_err());
    }
}
