//! FreeBSD: the capabilities of an interface, all of which are set at once.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use bytemuck::Zeroable;
use netmap_sys::{
    IFCAP_LRO, IFCAP_RXCSUM, IFCAP_RXCSUM_IPV6, IFCAP_TSO4, IFCAP_TSO6, IFCAP_TXCSUM, IFCAP_TXCSUM_IPV6,
    IFCAP_VLAN_HWCSUM, IFCAP_VLAN_HWTAGGING, IFCAP_VLAN_HWTSO, IFCAP_VXLAN_HWCSUM, IFCAP_VXLAN_HWTSO,
    IoctlRequest, SIOCGIFCAP, SIOCSIFCAP, ifreq,
};

use super::{Card, Offloads, interface_name};

/// The capabilities that change frames, by the names that ifconfig(8) has for them.
pub(super) const NAMES: &[(u32, &str)] = &[
    (IFCAP_RXCSUM, "rxcsum"),
    (IFCAP_TXCSUM, "txcsum"),
    (IFCAP_RXCSUM_IPV6, "rxcsum6"),
    (IFCAP_TXCSUM_IPV6, "txcsum6"),
    (IFCAP_TSO4, "tso4"),
    (IFCAP_TSO6, "tso6"),
    (IFCAP_LRO, "lro"),
    (IFCAP_VLAN_HWTAGGING, "vlanhwtag"),
    (IFCAP_VLAN_HWCSUM, "vlanhwcsum"),
    (IFCAP_VLAN_HWTSO, "vlanhwtso"),
    (IFCAP_VXLAN_HWCSUM, "vxlanhwcsum"),
    (IFCAP_VXLAN_HWTSO, "vxlanhwtso"),
];

/// An interface, reached through a socket.
pub(in crate::ring) struct Interface {
    socket: UdpSocket,
    request: ifreq,
}

impl Interface {
    pub(in crate::ring) fn open(name: &str) -> io::Result<Interface> {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)))?;
        Ok(Interface { socket, request: ifreq { ifr_name: interface_name(name)?, ..Zeroable::zeroed() } })
    }

    fn call(&self, number: IoctlRequest, request: &mut ifreq) -> io::Result<()> {
        // SAFETY: both requests that this is called with take an `ifreq`.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), number, request as *mut ifreq) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Capabilities that the interface can have, and those that are on.
    pub(in crate::ring) fn capabilities(&self) -> io::Result<(u32, u32)> {
        let mut request = self.request;
        self.call(SIOCGIFCAP, &mut request)?;
        Ok((request.ifr_reqcap as u32, request.ifr_curcap as u32))
    }
}

impl Card for Interface {
    fn active(&self) -> io::Result<Offloads> {
        Ok(Offloads(self.capabilities()?.1))
    }

    fn switch(&self, offloads: Offloads, on: bool) -> io::Result<()> {
        let (possible, current) = self.capabilities()?;
        let wanted = if on { current | offloads.0 } else { current & !offloads.0 } & possible;
        if wanted == current {
            return Ok(());
        }
        let mut request = ifreq { ifr_reqcap: wanted as i32, ..self.request };
        self.call(SIOCSIFCAP, &mut request)
    }
}
