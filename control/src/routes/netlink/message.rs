//! rtnetlink messages (linux/rtnetlink.h and its neighbours) as values, and the requests that ask for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_engine::wire::ethernet::MacAddr;

use crate::datagram::Damaged;
use crate::netlink::message::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, address_of, align, attributes, request, u32_of,
};
use crate::routes::state::{
    Address, Link, LinkIndex, Neighbour, NeighbourKey, NextHop, Route, RouteKey, RouteKind, prefix_around,
};

// linux/rtnetlink.h: kinds of messages.
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;
pub(crate) const RTM_GETNEIGH: u16 = 30;
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
pub(crate) const RTM_GETNEXTHOP: u16 = 106;

/// The table that routes stand in unless somebody says otherwise.
pub(crate) const RT_TABLE_MAIN: u32 = 254;

// linux/socket.h: address families.
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

// linux/if.h and linux/if_link.h.
const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

// linux/if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_OPTIMISTIC: u32 = 0x04;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;

// linux/rtnetlink.h: routes.
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_DEAD: u32 = 0x01;
const RTNH_F_ONLINK: u32 = 0x04;
const RTNH_F_LINKDOWN: u32 = 0x10;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BROADCAST: u8 = 3;
const RTN_ANYCAST: u8 = 4;
const RTN_MULTICAST: u8 = 5;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
const RTN_THROW: u8 = 9;

// linux/neighbour.h.
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 0x01;
const NTF_PROXY: u8 = 0x08;
/// Reachable, stale, delay, probe, noarp, permanent: the address on the link is known.
const NUD_VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;
const NUD_PERMANENT: u16 = 0x80;

// linux/nexthop.h.
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP: u16 = 8;
const NHA_FDB: u16 = 11;

/// An address of this family.
fn address_in(family: u8, value: &[u8]) -> Option<IpAddr> {
    address_of(value).filter(|address| address.is_ipv4() == (family == AF_INET))
}

/// An Ethernet address that is one station's.
fn mac_of(value: &[u8]) -> Option<MacAddr> {
    let mac = MacAddr(value.try_into().ok()?);
    (!mac.is_multicast() && mac != MacAddr::default()).then_some(mac)
}

fn text_of(value: &[u8]) -> Option<String> {
    let text = value.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// What a message about a link says. `Ok(None)`: it is about something else, such as a bridge's view of its ports.
pub(crate) fn link(payload: &[u8]) -> Result<Option<(LinkIndex, Link)>, Damaged> {
    let (&[family, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..], rest) =
        payload.split_first_chunk::<16>().ok_or(Damaged)?;
    if family != AF_UNSPEC {
        return Ok(None);
    }
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let mut link = Link {
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        kind: None,
    };
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_ADDRESS => link.mac = mac_of(value),
            IFLA_IFNAME => link.name = text_of(value).unwrap_or_default(),
            IFLA_MTU => link.mtu = u32_of(value).unwrap_or_default(),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.and_then(|(_, name)| text_of(name));
            }
            _ => {}
        }
    }
    Ok(Some((u32::from_ne_bytes([i0, i1, i2, i3]), link)))
}

/// What a message about an address says, and whether the address can be used: not while another station may have it too
/// (RFC 4862 section 5.4), unless it is optimistic (RFC 4429).
pub(crate) fn address(payload: &[u8]) -> Result<Option<(Address, bool)>, Damaged> {
    let (&[family, prefix_len, flags, _, i0, i1, i2, i3], rest) =
        payload.split_first_chunk::<8>().ok_or(Damaged)?;
    if family != AF_INET && family != AF_INET6 {
        return Ok(None);
    }
    let (mut local, mut peer, mut flags) = (None, None, u32::from(flags));
    for (kind, value) in attributes(rest) {
        match kind {
            IFA_LOCAL => local = address_in(family, value),
            IFA_ADDRESS => peer = address_in(family, value),
            IFA_FLAGS => flags = u32_of(value).unwrap_or(flags),
            _ => {}
        }
    }
    let address = local.or(peer).ok_or(Damaged)?;
    let usable =
        flags & IFA_F_DADFAILED == 0 && (flags & IFA_F_TENTATIVE == 0 || flags & IFA_F_OPTIMISTIC != 0);
    let peer = peer.filter(|peer| *peer != address);
    Ok(Some((Address { link: u32::from_ne_bytes([i0, i1, i2, i3]), address, prefix_len, peer }, usable)))
}

/// What a message about a route says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteMessage {
    pub(crate) key: RouteKey,
    pub(crate) route: Route,
    /// The next hop object that its hops are in, where the message names one.
    pub(crate) object: Option<u32>,
}

/// What a message about a route says. `Ok(None)`: it is about something else, such as a multicast route or the cache.
pub(crate) fn route(payload: &[u8]) -> Result<Option<RouteMessage>, Damaged> {
    let (&[family, length, source_length, tos, table, _, _, kind, f0, f1, f2, f3], rest) =
        payload.split_first_chunk::<12>().ok_or(Damaged)?;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    if (family != AF_INET && family != AF_INET6) || flags & RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let anywhere: IpAddr =
        if family == AF_INET { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (mut table, mut metric, mut destination, mut source, mut object) =
        (u32::from(table), 0, None, None, None);
    let mut selective = tos != 0 || source_length != 0;
    let mut several = None;
    for (kind, value) in attributes(rest) {
        match kind {
            RTA_DST => destination = Some(address_in(family, value).ok_or(Damaged)?),
            RTA_SRC => selective = true,
            RTA_PRIORITY => metric = u32_of(value).ok_or(Damaged)?,
            RTA_PREFSRC => source = address_in(family, value),
            RTA_TABLE => table = u32_of(value).ok_or(Damaged)?,
            RTA_NH_ID => object = u32_of(value),
            RTA_MULTIPATH => several = Some(multipath(family, value)?),
            _ => {}
        }
    }
    if destination.is_none() && length != 0 {
        return Err(Damaged);
    }
    let prefix = prefix_around(destination.unwrap_or(anywhere), length).ok_or(Damaged)?;
    let hops = several.unwrap_or_else(|| hop(family, None, flags, 1, rest).into_iter().collect());
    let route = Route { kind: route_kind(kind), hops, source, selective };
    Ok(Some(RouteMessage { key: RouteKey { table, prefix, metric }, route, object }))
}

fn route_kind(kind: u8) -> RouteKind {
    match kind {
        RTN_UNICAST => RouteKind::Unicast,
        RTN_LOCAL | RTN_ANYCAST | RTN_BROADCAST => RouteKind::Local,
        RTN_MULTICAST => RouteKind::Multicast,
        RTN_BLACKHOLE => RouteKind::Blackhole,
        RTN_UNREACHABLE => RouteKind::Unreachable,
        RTN_PROHIBIT => RouteKind::Prohibit,
        RTN_THROW => RouteKind::Throw,
        other => RouteKind::Other(other),
    }
}

/// The hop that these attributes describe, on `link` unless they name one; `None` where no link is named.
fn hop(family: u8, mut link: Option<LinkIndex>, flags: u32, weight: u32, bytes: &[u8]) -> Option<NextHop> {
    let (mut gateway, mut encapsulates) = (None, false);
    for (kind, value) in attributes(bytes) {
        match kind {
            RTA_OIF => link = u32_of(value),
            RTA_GATEWAY => gateway = address_in(family, value),
            // A gateway of another family: two bytes of it, and the address.
            RTA_VIA => gateway = value.get(2..).and_then(address_of),
            RTA_ENCAP => encapsulates = true,
            _ => {}
        }
    }
    let alive = flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN) == 0;
    let onlink = flags & RTNH_F_ONLINK != 0;
    link.map(|link| NextHop { link, gateway, weight, onlink, alive, encapsulates })
}

/// Several hops, each a header of eight bytes (length, flags, weight less one, link) and attributes.
fn multipath(family: u8, bytes: &[u8]) -> Result<Vec<NextHop>, Damaged> {
    let mut rest = bytes;
    let mut hops = Vec::new();
    while !rest.is_empty() {
        let (&[l0, l1, flags, weight, i0, i1, i2, i3], _) = rest.split_first_chunk::<8>().ok_or(Damaged)?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let inner = rest.get(8..length).ok_or(Damaged)?;
        let link = u32::from_ne_bytes([i0, i1, i2, i3]);
        hops.extend(hop(family, Some(link), flags.into(), u32::from(weight) + 1, inner));
        rest = rest.get(align(length)..).unwrap_or_default();
    }
    Ok(hops)
}

/// A next hop object, which routes can name instead of having hops of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    /// One hop.
    Hop(NextHop),
    /// Others, by their numbers, with weights.
    Group(Vec<(u32, u32)>),
    /// Packets are dropped.
    Blackhole,
}

/// What a message about a next hop object says. `Ok(None)`: it is of no use to routes.
pub(crate) fn object(payload: &[u8]) -> Result<Option<(u32, Object)>, Damaged> {
    let (&[family, _, _, _, f0, f1, f2, f3], rest) = payload.split_first_chunk::<8>().ok_or(Damaged)?;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let (mut id, mut link, mut gateway, mut group) = (None, None, None, None);
    let (mut blackhole, mut bridge, mut encapsulates) = (false, false, false);
    for (kind, value) in attributes(rest) {
        match kind {
            NHA_ID => id = u32_of(value),
            NHA_GROUP => group = Some(members(value)),
            NHA_BLACKHOLE => blackhole = true,
            NHA_OIF => link = u32_of(value),
            NHA_GATEWAY => gateway = address_in(family, value),
            NHA_ENCAP => encapsulates = true,
            NHA_FDB => bridge = true,
            _ => {}
        }
    }
    let id = id.ok_or(Damaged)?;
    let alive = flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN) == 0;
    let onlink = flags & RTNH_F_ONLINK != 0;
    let object = match (group, link) {
        _ if bridge => return Ok(None),
        (Some(group), _) => Object::Group(group),
        _ if blackhole => Object::Blackhole,
        (None, Some(link)) => Object::Hop(NextHop { link, gateway, weight: 1, onlink, alive, encapsulates }),
        (None, None) => return Ok(None),
    };
    Ok(Some((id, object)))
}

/// The members of a group, eight bytes each: number, weight less one (low byte, high byte), padding.
fn members(bytes: &[u8]) -> Vec<(u32, u32)> {
    let member = |entry: &[u8; 8]| {
        let &[i0, i1, i2, i3, low, high, ..] = entry;
        (u32::from_ne_bytes([i0, i1, i2, i3]), u32::from(u16::from_le_bytes([low, high])) + 1)
    };
    bytes.as_chunks::<8>().0.iter().map(member).collect()
}

/// What a message about a station says. `Ok(None)`: it is about something else, such as a bridge's table.
pub(crate) fn neighbour(payload: &[u8]) -> Result<Option<(NeighbourKey, Neighbour)>, Damaged> {
    let (&[family, _, _, _, i0, i1, i2, i3, s0, s1, flags, _], rest) =
        payload.split_first_chunk::<12>().ok_or(Damaged)?;
    if (family != AF_INET && family != AF_INET6) || flags & NTF_PROXY != 0 {
        return Ok(None);
    }
    let state = u16::from_ne_bytes([s0, s1]);
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            NDA_DST => address = address_in(family, value),
            NDA_LLADDR => mac = mac_of(value),
            _ => {}
        }
    }
    let address = address.ok_or(Damaged)?;
    // Groups have addresses on the link by computation, not by resolution.
    if address.is_multicast() {
        return Ok(None);
    }
    let mac = mac.filter(|_| state & NUD_VALID != 0);
    let neighbour = Neighbour { mac, permanent: state & NUD_PERMANENT != 0 };
    Ok(Some(((u32::from_ne_bytes([i0, i1, i2, i3]), address), neighbour)))
}

/// Asks for a whole table. The kernel takes the longest of these headers, all zero, for each of them: any family.
pub(crate) fn dump_request(kind: u16, sequence: u32) -> Vec<u8> {
    let header_len = match kind {
        RTM_GETLINK => 16,
        RTM_GETADDR | RTM_GETNEXTHOP => 8,
        _ => 12,
    };
    request(kind, NLM_F_DUMP, sequence, [0; 16].get(..header_len).unwrap_or_default())
}

/// Asks to find a station, as a packet to it would (`NTF_USE`).
pub(crate) fn use_request(link: LinkIndex, address: IpAddr, sequence: u32) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    };
    let mut payload = vec![family, 0, 0, 0];
    payload.extend(link.to_ne_bytes());
    payload.extend([0, 0, NTF_USE, 0]);
    payload.extend((octets.len() as u16).saturating_add(4).to_ne_bytes());
    payload.extend(NDA_DST.to_ne_bytes());
    payload.extend(octets);
    request(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE, sequence, &payload)
}
