//! What has to be known of a network interface before it is opened: its number, address, MTU and queues.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::XdpError;

/// `ARPHRD_ETHER` (`<linux/if_arp.h>`)
const ETHERNET: u16 = 1;
/// `ETHTOOL_GCHANNELS` (`<linux/ethtool.h>`)
const GET_CHANNELS: u32 = 0x3c;

/// `ETHTOOL_GFLAGS`, and its flag for taking VLAN tags off (`ETH_FLAG_RXVLAN`).
const GET_FLAGS: u32 = 0x25;
const FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// An Ethernet interface.
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    /// Bytes of IP in a frame.
    pub(super) mtu: u32,
    /// Receive queues in use.
    pub(super) queues: u32,
}

impl Interface {
    pub(super) fn find(name: &str) -> Result<Interface, XdpError> {
        let missing = || XdpError::NoInterface { interface: name.to_owned() };
        let system = |source| XdpError::System { what: "asking for the interface's address", source };
        let c_name = CString::new(name).map_err(|_| missing())?;
        if name.len() >= libc::IFNAMSIZ {
            return Err(missing());
        }
        // SAFETY: a string that ends with a zero.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(missing());
        }
        let socket = control_socket().map_err(system)?;
        let mut request = request_for(name);
        ioctl(&socket, libc::SIOCGIFHWADDR, &mut request).map_err(system)?;
        // SAFETY: the kernel has just written this member.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        if address.sa_family != ETHERNET {
            return Err(XdpError::NotEthernet { interface: name.to_owned() });
        }
        let mac = std::array::from_fn(|n| address.sa_data.get(n).map_or(0, |byte| *byte as u8));
        let mut request = request_for(name);
        ioctl(&socket, libc::SIOCGIFMTU, &mut request).map_err(system)?;
        // SAFETY: the kernel has just written this member.
        let mtu = u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0);
        let queues = channels(&socket, name).unwrap_or_else(|| queue_folders(name)).max(1);
        Ok(Interface { name: name.to_owned(), index, mac, mtu, queues })
    }
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: a plain call.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: integers and a union of them and of pointers, for all of which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl(socket: &OwnedFd, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: all numbers used here take an ifreq; an address in it is valid for what the request writes.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), number as _, &raw mut *request) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receive queues by the driver's word, which not every driver gives.
fn channels(socket: &OwnedFd, name: &str) -> Option<u32> {
    let mut channels = Channels { command: GET_CHANNELS, ..Channels::default() };
    let mut request = request_for(name);
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    ioctl(socket, libc::SIOCETHTOOL, &mut request).ok()?;
    channels.combined.checked_add(channels.rx)
}

/// Receive queues by what the system shows of the interface.
fn queue_folders(name: &str) -> u32 {
    let Ok(entries) = std::fs::read_dir(format!("/sys/class/net/{name}/queues")) else { return 0 };
    let rx = entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"rx-"));
    u32::try_from(rx.count()).unwrap_or(0)
}

/// Does the device take VLAN tags off what it receives?
pub(super) fn strips_tags(name: &str) -> io::Result<bool> {
    let socket = control_socket()?;
    let mut value = Value { command: GET_FLAGS, data: 0 };
    let mut request = request_for(name);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    ioctl(&socket, libc::SIOCETHTOOL, &mut request)?;
    Ok(value.data & FLAG_RXVLAN != 0)
}

/// Makes the interface receive frames to whatever station, until the descriptor is closed.
pub(super) fn promiscuous(index: u32) -> io::Result<OwnedFd> {
    // SAFETY: a plain call; with protocol 0 the socket receives nothing.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let membership = libc::packet_mreq {
        mr_ifindex: index as libc::c_int,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: a whole packet_mreq.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const membership).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
