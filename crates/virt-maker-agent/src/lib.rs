//! The agent's protocol and the pieces that both ends share.
//!
//! The agent is one small static program that does everything that is done to a mounted guest: it finds the root
//! file system, mounts after the guest's fstab, runs commands, reads and writes files, freezes and thaws. Engine
//! `chroot` runs it as a child in namespaces of its own on the host; engine `vm` runs it as the first process of an
//! appliance. It knows nothing of templates, layers or keys.
//!
//! Here are the parts that are pure or that the host needs too: the [`protocol`] and the host's end of it
//! ([`client`]), partition tables ([`partition`]), signatures of file systems ([`probe`]), listings ([`walk`], [`label`]),
//! the guest's [`fstab`], the [`machine`] that commands see and its disk ([`blocks`]), their network [`interface`], the
//! [`descriptors`] that a program inherits, the calls that it does not get ([`seccomp`]), and where [`groups`] of processes can be made.
//! What acts on a guest is private to the program (`main.rs` lists it).

pub mod appliance;
pub mod blocks;
pub mod booted;
pub mod client;
pub mod descriptors;
pub mod fstab;
pub mod groups;
pub mod interface;
pub mod label;
pub mod machine;
pub mod partition;
pub mod probe;
pub mod protocol;
pub mod seccomp;
pub mod walk;
