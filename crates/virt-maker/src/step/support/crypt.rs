//! Password hashes as `/etc/shadow` holds them: SHA-512-crypt, which every guest's libc reads.

use sha_crypt::{CustomizedPasswordHasher, Params, ShaCrypt};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::random;

/// As `crypt` does it by default.
const ROUNDS: u32 = 5000;
/// Rounds of what stands for a password in a key: slower to guess at than what the layer itself holds.
const KEY_ROUNDS: u32 = 20_000;

/// The hash of a password, with a salt of its own.
pub(in crate::step) fn hash(password: &str) -> Result<String> {
    crypt(password, &random::<12>()?, ROUNDS)
}

/// What stands for a password in a key and in a record: the same for the same password, and no easier to guess from
/// than the `/etc/shadow` in the layer.
pub(in crate::step) fn fingerprint(password: &str) -> Result<String> {
    crypt(password, b"virt-maker\0\0", KEY_ROUNDS)
}

/// Letters and digits without those that look alike; about 93 bits.
pub(in crate::step) fn random_password() -> Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    Ok(random::<19>()?.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

fn crypt(password: &str, salt: &[u8], rounds: u32) -> Result<String> {
    let failed = |_| Error::new(ErrorKind::Internal, "cannot make a password hash");
    let params = Params::new(rounds).map_err(|_| Error::new(ErrorKind::Internal, "cannot make a password hash"))?;
    let hash = ShaCrypt::SHA512.hash_password_customized(password.as_bytes(), salt, None, None, params);
    Ok(hash.map_err(failed)?.to_string())
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH]> {
    random::bytes().context(ErrorKind::Host, || "cannot get random bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What another program makes of the same password and salt.
    #[test]
    fn openssl_makes_the_same_hash() {
        let ours = hash("it's \"a\" $(secret): é").unwrap();
        let salt = ours.split('$').nth(3).unwrap();
        let output = std::process::Command::new("openssl")
            .args(["passwd", "-6", "-salt", &format!("rounds=5000${salt}"), "it's \"a\" $(secret): é"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), ours);
        assert_ne!(hash("same").unwrap(), hash("same").unwrap());
        assert_eq!(fingerprint("same").unwrap(), fingerprint("same").unwrap());
        assert_ne!(random_password().unwrap(), random_password().unwrap());
    }
}
