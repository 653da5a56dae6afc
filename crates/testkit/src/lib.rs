//! The test kit: small real guests, and the eyes of a stranger for what virt-maker makes of them.
//!
//! Development only; nothing here is part of the product. Everything panics with the whole story where something is
//! wrong, since a test has no other use for an error. Nothing here shares code with virt-maker, so that a mistake
//! there cannot hide itself here.

mod attack;
mod cache;
mod command;
mod debian;
mod document;
mod elsewhere;
mod expected;
mod host_files;
mod host_state;
mod hostile;
pub mod http_server;
mod image;
mod installer;
mod kvm;
mod lvm;
mod machine;
pub mod measured;
mod mirror;
mod new_kernel;
mod rpm;
mod small_guest;
mod small_initrd;
mod tiny;
mod tls;
mod traces;
pub mod tree;
mod web;

pub use attack::{Attack, Targets};
pub use cache::{ApplianceLock, appliance_lock, cache_dir, fixture};
pub use command::{run, run_with_input};
pub use debian::{bootable_debian, debian_for_uefi, debian_guest};
pub use document::blocks;
pub use elsewhere::Elsewhere;
pub use expected::expect_file;
pub use host_files::{HOST_FILE_WAYS, host_file_way, looks_for_an_image};
pub use host_state::HostState;
pub use hostile::{HostileImage, TarEntry, Victim, hostile_images, probed_raw, tar};
pub use image::{Volume, Volumes, copy_image, find_file_in_image, format_of, fsck_clean, md5, read_file_from_image};
pub use installer::{boot_cd, grub_cd_for_uefi, installer_cd};
pub use kvm::know_kvm;
pub use lvm::{files_of_clean_lvm, lvm_guest};
pub use machine::{Bus, Machine, boot_to_login, host_kernel};
pub use mirror::Mirror;
pub use new_kernel::{KERNEL_WAYS, NewKernel, kernel_guest, kernel_template};
pub use rpm::rpm_repository;
pub use small_guest::{SMALL_GUEST_STEP, small_guest, small_guest_with, small_import};
pub use small_initrd::small_initrd;
pub use tiny::{Fs, Roots, TinyOptions, tiny_guest};
pub use tls::TlsServer;
pub use traces::{count_in, files_with};
pub use web::{Asked, Web, serve};
