//! A TPM 2.0 for a machine: `swtpm`, which qemu talks to.
//!
//! What the guest sends to its TPM is read by a program of the host, so that works behind [`Walls`]: it sees its own state and no
//! other file, has no network and no right, and takes few system calls itself. Its state lies beside the overlay and goes with the
//! machine. Nobody vouches for it: it has no certificate of a manufacturer.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::walls::Walls;
use crate::host::{self, CHANNEL_FD, Helper, HelperCommand};

const PROGRAM: &str = "swtpm";
/// Where its state is in there.
const STATE: &str = "/tpm";
/// What it may need, in bytes of address space.
const SPACE: u64 = 1 << 30;

/// Whether this host has one. The error says what is missing.
pub fn check() -> Result<()> {
    match host::find_program(PROGRAM) {
        Some(_) => Ok(()),
        None => Err(Error::new(ErrorKind::Host, format!("a machine with a TPM needs `{PROGRAM}`"))
            .with_hint("it comes with the package `swtpm`")),
    }
}

/// Starts one. The second is the end for qemu.
pub(super) fn start(folder: &Path) -> Result<(Helper, OwnedFd)> {
    check()?;
    let (ours, theirs) = UnixStream::pair().context(ErrorKind::Host, || "cannot make a socket pair")?;
    let state = folder.join("tpm");
    // Of a machine that was in this folder before.
    let _ = std::fs::remove_dir_all(&state);
    let made = DirBuilder::new().mode(0o700).create(&state);
    made.context(ErrorKind::Store, || format!("cannot make {}", state.display()))?;
    let (program, mut arguments) = Walls::for_data().write_at(&state, Path::new(STATE)).helper(PROGRAM);
    let own = ["socket", "--tpm2", "--terminate", "--tpmstate", &format!("dir={STATE},mode=0600")].map(Into::into);
    arguments.extend(own);
    arguments.extend(["--ctrl", &format!("type=unixio,clientfd={CHANNEL_FD}")].map(Into::into));
    let helper = Helper::spawn(HelperCommand {
        name: PROGRAM,
        program,
        package: "swtpm",
        arguments,
        channels: vec![ours.into()],
        address_space: Some(SPACE),
        mount_namespace_of: None,
        children_beside_those_of: None,
        directory: Some(folder.to_owned()),
        log: folder.join("tpm.log"),
    })?;
    Ok((helper, theirs.into()))
}

/// Options of qemu for a TPM at the other end of this descriptor.
pub(super) fn options(fd: i32) -> [String; 6] {
    [
        "-chardev".into(),
        format!("socket,id=tpm,fd={fd}"),
        "-tpmdev".into(),
        "emulator,id=tpm0,chardev=tpm".into(),
        "-device".into(),
        "tpm-crb,tpmdev=tpm0".into(),
    ]
}
