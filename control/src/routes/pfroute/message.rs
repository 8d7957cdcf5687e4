//! The messages of FreeBSD's routing sockets and sysctls (route(4)) as values. A message is:
//! 1. a header whose first four bytes are the same in all kinds: length, version, kind;
//! 2. socket addresses, as many as the header has bits for them, each rounded up to eight bytes.
//!
//! Pure, over bytes, and compiled on every system.

use crate::datagram::{Damaged, read, split_all};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_engine::fib::Prefix;
use culvert_engine::wire::ethernet::MacAddr;
use netmap_sys::{
    AF_INET, AF_INET6, AF_LINK, IFF_POINTOPOINT, IFF_UP, IFT_BRIDGE, IFT_ETHER, IFT_IEEE8023ADLAG,
    IFT_L2VLAN, IFT_LOOP, IFT_TUNNEL, LINK_STATE_DOWN, RTA_BRD, RTA_DST, RTA_GATEWAY, RTA_IFA, RTA_IFP,
    RTA_NETMASK, RTF_BLACKHOLE, RTF_BROADCAST, RTF_GATEWAY, RTF_HOST, RTF_LLINFO, RTF_MULTICAST, RTF_PINNED,
    RTF_REJECT, RTF_STATIC, RTM_VERSION, if_data, if_msghdrl, ifa_msghdrl, rt_msghdr,
};

use crate::routes::state::{
    Address, Link, LinkIndex, Neighbour, NeighbourKey, NextHop, RouteKind, prefix_around,
};

/// A message, its header not yet read beyond what all kinds share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u8,
    pub(crate) bytes: &'a [u8],
}

/// The messages in `bytes`, in order; damage ends them.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Damaged>> {
    split_all(bytes, split_message)
}

fn split_message<'a>(rest: &mut &'a [u8]) -> Result<Message<'a>, Damaged> {
    let (&[l0, l1, version, kind], _) = rest.split_first_chunk().ok_or(Damaged)?;
    let length = usize::from(u16::from_ne_bytes([l0, l1]));
    if length < 4 || version != RTM_VERSION {
        return Err(Damaged);
    }
    let (bytes, others) = rest.split_at_checked(length).ok_or(Damaged)?;
    *rest = others;
    Ok(Message { kind, bytes })
}

/// The socket addresses of a message, without the padding between them.
#[derive(Debug, Default)]
struct Addresses<'a> {
    destination: Option<&'a [u8]>,
    gateway: Option<&'a [u8]>,
    mask: Option<&'a [u8]>,
    interface: Option<&'a [u8]>,
    own: Option<&'a [u8]>,
    far: Option<&'a [u8]>,
}

/// Splits the socket addresses that `bits` (`RTA_*`) announces. `SA_SIZE` of `<net/route.h>`: an address takes a multiple of
/// eight bytes, and at least eight. The padding of the last may be missing.
fn addresses(bits: i32, bytes: &[u8]) -> Result<Addresses<'_>, Damaged> {
    let mut found = Addresses::default();
    let mut rest = bytes;
    for bit in (0..8).map(|place| 1 << place).filter(|bit| bits & bit != 0) {
        let length = usize::from(*rest.first().ok_or(Damaged)?);
        let address = rest.get(..length).ok_or(Damaged)?;
        rest = rest.get(length.max(1).next_multiple_of(8)..).unwrap_or_default();
        match bit {
            RTA_DST => found.destination = Some(address),
            RTA_GATEWAY => found.gateway = Some(address),
            RTA_NETMASK => found.mask = Some(address),
            RTA_IFP => found.interface = Some(address),
            RTA_IFA => found.own = Some(address),
            RTA_BRD => found.far = Some(address),
            _ => {}
        }
    }
    Ok(found)
}

/// The IP address in a socket address. The link that FreeBSD keeps in the second group of link-local ones inside the
/// kernel, and sometimes outside, is not part of it.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match *bytes.get(1)? {
        AF_INET => Some(Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?).into()),
        AF_INET6 => {
            let mut octets = *bytes.get(8..)?.first_chunk::<16>()?;
            if Ipv6Addr::from(octets).is_unicast_link_local() {
                [octets[2], octets[3]] = [0, 0];
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// The length of a mask for addresses of this family. Masks may be cut short: what is missing is zero. `None`: it has holes.
fn mask_len(family: IpAddr, mask: &[u8]) -> Option<u8> {
    let (start, bits) = if family.is_ipv4() { (4, 32) } else { (8, 128) };
    let octets = mask.get(start..).unwrap_or_default();
    let mut value = octets.iter().take(bits / 8).fold(0_u128, |value, octet| value << 8 | u128::from(*octet));
    let missing = (bits / 8).saturating_sub(octets.len());
    value = value.checked_shl(8 * missing as u32).unwrap_or(0);
    // To the top of the 128 bits.
    value = value.checked_shl(128 - bits as u32).unwrap_or(0);
    (value << value.leading_ones().min(127) == 0 || value == u128::MAX).then_some(value.leading_ones() as u8)
}

/// What a [`netmap_sys::sockaddr_dl`] says.
struct LinkAddress<'a> {
    index: LinkIndex,
    name: &'a [u8],
    address: &'a [u8],
}

fn link_address(bytes: &[u8]) -> Option<LinkAddress<'_>> {
    let (&[_, family, i0, i1, _, name_len, address_len, _], data) = bytes.split_first_chunk::<8>()?;
    let (name, data) = data.split_at_checked(name_len.into())?;
    let address = data.get(..address_len.into())?;
    let index = u16::from_ne_bytes([i0, i1]).into();
    (family == AF_LINK).then_some(LinkAddress { index, name, address })
}

/// An Ethernet address that is one station's.
fn mac(address: &[u8]) -> Option<MacAddr> {
    let mac = MacAddr(address.try_into().ok()?);
    (!mac.is_multicast() && mac != MacAddr::default()).then_some(mac)
}

/// An interface, from the sysctl.
pub(crate) fn link(message: Message<'_>) -> Result<(LinkIndex, Link), Damaged> {
    let header: if_msghdrl = read(message.bytes)?;
    let data: if_data = read(message.bytes.get(header.ifm_data_off.into()..).ok_or(Damaged)?)?;
    let rest = message.bytes.get(header.ifm_len.into()..).ok_or(Damaged)?;
    let name = addresses(header.ifm_addrs, rest)?.interface.and_then(link_address).ok_or(Damaged)?;
    let link = Link {
        name: std::str::from_utf8(name.name).map_err(|_| Damaged)?.to_owned(),
        mac: mac(name.address),
        mtu: data.ifi_mtu,
        up: header.ifm_flags & IFF_UP != 0,
        // Drivers that cannot tell say "unknown".
        carrier: data.ifi_link_state != LINK_STATE_DOWN,
        kind: link_kind(data.ifi_type).map(str::to_owned),
    };
    Ok((header.ifm_index.into(), link))
}

fn link_kind(kind: u8) -> Option<&'static str> {
    match kind {
        IFT_ETHER => Some("ethernet"),
        IFT_LOOP => Some("loopback"),
        IFT_TUNNEL => Some("tunnel"),
        IFT_L2VLAN => Some("vlan"),
        IFT_IEEE8023ADLAG => Some("lagg"),
        IFT_BRIDGE => Some("bridge"),
        _ => None,
    }
}

/// An address, from the sysctl, and the far end's where `flags` of its interface say that there is one. `Ok(None)`: it is not an IP address.
pub(crate) fn address(message: Message<'_>, flags: i32) -> Result<Option<Address>, Damaged> {
    let header: ifa_msghdrl = read(message.bytes)?;
    let rest = message.bytes.get(header.ifam_len.into()..).ok_or(Damaged)?;
    let found = addresses(header.ifam_addrs, rest)?;
    let Some(address) = found.own.and_then(ip) else { return Ok(None) };
    let prefix_len = found.mask.and_then(|mask| mask_len(address, mask)).ok_or(Damaged)?;
    let far = found.far.and_then(ip).filter(|far| flags & IFF_POINTOPOINT != 0 && *far != address);
    let peer = far.filter(|far| !far.is_unspecified());
    Ok(Some(Address { link: header.ifam_index.into(), address, prefix_len, peer }))
}

/// The flags of the interface in an interface's message.
pub(crate) fn link_flags(message: Message<'_>) -> Result<i32, Damaged> {
    read::<if_msghdrl>(message.bytes).map(|header| header.ifm_flags)
}

/// One next hop of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoutePart {
    pub(crate) prefix: Prefix,
    pub(crate) kind: RouteKind,
    pub(crate) hop: NextHop,
}

/// The header of a message about a route or a station.
pub(crate) fn route_header(message: Message<'_>) -> Result<rt_msghdr, Damaged> {
    read(message.bytes)
}

/// What a message about a route says. `Ok(None)`: it is about a group, a broadcast address, a link-local prefix, a station or
/// another protocol.
pub(crate) fn route(message: Message<'_>) -> Result<Option<RoutePart>, Damaged> {
    let header: rt_msghdr = read(message.bytes)?;
    let flags = header.rtm_flags;
    if flags & (RTF_MULTICAST | RTF_BROADCAST | RTF_LLINFO) != 0 {
        return Ok(None);
    }
    let found = addresses(header.rtm_addrs, message.bytes.get(size_of::<rt_msghdr>()..).ok_or(Damaged)?)?;
    let Some(destination) = found.destination.and_then(ip) else { return Ok(None) };
    let link_local = matches!(destination, IpAddr::V6(address) if address.is_unicast_link_local());
    if destination.is_multicast() || link_local {
        return Ok(None);
    }
    let prefix = match found.mask.filter(|_| flags & RTF_HOST == 0) {
        None => destination.into(),
        Some(mask) => {
            let length = mask_len(destination, mask).ok_or(Damaged)?;
            prefix_around(destination, length).ok_or(Damaged)?
        }
    };
    let kind = match flags {
        flags if flags & RTF_BLACKHOLE != 0 => RouteKind::Blackhole,
        flags if flags & RTF_REJECT != 0 => RouteKind::Unreachable,
        _ => RouteKind::Unicast,
    };
    let gateway = found.gateway.filter(|_| flags & RTF_GATEWAY != 0).and_then(ip);
    let named = found.gateway.and_then(link_address).map(|it| it.index);
    let link = Some(header.rtm_index.into()).filter(|index| *index != 0).or(named).unwrap_or_default();
    let weight = u32::try_from(header.rtm_rmx.rmx_weight).unwrap_or(u32::MAX).max(1);
    Ok(Some(RoutePart { prefix, kind, hop: NextHop { weight, ..NextHop::new(link, gateway) } }))
}

/// What a message about a station says. `Ok(None)`: it is one of the host itself, or of another protocol.
pub(crate) fn neighbour(message: Message<'_>) -> Result<Option<(NeighbourKey, Neighbour)>, Damaged> {
    let header: rt_msghdr = read(message.bytes)?;
    let found = addresses(header.rtm_addrs, message.bytes.get(size_of::<rt_msghdr>()..).ok_or(Damaged)?)?;
    let own = header.rtm_flags & RTF_PINNED != 0;
    let Some(address) = found.destination.and_then(ip).filter(|address| !own && !address.is_multicast())
    else {
        return Ok(None);
    };
    let station = found.gateway.and_then(link_address).ok_or(Damaged)?;
    let link = if header.rtm_index != 0 { header.rtm_index.into() } else { station.index };
    let permanent = header.rtm_flags & RTF_STATIC != 0;
    Ok(Some(((link, address), Neighbour { mac: mac(station.address), permanent })))
}
