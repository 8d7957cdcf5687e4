//! The atomics that threads meet at, where the order of what they do matters. In a build with `--cfg culvert_loom` they are
//! loom's, which tries every order that the memory model allows: `tests/run` does so for the tests named `every_order`.

#[cfg(culvert_loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(not(culvert_loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};
