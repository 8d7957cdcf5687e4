//! The kernel's own routing socket and sysctls.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use netmap_sys::{
    AF_INET, AF_INET6, CTL_NET, NET_RT_DUMP, NET_RT_FLAGS, NET_RT_IFLISTL, PF_ROUTE, RTF_LLINFO,
    open_route_socket, read_sysctl,
};

use super::{LinkIndex, PfRouteSource, RoutingSocket, SysctlTable};
use crate::routes::SourceError;

/// What is sent there is thrown away (RFC 863).
const DISCARD: u16 = 9;
/// A table that grows while it is read is read again, this often in a row.
const ATTEMPTS: usize = 8;

/// A routing socket of the kernel that the program runs on.
#[derive(Debug)]
pub struct KernelSocket(File);

impl PfRouteSource<KernelSocket> {
    /// Opens a routing socket.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open() -> Result<Self, SourceError> {
        let socket = open_route_socket().map_err(SourceError::Open)?;
        Ok(PfRouteSource::new(KernelSocket(File::from(socket))))
    }
}

impl RoutingSocket for KernelSocket {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    fn table(&mut self, table: SysctlTable) -> io::Result<Vec<u8>> {
        let (family, what, flags) = match table {
            SysctlTable::Interfaces => (0, NET_RT_IFLISTL, 0),
            SysctlTable::Routes => (0, NET_RT_DUMP, 0),
            SysctlTable::Arp => (i32::from(AF_INET), NET_RT_FLAGS, RTF_LLINFO),
            SysctlTable::Ndp => (i32::from(AF_INET6), NET_RT_FLAGS, RTF_LLINFO),
        };
        let name = [CTL_NET, PF_ROUTE, 0, family, what, flags];
        for _ in 0..ATTEMPTS {
            // Room for what may come between the two calls.
            let room = read_sysctl(&name, &mut [])?;
            let mut bytes = vec![0; room.saturating_add(room / 4).saturating_add(4096)];
            match read_sysctl(&name, &mut bytes) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
                result => {
                    bytes.truncate(result?);
                    return Ok(bytes);
                }
            }
        }
        Err(io::Error::other("it grows faster than it can be read"))
    }

    fn poke(&mut self, link: LinkIndex, address: IpAddr) -> io::Result<()> {
        let (any, to): (IpAddr, SocketAddr) = match address {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), (address, DISCARD).into()),
            IpAddr::V6(address) => {
                let scope = if address.is_unicast_link_local() { link } else { 0 };
                (Ipv6Addr::UNSPECIFIED.into(), SocketAddrV6::new(address, DISCARD, 0, scope).into())
            }
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        if address.is_ipv4() {
            // Where the station is on no link after all, the packet goes nowhere.
            socket.set_ttl(1)?;
        }
        socket.send_to(&[], to).map(drop)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
