//! What several steps share: reading arguments, looking into a guest, and the few files of a guest that many steps
//! change. No kind of step is here.

pub(super) mod accounts;
pub(super) mod checks;
pub(super) mod crypt;
pub(super) mod folders;
pub(super) mod host_file;
pub(super) mod inject;
pub(super) mod owner;
pub(super) mod packages;
pub(super) mod paths;
pub(super) mod pressing;
pub(super) mod seed;
pub(super) mod texts;
pub(super) mod words;
