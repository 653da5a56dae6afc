//! Engine `vm` against what is worse than a hostile step: the machine itself in a guest's hands, kills while it is made,
//! hosts that lack things; and the walls around qemu, as the host's kernel sees them.

mod confinement;
pub mod hostile;
mod hosts;
mod kills;
