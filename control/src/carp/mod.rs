//! CARP followed: which of a pair of routers holds a virtual address now.
//!
//! One trait, [`CarpSource`], tells a group's role; [`kernel`] asks FreeBSD's own CARP, [`address`] looks where the virtual address
//! is, as Linux's ucarp and keepalived move it, and [`scripted`] says what tests want. [`Followed`] is what the daemon knows of
//! all groups of its configuration:
//! 1. An interface that is down or gone has no role ([`Role::Init`]), whatever anybody says.
//! 2. Who calls `culvert carp notify` (an up or down script, a notify script) is believed from then on, as it knows sooner
//!    and better.
//! 3. Else the source is asked: it says what is so, not what has changed, so that nothing can be missed.
//! 4. A source that goes by where the address is may be deceived: a ucarp that was killed leaves it behind. With a partner, an
//!    address that was there before the group was followed makes no master until the partner has said that it is none, or has said
//!    nothing for [`PATIENCE`]; and none at all while the partner is master ([`Doubt`]).

pub mod address;
mod beside;
pub mod checks;
pub mod client;
pub mod demotion;
pub mod guard;
pub mod hooks;
#[cfg(any(target_os = "freebsd", test))]
pub mod kernel;
#[cfg(test)]
pub mod scripted;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::config::{Carp, CarpGroup, Group};
use crate::routes::HostState;

/// What a router is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nothing: its interface is down, or it has not begun.
    Init,
    /// Another one may hold the address.
    Backup,
    /// It holds the address.
    Master,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Init => "init",
            Role::Backup => "backup",
            Role::Master => "master",
        })
    }
}

/// Who tells roles.
pub trait CarpSource {
    /// Readable when a role may have changed; `None`: whoever follows the host's links and addresses hears of it.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Takes what has made the descriptor readable.
    fn drain(&mut self);

    /// This router's role in `group`, whose virtual address is `address`, now. Never waits.
    ///
    /// # Errors
    /// It is not known, and why, in words.
    fn role(&mut self, group: &Group, address: IpAddr, host: &HostState) -> Result<Role, String>;

    /// Does it say what CARP is, and not just where the address is?
    fn is_certain(&self) -> bool {
        true
    }

    /// The time between this router's advertisements for the group, in 1/256 s; `None`: it is not known here.
    fn interval(&mut self, _group: &Group) -> Option<u16> {
        None
    }
}

/// The running system's source.
#[must_use]
pub fn source() -> Box<dyn CarpSource> {
    #[cfg(target_os = "freebsd")]
    return Box::new(kernel::Kernel::new());
    #[cfg(not(target_os = "freebsd"))]
    return Box::new(address::Addresses);
}

/// How long the partner has to say what it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// An address that was there before its group was followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Until then the partner may say what it is.
    Until(Instant),
    /// It is master.
    LeftOver,
}

/// A group as it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The virtual address.
    pub address: IpAddr,
    /// This router's role.
    pub role: Role,
    /// Why it is that, where that is not plain.
    pub why: Option<String>,
    /// Since when.
    pub since: Instant,
    /// How often it has changed.
    pub changes: u64,
    /// The time between this router's advertisements, in 1/256 s: of two masters, the one with the longer one is none by CARP's
    /// own rule. As the source says, else as the configuration does; `None`: nobody does.
    pub interval: Option<u16>,
    configured: Option<u16>,
    notified: Option<Role>,
    doubt: Option<Doubt>,
    /// The address is here, and until then the partner is asked what it is.
    asks: Option<Instant>,
}

/// A role that is another one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The group.
    pub group: Group,
    /// What it was.
    pub from: Role,
    /// What it is.
    pub to: Role,
    /// Why, where that is not plain.
    pub why: Option<String>,
}

/// All groups. See the module page.
pub struct Followed {
    source: Box<dyn CarpSource>,
    members: BTreeMap<Group, Member>,
}

impl Followed {
    /// Without any group.
    #[must_use]
    pub fn new(source: Box<dyn CarpSource>) -> Followed {
        Followed { source, members: BTreeMap::new() }
    }

    /// The groups are these from now on; a new one is [`Role::Init`] until it is looked at.
    pub fn steer(&mut self, carp: &Carp, now: Instant) {
        let mut before = std::mem::take(&mut self.members);
        let certain = self.source.is_certain();
        for CarpGroup { group, address, interval, .. } in &carp.groups {
            let new = || Member {
                address: *address,
                role: Role::Init,
                why: None,
                since: now,
                changes: 0,
                interval: None,
                configured: None,
                notified: None,
                asks: None,
                doubt: (carp.sync.is_some() && !certain).then_some(Doubt::Until(now + PATIENCE)),
            };
            let kept = before.remove(group).unwrap_or_else(new);
            self.members.insert(group.clone(), Member { address: *address, configured: *interval, ..kept });
        }
    }

    /// Looks what all roles are now, and tells those that have changed. `partner`: what the partner is in a group, if it has said.
    pub fn look(
        &mut self,
        host: &HostState,
        partner: impl Fn(&Group) -> Option<Role>,
        now: Instant,
    ) -> Vec<Turn> {
        self.source.drain();
        let mut turns = Vec::new();
        for (group, member) in &mut self.members {
            member.asks = None;
            let (to, why) = match (link_trouble(group, host), member.notified) {
                (Some(why), _) => (Role::Init, Some(why)),
                (None, Some(notified)) => (notified, None),
                (None, None) => match self.source.role(group, member.address, host) {
                    Ok(Role::Master) => member.believe(partner(group), now),
                    Ok(role) => {
                        // An address that comes now has been put there.
                        member.doubt = None;
                        (role, None)
                    }
                    Err(why) => (Role::Init, Some(why)),
                },
            };
            member.interval = self.source.interval(group).or(member.configured);
            member.why.clone_from(&why);
            let from = member.role;
            if from != to {
                (member.role, member.since) = (to, now);
                member.changes += 1;
                turns.push(Turn { group: group.clone(), from, to, why });
            }
        }
        turns
    }

    /// Groups whose addresses are here, and of which the partner has not said yet what it is.
    pub fn doubted(&self) -> impl Iterator<Item = &Group> {
        self.members.iter().filter(|(_, member)| member.asks.is_some()).map(|(group, _)| group)
    }

    /// Does what the partner says matter to a role?
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.members.values().any(|member| member.doubt.is_some())
    }

    /// When one is to be looked at although nothing has happened.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.members.values().filter_map(|member| member.asks).min()
    }

    /// Somebody says what the role is, and is believed from now on.
    ///
    /// # Errors
    /// There is no such group, in words.
    pub fn notify(&mut self, group: &Group, role: Role) -> Result<(), String> {
        let member = self.members.get_mut(group);
        let none = || format!("there is no group {group} here; [[carp.group]] names those that there are");
        member.ok_or_else(none)?.notified = Some(role);
        Ok(())
    }

    /// The role in a group; [`Role::Init`] in one that is not known.
    #[must_use]
    pub fn role(&self, group: &Group) -> Role {
        self.members.get(group).map_or(Role::Init, |member| member.role)
    }

    /// All groups.
    pub fn members(&self) -> impl Iterator<Item = (&Group, &Member)> {
        self.members.iter()
    }

    /// Readable when there may be something to look at.
    #[must_use]
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.source.wait_fd().filter(|_| !self.members.is_empty())
    }

    /// Is it readable now?
    #[must_use]
    pub fn is_told(&self) -> bool {
        let Some(fd) = self.wait_fd() else { return false };
        // Where that fails, there will be a look anyway.
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl Member {
    /// The address is here. `partner`: what the partner is, if it has said.
    fn believe(&mut self, partner: Option<Role>, now: Instant) -> (Role, Option<String>) {
        let left_over = || {
            let address = self.address;
            Some(format!(
                "{address} was here before, and the other router is master: start ucarp again, or take it away"
            ))
        };
        match (self.doubt, partner) {
            (None, _) => (Role::Master, None),
            (Some(_), Some(Role::Master)) | (Some(Doubt::LeftOver), None) => {
                let why = left_over();
                self.doubt = Some(Doubt::LeftOver);
                (Role::Backup, why)
            }
            (Some(Doubt::Until(until)), None) if now < until => {
                self.asks = Some(until);
                (Role::Init, Some(format!("{} was here before: the other router is asked", self.address)))
            }
            (Some(_), _) => {
                self.doubt = None;
                (Role::Master, None)
            }
        }
    }
}

/// Why nobody can hold an address on the group's interface.
fn link_trouble(group: &Group, host: &HostState) -> Option<String> {
    match host.link_named(&group.interface) {
        None => Some(format!("there is no interface {}", group.interface)),
        Some((_, link)) if !link.up => Some(format!("{} is down", group.interface)),
        Some((_, link)) if !link.carrier => Some(format!("{} has no signal", group.interface)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests;
