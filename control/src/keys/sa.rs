//! Security associations (SAs) as their source tells of them: what charon negotiated, before the engine has made anything of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{Direction, Mode, Secret, Suite, UdpEncap};

/// What an SA is known by (RFC 4301 section 4.1): its SPI, and the address that its packets go to. Each direction has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The SPI, in host byte order.
    pub spi: u32,
    /// The address.
    pub at: IpAddr,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SA {:#010x} at {}", self.spi, self.at)
    }
}

/// Where an SA's packets come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Their source.
    pub source: IpAddr,
    /// Their destination.
    pub destination: IpAddr,
    /// The UDP ports, where they go in UDP (RFC 3948).
    pub udp: Option<UdpEncap>,
}

impl Ends {
    /// Between two sockets, whose ports mean something where `encap` is true.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, encap: bool) -> Ends {
        let udp = encap.then_some(UdpEncap { source: source.port(), destination: destination.port() });
        Ends { source: source.ip(), destination: destination.ip(), udp }
    }
}

/// When an SA is to be replaced, and when it ends; `None` for never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Time until it ends.
    pub life: Option<Duration>,
    /// Time after which it is to be replaced, where whoever tells of it does not see to that (kernels do).
    pub rekey: Option<Duration>,
    /// Bytes after which it is to be replaced.
    pub rekey_bytes: Option<u64>,
    /// Packets after which it is to be replaced.
    pub rekey_packets: Option<u64>,
    /// Bytes after which nothing is sent with it.
    pub bytes: Option<u64>,
    /// Packets after which nothing is sent with it.
    pub packets: Option<u64>,
}

impl Limits {
    /// A life of so many seconds, but no more than a century: lives are added to the clock, which holds only so much.
    #[must_use]
    pub fn lasting(seconds: u64) -> Duration {
        Duration::from_secs(seconds.min(100 * 365 * 24 * 3600))
    }
}

/// Who tells of an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The plugin in charon.
    Plugin,
    /// The kernel, by XFRM (Linux).
    Xfrm,
    /// The kernel, by PF_KEY (FreeBSD).
    PfKey,
    /// The other router of a pair, whose strongSwan has negotiated it.
    Partner,
}

impl Origin {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Origin::Plugin => "plugin",
            Origin::Xfrm => "xfrm",
            Origin::PfKey => "pfkey",
            Origin::Partner => "partner",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Plugin => "charon, by its plugin for Culvert",
            Origin::Xfrm => "the kernel, by XFRM",
            Origin::PfKey => "the kernel, by PF_KEY",
            Origin::Partner => "the other router of the pair",
        })
    }
}

/// An SA.
#[derive(Debug, Clone)]
pub struct Sa {
    /// What it is known by.
    pub id: Id,
    /// Who tells of it.
    pub origin: Origin,
    /// Which way its packets go; `None` where the source does not say, and its ends tell.
    pub direction: Option<Direction>,
    /// Where they come from and go to.
    pub ends: Ends,
    /// The number that tells which tunnel it is for.
    pub reqid: u32,
    /// Transport or tunnel mode.
    pub mode: Mode,
    /// The cipher.
    pub suite: Suite,
    /// The cipher key, with the salt behind it: as long as the suite wants them.
    pub key: Secret,
    /// The replay window, in packets.
    pub window: u32,
    /// Do its sequence numbers have 64 bits?
    pub esn: bool,
    /// May we send with it as soon as it is there? Else the far end may not have its half yet.
    pub ready: bool,
    /// When it ends.
    pub limits: Limits,
}

/// What a source tells.
#[derive(Debug, Clone)]
pub enum Change {
    /// An SA that has just been negotiated, and that nobody has used.
    Added(Sa),
    /// An SA that was there before we listened.
    Found(Sa),
    /// Its packets come from or go to another place.
    Moved(Id, Ends),
    /// It is no more.
    Removed(Id),
    /// There is an SA of that reqid that nothing can be done with, for this reason.
    Unusable {
        /// The number that tells which tunnel it is for.
        reqid: u32,
        /// The reason, for the operator.
        why: String,
    },
    /// None of that origin is any more.
    Flushed(Origin),
    /// The source begins to tell anew of all that there are.
    Begins(Origin),
    /// It has told of all: what it has not told of is not there.
    Synchronised(Origin),
    /// It cannot tell of all: what it has not told of may be there.
    Cut(Origin),
}
