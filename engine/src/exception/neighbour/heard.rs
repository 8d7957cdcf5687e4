//! What a received frame of ARP or ND says, the same for both: who claims which address, and which address is asked for.
//! 1. Ethernet: to us or to a group, untagged, not from ourselves. 2. The message and the rules of its RFC.

use std::net::IpAddr;

use super::Station;
use crate::drops::Reason;
use crate::wire::ethernet::{self, MacAddr};
use crate::wire::{Arp, Ethernet, Icmpv6, Ipv6, arp, nd, nd::Nd, protocol};

/// A station says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) address: IpAddr,
    /// Its link address, where the message gives it.
    pub(super) mac: Option<MacAddr>,
    /// What was known before may be replaced.
    pub(super) overrides: bool,
    /// It answers us, so packets of ours reach it.
    pub(super) answer: bool,
}

/// A station asks who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) target: IpAddr,
    /// The asker's address; none where it tests whether the target is free.
    pub(super) asker: Option<IpAddr>,
    /// Where the answer goes.
    pub(super) mac: MacAddr,
}

/// What a checked message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Heard {
    pub(super) claim: Option<Claim>,
    pub(super) question: Option<Question>,
}

/// Reads a frame. `None` for one that holds neither ARP nor ND, or is none of this station's business.
///
/// # Errors
/// [`Reason::ArpMalformed`] or [`Reason::NdMalformed`].
pub(super) fn read(frame: &[u8], station: &Station) -> Option<Result<Heard, Reason>> {
    let ethernet = Ethernet::parse(frame).ok()?;
    let to_us = ethernet.dst() == station.mac() || ethernet.dst().is_multicast();
    if !to_us || ethernet.tags_len() != 0 || ethernet.src() == station.mac() {
        return None;
    }
    match ethernet.ethertype() {
        ethernet::ARP => Some(read_arp(&ethernet, station).ok_or(Reason::ArpMalformed)),
        ethernet::IPV6 => {
            let ip = Ipv6::parse(ethernet.payload()).ok()?;
            let upper = ip.upper().ok()?;
            if upper.protocol != protocol::ICMPV6 || !upper.first {
                return None;
            }
            let icmp = Icmpv6::parse(upper.payload).ok()?;
            if !matches!(icmp.kind(), nd::SOLICITATION | nd::ADVERTISEMENT) {
                return None;
            }
            // RFC 6980 section 5: never in fragments.
            let sound =
                !upper.fragment && ip.hop_limit() == nd::HOP_LIMIT && icmp.checksum_ok(ip.src(), ip.dst());
            Some(sound.then(|| read_nd(&ethernet, &ip, &icmp)).flatten().ok_or(Reason::NdMalformed))
        }
        _ => None,
    }
}

fn read_arp(frame: &Ethernet<'_>, station: &Station) -> Option<Heard> {
    let message = Arp::parse(frame.payload()).ok()?;
    let (mac, sender) = (message.sender_mac(), message.sender_ip());
    if mac.is_multicast() || mac == MacAddr::default() || sender.is_multicast() || sender.is_broadcast() {
        return None;
    }
    let target = IpAddr::from(message.target_ip());
    // Our own words, sent back to us by a loop or a mirror.
    if mac == station.mac() {
        return Some(Heard::default());
    }
    let sender = (!sender.is_unspecified()).then_some(IpAddr::from(sender));
    let claim = |address, answer| Claim { address, mac: Some(mac), overrides: true, answer };
    match message.operation() {
        arp::REQUEST => Some(Heard {
            claim: sender.map(|address| claim(address, false)),
            question: Some(Question { target, asker: sender, mac }),
        }),
        arp::REPLY => {
            let answer = frame.dst() == station.mac() && station.owns(target);
            Some(Heard { claim: sender.map(|address| claim(address, answer)), question: None })
        }
        // Other operations, such as those of reverse ARP, are for others.
        _ => Some(Heard::default()),
    }
}

fn read_nd(frame: &Ethernet<'_>, ip: &Ipv6<'_>, icmp: &Icmpv6<'_>) -> Option<Heard> {
    let message = Nd::parse(icmp, ip.src(), ip.dst()).ok()?;
    let target = IpAddr::from(message.target());
    if message.kind() == nd::ADVERTISEMENT {
        let (overrides, answer) = (message.overrides(), message.solicited());
        let claim = Claim { address: target, mac: message.link(), overrides, answer };
        return Some(Heard { claim: Some(claim), question: None });
    }
    let asker = (!ip.src().is_unspecified()).then_some(IpAddr::from(ip.src()));
    let claim = asker.filter(|_| message.link().is_some()).map(|address| Claim {
        address,
        mac: message.link(),
        overrides: true,
        answer: false,
    });
    // Without the option the frame says where the answer goes; RFC 4861 section 7.2.4 would look the asker up first.
    let mac = message.link().unwrap_or(frame.src());
    Some(Heard { claim, question: Some(Question { target, asker, mac }) })
}
