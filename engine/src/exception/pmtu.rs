//! What ICMP errors about the outer packets of tunnels say: the path to the far end takes no packets that long (RFC 1191,
//! RFC 8201), or it is not reached. Anybody can send an error, so one must prove that its sender saw what it quotes
//! (RFC 5927 §4): a packet of ours with a number that others can hardly guess.
//!
//! 1. The error is read: a genuine checksum, a type that concerns us, and a quote of a packet from the address that the
//!    error came to.
//! 2. The tunnel is found whose packets look like that: addresses, protocol, UDP ports; for ESP the SPI, and a sequence
//!    number sent not long ago; for GRE its flags and key.
//! 3. The MTU told must be less than the packet's length, and is never taken for less than what the IP version promises.
//!
//! [`PathMtu`] remembers it for a while. An unprotected tunnel without a key has only its addresses to prove anything
//! with, as little as its packets themselves; that is why the least is bounded.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use crate::esp::Spi;
use crate::gre::Options;
use crate::wire::{GreHeader, Icmpv4, Icmpv6, Ipv4, Ipv6, icmpv4, icmpv6, ipv6, protocol};

/// The least path MTU that is believed over IPv4, in bytes: what every host takes (RFC 791 §3.1). An error that tells less
/// counts as this, since less would serve an attacker rather than a path (RFC 5927 §7).
pub const MIN_V4: usize = 576;
/// The least over IPv6, in bytes (RFC 8200 §5). An error that tells less is ignored (RFC 8201 §4).
pub const MIN_V6: usize = 1280;
/// How long what was learned holds before the link's MTU is tried again (RFC 1191 §6.3, RFC 8201 §5.3).
pub const LIFETIME: Duration = Duration::from_secs(600);
/// How far behind the last sequence number sent a quoted one may be: a second at a million packets a second.
const WINDOW: u64 = 1 << 20;
/// MTUs of links, for routers that do not tell theirs (RFC 1191 §7.1).
const PLATEAUS: [usize; 9] = [65_535, 32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, MIN_V4];

/// What the packets look like that a tunnel sends now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sends {
    /// Source of outer packets.
    pub local: IpAddr,
    /// Their destination.
    pub remote: IpAddr,
    /// The UDP ports that they go between, where they go in UDP.
    pub udp: Option<Ports>,
    /// What follows outer IP and UDP header.
    pub inside: Inside,
}

/// UDP ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Source port; `None` where it differs from flow to flow (RFC 8086 §3.1).
    pub source: Option<u16>,
    /// Destination port.
    pub destination: u16,
}

/// What a tunnel's outer packets carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inside {
    /// ESP.
    Esp {
        /// The SPI that is sent.
        spi: Spi,
        /// The sequence numbers given out so far, whole ones where the SA has extended numbers.
        numbers: Range<u64>,
    },
    /// GRE that is not protected.
    Gre(Options),
}

/// What an error tells about a tunnel's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It takes no packets longer than these bytes.
    Mtu(usize),
    /// The far end is not reached: the code of an ICMP (RFC 792) or ICMPv6 (RFC 4443 §3.1) "destination unreachable".
    Unreachable(u8),
}

/// Why an error is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Not a genuine, whole ICMP message.
    #[error("no genuine ICMP message")]
    Malformed,
    /// A message that tells nothing about a path.
    #[error("a message of another type")]
    OtherType,
    /// It does not quote a packet from the address that it came to.
    #[error("no packet of ours is quoted")]
    NotOurs,
    /// No tunnel between the addresses quoted.
    #[error("no tunnel between the addresses quoted")]
    NoTunnel,
    /// There are such tunnels, but they send no packets like the one quoted, or too little of it is quoted to tell.
    #[error("the packet quoted is not one that we sent")]
    Unproven,
    /// The MTU told is not less than the length of the packet quoted, or too small for IPv6.
    #[error("an MTU that cannot be")]
    Implausible,
}

/// What `packet`, an unfragmented ICMP or ICMPv6 packet to a tunnel's local address, tells about one of `tunnels`, of
/// which each has a number. The first that proves to be concerned is returned with its number.
///
/// # Errors
/// Why it is ignored.
pub fn judge(packet: &[u8], tunnels: impl IntoIterator<Item = (u32, Sends)>) -> Result<(u32, Told), Ignored> {
    let quote = Quote::read(packet)?;
    let mut ignored = Ignored::NoTunnel;
    for (number, sends) in tunnels {
        if (sends.local, sends.remote) != (quote.src, quote.dst) {
            continue;
        }
        if quote.is_of(&sends) {
            return Ok((number, quote.told()?));
        }
        ignored = Ignored::Unproven;
    }
    Err(ignored)
}

/// An error, and the packet of ours that it quotes.
struct Quote<'a> {
    message: Told,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    /// What is quoted behind the IP header.
    payload: &'a [u8],
    /// Length of the packet when it was sent, in bytes.
    total_len: usize,
}

impl<'a> Quote<'a> {
    /// Step 1.
    fn read(packet: &'a [u8]) -> Result<Self, Ignored> {
        let (quote, to) = match packet.first().ok_or(Ignored::Malformed)? >> 4 {
            4 => Self::read_v4(packet)?,
            _ => Self::read_v6(packet)?,
        };
        if quote.src == to { Ok(quote) } else { Err(Ignored::NotOurs) }
    }

    fn read_v4(packet: &'a [u8]) -> Result<(Self, IpAddr), Ignored> {
        let ip = Ipv4::parse(packet).map_err(|_| Ignored::Malformed)?;
        let icmp = Icmpv4::parse(ip.payload()).map_err(|_| Ignored::Malformed)?;
        if ip.is_fragment() || ip.protocol() != protocol::ICMP || !icmp.checksum_ok() {
            return Err(Ignored::Malformed);
        }
        let [_, _, high, low] = icmp.rest();
        let message = match (icmp.kind(), icmp.code()) {
            (icmpv4::UNREACHABLE, icmpv4::FRAGMENTATION_NEEDED) => {
                Told::Mtu(usize::from(u16::from_be_bytes([high, low])))
            }
            (icmpv4::UNREACHABLE, code) => Told::Unreachable(code),
            _ => return Err(Ignored::OtherType),
        };
        let quoted = Ipv4::quoted(icmp.body()).map_err(|_| Ignored::NotOurs)?;
        // We send no fragments, and a later one would not begin with the header that `protocol` names.
        if quoted.fragment_offset() != 0 {
            return Err(Ignored::NotOurs);
        }
        let quote = Self {
            message,
            src: quoted.src().into(),
            dst: quoted.dst().into(),
            protocol: quoted.protocol(),
            payload: quoted.payload(),
            total_len: usize::from(quoted.total_len()),
        };
        Ok((quote, ip.dst().into()))
    }

    fn read_v6(packet: &'a [u8]) -> Result<(Self, IpAddr), Ignored> {
        let ip = Ipv6::parse(packet).map_err(|_| Ignored::Malformed)?;
        let upper = ip.upper().map_err(|_| Ignored::Malformed)?;
        let icmp = Icmpv6::parse(upper.payload).map_err(|_| Ignored::Malformed)?;
        if upper.fragment || upper.protocol != protocol::ICMPV6 || !icmp.checksum_ok(ip.src(), ip.dst()) {
            return Err(Ignored::Malformed);
        }
        let message = match icmp.kind() {
            icmpv6::PACKET_TOO_BIG => {
                Told::Mtu(usize::try_from(u32::from_be_bytes(icmp.rest())).unwrap_or(usize::MAX))
            }
            icmpv6::UNREACHABLE => Told::Unreachable(icmp.code()),
            _ => return Err(Ignored::OtherType),
        };
        let quoted = Ipv6::quoted(icmp.body()).map_err(|_| Ignored::NotOurs)?;
        let quote = Self {
            message,
            src: quoted.src().into(),
            dst: quoted.dst().into(),
            // We send no extension headers.
            protocol: quoted.next_header(),
            payload: quoted.payload(),
            total_len: ipv6::HEADER_LEN + usize::from(quoted.payload_len()),
        };
        Ok((quote, ip.dst().into()))
    }

    /// Step 2, for a tunnel between these addresses.
    fn is_of(&self, sends: &Sends) -> bool {
        let carried = match sends.inside {
            Inside::Esp { .. } => protocol::ESP,
            Inside::Gre(_) => protocol::GRE,
        };
        let bytes = match sends.udp {
            None if self.protocol == carried => self.payload,
            Some(ports) if self.protocol == protocol::UDP => match behind_udp(self.payload, ports) {
                Some(bytes) => bytes,
                None => return false,
            },
            _ => return false,
        };
        match &sends.inside {
            Inside::Esp { spi, numbers } => is_sent_esp(bytes, *spi, numbers),
            Inside::Gre(options) => is_sent_gre(bytes, options),
        }
    }

    /// Step 3.
    fn told(&self) -> Result<Told, Ignored> {
        let Told::Mtu(mtu) = self.message else { return Ok(self.message) };
        let mtu = match self.src {
            // RFC 1191 §5: a router older than that RFC leaves the field zero.
            IpAddr::V4(_) if mtu == 0 => plateau_below(self.total_len),
            _ => mtu,
        };
        if mtu >= self.total_len || (self.src.is_ipv6() && mtu < MIN_V6) {
            return Err(Ignored::Implausible);
        }
        Ok(Told::Mtu(mtu.max(MIN_V4)))
    }
}

/// The largest usual MTU below a length in bytes; the least, where there is none.
fn plateau_below(len: usize) -> usize {
    PLATEAUS.into_iter().find(|&plateau| plateau < len).unwrap_or(MIN_V4)
}

/// What is quoted behind a UDP header between these ports. The front of a datagram has no more to be checked.
fn behind_udp(datagram: &[u8], ports: Ports) -> Option<&[u8]> {
    let ([a, b, c, d, _, _, _, _], behind) = datagram.split_first_chunk()?;
    let source = u16::from_be_bytes([*a, *b]);
    let right =
        ports.source.is_none_or(|port| port == source) && ports.destination == u16::from_be_bytes([*c, *d]);
    right.then_some(behind)
}

/// Whether the front of an ESP packet is that of one sent not long ago. Eight bytes, the least that is quoted (RFC 792),
/// are enough to tell.
fn is_sent_esp(bytes: &[u8], spi: Spi, numbers: &Range<u64>) -> bool {
    let Some([a, b, c, d, e, f, g, h]) = bytes.first_chunk() else { return false };
    let Some(last) = numbers.end.checked_sub(1) else { return false };
    // The high half of an extended number is not sent: the number meant is the last that ends like that.
    let back = u64::from((last as u32).wrapping_sub(u32::from_be_bytes([*e, *f, *g, *h])));
    u32::from_be_bytes([*a, *b, *c, *d]) == spi
        && back < WINDOW
        && last.checked_sub(back).is_some_and(|number| number >= numbers.start)
}

/// Whether the front of a GRE packet is that of one with these options. A key must be among what is quoted.
fn is_sent_gre(bytes: &[u8], options: &Options) -> bool {
    let mut sent = [0; 16];
    let Options { key, checksum, sequence, .. } = *options;
    let header = GreHeader { protocol: 0, checksum, key, sequence: sequence.then_some(0) };
    if header.emit(&mut sent).is_err() {
        return false;
    }
    let key_at = if checksum { 8 } else { 4 };
    let same_key = match key {
        Some(key) => bytes.get(key_at..key_at + 4) == Some(&key.to_be_bytes()),
        None => bytes.len() >= 4,
    };
    same_key && bytes.get(..2) == sent.get(..2)
}

/// The longest outer packet that goes from end to end, in bytes: the link's MTU, or less while it is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMtu {
    link: usize,
    /// What was learned, and when it ceases to hold.
    learned: Option<(usize, Duration)>,
}

impl PathMtu {
    /// Nothing learned yet about a path that starts with a link of that MTU, in bytes.
    #[must_use]
    pub const fn new(link: usize) -> PathMtu {
        PathMtu { link, learned: None }
    }

    /// The path MTU, in bytes.
    #[must_use]
    pub fn get(&self) -> usize {
        self.learned.map_or(self.link, |(mtu, _)| mtu.min(self.link))
    }

    /// Learns an MTU that [`judge`] told. Returns whether the path MTU is lower now; it is never higher. The same once more
    /// makes what was learned hold for another while.
    pub fn learn(&mut self, mtu: usize, now: Duration) -> bool {
        let before = self.get();
        if mtu < before || self.learned.is_some_and(|(learned, _)| learned == mtu) {
            self.learned = Some((mtu, now.saturating_add(LIFETIME)));
        }
        self.get() < before
    }

    /// The path starts with a link of that MTU now, in bytes. Returns whether the path MTU has changed.
    pub fn set_link(&mut self, link: usize) -> bool {
        let before = self.get();
        self.link = link;
        self.get() != before
    }

    /// When [`Self::expire`] next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.learned.map(|(_, until)| until)
    }

    /// Forgets what was learned too long ago. Returns whether the path MTU has changed.
    pub fn expire(&mut self, now: Duration) -> bool {
        let before = self.get();
        self.learned = self.learned.filter(|(_, until)| now < *until);
        self.get() != before
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exception::samples::{checksum, fix_checksum, fix_icmpv6};
    use crate::gre::Payload;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    const LOCAL: [u8; 4] = [192, 0, 2, 1];
    const REMOTE: [u8; 4] = [192, 0, 2, 2];
    const ROUTER: [u8; 4] = [203, 0, 113, 5];
    const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const REMOTE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 5);
    const SPI: [u8; 4] = [0, 0, 0x10, 1];

    /// An IPv4 packet by the book. `len` is what its header says.
    fn v4(src: [u8; 4], dst: [u8; 4], protocol: u8, len: usize, payload: &[u8]) -> Vec<u8> {
        let [high, low] = (len as u16).to_be_bytes();
        let mut packet = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 60, protocol, 0, 0];
        packet.extend([src, dst].concat());
        fix_checksum(&mut packet);
        packet.extend(payload);
        packet
    }

    fn v6(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, len: usize, payload: &[u8]) -> Vec<u8> {
        let [high, low] = (len as u16 - 40).to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, high, low, next_header, 60];
        packet.extend([src.octets(), dst.octets()].concat());
        packet.extend(payload);
        packet
    }

    /// "Fragmentation needed" about that packet.
    fn too_big_v4(mtu: u16, quote: &[u8]) -> Vec<u8> {
        let [high, low] = mtu.to_be_bytes();
        error_v4([3, 4, 0, 0, 0, 0, high, low], LOCAL, quote)
    }

    fn error_v4(header: [u8; 8], to: [u8; 4], quote: &[u8]) -> Vec<u8> {
        let mut message = [&header[..], quote].concat();
        let check = checksum(&[&message]);
        message[2..4].copy_from_slice(&check.to_be_bytes());
        v4(ROUTER, to, 1, 20 + message.len(), &message)
    }

    fn too_big_v6(mtu: u32, quote: &[u8]) -> Vec<u8> {
        let [a, b, c, d] = mtu.to_be_bytes();
        error_v6([2, 0, 0, 0, a, b, c, d], quote)
    }

    fn error_v6(header: [u8; 8], quote: &[u8]) -> Vec<u8> {
        let message = [&header[..], quote].concat();
        let mut packet = v6(ROUTER_V6, LOCAL_V6, 58, 40 + message.len(), &message);
        fix_icmpv6(&mut packet);
        packet
    }

    /// The front of an ESP packet.
    fn esp(sequence: u32) -> Vec<u8> {
        [SPI, sequence.to_be_bytes()].concat()
    }

    fn esp_v4(sequence: u32) -> Vec<u8> {
        v4(LOCAL, REMOTE, 50, 1500, &esp(sequence))
    }

    fn sends(inside: Inside) -> Sends {
        let (local, remote) = (LOCAL.into(), REMOTE.into());
        Sends { local, remote, udp: None, inside }
    }

    /// A tunnel that has sent the numbers 1 to 1000.
    fn tunnel() -> Sends {
        sends(Inside::Esp { spi: 0x1001, numbers: 1..1001 })
    }

    fn over_v6(sends: Sends) -> Sends {
        Sends { local: LOCAL_V6.into(), remote: REMOTE_V6.into(), ..sends }
    }

    fn one(packet: &[u8], sends: Sends) -> Result<Told, Ignored> {
        judge(packet, [(5, sends)]).map(|(number, told)| {
            assert_eq!(number, 5);
            told
        })
    }

    /// RFC 1191 section 4 to 7, RFC 8201 section 4: what was told, about a packet of what length, and what is taken.
    #[test]
    fn mtus_told_and_taken() {
        for (told, len, taken) in [
            (1400, 1500, Ok(1400)),
            (1499, 1500, Ok(1499)),
            (576, 1500, Ok(576)),
            (575, 1500, Ok(576)),
            (68, 1500, Ok(576)),
            (1500, 1500, Err(Ignored::Implausible)),
            (9000, 1500, Err(Ignored::Implausible)),
            // Not told: the next plateau.
            (0, 1500, Ok(1492)),
            (0, 1492, Ok(1006)),
            (0, 9000, Ok(8166)),
            (0, 600, Ok(576)),
            (0, 500, Err(Ignored::Implausible)),
        ] {
            let quote = v4(LOCAL, REMOTE, 50, len, &esp(7));
            assert_eq!(one(&too_big_v4(told, &quote), tunnel()), taken.map(Told::Mtu), "{told} about {len}");
        }
        for (told, taken) in [
            (1400, Ok(1400)),
            (1280, Ok(1280)),
            (1279, Err(Ignored::Implausible)),
            (0, Err(Ignored::Implausible)),
            (1500, Err(Ignored::Implausible)),
            (u32::MAX, Err(Ignored::Implausible)),
        ] {
            let quote = v6(LOCAL_V6, REMOTE_V6, 50, 1500, &esp(7));
            assert_eq!(one(&too_big_v6(told, &quote), over_v6(tunnel())), taken.map(Told::Mtu), "{told}");
        }
    }

    #[test]
    fn unreachable_is_told_with_its_code() {
        for code in [0, 1, 2, 3, 9, 10, 13] {
            let error = error_v4([3, code, 0, 0, 0, 0, 0, 0], LOCAL, &esp_v4(7));
            assert_eq!(one(&error, tunnel()), Ok(Told::Unreachable(code)));
        }
        let quote = v6(LOCAL_V6, REMOTE_V6, 50, 1500, &esp(7));
        let error = error_v6([1, 3, 0, 0, 0, 0, 0, 0], &quote);
        assert_eq!(one(&error, over_v6(tunnel())), Ok(Told::Unreachable(3)));
    }

    #[test]
    fn errors_that_are_none() {
        let good = too_big_v4(1400, &esp_v4(7));
        assert_eq!(one(&good, tunnel()), Ok(Told::Mtu(1400)));
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = good.clone();
            change(&mut packet);
            fix_checksum(&mut packet);
            packet
        };
        let later_fragment = {
            let mut quote = esp_v4(7);
            quote[7] = 1;
            too_big_v4(1400, &quote)
        };
        let from_elsewhere = v4(ROUTER, REMOTE, 50, 1500, &esp(7));
        let v6_quote = v6(LOCAL_V6, REMOTE_V6, 50, 1500, &esp(7));
        for (name, packet, ignored) in [
            ("a wrong ICMP checksum", changed(&|p| p[27] ^= 1), Ignored::Malformed),
            ("a fragment", changed(&|p| p[6] = 0x20), Ignored::Malformed),
            ("UDP", changed(&|p| p[9] = 17), Ignored::Malformed),
            ("nothing", vec![], Ignored::Malformed),
            ("time exceeded", error_v4([11, 0, 0, 0, 0, 0, 0, 0], LOCAL, &esp_v4(7)), Ignored::OtherType),
            ("echo request", error_v4([8, 0, 0, 0, 0, 0, 0, 0], LOCAL, &esp_v4(7)), Ignored::OtherType),
            ("IPv6 time exceeded", error_v6([3, 0, 0, 0, 0, 0, 0, 0], &v6_quote), Ignored::OtherType),
            ("no quote", too_big_v4(1400, &[]), Ignored::NotOurs),
            ("half a header", too_big_v4(1400, &esp_v4(7)[..19]), Ignored::NotOurs),
            ("half an IPv6 header", too_big_v6(1400, &v6_quote[..39]), Ignored::NotOurs),
            ("an IPv6 packet in an ICMP error", too_big_v4(1400, &v6_quote), Ignored::NotOurs),
            ("a packet of somebody else", too_big_v4(1400, &from_elsewhere), Ignored::NotOurs),
            ("to another address", error_v4([3, 4, 0, 0, 0, 0, 5, 0], REMOTE, &esp_v4(7)), Ignored::NotOurs),
            ("a later fragment", later_fragment, Ignored::NotOurs),
        ] {
            assert_eq!(judge(&packet, [(5, tunnel()), (6, over_v6(tunnel()))]), Err(ignored), "{name}");
        }
    }

    /// Which packets quoted prove that their sender saw one of ours.
    #[test]
    fn proofs() {
        let gre = |checksum, key, sequence| {
            sends(Inside::Gre(Options { key, checksum, sequence, payload: Payload::Ip }))
        };
        let udp =
            |source, destination: u16, sends| Sends { udp: Some(Ports { source, destination }), ..sends };
        let datagram = |source: u16, destination: u16, inside: &[u8]| {
            [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[5, 0, 0, 0], inside].concat()
        };
        let key = Some(42);
        for (name, tunnel, protocol, payload, proven) in [
            ("ESP", tunnel(), 50, esp(1000), true),
            ("a number not yet sent", tunnel(), 50, esp(1001), false),
            ("number 0, never sent", tunnel(), 50, esp(0), false),
            ("another SPI", tunnel(), 50, [[0, 0, 0x10, 2], [0, 0, 0, 7]].concat(), false),
            ("seven bytes", tunnel(), 50, esp(7)[..7].to_vec(), false),
            ("ESP's bytes as GRE", tunnel(), 47, esp(7), false),
            ("ESP in UDP where none is sent", tunnel(), 17, datagram(4500, 4500, &esp(7)), false),
            ("ESP in UDP", udp(Some(4500), 4500, tunnel()), 17, datagram(4500, 4500, &esp(7)), true),
            (
                "another source port",
                udp(Some(4500), 4500, tunnel()),
                17,
                datagram(4501, 4500, &esp(7)),
                false,
            ),
            ("another port", udp(Some(4500), 4500, tunnel()), 17, datagram(4500, 4501, &esp(7)), false),
            ("the ports alone", udp(Some(4500), 4500, tunnel()), 17, datagram(4500, 4500, &[]), false),
            (
                "in UDP, another number",
                udp(Some(4500), 4500, tunnel()),
                17,
                datagram(4500, 4500, &esp(1001)),
                false,
            ),
            ("bare where UDP is sent", udp(Some(4500), 4500, tunnel()), 50, esp(7), false),
            ("GRE", gre(false, None, false), 47, vec![0, 0, 8, 0], true),
            ("GRE, three bytes", gre(false, None, false), 47, vec![0, 0, 8], false),
            (
                "a key where none is sent",
                gre(false, None, false),
                47,
                vec![0x20, 0, 8, 0, 0, 0, 0, 42],
                false,
            ),
            ("the key", gre(false, key, false), 47, vec![0x20, 0, 8, 0, 0, 0, 0, 42], true),
            ("another key", gre(false, key, false), 47, vec![0x20, 0, 8, 0, 0, 0, 0, 43], false),
            ("no key", gre(false, key, false), 47, vec![0, 0, 8, 0, 0, 0, 0, 42], false),
            ("half a key", gre(false, key, false), 47, vec![0x20, 0, 8, 0, 0, 0, 0], false),
            (
                "a key behind a checksum",
                gre(true, key, true),
                47,
                vec![0xb0, 0, 8, 0, 1, 2, 0, 0, 0, 0, 0, 42],
                true,
            ),
            ("a key not quoted", gre(true, key, true), 47, vec![0xb0, 0, 8, 0, 1, 2, 0, 0], false),
            ("sequence numbers", gre(false, None, true), 47, vec![0x10, 0, 8, 0, 0, 0, 0, 9], true),
            ("no sequence numbers", gre(false, None, true), 47, vec![0, 0, 8, 0, 0, 0, 0, 9], false),
            (
                "GRE in UDP",
                udp(None, 4754, gre(false, key, false)),
                17,
                datagram(50_000, 4754, &[0x20, 0, 8, 0, 0, 0, 0, 42]),
                true,
            ),
            (
                "GRE in UDP, another key",
                udp(None, 4754, gre(false, key, false)),
                17,
                datagram(50_000, 4754, &[0x20, 0, 8, 0, 0, 0, 0, 43]),
                false,
            ),
        ] {
            let expected = if proven { Ok(Told::Mtu(1400)) } else { Err(Ignored::Unproven) };
            let quote = v4(LOCAL, REMOTE, protocol, 1500, &payload);
            assert_eq!(one(&too_big_v4(1400, &quote), tunnel.clone()), expected, "{name}");
            let quote = v6(LOCAL_V6, REMOTE_V6, protocol, 1500, &payload);
            assert_eq!(one(&too_big_v6(1400, &quote), over_v6(tunnel)), expected, "{name} over IPv6");
        }
    }

    #[test]
    fn sequence_numbers_sent_not_long_ago() {
        let proven = |numbers: Range<u64>, sequence| {
            let tunnel = sends(Inside::Esp { spi: 0x1001, numbers });
            one(&too_big_v4(1400, &esp_v4(sequence)), tunnel).is_ok()
        };
        assert!(!proven(1..1, 0) && !proven(1..1, 1) && !proven(0..0, 0), "nothing sent");
        assert!(proven(1..2, 1));
        assert!(proven(500..501, 500) && !proven(500..501, 499), "numbers before the first");
        let last = 5_000_000_u32;
        let numbers = 1..u64::from(last) + 1;
        assert!(
            proven(numbers.clone(), last - (1 << 20) + 1) && !proven(numbers, last - (1 << 20)),
            "too old"
        );
        // Extended numbers, the low half just wrapped around.
        let numbers = 1..(7_u64 << 32) + 3;
        for (sequence, expected) in
            [(2, true), (3, false), (0, true), (u32::MAX, true), (u32::MAX - (1 << 20), false)]
        {
            assert_eq!(proven(numbers.clone(), sequence), expected, "{sequence}");
        }
    }

    #[test]
    fn the_tunnel_among_many() {
        let other = Sends { remote: [192, 0, 2, 3].into(), ..tunnel() };
        let plain =
            sends(Inside::Gre(Options { key: None, checksum: false, sequence: false, payload: Payload::Ip }));
        let tunnels = [(1, other.clone()), (2, plain.clone()), (3, tunnel())];
        assert_eq!(judge(&too_big_v4(1400, &esp_v4(7)), tunnels), Ok((3, Told::Mtu(1400))));
        assert_eq!(
            judge(&too_big_v4(1400, &esp_v4(7)), [(1, other.clone()), (2, plain)]),
            Err(Ignored::Unproven)
        );
        assert_eq!(judge(&too_big_v4(1400, &esp_v4(7)), [(1, other)]), Err(Ignored::NoTunnel));
    }

    #[test]
    fn a_path_mtu_goes_down_and_comes_back() {
        let at = Duration::from_secs;
        let mut path = PathMtu::new(1500);
        assert_eq!((path.get(), path.deadline(), path.expire(at(9999))), (1500, None, false));
        assert!(
            !path.learn(1500, at(0)) && !path.learn(9000, at(0)) && path.deadline().is_none(),
            "never raised"
        );
        assert!(path.learn(1400, at(0)));
        assert!(!path.learn(1450, at(50)), "not above what was learned");
        assert!(path.learn(1300, at(100)));
        assert_eq!((path.get(), path.deadline()), (1300, Some(at(700))));
        assert!(!path.learn(1300, at(200)));
        assert_eq!(path.deadline(), Some(at(800)), "learned again");
        assert!(!path.expire(at(799)) && path.get() == 1300);
        assert!(path.expire(at(800)));
        assert_eq!((path.get(), path.deadline()), (1500, None));
    }

    #[test]
    fn a_path_is_no_wider_than_its_link() {
        let now = Duration::ZERO;
        let mut path = PathMtu::new(1500);
        assert!(path.learn(1400, now) && path.set_link(1300) && path.get() == 1300);
        assert!(!path.expire(LIFETIME), "the link is narrower than what was learned");
        assert!(path.set_link(9000) && path.get() == 9000 && !path.set_link(9000));
        assert!(path.learn(8000, now) && !path.set_link(15_000) && path.get() == 8000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(mut packet in proptest::collection::vec(any::<u8>(), 0..120), v6 in any::<bool>()) {
            if let [first, _, high, low, ..] = &mut packet[..] {
                (*first, *high, *low) = (if v6 { 0x60 } else { 0x45 }, 0, *low % 120);
            }
            fix_checksum(&mut packet);
            let _ = one(&packet, tunnel());
        }

        /// Any quote: what is believed stays within bounds, and below the length of the packet quoted.
        #[test]
        fn what_is_believed_is_bounded(
            mtu in any::<u16>(), len in 28..65_535_usize, sequence in 0..1100_u32, cut in 0..40_usize,
            protocol in prop_oneof![Just(50_u8), any::<u8>()],
        ) {
            let quote = v4(LOCAL, REMOTE, protocol, len, &esp(sequence));
            let quote = &quote[..cut.min(quote.len())];
            match one(&too_big_v4(mtu, quote), tunnel()) {
                Ok(Told::Mtu(mtu)) => {
                    prop_assert!((MIN_V4..len.max(MIN_V4 + 1)).contains(&mtu));
                    prop_assert!(protocol == 50 && (1..=1000).contains(&sequence) && quote.len() == 28);
                }
                Ok(Told::Unreachable(_)) => prop_assert!(false),
                Err(_) => {}
            }
        }

        #[test]
        fn a_path_mtu_never_rises_but_by_time(
            told in proptest::collection::vec((576..2000_usize, 0..400_u64), 1..40),
        ) {
            let mut path = PathMtu::new(1500);
            let mut now = Duration::ZERO;
            for (mtu, seconds) in told {
                now += Duration::from_secs(seconds);
                let before = path.get();
                if path.expire(now) {
                    prop_assert_eq!(path.get(), 1500);
                } else {
                    prop_assert_eq!(path.get(), before);
                }
                let before = path.get();
                prop_assert_eq!(path.learn(mtu, now), mtu < before);
                prop_assert_eq!(path.get(), before.min(mtu));
            }
        }
    }
}
