//! Roles by hand, for tests.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::{CarpSource, Role};
use crate::config::Group;
use crate::routes::HostState;

/// The hand. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Script(Arc<Mutex<BTreeMap<Group, Role>>>);

impl Script {
    /// The role in a group is this from now on.
    pub fn set(&self, group: &Group, role: Role) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(group.clone(), role);
    }
}

impl CarpSource for Script {
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn drain(&mut self) {}

    fn role(&mut self, group: &Group, _: IpAddr, _: &HostState) -> Result<Role, String> {
        let roles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        roles.get(group).copied().ok_or_else(|| "nobody has said".to_owned())
    }
}
