//! A tunnel as the packet path sees it: its headers laid out once, its settings, and the state it keeps.
//!
//! All headers that the tunnel puts in front of a packet (Ethernet, outer IP, UDP, ESP with IV, inner IP of tunnel mode,
//! GRE) are prepared as one block of bytes, the *template*. For each packet it is copied whole, and only what differs
//! from packet to packet is filled in: lengths, DSCP and ECN, checksums, sequence numbers, IV, protocol type.

use std::net::IpAddr;
use std::sync::Arc;

use crate::drops::Reason;
use crate::esp::{self, InboundSa, Mode, OutboundSa, Spi};
use crate::exception::keepalive;
use crate::exception::pmtu::{Inside, Ports, Sends};
use crate::gre::{Options, Payload, Sequences};
use crate::mss;
use crate::wire::ethernet::{self, EthernetHeader, MacAddr};
use crate::wire::{EspHeader, GreHeader, Ipv4Header, Ipv6Header, UdpHeader, protocol, udp};

/// Room for the longest template, 14 + 40 + 8 + 16 + 40 + 16 = 134 bytes, in whole cache lines.
pub const TEMPLATE_MAX: usize = crate::ring::TEMPLATE_LEN;

/// UDP ports of ESP in UDP (RFC 3948), or of GRE in UDP (RFC 8086).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpEncap {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// How a tunnel is protected.
pub struct Protection {
    /// What ESP protects.
    pub mode: Mode,
    /// The plaintext is padded to a multiple of this many bytes where the packet still fits (4 or 16).
    pub pad: u8,
    /// ESP in UDP on the way out.
    pub udp: Option<UdpEncap>,
    /// The SAs that send, each worker with one of its own where there are several (RFC 9611); without any nothing is sent.
    pub outbound: Vec<Arc<OutboundSa>>,
    /// The SAs that receive.
    pub inbound: Vec<Arc<InboundSa>>,
    /// SAs are negotiated: packets may come by one before it is here, and wait for it a moment.
    pub negotiated: bool,
}

/// Sizes in bytes of what a tunnel adds to a packet, and the MTU that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Is the outer header IPv6?
    pub v6: bool,
    /// The outer IP header.
    pub ip: usize,
    /// The UDP header, or 0.
    pub udp: usize,
    /// ESP header and IV, or 0.
    pub esp: usize,
    /// The inner IP header of tunnel mode, or 0.
    pub middle: usize,
    /// The GRE header.
    pub gre: usize,
}

impl Layout {
    /// The sizes for a tunnel between addresses of one family (`v6`), with ESP of that mode; `udp`: in UDP.
    pub fn new(v6: bool, gre: &Options, mode: Option<Mode>, udp: bool) -> Layout {
        let ip = if v6 { 40 } else { 20 };
        Layout {
            v6,
            ip,
            udp: if udp { 8 } else { 0 },
            esp: if mode.is_some() { esp::HEADER_LEN + esp::IV_LEN } else { 0 },
            middle: if mode == Some(Mode::Tunnel) { ip } else { 0 },
            gre: gre.header_len(),
        }
    }

    /// The whole template, Ethernet header included.
    pub fn template(&self) -> usize {
        ethernet::HEADER_LEN + self.ip + self.udp + self.esp + self.middle + self.gre
    }

    /// The longest inner packet whose outer IP packet is at most `path_mtu` bytes, with padding to 4.
    pub fn mtu(&self, path_mtu: usize) -> usize {
        let inside_ip = path_mtu.saturating_sub(self.ip + self.udp);
        let inside_esp = if self.esp == 0 {
            inside_ip
        } else {
            let ciphertext =
                inside_ip.saturating_sub(self.esp + esp::ICV_LEN) / esp::ALIGNMENT * esp::ALIGNMENT;
            ciphertext.saturating_sub(esp::TRAILER_LEN)
        };
        inside_esp.saturating_sub(self.middle + self.gre)
    }
}

/// A [`Layout`] as tunnels keep it: all of its sizes are less than 256.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    v6: bool,
    ip: u8,
    udp: u8,
    esp: u8,
    middle: u8,
    gre: u8,
    template: u8,
}

impl Sizes {
    fn new(layout: &Layout) -> Option<Sizes> {
        let Layout { v6, ip, udp, esp, middle, gre } = *layout;
        let size = |size: usize| u8::try_from(size).ok();
        Some(Sizes {
            v6,
            ip: size(ip)?,
            udp: size(udp)?,
            esp: size(esp)?,
            middle: size(middle)?,
            gre: size(gre)?,
            template: size(layout.template())?,
        })
    }
}

/// A tunnel in a published table. Immutable but for the state it points to.
///
/// Laid out for a packet on its way out where there are so many tunnels that each is fetched from afar: the end of the
/// template, which holds all of most templates, and what else is read are two cache lines that follow each other.
#[repr(C, align(64))]
pub struct Tunnel {
    /// Headers, right-aligned: a packet's bytes follow the last of them.
    pub(crate) template: [u8; TEMPLATE_MAX],
    pub(crate) outbound: Option<Arc<OutboundSa>>,
    /// The longest inner packet, and the longest outer one.
    pub(crate) mtu: usize,
    pub(crate) path_mtu: usize,
    /// One's complement sum of the outer IPv4 header without length, DSCP/ECN and checksum; of the inner header of tunnel
    /// mode likewise.
    pub(crate) outer_sum: u32,
    pub(crate) middle_sum: u32,
    /// The port that outer packets leave by, or why they cannot.
    pub(crate) way_out: Result<u16, Reason>,
    /// The tunnel that outer packets go into before.
    pub(crate) carrier: Option<u32>,
    sizes: Sizes,
    pad: u8,
    pub(crate) mode: Option<Mode>,
    /// What of `gre` differs from packet to packet.
    pub(crate) gre_checksum: bool,
    pub(crate) gre_sequence: bool,
    clamp_mss: bool,
    /// Has each worker an SA of its own?
    several: bool,
    // The second line ends here.
    /// The SAs of the workers behind the first, where there are several.
    more: Box<[Arc<OutboundSa>]>,
    pub(crate) sequences: Arc<Sequences>,
    pub(crate) gre: Options,
    /// The port that Ethernet payloads are bridged with.
    pub(crate) bridge: Option<u16>,
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
}

const _: () = assert!(std::mem::offset_of!(Tunnel, several) < TEMPLATE_MAX + 64);

/// Where a tunnel's outer packets go: addresses on the wire and the port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Underlay {
    pub(crate) source: MacAddr,
    pub(crate) destination: MacAddr,
    pub(crate) port: Result<u16, Reason>,
    /// The tunnel on the way to the port.
    pub(crate) carrier: Option<u32>,
    pub(crate) path_mtu: usize,
    /// The part of `path_mtu` that was learned from routers on the way, or that the carrier takes.
    pub(crate) learned: Option<usize>,
}

/// Settings that [`Tunnel::new`] lays out.
pub(crate) struct Settings<'a> {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) gre: Options,
    pub(crate) ttl: u8,
    pub(crate) mtu: Option<usize>,
    pub(crate) protection: Option<&'a Protection>,
    /// GRE in UDP (RFC 8086), where nothing protects it.
    pub(crate) gre_in_udp: bool,
    pub(crate) bridge: Option<u16>,
    pub(crate) clamp_mss: bool,
    pub(crate) sequences: Arc<Sequences>,
}

impl Tunnel {
    pub(crate) fn new(settings: Settings<'_>, underlay: Underlay) -> Option<Tunnel> {
        let Settings { local, remote, gre, ttl, mtu, protection, gre_in_udp, bridge, clamp_mss, sequences } =
            settings;
        let udp = match protection {
            Some(protection) => protection.udp,
            // The source port is each flow's own.
            None => gre_in_udp.then_some(UdpEncap { source: 0, destination: udp::GRE_PORT }),
        };
        let mode = protection.map(|protection| protection.mode);
        let layout = Layout::new(local.is_ipv6(), &gre, mode, udp.is_some());
        let mut outbound =
            protection.map_or(Vec::new(), |protection| protection.outbound.clone()).into_iter();
        let (outbound, more) = (outbound.next(), outbound.collect::<Box<[_]>>());
        let headers = headers(
            &layout,
            local,
            remote,
            ttl,
            &gre,
            mode,
            udp,
            outbound.as_deref().map(OutboundSa::spi),
            underlay,
        )?;
        let template_len = layout.template();
        let mut template = [0; TEMPLATE_MAX];
        template.get_mut(TEMPLATE_MAX - template_len..)?.copy_from_slice(headers.get(..template_len)?);
        let middle_at = ethernet::HEADER_LEN + layout.ip + layout.udp + layout.esp;
        // An Ethernet payload's header is not part of the MTU that its hosts know.
        let frame = if bridge.is_some() { ethernet::HEADER_LEN } else { 0 };
        let fitting = layout.mtu(underlay.path_mtu);
        Some(Tunnel {
            outer_sum: constant_sum(headers.get(ethernet::HEADER_LEN..)?, layout.v6),
            middle_sum: constant_sum(headers.get(middle_at..)?, layout.v6 || layout.middle == 0),
            template,
            sizes: Sizes::new(&layout)?,
            gre,
            gre_checksum: gre.checksum,
            gre_sequence: gre.sequence,
            mode,
            pad: protection.map_or(esp::ALIGNMENT as u8, |protection| protection.pad),
            // A setting is obeyed until the path is known to take less.
            mtu: mtu.map_or(fitting, |mtu| {
                underlay.learned.map_or(usize::MAX, |path_mtu| layout.mtu(path_mtu)).min(mtu + frame)
            }),
            path_mtu: underlay.path_mtu,
            way_out: underlay.port,
            carrier: underlay.carrier,
            bridge,
            clamp_mss,
            outbound,
            several: !more.is_empty(),
            more,
            sequences,
            local,
            remote,
        })
    }

    /// The longest inner packet that goes in, in bytes: an IP packet, or an Ethernet frame where frames are bridged.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// The longest outer packet, in bytes: what its path is known to take.
    pub fn path_mtu(&self) -> usize {
        self.path_mtu
    }

    /// The station that outer packets leave for: what stands in the link header that is put in front of them.
    pub fn next_station(&self) -> Option<MacAddr> {
        let at = TEMPLATE_MAX.checked_sub(self.template_len())?;
        self.template.get(at..)?.first_chunk().map(|mac| MacAddr(*mac))
    }

    /// What ESP protects, where it does.
    pub fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// Sizes of the headers.
    #[inline]
    pub fn layout(&self) -> Layout {
        let Sizes { v6, ip, udp, esp, middle, gre, .. } = self.sizes;
        Layout { v6, ip: ip.into(), udp: udp.into(), esp: esp.into(), middle: middle.into(), gre: gre.into() }
    }

    /// Bytes of the template that are in use, Ethernet header included.
    #[inline]
    pub(crate) fn template_len(&self) -> usize {
        self.sizes.template.into()
    }

    /// What plaintext is padded to a multiple of where the packet still fits, in bytes.
    #[inline]
    pub(crate) fn pad(&self) -> usize {
        self.pad.into()
    }

    /// Our end and the far one, as keepalives know them.
    pub fn ends(&self) -> keepalive::Ends {
        let Options { key, checksum, .. } = self.gre;
        keepalive::Ends { local: self.local, remote: self.remote, key, checksum }
    }

    /// Are keepalives defined for it? Not where it carries Ethernet frames, nor for GRE in UDP.
    pub(crate) fn has_keepalives(&self) -> bool {
        self.gre.payload == Payload::Ip && (self.mode.is_some() || self.layout().udp == 0)
    }

    /// Lowers the segment size that a TCP SYN of this tunnel asks for to what fits, where that is set.
    #[inline(always)]
    pub(crate) fn clamp(&self, packet: &mut [u8]) {
        if self.clamp_mss {
            mss::clamp(packet, self.mtu);
        }
    }

    /// The port that outer packets leave by, or the reason for which they are dropped.
    pub fn way_out(&self) -> Result<usize, Reason> {
        self.way_out.map(usize::from)
    }

    /// The number of the tunnel that outer packets go into, where that was allowed; the port is then that tunnel's.
    pub fn carrier(&self) -> Option<usize> {
        self.carrier.map(|carrier| carrier as usize)
    }

    /// The SAs that send.
    pub fn outbound(&self) -> impl Iterator<Item = &OutboundSa> {
        self.outbound.iter().chain(&self.more).map(|sa| &**sa)
    }

    /// The SA that worker `worker` sends with.
    #[inline]
    pub(crate) fn outbound_of(&self, worker: usize) -> Option<&OutboundSa> {
        if self.several
            && let Some(nth) = (worker % (self.more.len() + 1)).checked_sub(1)
        {
            return self.more.get(nth).map(|sa| &**sa);
        }
        self.outbound.as_deref()
    }

    /// Must the datagrams that its packets go in have a checksum (RFC 8200 section 8.1)?
    #[inline]
    pub(crate) fn is_summed(&self) -> bool {
        self.layout().v6 && self.layout().udp != 0
    }

    /// What its packets look like on the way, as an ICMP error about one would quote it: for each SA that sends, or of a
    /// tunnel that is not protected.
    pub fn sends(&self) -> impl Iterator<Item = Sends> {
        let gre = self.mode.is_none().then_some(Inside::Gre(self.gre));
        let esp = self.outbound().map(|sa| Inside::Esp { spi: sa.spi(), numbers: sa.numbers() });
        let udp = self.udp_ports();
        let ends = (self.local, self.remote);
        gre.into_iter().chain(esp).map(move |inside| Sends { local: ends.0, remote: ends.1, udp, inside })
    }

    /// The ports of its UDP header, where it has one. GRE in UDP has another source port for each flow (RFC 8086 section 3.1).
    fn udp_ports(&self) -> Option<Ports> {
        let at = TEMPLATE_MAX.checked_sub(self.template_len())? + ethernet::HEADER_LEN + self.layout().ip;
        let [a, b, c, d] = *self.template.get(at..at + self.layout().udp)?.first_chunk::<4>()?;
        let source = self.mode.is_some().then_some(u16::from_be_bytes([a, b]));
        Some(Ports { source, destination: u16::from_be_bytes([c, d]) })
    }

    /// Asks the processor for what sending a packet will read.
    #[inline]
    pub(crate) fn prefetch_outbound(&self) {
        if let Some(end) = self.template.last_chunk::<64>() {
            crate::ring::prefetch(end);
        }
        crate::ring::prefetch(&self.outbound);
    }
}

/// The template's bytes, from the Ethernet header on.
#[allow(clippy::too_many_arguments)] // everything a set of headers is made of
fn headers(
    layout: &Layout,
    local: IpAddr,
    remote: IpAddr,
    ttl: u8,
    gre: &Options,
    mode: Option<Mode>,
    udp: Option<UdpEncap>,
    spi: Option<Spi>,
    underlay: Underlay,
) -> Option<[u8; TEMPLATE_MAX]> {
    let mut bytes = [0; TEMPLATE_MAX];
    let (ethernet, rest) = bytes.split_first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
    let ethertype = if layout.v6 { ethernet::IPV6 } else { ethernet::IPV4 };
    EthernetHeader { dst: underlay.destination, src: underlay.source, ethertype }.emit(ethernet);

    let outer_protocol = match (mode, udp) {
        (_, Some(_)) => protocol::UDP,
        (Some(_), None) => protocol::ESP,
        (None, None) => protocol::GRE,
    };
    let (outer, rest) = rest.split_at_mut_checked(layout.ip)?;
    emit_ip(outer, local, remote, ttl, outer_protocol)?;
    let (udp_bytes, rest) = rest.split_at_mut_checked(layout.udp)?;
    if let Some(udp) = udp {
        // RFC 3948 section 2.1: no checksum. RFC 8086 section 6.1 allows that over IPv4.
        UdpHeader { source: udp.source, destination: udp.destination, length: 0, checksum: 0 }
            .emit(udp_bytes.first_chunk_mut()?);
    }
    let (esp_bytes, rest) = rest.split_at_mut_checked(layout.esp)?;
    if let Some(spi) = spi.filter(|_| !esp_bytes.is_empty()) {
        EspHeader { spi, sequence: 0 }.emit(esp_bytes.first_chunk_mut()?);
    }
    let (middle, rest) = rest.split_at_mut_checked(layout.middle)?;
    if !middle.is_empty() {
        emit_ip(middle, local, remote, ttl, protocol::GRE)?;
    }
    let gre_bytes = rest.get_mut(..layout.gre)?;
    GreHeader { protocol: 0, checksum: gre.checksum, key: gre.key, sequence: gre.sequence.then_some(0) }
        .emit(gre_bytes)
        .ok()?;
    Some(bytes)
}

/// An IP header with everything that does not change from packet to packet. IPv4: do not fragment, and so identification 0
/// (RFC 6864 section 4.1).
fn emit_ip(out: &mut [u8], src: IpAddr, dst: IpAddr, ttl: u8, protocol: u8) -> Option<()> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Ipv4Header { tos: 0, total_len: 0, id: 0, dont_fragment: true, ttl, protocol, src, dst }
                .emit(out.first_chunk_mut()?);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Ipv6Header {
                traffic_class: 0,
                flow_label: 0,
                payload_len: 0,
                next_header: protocol,
                hop_limit: ttl,
                src,
                dst,
            }
            .emit(out.first_chunk_mut()?);
        }
        _ => return None,
    }
    Some(())
}

/// The sum over an IPv4 header as [`emit_ip`] left it, its checksum not counted; 0 for IPv6, which has none.
fn constant_sum(header: &[u8], none: bool) -> u32 {
    if none {
        return 0;
    }
    header
        .chunks_exact(2)
        .take(10)
        .enumerate()
        .filter(|(word, _)| *word != 5)
        .map(|(_, word)| word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
        .sum()
}
