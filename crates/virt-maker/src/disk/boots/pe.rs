//! Whether a loader is signed: its certificate table is there. Format: Microsoft's PE, "Optional Header Data Directories" and "The
//! Attribute Certificate Table".

/// Machine of x86_64.
const X86_64: u16 = 0x8664;
/// Magic numbers of the optional header with 32 and 64 bits.
const PE32: u16 = 0x10b;
const PE32_PLUS: u16 = 0x20b;
/// Number of the certificate table among the data directories.
const CERTIFICATES: u32 = 4;
/// `WIN_CERT_TYPE_PKCS_SIGNED_DATA`.
const PKCS: u16 = 2;

/// Whether a file is signed; none where it is no program for x86_64. `read` reads bytes at a place of the file, all of them or says
/// why not: `Ok(false)` where the file ends before.
pub(super) fn signed(mut read: impl FnMut(u64, &mut [u8]) -> Result<bool, String>) -> Result<Option<bool>, String> {
    let mut dos = [0; 64];
    if !read(0, &mut dos)? || dos[..2] != *b"MZ" {
        return Ok(None);
    }
    let at = u64::from(u32::from_le_bytes([dos[60], dos[61], dos[62], dos[63]]));
    // Signature (4), file header (20), optional header up to the table's entry.
    let mut head = [0; 24 + 152];
    if !read(at, &mut head)? || head[..4] != *b"PE\0\0" {
        return Ok(None);
    }
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if u16_at(4) != X86_64 {
        return Ok(None);
    }
    let (length, optional) = (usize::from(u16_at(20)), 24);
    let directories = match u16_at(optional) {
        PE32_PLUS => 112,
        PE32 => 96,
        _ => return Ok(None),
    };
    let entry = directories + CERTIFICATES as usize * 8;
    if u32_at(optional + directories - 4) <= CERTIFICATES || length < entry + 8 {
        return Ok(Some(false));
    }
    // Unlike all others this one is a place in the file.
    let (place, size) = (u32_at(optional + entry), u32_at(optional + entry + 4));
    let mut certificate = [0; 8];
    if place == 0 || size < 8 || !read(u64::from(place), &mut certificate)? {
        return Ok(Some(false));
    }
    let [l0, l1, l2, l3, _, _, k0, k1] = certificate;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    Ok(Some(length >= 8 && length <= size && u16::from_le_bytes([k0, k1]) == PKCS))
}
