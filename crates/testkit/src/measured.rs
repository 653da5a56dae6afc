//! What a machine with a TPM has measured: its event log, replayed, and the digests of the programs for UEFI that it started.

use sha2::{Digest, Sha256};

/// A digest that a register of SHA-256 holds, or takes in.
pub type Sum = [u8; 32];

/// TCG's number of SHA-256 (TCG Algorithm Registry, `TPM_ALG_SHA256`).
const SHA256: u16 = 0x000b;
/// Kinds of events (TCG PC Client Platform Firmware Profile, section "Event Types").
const NO_ACTION: u32 = 0x0000_0003;
/// A program that UEFI started from a disk.
pub const BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;

/// One entry of a log.
#[derive(Debug)]
pub struct Measured {
    /// The register that it went into.
    pub register: u32,
    /// What kind of event it was.
    pub kind: u32,
    /// The digest that went into it.
    pub digest: Sum,
    /// What the firmware says of it.
    pub event: Vec<u8>,
}

/// Reads a log as Linux gives it in `binary_bios_measurements`: the "crypto agile" format of the TCG PC Client Platform Firmware Profile
/// Specification, sections "TCG_PCClientPCREvent Structure", "TCG_EfiSpecIdEvent Structure" and "TCG_PCR_EVENT2 Structure". All numbers
/// are little endian. Panics where it is not one, or has no digests of SHA-256.
#[track_caller]
pub fn event_log(bytes: &[u8]) -> Vec<Measured> {
    let mut rest = bytes;
    // The first entry has the older form, with one digest of SHA-1, and says which digests the others have.
    let (_register, kind) = (u32_of(&mut rest), u32_of(&mut rest));
    take(&mut rest, 20);
    let length = u32_of(&mut rest) as usize;
    let mut head = take(&mut rest, length);
    assert_eq!(kind, NO_ACTION, "the first entry of a log says what it is");
    assert_eq!(take(&mut head, 16), b"Spec ID Event03\0");
    // The class of platform, the specification's version, and the size of a native word.
    take(&mut head, 8);
    let algorithms: Vec<(u16, usize)> =
        (0..u32_of(&mut head)).map(|_| (u16_of(&mut head), usize::from(u16_of(&mut head)))).collect();
    let mut log = Vec::new();
    while !rest.is_empty() {
        let (register, kind) = (u32_of(&mut rest), u32_of(&mut rest));
        let mut digest = None;
        for _ in 0..u32_of(&mut rest) {
            let algorithm = u16_of(&mut rest);
            let known = algorithms.iter().find(|(known, _)| *known == algorithm);
            let (_, size) = known.expect("a digest of a kind that the head names");
            let value = take(&mut rest, *size);
            if algorithm == SHA256 {
                digest = Some(value.try_into().expect("32 bytes"));
            }
        }
        let length = u32_of(&mut rest) as usize;
        let event = take(&mut rest, length).to_vec();
        log.push(Measured { register, kind, digest: digest.expect("a digest of SHA-256"), event });
    }
    log
}

/// What is in a register when all of a log has gone into it: each digest is put behind what is there, and the SHA-256 of both is what is there
/// then.
pub fn replay(log: &[Measured], register: u32) -> Sum {
    let mut value = [0; 32];
    for entry in log.iter().filter(|entry| entry.register == register) {
        if entry.kind == NO_ACTION {
            // Nothing goes in, but the first value of register 0 may be another one ("Startup Locality Event").
            if let Some(locality) = entry.event.strip_prefix(b"StartupLocality\0") {
                value[31] = locality[0];
            }
            continue;
        }
        value = Sha256::new().chain_update(value).chain_update(entry.digest).finalize().into();
    }
    value
}

/// The digest of a program for UEFI that is signed and measured: of all of it but its checksum, its table of certificates and the place of
/// that (Microsoft, "Windows Authenticode Portable Executable Signature Format", "Calculating the PE Image Hash"). Panics where it is no such program.
#[track_caller]
pub fn authenticode(program: &[u8]) -> Sum {
    let long = |at: usize| u32::from_le_bytes(program[at..at + 4].try_into().expect("four bytes")) as usize;
    let short = |at: usize| usize::from(u16::from_le_bytes(program[at..at + 2].try_into().expect("two bytes")));
    let header = long(0x3c);
    assert_eq!(&program[header..header + 4], b"PE\0\0");
    // After the signature, the COFF header of 20 bytes; then the optional header, here of a program of 64 bits.
    let optional = header + 24;
    assert_eq!(short(optional), 0x20b, "PE32+");
    let (checksum, certificates) = (optional + 64, optional + 112 + 4 * 8);
    let headers = long(optional + 60);
    let mut sum = Sha256::new();
    sum.update(&program[..checksum]);
    sum.update(&program[checksum + 4..certificates]);
    sum.update(&program[certificates + 8..headers]);
    let (count, table) = (short(header + 6), optional + short(header + 20));
    let mut sections: Vec<(usize, usize)> =
        (0..count).map(|number| table + 40 * number).map(|entry| (long(entry + 20), long(entry + 16))).collect();
    sections.sort_unstable();
    let mut taken = headers;
    for (start, size) in sections.into_iter().filter(|(_, size)| *size > 0) {
        sum.update(&program[start..start + size]);
        taken += size;
    }
    // What is behind the sections, up to the certificates.
    let end = program.len() - long(certificates + 4);
    if end > taken {
        sum.update(&program[taken..end]);
    }
    sum.finalize().into()
}

/// Digits of a digest, as Linux shows a register.
pub fn hex(sum: &Sum) -> String {
    sum.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[track_caller]
fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (part, behind) = rest.split_at_checked(count).expect("the log ends within an entry");
    *rest = behind;
    part
}

#[track_caller]
fn u32_of(rest: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(rest, 4).try_into().expect("four bytes"))
}

#[track_caller]
fn u16_of(rest: &mut &[u8]) -> u16 {
    u16::from_le_bytes(take(rest, 2).try_into().expect("two bytes"))
}
