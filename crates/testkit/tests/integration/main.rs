//! The test kit, by the word of others: what tests rely on. One binary, so that it is linked once.

mod debian;
mod fsck;
mod host_state;
mod tiny;
