//! The role by where the virtual address is: ucarp's up and down scripts and keepalived put it on the interface of the master
//! and take it off the backup's.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use super::{CarpSource, Role};
use crate::config::Group;
use crate::routes::HostState;

/// See the module page.
#[derive(Debug)]
pub struct Addresses;

impl CarpSource for Addresses {
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn drain(&mut self) {}

    fn is_certain(&self) -> bool {
        false
    }

    fn role(&mut self, group: &Group, address: IpAddr, host: &HostState) -> Result<Role, String> {
        let link = host.link_named(&group.interface).map(|(index, _)| index);
        let here = |of: &crate::routes::Address| Some(of.link) == link && of.address == address;
        Ok(if host.addresses.iter().any(here) { Role::Master } else { Role::Backup })
    }
}
