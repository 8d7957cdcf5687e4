//! Linux: ethtool's requests, one for each offload.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use bytemuck::{Pod, Zeroable};
use netmap_sys::{
    ETH_FLAG_LRO, ETH_FLAG_RXVLAN, ETH_FLAG_TXVLAN, ETHTOOL_GDRVINFO, ETHTOOL_GFLAGS, ETHTOOL_GGRO,
    ETHTOOL_GGSO, ETHTOOL_GRXCSUM, ETHTOOL_GTSO, ETHTOOL_GTXCSUM, ETHTOOL_SFLAGS, ETHTOOL_SGRO, ETHTOOL_SGSO,
    ETHTOOL_SRXCSUM, ETHTOOL_STSO, ETHTOOL_STXCSUM, ethtool_drvinfo, ethtool_value,
};

use super::{Card, Offloads, interface_name};

const RX_CHECKSUM: u32 = 1;
const TX_CHECKSUM: u32 = 1 << 1;
const TSO: u32 = 1 << 2;
const GSO: u32 = 1 << 3;
const GRO: u32 = 1 << 4;
const LRO: u32 = 1 << 5;
const RX_VLAN: u32 = 1 << 6;
const TX_VLAN: u32 = 1 << 7;

/// By the names that `ethtool -K` has for them.
pub(super) const NAMES: &[(u32, &str)] = &[
    (RX_CHECKSUM, "rx"),
    (TX_CHECKSUM, "tx"),
    (TSO, "tso"),
    (GSO, "gso"),
    (GRO, "gro"),
    (LRO, "lro"),
    (RX_VLAN, "rxvlan"),
    (TX_VLAN, "txvlan"),
];

/// Offloads with a pair of requests of their own. Switched on in this order: the kernel refuses TSO without checksums.
const SWITCHES: [(u32, u32, u32); 5] = [
    (RX_CHECKSUM, ETHTOOL_GRXCSUM, ETHTOOL_SRXCSUM),
    (TX_CHECKSUM, ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM),
    (TSO, ETHTOOL_GTSO, ETHTOOL_STSO),
    (GSO, ETHTOOL_GGSO, ETHTOOL_SGSO),
    (GRO, ETHTOOL_GGRO, ETHTOOL_SGRO),
];

/// Offloads that are flags of one request.
const FLAGS: [(u32, u32); 3] = [(LRO, ETH_FLAG_LRO), (RX_VLAN, ETH_FLAG_RXVLAN), (TX_VLAN, ETH_FLAG_TXVLAN)];

/// An interface, reached through a socket.
pub(in crate::ring) struct Interface {
    socket: UdpSocket,
    name: [u8; netmap_sys::IFNAMSIZ],
}

impl Interface {
    pub(in crate::ring) fn open(name: &str) -> io::Result<Interface> {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)))?;
        Ok(Interface { socket, name: interface_name(name)? })
    }

    /// Has ethtool answer a request that begins with its number.
    fn call<T: Pod>(&self, body: &mut T) -> io::Result<()> {
        // SAFETY: all integers and unions of them, valid as zeros.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = std::ptr::from_mut(body).cast();
        // SAFETY: the request takes an `ifreq` whose data points to a body; the bodies used here are complete for the numbers
        // they begin with, and live until the call has returned.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// A number that ethtool tells; 0 where the driver knows nothing of it.
    fn get(&self, cmd: u32) -> io::Result<u32> {
        let mut body = ethtool_value { cmd, data: 0 };
        match self.call(&mut body) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(0),
            result => result.map(|()| body.data),
        }
    }

    /// Sets a number, as far as the driver lets it be set.
    fn set(&self, cmd: u32, data: u32) -> io::Result<()> {
        match self.call(&mut ethtool_value { cmd, data }) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(()),
            result => result,
        }
    }

    /// Name of the driver; `None` where there is none that says so.
    pub(in crate::ring) fn driver(&self) -> Option<String> {
        let mut body = ethtool_drvinfo { cmd: ETHTOOL_GDRVINFO, ..Zeroable::zeroed() };
        self.call(&mut body).ok()?;
        let name = body.driver.split(|byte| *byte == 0).next().unwrap_or_default();
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }
}

impl Card for Interface {
    fn active(&self) -> io::Result<Offloads> {
        let mut active = 0;
        for (bit, get, _) in SWITCHES {
            active |= if self.get(get)? != 0 { bit } else { 0 };
        }
        let flags = self.get(ETHTOOL_GFLAGS)?;
        let set = FLAGS.iter().filter(|(_, flag)| flags & flag != 0);
        Ok(Offloads(set.fold(active, |active, (bit, _)| active | bit)))
    }

    fn switch(&self, offloads: Offloads, on: bool) -> io::Result<()> {
        let named = SWITCHES.iter().filter(|(bit, ..)| offloads.0 & bit != 0);
        for (_, _, set) in named {
            self.set(*set, u32::from(on))?;
        }
        let before = self.get(ETHTOOL_GFLAGS)?;
        let named = FLAGS.iter().filter(|(bit, _)| offloads.0 & bit != 0);
        let flags = named.fold(before, |flags, (_, flag)| if on { flags | flag } else { flags & !flag });
        if flags == before { Ok(()) } else { self.set(ETHTOOL_SFLAGS, flags) }
    }
}
