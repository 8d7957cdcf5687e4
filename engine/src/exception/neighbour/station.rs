//! What a port of ours is on its link, and the frames of ARP and ND that it sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ethernet::{self, MacAddr};
use crate::wire::{ArpMessage, EthernetHeader, Ipv6Header, arp, ipv6, nd, nd::NdMessage, protocol};

/// The shortest frame of IEEE 802.3, without its check sequence, in bytes. Not every port pads.
const MIN_FRAME: usize = 60;
/// The network part of link-local addresses (RFC 4291 section 2.5.6).
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
/// The group of all IPv6 stations on a link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A port as its link sees it: an untagged Ethernet station with addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Station {
    mac: MacAddr,
    addresses: Vec<(IpAddr, u8)>,
}

impl Station {
    /// A station with these addresses, each with the length of its subnet's prefix in bits. With an IPv6 address comes a
    /// link-local one, made from `mac`, where the list has none (RFC 4291 section 2.8 wants every interface to have one).
    #[must_use]
    pub fn new(mac: MacAddr, mut addresses: Vec<(IpAddr, u8)>) -> Station {
        addresses.dedup();
        let has = |test: fn(&Ipv6Addr) -> bool| {
            addresses.iter().any(|(address, _)| matches!(address, IpAddr::V6(v6) if test(v6)))
        };
        if has(|_| true) && !has(Ipv6Addr::is_unicast_link_local) {
            addresses.push((nd::link_local(mac).into(), 64));
        }
        Station { mac, addresses }
    }

    /// Its link address.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Its addresses, the link-local one included.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|(address, _)| *address)
    }

    /// Is that one of its addresses?
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses().any(|own| own == address)
    }

    /// The address to ask for `target` from: of the same subnet, else any of the family; a link-local one for a link-local
    /// target. `None` where there is none of the family.
    fn source_for(&self, target: IpAddr) -> Option<IpAddr> {
        let family = || self.addresses.iter().filter(|(own, _)| own.is_ipv4() == target.is_ipv4());
        let near = family().find(|(own, len)| in_subnet(target, *own, *len));
        let usual = family().find(|(own, _)| !in_subnet(*own, LINK_LOCAL.into(), 10));
        near.or(usual).or(family().next()).map(|(own, _)| *own)
    }

    /// The frame that asks who has `target`: all stations, or only `to` where it is given. `None` where there is no address
    /// to ask from.
    pub(super) fn ask(&self, target: IpAddr, to: Option<MacAddr>) -> Option<Vec<u8>> {
        match (self.source_for(target)?, target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                // RFC 826: the target's link address means nothing here; RFC 1122 section 2.3.2.1 (2): unicast to refresh.
                Some(self.arp(
                    arp::REQUEST,
                    source,
                    MacAddr::default(),
                    target,
                    to.unwrap_or(MacAddr::BROADCAST),
                ))
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let message = NdMessage::Solicitation { target, mac: self.mac };
                let group = nd::solicited_node(target);
                let (destination, mac) = to.map_or((group, nd::group_mac(group)), |mac| (target, mac));
                Some(self.nd(message, source, destination, mac))
            }
            _ => None,
        }
    }

    /// The answer to who asked for `own`, an address of ours: to `asker`, whose link address is `mac`, or for IPv6 to all
    /// stations where it has no address yet.
    pub(super) fn answer(&self, own: IpAddr, asker: Option<IpAddr>, mac: MacAddr) -> Option<Vec<u8>> {
        match (own, asker) {
            (IpAddr::V4(own), None) => Some(self.arp(arp::REPLY, own, mac, Ipv4Addr::UNSPECIFIED, mac)),
            (IpAddr::V4(own), Some(IpAddr::V4(asker))) => Some(self.arp(arp::REPLY, own, mac, asker, mac)),
            (IpAddr::V6(target), Some(IpAddr::V6(asker))) => {
                let message = NdMessage::Advertisement { target, mac: self.mac, solicited: true };
                Some(self.nd(message, target, asker, mac))
            }
            // RFC 4861 section 7.2.4: whoever tests an address for duplicates has none to be answered at.
            (IpAddr::V6(_), None) => Some(self.announce(own)),
            _ => None,
        }
    }

    /// The frame that tells all stations that `own` is ours (RFC 5227 section 2.3, RFC 4861 section 7.2.6).
    pub(in crate::exception) fn announce(&self, own: IpAddr) -> Vec<u8> {
        match own {
            IpAddr::V4(own) => self.arp(arp::REQUEST, own, MacAddr::default(), own, MacAddr::BROADCAST),
            IpAddr::V6(target) => {
                let message = NdMessage::Advertisement { target, mac: self.mac, solicited: false };
                self.nd(message, target, ALL_NODES, nd::group_mac(ALL_NODES))
            }
        }
    }

    fn arp(&self, operation: u16, own: Ipv4Addr, mac: MacAddr, target: Ipv4Addr, to: MacAddr) -> Vec<u8> {
        let message = ArpMessage {
            operation,
            sender_mac: self.mac,
            sender_ip: own,
            target_mac: mac,
            target_ip: target,
        };
        let mut bytes = [0; arp::LEN];
        message.emit(&mut bytes);
        let mut frame = self.ethernet(to, ethernet::ARP);
        frame.extend(bytes);
        frame.resize(MIN_FRAME, 0);
        frame
    }

    fn nd(&self, message: NdMessage, src: Ipv6Addr, dst: Ipv6Addr, to: MacAddr) -> Vec<u8> {
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: 0,
            payload_len: nd::LEN as u16,
            next_header: protocol::ICMPV6,
            hop_limit: nd::HOP_LIMIT,
            src,
            dst,
        };
        let (mut ip, mut icmp) = ([0; ipv6::HEADER_LEN], [0; nd::LEN]);
        header.emit(&mut ip);
        message.emit(&mut icmp, src, dst);
        let mut frame = self.ethernet(to, ethernet::IPV6);
        frame.extend(ip);
        frame.extend(icmp);
        frame
    }

    fn ethernet(&self, dst: MacAddr, ethertype: u16) -> Vec<u8> {
        let mut header = [0; ethernet::HEADER_LEN];
        EthernetHeader { dst, src: self.mac, ethertype }.emit(&mut header);
        let mut frame = Vec::with_capacity(ethernet::HEADER_LEN + ipv6::HEADER_LEN + nd::LEN);
        frame.extend(header);
        frame
    }
}

/// Are both in the subnet of that prefix length?
fn in_subnet(one: IpAddr, other: IpAddr, len: u8) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            let host_bits = 32_u32.saturating_sub(u32::from(len));
            (one.to_bits() ^ other.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            let host_bits = 128_u32.saturating_sub(u32::from(len));
            (one.to_bits() ^ other.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}
