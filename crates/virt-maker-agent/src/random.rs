//! Randomness, from the kernel's generator.

/// 64 random bits as hexadecimal digits: a part of a name that nothing else has.
pub fn token() -> rustix::io::Result<String> {
    let mut bytes = [0; 8];
    // So few bytes come all or not at all.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
