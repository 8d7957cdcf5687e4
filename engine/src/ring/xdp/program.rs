//! The XDP program: which frames are the engine's. It redirects those to the socket of the queue they came in on, and lets
//! all others pass to the kernel, untouched. What is ours stands in [`Maps`]; beside them it keeps no state but which datagrams in
//! fragments are ours.
//!
//! 1. Ethernet: multicast, tagged frames and other protocols than IP pass.
//! 2. To a local address of a tunnel: ESP, GRE, their UDP encapsulations, and ICMP errors that quote one of these are ours;
//!    all else passes. Fragments of ESP and GRE are ours. Of UDP, the first fragment shows whose they are; it is noted if they
//!    are ours, until the last has passed, and others are ours if their first was. So those that overtake their first one, or that
//!    the last overtakes, are the kernel's: an identification may soon be another datagram's.
//! 3. To any other: ours if the longest prefix that holds the destination says so.

use std::io;

use super::assembler::Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use super::assembler::Size::{Byte, Half, Word};
use super::assembler::{Assembler, Condition, Instruction, Label, Register, be16, be32};
use super::bpf::{Kind, Map};
use crate::wire::{ethernet, protocol};

use Condition::{AnyBit, Equal, Greater, Less, NotEqual};

/// `XDP_PASS` (`<linux/bpf.h>`)
const PASS: i32 = 2;
/// Helpers (`<linux/bpf.h>`, `___BPF_FUNC_MAPPER`)
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const REDIRECT_MAP: i32 = 51;
/// `struct xdp_md`
const MD_DATA: i16 = 0;
const MD_DATA_END: i16 = 4;
const MD_QUEUE: i16 = 16;

/// Extension headers that are walked; packets with more pass (RFC 8200 section 4.1 recommends at most one of each kind).
const EXTENSION_HEADERS: usize = 4;
/// ICMP types that report an error about a packet of ours (RFC 792; RFC 4443 sections 3.1 and 3.2).
const V4_UNREACHABLE: i32 = 3;
const V6_UNREACHABLE: i32 = 1;
const V6_TOO_BIG: i32 = 2;

/// What a UDP port of the engine's carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Encapsulation {
    /// ESP (RFC 3948), with IKE behind a marker of four zero bytes, which is the host's.
    Esp = 1,
    /// GRE (RFC 8086).
    Gre = 2,
}

/// Value of a prefix that is the engine's; others are the kernel's.
pub(super) const OURS: u32 = 1;

/// What is ours. Addresses of IPv4 stand in `local` as v4-mapped ones (RFC 4291 section 2.5.5.2).
pub(super) struct Maps {
    pub(super) local: Map<16>,
    /// UDP ports, in network byte order, with the [`Encapsulation`] they carry.
    pub(super) ports: Map<2>,
    /// Prefix length in the machine's byte order, then the address.
    pub(super) v4: Map<8>,
    pub(super) v6: Map<20>,
    /// Datagrams whose first fragment was ours, by identification, source and destination; written by the program alone.
    datagrams: Map<36>,
}

/// Most local addresses.
const LOCAL_ENTRIES: u32 = 1 << 16;
/// Most UDP ports.
const PORT_ENTRIES: u32 = 1 << 10;
/// Most prefixes of each protocol: more than the whole Internet's routing table. Memory is used for those there are.
const PREFIX_ENTRIES: u32 = 1 << 22;
/// Datagrams in fragments that are remembered: some 10 ms of 10 Gbit/s.
const DATAGRAM_ENTRIES: u32 = 1 << 13;

impl Maps {
    pub(super) fn new() -> io::Result<Maps> {
        Ok(Maps {
            local: Map::new(Kind::Hash, LOCAL_ENTRIES, "culvert_local")?,
            ports: Map::new(Kind::Hash, PORT_ENTRIES, "culvert_ports")?,
            v4: Map::new(Kind::LongestPrefix, PREFIX_ENTRIES, "culvert_v4")?,
            v6: Map::new(Kind::LongestPrefix, PREFIX_ENTRIES, "culvert_v6")?,
            datagrams: Map::new(Kind::RecentlyUsed, DATAGRAM_ENTRIES, "culvert_frags")?,
        })
    }
}

/// A program for which every frame is ours.
pub(super) fn everything(sockets: &Map<4>) -> Option<Vec<Instruction>> {
    let mut asm = Assembler::default();
    asm.copy(R6, R1);
    redirect(&mut asm, sockets);
    asm.finish()
}

/// The program of the module page.
pub(super) fn steering(sockets: &Map<4>, maps: &Maps) -> Option<Vec<Instruction>> {
    let mut asm = Assembler::default();
    let labels = Labels {
        ours: asm.label(),
        pass: asm.label(),
        udp: asm.label(),
        quoted_udp: asm.label(),
        marker: asm.label(),
        first_fragment: asm.label(),
        later_fragment: asm.label(),
        verdict: asm.label(),
    };
    let (v4, v6) = (asm.label(), asm.label());
    ethernet(&mut asm, &labels, v4, v6);
    asm.place(v4);
    ipv4(&mut asm, &labels, maps);
    asm.place(v6);
    ipv6(&mut asm, &labels, maps);
    asm.place(labels.udp);
    udp(&mut asm, &labels, maps);
    asm.place(labels.quoted_udp);
    quoted_udp(&mut asm, &labels, maps);
    asm.place(labels.marker);
    marker(&mut asm, &labels);
    asm.place(labels.first_fragment);
    first_fragment(&mut asm, &labels, maps);
    asm.place(labels.later_fragment);
    later_fragment(&mut asm, &labels, maps);
    asm.place(labels.verdict);
    verdict(&mut asm, &labels);
    asm.place(labels.ours);
    redirect(&mut asm, sockets);
    asm.place(labels.pass);
    asm.set(R0, PASS);
    asm.exit();
    asm.finish()
}

/// Places that several parts of the program go to.
struct Labels {
    ours: Label,
    pass: Label,
    /// `R9` is at a UDP header of a packet to us.
    udp: Label,
    /// `R9` is at a UDP header of a packet of ours that an ICMP error quotes.
    quoted_udp: Label,
    /// `R9` is at a UDP header whose payload is ESP or IKE.
    marker: Label,
    /// `R9` is at the UDP header of a first fragment to us, whose key is on the stack.
    first_fragment: Label,
    /// The key of another fragment to us is on the stack.
    later_fragment: Label,
    /// `R0` is what the look-up of a prefix gave.
    verdict: Label,
}

// Registers in all that follows: R6 the context, R7 the start of the frame (IPv6: later the next header), R8 the end of
// the frame, R9 the header that is being looked at. The destination address is on the stack, in its last 16 bytes.

const ADDRESS: i16 = -16;
/// An IPv4 address within [`ADDRESS`], v4-mapped.
const ADDRESS_V4: i16 = ADDRESS + 12;
/// Look-up keys of prefixes: four bytes of length in front of the address.
const PREFIX_V4: i16 = ADDRESS_V4 - 4;
const PREFIX_V6: i16 = ADDRESS - 4;
/// The key of a datagram: identification, source and destination, which is [`ADDRESS`].
const DATAGRAM: i16 = SOURCE - 4;
const SOURCE: i16 = ADDRESS - 16;
const SOURCE_V4: i16 = SOURCE + 12;
/// A UDP port.
const PORT: i16 = DATAGRAM - 4;
/// The value of a datagram's key; of a later fragment, whether more follow.
const NOTED: i16 = PORT - 4;

/// Frames that end before `bytes` after `from` go to `label`.
fn unless_there(asm: &mut Assembler, from: Register, bytes: i32, label: Label) {
    asm.copy(R1, from);
    asm.add_value(R1, bytes);
    asm.jump_if_register(R1, Greater, R8, label);
}

/// ESP and GRE, by the protocol number in `number`, are ours.
fn esp_or_gre(asm: &mut Assembler, number: Register, labels: &Labels) {
    asm.jump_if(number, Equal, i32::from(protocol::ESP), labels.ours);
    asm.jump_if(number, Equal, i32::from(protocol::GRE), labels.ours);
}

/// `R0` = where the map has the value of the key at `key` on the stack, or 0.
fn look_up(asm: &mut Assembler, map: i32, key: i16) {
    asm.load_map(R1, map);
    asm.copy(R2, R10);
    asm.add_value(R2, i32::from(key));
    asm.call(MAP_LOOKUP_ELEM);
}

fn redirect(asm: &mut Assembler, sockets: &Map<4>) {
    asm.load_map(R1, sockets.descriptor());
    asm.load(Word, R2, R6, MD_QUEUE);
    // Where the queue has no socket.
    asm.set(R3, PASS);
    asm.call(REDIRECT_MAP);
    asm.exit();
}

fn ethernet(asm: &mut Assembler, labels: &Labels, v4: Label, v6: Label) {
    asm.copy(R6, R1);
    asm.load(Word, R7, R6, MD_DATA);
    asm.load(Word, R8, R6, MD_DATA_END);
    unless_there(asm, R7, 14, labels.pass);
    // The group bit (IEEE 802-2014 section 8.2.2).
    asm.load(Byte, R1, R7, 0);
    asm.jump_if(R1, AnyBit, 1, labels.pass);
    asm.load(Half, R1, R7, 12);
    asm.jump_if(R1, Equal, be16(ethernet::IPV4), v4);
    asm.jump_if(R1, Equal, be16(ethernet::IPV6), v6);
    asm.jump(labels.pass);
}

/// RFC 791 section 3.1. The header starts at byte 14.
fn ipv4(asm: &mut Assembler, labels: &Labels, maps: &Maps) {
    unless_there(asm, R7, 14 + 20, labels.pass);
    let pass = labels.pass;
    asm.load(Byte, R9, R7, 14);
    header_length_v4(asm, pass);
    asm.add(R9, R7);
    asm.add_value(R9, 14);

    asm.load(Word, R1, R7, 14 + 16);
    asm.store(Word, R10, ADDRESS_V4, R1);
    asm.store_value(R10, ADDRESS, 0);
    asm.store_value(R10, ADDRESS + 4, 0);
    asm.store_value(R10, ADDRESS + 8, be32(0xffff));
    look_up(asm, maps.local.descriptor(), ADDRESS);
    let local = asm.label();
    asm.jump_if(R0, NotEqual, 0, local);
    asm.store_value(R10, PREFIX_V4, 32);
    look_up(asm, maps.v4.descriptor(), PREFIX_V4);
    asm.jump(labels.verdict);

    asm.place(local);
    asm.load(Byte, R2, R7, 14 + 9);
    esp_or_gre(asm, R2, labels);
    // More fragments, or an offset.
    let fragment = asm.label();
    asm.load(Half, R1, R7, 14 + 6);
    asm.jump_if(R1, AnyBit, be16(0x3fff), fragment);
    asm.jump_if(R2, Equal, i32::from(protocol::UDP), labels.udp);
    asm.jump_if(R2, NotEqual, i32::from(protocol::ICMP), pass);
    quoted_ipv4(asm, labels);

    asm.place(fragment);
    asm.jump_if(R2, NotEqual, i32::from(protocol::UDP), pass);
    asm.load(Half, R1, R7, 14 + 4);
    asm.store(Word, R10, DATAGRAM, R1);
    asm.load(Word, R1, R7, 14 + 12);
    asm.store(Word, R10, SOURCE_V4, R1);
    asm.store_value(R10, SOURCE, 0);
    asm.store_value(R10, SOURCE + 4, 0);
    asm.store_value(R10, SOURCE + 8, be32(0xffff));
    asm.load(Half, R1, R7, 14 + 6);
    asm.copy(R2, R1);
    asm.and(R2, be16(0x2000));
    asm.store(Word, R10, NOTED, R2);
    asm.jump_if(R1, AnyBit, be16(0x1fff), labels.later_fragment);
    asm.jump(labels.first_fragment);
}

/// `R9` is the first byte of an IPv4 header; becomes the header's length in bytes.
fn header_length_v4(asm: &mut Assembler, pass: Label) {
    asm.copy(R1, R9);
    asm.and(R1, 0xf0);
    asm.jump_if(R1, NotEqual, 0x40, pass);
    asm.and(R9, 0x0f);
    asm.jump_if(R9, Less, 5, pass);
    asm.shift_left(R9, 2);
}

/// `R9` is at an ICMP header: 8 bytes, then the packet it is about (RFC 792).
fn quoted_ipv4(asm: &mut Assembler, labels: &Labels) {
    let pass = labels.pass;
    unless_there(asm, R9, 8 + 20, pass);
    asm.load(Byte, R1, R9, 0);
    asm.jump_if(R1, NotEqual, V4_UNREACHABLE, pass);
    asm.load(Byte, R2, R9, 8 + 9);
    esp_or_gre(asm, R2, labels);
    asm.jump_if(R2, NotEqual, i32::from(protocol::UDP), pass);
    // Only a first fragment has ports.
    asm.load(Half, R1, R9, 8 + 6);
    asm.jump_if(R1, AnyBit, be16(0x1fff), pass);
    asm.copy(R7, R9);
    asm.load(Byte, R9, R7, 8);
    header_length_v4(asm, pass);
    asm.add(R9, R7);
    asm.add_value(R9, 8);
    asm.jump(labels.quoted_udp);
}

/// RFC 8200 section 3. The header starts at byte 14.
fn ipv6(asm: &mut Assembler, labels: &Labels, maps: &Maps) {
    let pass = labels.pass;
    unless_there(asm, R7, 14 + 40, pass);
    asm.load(Byte, R1, R7, 14);
    asm.and(R1, 0xf0);
    asm.jump_if(R1, NotEqual, 0x60, pass);

    for part in [0, 4, 8, 12] {
        asm.load(Word, R1, R7, 14 + 24 + part);
        asm.store(Word, R10, ADDRESS + part, R1);
    }
    look_up(asm, maps.local.descriptor(), ADDRESS);
    let local = asm.label();
    asm.jump_if(R0, NotEqual, 0, local);
    asm.store_value(R10, PREFIX_V6, 128);
    look_up(asm, maps.v6.descriptor(), PREFIX_V6);
    asm.jump(labels.verdict);

    asm.place(local);
    asm.copy(R9, R7);
    asm.add_value(R9, 14 + 40);
    asm.load(Byte, R7, R7, 14 + 6);
    extension_headers(asm, labels);
    quoted_ipv6(asm, labels);
}

/// `R9` is at the header that `R7` names. Goes on with `R9` at an ICMPv6 header, and elsewhere with all others.
fn extension_headers(asm: &mut Assembler, labels: &Labels) {
    let (icmp, fragment) = (asm.label(), asm.label());
    for nth in 0..=EXTENSION_HEADERS {
        esp_or_gre(asm, R7, labels);
        asm.jump_if(R7, Equal, i32::from(protocol::UDP), labels.udp);
        asm.jump_if(R7, Equal, i32::from(protocol::ICMPV6), icmp);
        if nth == EXTENSION_HEADERS {
            break;
        }
        let (options, fragmented, next) = (asm.label(), asm.label(), asm.label());
        asm.jump_if(R7, Equal, i32::from(protocol::FRAGMENT), fragmented);
        asm.jump_if(R7, Equal, i32::from(protocol::HOP_BY_HOP), options);
        asm.jump_if(R7, NotEqual, i32::from(protocol::DESTINATION_OPTIONS), labels.pass);
        // RFC 8200 section 4.3: the length counts 8 bytes, not including the first 8.
        asm.place(options);
        unless_there(asm, R9, 8, labels.pass);
        asm.load(Byte, R7, R9, 0);
        asm.load(Byte, R1, R9, 1);
        asm.add_value(R1, 1);
        asm.shift_left(R1, 3);
        asm.add(R9, R1);
        asm.jump(next);
        // Section 4.5. One that is the whole packet (RFC 6946) is read on.
        asm.place(fragmented);
        unless_there(asm, R9, 8, labels.pass);
        asm.load(Byte, R7, R9, 0);
        asm.load(Half, R1, R9, 2);
        asm.jump_if(R1, AnyBit, be16(0xfff9), fragment);
        asm.add_value(R9, 8);
        asm.place(next);
    }
    asm.jump(labels.pass);

    asm.place(fragment);
    esp_or_gre(asm, R7, labels);
    asm.jump_if(R7, NotEqual, i32::from(protocol::UDP), labels.pass);
    asm.load(Word, R1, R9, 4);
    asm.store(Word, R10, DATAGRAM, R1);
    // Its own place is not known any more.
    asm.load(Word, R2, R6, MD_DATA);
    unless_there(asm, R2, 14 + 40, labels.pass);
    for part in [0, 4, 8, 12] {
        asm.load(Word, R1, R2, 14 + 8 + part);
        asm.store(Word, R10, SOURCE + part, R1);
    }
    asm.load(Half, R1, R9, 2);
    asm.copy(R2, R1);
    asm.and(R2, be16(1));
    asm.store(Word, R10, NOTED, R2);
    asm.add_value(R9, 8);
    asm.jump_if(R1, AnyBit, be16(0xfff8), labels.later_fragment);
    asm.jump(labels.first_fragment);
    asm.place(icmp);
}

/// `R9` is at an ICMPv6 header: 8 bytes, then the packet it is about (RFC 4443 sections 3.1 and 3.2). Ours have no extension
/// headers.
fn quoted_ipv6(asm: &mut Assembler, labels: &Labels) {
    let pass = labels.pass;
    unless_there(asm, R9, 8 + 40, pass);
    let about_ours = asm.label();
    asm.load(Byte, R1, R9, 0);
    asm.jump_if(R1, Equal, V6_UNREACHABLE, about_ours);
    asm.jump_if(R1, NotEqual, V6_TOO_BIG, pass);
    asm.place(about_ours);
    asm.load(Byte, R2, R9, 8 + 6);
    esp_or_gre(asm, R2, labels);
    asm.jump_if(R2, NotEqual, i32::from(protocol::UDP), pass);
    asm.add_value(R9, 8 + 40);
    asm.jump(labels.quoted_udp);
}

/// What the port at `offset` of the UDP header at `R9` carries: GRE is ours, ESP is looked at, for others the next
/// instruction follows.
fn udp_port(asm: &mut Assembler, offset: i16, labels: &Labels, maps: &Maps) {
    asm.load(Half, R1, R9, offset);
    asm.store(Half, R10, PORT, R1);
    look_up(asm, maps.ports.descriptor(), PORT);
    let other = asm.label();
    asm.jump_if(R0, Equal, 0, other);
    asm.load(Word, R1, R0, 0);
    asm.jump_if(R1, Equal, Encapsulation::Gre as i32, labels.ours);
    asm.jump_if(R1, Equal, Encapsulation::Esp as i32, labels.marker);
    asm.place(other);
}

/// RFC 3948 section 2, RFC 8086 section 3.
fn udp(asm: &mut Assembler, labels: &Labels, maps: &Maps) {
    unless_there(asm, R9, 8, labels.pass);
    udp_port(asm, 2, labels, maps);
    asm.jump(labels.pass);
}

/// The remote port may be any behind a translator, so a local one will do; that of GRE varies by flow (RFC 8086 section 3.1).
fn quoted_udp(asm: &mut Assembler, labels: &Labels, maps: &Maps) {
    unless_there(asm, R9, 8, labels.pass);
    udp_port(asm, 2, labels, maps);
    udp_port(asm, 0, labels, maps);
    asm.jump(labels.pass);
}

/// IKE starts with four zero bytes (RFC 3948 section 2.2). A keepalive is shorter (section 2.3), and so may a quotation be.
fn marker(asm: &mut Assembler, labels: &Labels) {
    unless_there(asm, R9, 8 + 4, labels.ours);
    asm.load(Word, R1, R9, 8);
    asm.jump_if(R1, NotEqual, 0, labels.ours);
    asm.jump(labels.pass);
}

/// One that ends before it shows whether it is IKE is the kernel's.
fn first_fragment(asm: &mut Assembler, labels: &Labels, maps: &Maps) {
    let (ours, kernels) = (asm.label(), asm.label());
    unless_there(asm, R9, 8 + 4, kernels);
    asm.load(Half, R1, R9, 2);
    asm.store(Half, R10, PORT, R1);
    look_up(asm, maps.ports.descriptor(), PORT);
    asm.jump_if(R0, Equal, 0, kernels);
    asm.load(Word, R1, R0, 0);
    asm.jump_if(R1, Equal, Encapsulation::Gre as i32, ours);
    asm.load(Word, R1, R9, 8);
    asm.jump_if(R1, Equal, 0, kernels);

    asm.place(ours);
    asm.store_value(R10, NOTED, OURS as i32);
    asm.load_map(R1, maps.datagrams.descriptor());
    asm.copy(R2, R10);
    asm.add_value(R2, i32::from(DATAGRAM));
    asm.copy(R3, R10);
    asm.add_value(R3, i32::from(NOTED));
    // `BPF_ANY`
    asm.set(R4, 0);
    asm.call(MAP_UPDATE_ELEM);
    asm.jump(labels.ours);

    // An earlier datagram of ours may have had the same identification.
    asm.place(kernels);
    forget(asm, maps);
    asm.jump(labels.pass);
}

fn later_fragment(asm: &mut Assembler, labels: &Labels, maps: &Maps) {
    look_up(asm, maps.datagrams.descriptor(), DATAGRAM);
    asm.jump_if(R0, Equal, 0, labels.pass);
    asm.load(Word, R1, R10, NOTED);
    asm.jump_if(R1, NotEqual, 0, labels.ours);
    forget(asm, maps);
    asm.jump(labels.ours);
}

/// The datagram whose key is on the stack is noted no more.
fn forget(asm: &mut Assembler, maps: &Maps) {
    asm.load_map(R1, maps.datagrams.descriptor());
    asm.copy(R2, R10);
    asm.add_value(R2, i32::from(DATAGRAM));
    asm.call(MAP_DELETE_ELEM);
}

fn verdict(asm: &mut Assembler, labels: &Labels) {
    asm.jump_if(R0, Equal, 0, labels.pass);
    asm.load(Word, R1, R0, 0);
    asm.jump_if(R1, NotEqual, OURS as i32, labels.pass);
}
