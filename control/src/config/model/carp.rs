//! What `[carp]` says, as types.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::{Certified, Secret};
use crate::config::report::Position;
use crate::config::values;

/// `[carp]`: the pair of routers that this one belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Carp {
    /// Which of the two this one is.
    pub router: Router,
    /// `[[carp.group]]`, in the order of the files.
    pub groups: Vec<CarpGroup>,
    /// How long a router is not ready after its start, whatever else there is.
    pub ready_after: Duration,
    /// How long an end that is asked for waits until this router is not master any more. Nothing: it hands nothing over.
    pub yield_on_stop: Duration,
    /// `[[carp.hook]]`, in the order of the files.
    pub hooks: Vec<CarpHook>,
    /// `[[carp.check]]`, in the order of the files.
    pub checks: Vec<CarpCheck>,
    /// `[carp.sync]`; `None`: the two tell each other nothing.
    pub sync: Option<Sync>,
    /// Where the table stands; `None` where the configuration has none.
    pub at: Option<Position>,
}

/// `[[carp.hook]]`: a command that runs when something has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct CarpHook {
    /// For what: at least one, none twice.
    pub on: Vec<HookEvent>,
    /// The program, by its whole path, and its arguments.
    pub command: Vec<String>,
    /// How long it may run.
    pub timeout: Duration,
    /// Where the entry stands.
    pub at: Position,
}

/// What a hook runs for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HookEvent {
    /// This router holds a group's address now.
    Master,
    /// Another one may hold it.
    Backup,
    /// Its interface is down.
    Init,
    /// This router is ready to be master.
    Ready,
    /// It is not, or not any more.
    Unready,
}

impl HookEvent {
    /// All, by the names that the configuration has for them.
    pub const ALL: [(&'static str, HookEvent); 5] = [
        ("master", HookEvent::Master),
        ("backup", HookEvent::Backup),
        ("init", HookEvent::Init),
        ("ready", HookEvent::Ready),
        ("unready", HookEvent::Unready),
    ];

    /// What the configuration calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        HookEvent::ALL.iter().find(|(_, event)| *event == self).map_or("master", |(name, _)| name)
    }
}

/// `[[carp.check]]`: a command that says whether the router is ready to be master, by how it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct CarpCheck {
    /// What people call it; no other check has it.
    pub name: String,
    /// The program, by its whole path, and its arguments.
    pub command: Vec<String>,
    /// How long after its end it is run again.
    pub every: Duration,
    /// How long it may run.
    pub timeout: Duration,
    /// So many failures in a row are one, after it has passed.
    pub failures: u32,
    /// Where the entry stands.
    pub at: Position,
}

/// `[carp.sync]`: the connection to the other router of the pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Sync {
    /// Where this router is: it listens there, and connects from that address.
    pub listen: SocketAddr,
    /// Where the other router listens, of the same family.
    pub partner: SocketAddr,
    /// How the two prove to each other who they are.
    pub proof: SyncProof,
    /// How often each says that it is there: 50 ms to 1 min.
    pub heartbeat: Duration,
    /// How long the other may be silent before it is taken for dead: at least twice `heartbeat`, at most 10 min.
    pub dead: Duration,
    /// Where the table stands.
    pub at: Position,
}

impl Sync {
    /// The same, wherever it stands.
    #[must_use]
    pub fn is_like(&self, other: &Sync) -> bool {
        *self == Sync { at: self.at.clone(), ..other.clone() }
    }
}

impl SyncProof {
    /// What is shown of it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            SyncProof::Secret(_) => "secret",
            SyncProof::Certificate { .. } => "certificate",
        }
    }
}

/// How the two routers of a pair prove to each other who they are.
#[derive(Clone, Debug, PartialEq)]
pub enum SyncProof {
    /// By a secret that both have: the bytes of the file, without the line end behind them. At least 32.
    Secret(Secret),
    /// Both by certificates.
    Certificate {
        /// Ours.
        own: Certified,
        /// The certificates of those who may sign the partner's, in DER. Never empty.
        cas: Vec<Vec<u8>>,
        /// The partner's name, which its certificate has to have: a DNS name or an IP address.
        partner_name: String,
    },
}

/// Which of a pair of routers. The two may send with the same key, each in its own part of the IVs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Router {
    /// The one, or a router without a partner.
    #[default]
    First,
    /// The other.
    Second,
}

impl Router {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Router::First => "first",
            Router::Second => "second",
        }
    }
}

/// `[[carp.group]]`: a virtual address that routers share.
#[derive(Clone, Debug, PartialEq)]
pub struct CarpGroup {
    /// What tells it from others.
    pub group: Group,
    /// The virtual address.
    pub address: IpAddr,
    /// The time between this router's advertisements, in 1/256 s, by `advbase` and `advskew`; `None`: neither is said.
    pub interval: Option<u16>,
    /// Where the entry stands.
    pub at: Position,
}

/// A virtual host of CARP (or VRRP's virtual router) on an interface.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Group {
    /// CARP's virtual host ID, 1 to 255.
    pub vhid: u8,
    /// The interface that carries it.
    pub interface: String,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.vhid, self.interface)
    }
}

impl FromStr for Group {
    type Err = String;

    /// # Errors
    /// It is not `VHID@IF`, in words.
    fn from_str(text: &str) -> Result<Group, String> {
        values::group(text).map_err(|fault| format!("{}; {}", fault.why, fault.remedy))
    }
}
