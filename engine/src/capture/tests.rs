//! Tests of the capture formats. Files are built here by a few helpers that share nothing with the code
//! under test, and compared byte for byte where we write them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{self, Read};

use proptest::prelude::*;

use super::*;

/// A record kept after its reader has moved on.
type Kept = (u64, Vec<u8>, u32);

/// Reads all there is: the packets, and the error that ended them.
fn read_all(source: impl Read) -> (Vec<Kept>, Option<CaptureError>) {
    let mut packets = Vec::new();
    let mut reader = match Reader::open(source) {
        Ok(reader) => reader,
        Err(error) => return (packets, Some(error)),
    };
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                assert!(record.data.len() <= MAX_RECORD);
                packets.push((record.time_ns, record.data.to_vec(), record.original_len));
            }
            Ok(None) => return (packets, None),
            Err(error) => return (packets, Some(error)),
        }
    }
}

fn packets(file: &[u8]) -> Vec<Kept> {
    match read_all(file) {
        (packets, None) => packets,
        (_, Some(error)) => panic!("{error}"),
    }
}

fn error(file: &[u8]) -> CaptureError {
    read_all(file).1.expect("an error")
}

/// The offset and kind of damage.
fn damage(file: &[u8]) -> (u64, Damage) {
    match error(file) {
        CaptureError::Damaged { offset, what } => (offset, what),
        other => panic!("{other}"),
    }
}

/// Builds files in either byte order.
#[derive(Clone)]
struct File {
    big: bool,
    bytes: Vec<u8>,
}

impl File {
    fn u16(mut self, value: u16) -> Self {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn pcap(big: bool, magic: u32, link: u32) -> Self {
        Self { big, bytes: Vec::new() }.u32(magic).u16(2).u16(4).u32(0).u32(0).u32(65535).u32(link)
    }

    fn record(self, seconds: u32, fraction: u32, data: &[u8], original: u32) -> Self {
        self.u32(seconds).u32(fraction).u32(data.len() as u32).u32(original).raw(data)
    }

    fn pcapng(big: bool) -> Self {
        Self { big, bytes: Vec::new() }.section(big)
    }

    fn section(mut self, big: bool) -> Self {
        self.big = big;
        let body = self.body().u32(0x1a2b3c4d).u16(1).u16(0).u64(u64::MAX);
        self.block(0x0a0d0d0a, body)
    }

    fn body(&self) -> Self {
        Self { big: self.big, bytes: Vec::new() }
    }

    fn block(self, kind: u32, body: Self) -> Self {
        let padding = body.bytes.len().next_multiple_of(4) - body.bytes.len();
        let length = (body.bytes.len() + padding + 12) as u32;
        self.u32(kind).u32(length).raw(&body.bytes).raw(&[0; 3][..padding]).u32(length)
    }

    fn interface(self, link: u16, snapshot: u32, options: &[(u16, &[u8])]) -> Self {
        let mut body = self.body().u16(link).u16(0).u32(snapshot);
        for (code, value) in options {
            let padding = value.len().next_multiple_of(4) - value.len();
            body = body.u16(*code).u16(value.len() as u16).raw(value).raw(&[0; 3][..padding]);
        }
        self.block(1, body)
    }

    fn ethernet(self) -> Self {
        self.interface(1, 0, &[])
    }

    fn enhanced(self, interface: u32, ticks: u64, data: &[u8], original: u32) -> Self {
        let body = self.body().u32(interface).u32((ticks >> 32) as u32).u32(ticks as u32);
        let body = body.u32(data.len() as u32).u32(original).raw(data);
        self.block(6, body)
    }
}

const FRAME: &[u8] = &[1, 2, 3, 4, 5];

#[test]
fn pcap_written_byte_for_byte() {
    let mut file = Vec::new();
    let mut writer = Writer::pcap(&mut file).unwrap();
    assert_eq!(writer.format(), Format::Pcap);
    writer.write(1_700_000_001_234_567_890, FRAME).unwrap();
    writer.flush().unwrap();
    drop(writer);
    let expected: &[u8] = &[
        0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0, // header
        0x01, 0xf1, 0x53, 0x65, 0xd2, 0x38, 0xfb, 0x0d, 5, 0, 0, 0, 5, 0, 0, 0, 1, 2, 3, 4, 5,
    ];
    assert_eq!(file, expected);
    assert_eq!(packets(&file), [(1_700_000_001_234_567_890, FRAME.to_vec(), 5)]);
}

#[test]
fn pcapng_written_byte_for_byte() {
    let mut file = Vec::new();
    let mut writer = Writer::pcapng(&mut file, "wan").unwrap();
    assert_eq!(writer.format(), Format::Pcapng);
    writer.write(0x1122_3344_5566_7788, FRAME).unwrap();
    writer.flush().unwrap();
    drop(writer);
    let expected: &[u8] = &[
        // Section Header Block: magic, 1.0, unknown length, shb_userappl "Culvert", end of options.
        0x0a, 0x0d, 0x0d, 0x0a, 44, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, //
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, //
        4, 0, 7, 0, b'C', b'u', b'l', b'v', b'e', b'r', b't', 0, 0, 0, 0, 0, 44, 0, 0, 0, //
        // Interface Description Block: Ethernet, 262144, if_name "wan", if_tsresol 9, end of options.
        1, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0, //
        2, 0, 3, 0, b'w', b'a', b'n', 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, //
        // Enhanced Packet Block: interface 0, time high and low, 5 of 5 bytes, padded.
        6, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55, //
        5, 0, 0, 0, 5, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 40, 0, 0, 0,
    ];
    assert_eq!(file, expected);
    assert_eq!(packets(&file), [(0x1122_3344_5566_7788, FRAME.to_vec(), 5)]);
}

#[test]
fn pcap_of_both_units_and_byte_orders() {
    for big in [false, true] {
        let micro = File::pcap(big, 0xa1b2c3d4, 1).record(7, 999_999, FRAME, 90).record(u32::MAX, 1, &[], 0);
        assert_eq!(
            packets(&micro.bytes),
            [(7_999_999_000, FRAME.to_vec(), 90), (4_294_967_295_000_001_000, vec![], 0)]
        );
        let nano = File::pcap(big, 0xa1b23c4d, 1).record(7, 999_999_999, FRAME, 5);
        assert_eq!(packets(&nano.bytes), [(7_999_999_999, FRAME.to_vec(), 5)]);
        assert_eq!(Reader::open(&nano.bytes[..]).unwrap().format(), Format::Pcap);
    }
}

#[test]
fn pcap_with_a_frame_check_sequence_noted_is_ethernet() {
    let file = File::pcap(false, 0xa1b2c3d4, 0x2400_0001).record(1, 0, FRAME, 5);
    assert_eq!(packets(&file.bytes).len(), 1);
}

#[test]
fn pcap_faults_name_their_place() {
    let good = File::pcap(false, 0xa1b2c3d4, 1).record(1, 0, FRAME, 5);
    let at = good.bytes.len() as u64;
    let long = good.clone().u32(0).u32(0).u32(262_145).u32(262_145);
    assert_eq!(damage(&long.bytes), (at + 8, Damage::RecordLength { found: 262_145 }));
    let micro = Damage::Subsecond { found: 1_000_000, unit: "microseconds", limit: 1_000_000 };
    assert_eq!(damage(&good.clone().u32(0).u32(1_000_000).bytes), (at + 4, micro));
    let nano = File::pcap(true, 0xa1b23c4d, 1).record(1, 1_000_000_000, FRAME, 5);
    let limit = Damage::Subsecond { found: 1_000_000_000, unit: "nanoseconds", limit: 1_000_000_000 };
    assert_eq!(damage(&nano.bytes), (28, limit));
    let mut version = good.bytes;
    version[6] = 3;
    assert_eq!(
        damage(&version),
        (4, Damage::Version { format: "pcap", major: 2, minor: 3, expected: "2.4" })
    );
}

#[test]
fn the_longest_record_is_read() {
    let frame = vec![0x5a; MAX_RECORD];
    let file = File::pcap(false, 0xa1b2c3d4, 1).record(1, 0, &frame, 300_000);
    assert_eq!(packets(&file.bytes), [(1_000_000_000, frame.clone(), 300_000)]);
    let file = File::pcapng(true).ethernet().enhanced(0, 1, &frame, 300_000);
    assert_eq!(packets(&file.bytes), [(1000, frame, 300_000)]);
}

#[test]
fn a_file_of_no_packets_is_fine_and_no_file_is_not() {
    assert!(packets(&File::pcap(false, 0xa1b2c3d4, 1).bytes).is_empty());
    assert!(packets(&File::pcapng(false).bytes).is_empty());
    assert!(matches!(error(&[]), CaptureError::Empty));
    assert_eq!(
        error(&[]).to_string(),
        "the capture is empty: a pcap or pcapng file header was expected at byte 0"
    );
}

#[test]
fn what_is_no_capture_says_what_it_is() {
    assert_eq!(damage(b"#!/bin/sh\n"), (0, Damage::Magic(*b"#!/b")));
    assert!(error(b"#!/bin/sh\n").to_string().contains("editcap"));
    assert!(error(&[0x1f, 0x8b, 8, 0, 0]).to_string().contains("gzip: decompress"));
    assert!(error(&[0x28, 0xb5, 0x2f, 0xfd, 0]).to_string().contains("zstd: decompress"));
}

#[test]
fn other_link_types_are_named_with_a_remedy() {
    let file = File::pcap(true, 0xa1b2c3d4, 101);
    let found = error(&file.bytes);
    assert!(matches!(found, CaptureError::LinkType { found: 101, interface: 0 }), "{found}");
    assert!(found.to_string().contains("link type 101 (raw IP)"), "{found}");
    assert!(found.to_string().contains("tcprewrite --dlt=enet"), "{found}");
}

#[test]
fn pcapng_of_both_byte_orders() {
    for big in [false, true] {
        let file = File::pcapng(big).ethernet().enhanced(0, 1_700_000_000_123_456, FRAME, 90);
        assert_eq!(packets(&file.bytes), [(1_700_000_000_123_456_000, FRAME.to_vec(), 90)]);
        assert_eq!(Reader::open(&file.bytes[..]).unwrap().format(), Format::Pcapng);
    }
}

/// Each section has its own byte order and its own interfaces.
#[test]
fn pcapng_of_several_sections() {
    let file = File::pcapng(true)
        .interface(1, 0, &[(9, &[0])])
        .enhanced(0, 3, FRAME, 5)
        .section(false)
        .interface(1, 0, &[(9, &[3])])
        .enhanced(0, 4, FRAME, 5)
        .section(true);
    assert_eq!(packets(&file.bytes), [(3_000_000_000, FRAME.to_vec(), 5), (4_000_000, FRAME.to_vec(), 5)]);
    let at = file.bytes.len() as u64 + 8;
    let unknown = Damage::Interface { found: 0, known: 0 };
    assert_eq!(damage(&file.enhanced(0, 0, FRAME, 5).bytes), (at, unknown));
}

/// if_tsresol (decimal and binary) and if_tsoffset.
#[test]
fn pcapng_clocks() {
    let time = |resolution: u8, offset: i64, ticks: u64| {
        let offset = offset.to_le_bytes();
        let options: &[(u16, &[u8])] = &[(2, b"wan0"), (9, &[resolution]), (14, &offset), (0, &[])];
        let file = File::pcapng(false).interface(1, 0, options).enhanced(0, ticks, FRAME, 5);
        match read_all(&file.bytes[..]) {
            (packets, None) => Some(packets[0].0),
            (_, Some(CaptureError::Damaged { offset: 92, what: Damage::Timestamp })) => None,
            (_, Some(other)) => panic!("{other}"),
        }
    };
    assert_eq!(time(9, 0, u64::MAX), Some(u64::MAX));
    assert_eq!(time(6, 0, 5), Some(5_000));
    assert_eq!(time(0, 0, 5), Some(5_000_000_000));
    assert_eq!(time(12, 0, 1_999), Some(1));
    assert_eq!(time(28, 0, u64::MAX), Some(1));
    assert_eq!(time(127, 0, u64::MAX), Some(0));
    assert_eq!(time(0x80, 0, 5), Some(5_000_000_000));
    assert_eq!(time(0x80 | 10, 0, 1536), Some(1_500_000_000));
    assert_eq!(time(0x80 | 32, 0, (9 << 32) + (1 << 31)), Some(9_500_000_000));
    assert_eq!(time(0xff, 0, u64::MAX), Some(0));
    assert_eq!(time(9, 1_700_000_000, 7), Some(1_700_000_000_000_000_007));
    assert_eq!(time(9, -2, 3_000_000_000), Some(1_000_000_000));
    assert_eq!(time(9, -1, 999_999_999), None);
    assert_eq!(time(9, 1, u64::MAX), None);
    assert_eq!(time(0, 0, u64::MAX), None);
    assert_eq!(time(0x80, 0, u64::MAX), None);
    assert_eq!(time(9, i64::MAX, u64::MAX), None);
    assert_eq!(time(9, i64::MIN, u64::MAX), None);
}

/// A packet's own interface tells its clock, and counts only when a packet comes from it.
#[test]
fn pcapng_of_several_interfaces() {
    let file = File::pcapng(false)
        .interface(101, 0, &[])
        .interface(1, 0, &[(9, &[0])])
        .interface(1, 0, &[(9, &[9])])
        .enhanced(2, 8, FRAME, 5)
        .enhanced(1, 8, &[9], 1);
    assert_eq!(packets(&file.bytes), [(8, FRAME.to_vec(), 5), (8_000_000_000, vec![9], 1)]);
    let (before, found) = read_all(&file.enhanced(0, 8, FRAME, 5).bytes[..]);
    assert_eq!(before.len(), 2);
    assert!(matches!(found, Some(CaptureError::LinkType { found: 101, interface: 0 })), "{found:?}");
}

/// A Simple Packet Block holds as much as the interface's snapshot length, and no time.
#[test]
fn pcapng_simple_packets() {
    let start = File::pcapng(true).interface(1, 4, &[]).enhanced(0, 77, FRAME, 5);
    let simple = start.body().u32(60).raw(&[9, 8, 7, 6]);
    let file = start.clone().block(3, simple);
    assert_eq!(packets(&file.bytes)[1], (77_000, vec![9, 8, 7, 6], 60));
    let short = start.body().u32(3).raw(&[9, 8, 7]);
    assert_eq!(packets(&start.clone().block(3, short).bytes)[1], (77_000, vec![9, 8, 7], 3));
    // Without a snapshot length the block holds the whole packet, or lies.
    let unlimited = File::pcapng(true).ethernet();
    let at = unlimited.bytes.len() as u64 + 8;
    let lie = unlimited.body().u32(9).raw(&[0; 8]);
    assert_eq!(damage(&unlimited.block(3, lie).bytes), (at, Damage::DataLength { found: 9, room: 8 }));
    let first = File::pcapng(true);
    let none = first.body().u32(4).raw(&[0; 4]);
    assert_eq!(damage(&first.block(3, none).bytes), (28, Damage::Interface { found: 0, known: 0 }));
}

/// The obsolete Packet Block has 16 bits of interface, then 16 of drops.
#[test]
fn pcapng_obsolete_packets() {
    for big in [false, true] {
        let start = File::pcapng(big).interface(101, 0, &[]).ethernet();
        let body = start.body().u16(1).u16(0xffff).u32(0).u32(6).u32(5).u32(9).raw(FRAME);
        assert_eq!(packets(&start.block(2, body).bytes), [(6_000, FRAME.to_vec(), 9)]);
    }
}

#[test]
fn pcapng_skips_what_it_does_not_know() {
    let start =
        File::pcapng(true).interface(1, 0, &[(0x7fff, b"odd"), (1, b"a comment"), (9, &[9]), (0, &[])]);
    let unknown = start.body().raw(&[0xaa; 100_000]);
    let name_resolution = start.body().raw(&[0; 4]);
    // Options behind the data of a packet, here a comment.
    let packet = start.body().u32(0).u32(0).u32(3).u32(4).u32(4).raw(&[1, 2, 3, 4]);
    let packet = packet.u16(1).u16(2).raw(b"hi\0\0").u32(0);
    let file = start
        .block(0x8000_0001, unknown.clone())
        .block(4, name_resolution)
        .block(6, packet)
        .block(0x0bad, unknown);
    assert_eq!(packets(&file.bytes), [(3, vec![1, 2, 3, 4], 4)]);
}

/// Options end at opt_endofopt: what follows in the block is not taken for an option.
#[test]
fn pcapng_options_end_where_they_say() {
    let file = File::pcapng(false).interface(1, 0, &[(0, &[]), (9, &[0])]).enhanced(0, 1, FRAME, 5);
    assert_eq!(packets(&file.bytes)[0].0, 1_000);
}

#[test]
fn pcapng_faults_name_their_place() {
    let start = File::pcapng(false).ethernet();
    let at = start.bytes.len() as u64;
    assert_eq!(at, 48);
    let block = |kind, length: u32| start.clone().u32(kind).u32(length).raw(&[0; 64]).bytes;
    for (kind, found, least) in [
        (5, 8, 12),
        (5, 30, 12),
        (5, (16 << 20) + 4, 12),
        (5, u32::MAX, 12),
        (6, 28, 32),
        (3, 12, 16),
        (1, 16, 20),
        (2, 28, 32),
    ] {
        assert_eq!(damage(&block(kind, found)), (at + 4, Damage::BlockLength { kind, found, least }));
    }
    let long = start.body().u32(0).u32(0).u32(0).u32(262_145).u32(262_145).raw(&vec![0; 262_148]);
    let expected = Damage::RecordLength { found: 262_145 };
    assert_eq!(damage(&start.clone().block(6, long).bytes), (at + 20, expected));
    let beyond = start.body().u32(0).u32(0).u32(0).u32(9).u32(9).raw(&[0; 8]);
    let expected = Damage::DataLength { found: 9, room: 8 };
    assert_eq!(damage(&start.clone().block(6, beyond).bytes), (at + 20, expected));
    let mut trailing = start.clone().enhanced(0, 1, FRAME, 5).bytes;
    trailing[at as usize + 36] = 41;
    let expected = Damage::TrailingLength { found: 41, expected: 40 };
    assert_eq!(damage(&trailing), (at + 36, expected));
    let expected = Damage::Interface { found: 1, known: 1 };
    assert_eq!(damage(&start.clone().enhanced(1, 1, FRAME, 5).bytes), (at + 8, expected));
    let expected = Damage::OptionLength { code: 9, found: 2, expected: 1 };
    assert_eq!(damage(&start.clone().interface(1, 0, &[(9, &[6, 0])]).bytes), (at + 16, expected));
    let expected = Damage::OptionLength { code: 14, found: 4, expected: 8 };
    assert_eq!(damage(&start.clone().interface(1, 0, &[(14, &[0; 4])]).bytes), (at + 16, expected));
    let room = start.body().u16(1).u16(0).u32(0).u16(5).u16(5).raw(&[0; 4]);
    let expected = Damage::OptionRoom { code: 5, found: 5, room: 4 };
    assert_eq!(damage(&start.clone().block(1, room).bytes), (at + 16, expected));
}

#[test]
fn pcapng_section_header_faults() {
    let good = File::pcapng(true).bytes;
    let mut magic = good.clone();
    magic[8] = 0;
    assert_eq!(damage(&magic), (8, Damage::ByteOrder(0x002b_3c4d)));
    let version = |major, minor| Damage::Version { format: "pcapng", major, minor, expected: "1.0" };
    let mut file = good.clone();
    file[13] = 2;
    assert_eq!(damage(&file), (12, version(2, 0)));
    file[13] = 1;
    file[15] = 1;
    assert_eq!(damage(&file), (12, version(1, 1)));
    // Version 1.2 is 1.0 by another name.
    file[15] = 2;
    assert!(packets(&file).is_empty());
    let mut length = good;
    length[7] = 24;
    let expected = Damage::BlockLength { kind: 0x0a0d0d0a, found: 24, least: 28 };
    assert_eq!(damage(&length), (4, expected));
}

#[test]
fn pcapng_bounds_its_interfaces() {
    let mut file = File::pcapng(false);
    for _ in 0..MAX_INTERFACES {
        file = file.ethernet();
    }
    assert_eq!(packets(&file.clone().enhanced(65_535, 1, FRAME, 5).bytes).len(), 1);
    let at = file.bytes.len() as u64;
    assert_eq!(damage(&file.ethernet().bytes), (at, Damage::Interfaces));
}

/// The places where a file may end without being cut: its record boundaries.
fn truncations(file: &[u8], boundaries: &[usize], packets_at: impl Fn(usize) -> usize) {
    let all = packets(file);
    for cut in 1..file.len() {
        let (found, end) = read_all(&file[..cut]);
        assert_eq!(found, all[..packets_at(cut)], "cut at {cut}");
        match end {
            None => assert!(boundaries.contains(&cut), "cut at {cut}"),
            Some(CaptureError::Truncated { offset, start, missing, .. }) => {
                let before = boundaries.iter().rev().find(|boundary| **boundary <= cut);
                assert_eq!(start, before.copied().unwrap_or(0) as u64, "cut at {cut}");
                assert!(!boundaries.contains(&cut), "cut at {cut}");
                assert_eq!(offset, cut as u64);
                assert!(missing > 0 && missing as usize <= file.len() - cut);
            }
            Some(other) => panic!("cut at {cut}: {other}"),
        }
    }
}

#[test]
fn every_truncation_of_a_pcap_file_keeps_what_stands_before_it() {
    for big in [false, true] {
        let file = File::pcap(big, 0xa1b2c3d4, 1).record(1, 2, FRAME, 5).record(3, 4, &[7; 9], 9);
        let boundaries = [24, 45, 70];
        assert_eq!(file.bytes.len(), 70);
        truncations(&file.bytes, &boundaries, |cut| usize::from(cut >= 45));
    }
}

#[test]
fn every_truncation_of_a_pcapng_file_keeps_what_stands_before_it() {
    for big in [false, true] {
        let file = File::pcapng(big)
            .interface(1, 0, &[(2, b"wan"), (9, &[9]), (14, &[0; 8]), (0, &[])])
            .enhanced(0, 1, FRAME, 5);
        let unknown = file.body().raw(&[1; 8]);
        let simple = file.body().u32(3).raw(&[1, 2, 3]);
        let file = file.block(0x77, unknown).block(3, simple).section(!big);
        let boundaries = [28, 80, 120, 140, 160, 188];
        assert_eq!(file.bytes.len(), 188);
        truncations(&file.bytes, &boundaries, |cut| usize::from(cut >= 120) + usize::from(cut >= 160));
    }
}

#[test]
fn a_truncation_says_what_was_expected() {
    let file = File::pcap(false, 0xa1b2c3d4, 1).record(1, 2, FRAME, 5);
    assert_eq!(
        error(&file.bytes[..42]).to_string(),
        "the capture ends at byte 42, where 3 more bytes of packet data were expected; \
         it is whole up to byte 24: copy it again, or keep that part"
    );
}

#[test]
fn a_reader_stays_at_its_error() {
    let file = File::pcap(false, 0xa1b2c3d4, 1).u32(0).u32(u32::MAX).record(1, 0, FRAME, 5);
    let mut reader = Reader::open(&file.bytes[..]).unwrap();
    let first = reader.next().unwrap_err().to_string();
    for _ in 0..3 {
        assert_eq!(reader.next().unwrap_err().to_string(), first);
    }
}

/// Gives one byte a read, with interruptions, and fails for good at its end.
struct Halting<'a> {
    bytes: &'a [u8],
    interrupted: bool,
}

impl Read for Halting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match (self.bytes.split_first(), buffer.first_mut()) {
            (Some((byte, rest)), Some(place)) => {
                *place = *byte;
                self.bytes = rest;
                Ok(1)
            }
            (None, _) => Err(io::Error::other("the disk is gone")),
            (_, None) => Ok(0),
        }
    }
}

#[test]
fn reading_by_the_byte_and_a_failing_disk() {
    for file in [
        File::pcap(true, 0xa1b2c3d4, 1).record(1, 2, FRAME, 5),
        File::pcapng(true).ethernet().enhanced(0, 1_000_002, FRAME, 5),
    ] {
        let (found, end) = read_all(Halting { bytes: &file.bytes, interrupted: false });
        assert_eq!(found, [(1_000_002_000, FRAME.to_vec(), 5)]);
        let Some(CaptureError::Io { offset, source }) = end else { panic!("{end:?}") };
        assert_eq!((offset, source.to_string().as_str()), (file.bytes.len() as u64, "the disk is gone"));
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_and_leaves_the_file_whole() {
    let after_2106 = (u64::from(u32::MAX) + 1) * 1_000_000_000;
    let too_long = vec![0; MAX_RECORD + 1];
    let mut file = Vec::new();
    let mut writer = Writer::pcap(&mut file).unwrap();
    assert_eq!(writer.write(after_2106, FRAME).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(writer.write(0, &too_long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    writer.write(after_2106 - 1, FRAME).unwrap();
    drop(writer);
    assert_eq!(packets(&file), [(after_2106 - 1, FRAME.to_vec(), 5)]);
    let mut file = Vec::new();
    let mut writer = Writer::pcapng(&mut file, "").unwrap();
    assert_eq!(writer.write(0, &too_long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    writer.write(u64::MAX, &too_long[1..]).unwrap();
    drop(writer);
    assert_eq!(packets(&file), [(u64::MAX, too_long[1..].to_vec(), MAX_RECORD as u32)]);
    let mut file = Vec::new();
    let name = "x".repeat(65_536);
    assert_eq!(Writer::pcapng(&mut file, &name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert!(file.is_empty());
    drop(Writer::pcapng(&mut file, &name[1..]).unwrap());
    assert!(packets(&file).is_empty());
}

/// Bytes that get past the magic number often: a valid start, then blocks or records of random content.
fn nearly_a_capture() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![
        Just(File::pcap(false, 0xa1b2c3d4, 1).bytes),
        Just(File::pcap(true, 0xa1b23c4d, 1).bytes),
        Just(File::pcapng(false).interface(1, 60, &[]).bytes),
        Just(File::pcapng(true).interface(1, 0, &[(9, &[0x8a])]).bytes),
    ];
    let words =
        prop::collection::vec(prop_oneof![0u32..80, Just(0x0a0d0d0a), Just(0x1a2b3c4d), any::<u32>()], 0..60);
    (start, words, any::<bool>()).prop_map(|(bytes, words, big)| {
        words.iter().fold(File { big, bytes }, |file, word| file.u32(*word)).bytes
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        frames in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..200)), 0..20),
        name in ".{0,20}",
    ) {
        let mut file = Vec::new();
        let mut writer = Writer::pcapng(&mut file, &name).unwrap();
        for (time, frame) in &frames {
            writer.write(*time, frame).unwrap();
        }
        writer.flush().unwrap();
        drop(writer);
        let expected: Vec<Kept> =
            frames.iter().map(|(time, frame)| (*time, frame.clone(), frame.len() as u32)).collect();
        prop_assert_eq!(packets(&file), expected.clone());
        let mut file = Vec::new();
        let mut writer = Writer::pcap(&mut file).unwrap();
        let fits = |time: u64| time / 1_000_000_000 <= u64::from(u32::MAX);
        for (time, frame) in &frames {
            prop_assert_eq!(writer.write(*time, frame).is_ok(), fits(*time));
        }
        drop(writer);
        let expected: Vec<Kept> = expected.into_iter().filter(|kept| fits(kept.0)).collect();
        prop_assert_eq!(packets(&file), expected);
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..400), nearly_a_capture()],
    ) {
        if let Ok(mut reader) = Reader::open(&bytes[..]) {
            while let Ok(Some(record)) = reader.next() {
                prop_assert!(record.data.len() < bytes.len());
            }
            // What a lying length makes us hold is one record and a growing table's next step.
            prop_assert!(reader.data.capacity() <= 2 * MAX_RECORD);
        }
    }
}

/// What a live capture writes, block by block (draft-ietf-opsawg-pcapng: 4.1, 4.2, 4.3, 4.6).
#[test]
fn a_live_capture_has_interfaces_directions_and_losses() {
    let interfaces = [
        InterfaceDescription { name: "wan", link: LinkType::Ethernet, snap: 2048 },
        InterfaceDescription { name: "oslo", link: LinkType::Ip, snap: 96 },
    ];
    let mut writer = LiveWriter::new(Vec::new(), &interfaces).unwrap();
    writer.get_mut().clear();
    let time_ns = 0x0102_0304_0506_0708;
    let packet = Packet {
        interface: 1,
        time_ns,
        direction: Some(Direction::Out),
        data: &[0x45, 1, 2],
        original_len: 1400,
    };
    writer.write(&packet).unwrap();
    let expected: &[&[u8]] = &[
        &6u32.to_le_bytes(),
        &48u32.to_le_bytes(),
        &1u32.to_le_bytes(),
        &[4, 3, 2, 1, 8, 7, 6, 5],
        &3u32.to_le_bytes(),
        &1400u32.to_le_bytes(),
        &[0x45, 1, 2, 0],
        &[2, 0, 4, 0, 2, 0, 0, 0],
        &[0, 0, 0, 0],
        &48u32.to_le_bytes(),
    ];
    assert_eq!(std::mem::take(writer.get_mut()), expected.concat());
    writer.statistics(1, time_ns, 7, 2).unwrap();
    let expected: &[&[u8]] = &[
        &5u32.to_le_bytes(),
        &52u32.to_le_bytes(),
        &1u32.to_le_bytes(),
        &[4, 3, 2, 1, 8, 7, 6, 5],
        &[4, 0, 8, 0, 7, 0, 0, 0, 0, 0, 0, 0],
        &[5, 0, 8, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0],
        &52u32.to_le_bytes(),
    ];
    assert_eq!(std::mem::take(writer.get_mut()), expected.concat());
    let long = vec![0; MAX_RECORD + 1];
    let refused = writer.write(&Packet { data: &long, ..packet }).unwrap_err();
    assert_eq!((refused.kind(), writer.get_mut().len()), (io::ErrorKind::InvalidInput, 0));
}

/// Every part of it, cut between two calls, is a capture that we read.
#[test]
fn a_live_capture_is_one_at_any_time() {
    let interfaces = [InterfaceDescription { name: "wan", link: LinkType::Ethernet, snap: 2048 }];
    let mut writer = LiveWriter::new(Vec::new(), &interfaces).unwrap();
    for number in 0..5_u8 {
        assert_eq!(packets(writer.get_mut()).len(), usize::from(number));
        let data = vec![number; 60 + usize::from(number)];
        let direction = [None, Some(Direction::In)][usize::from(number % 2)];
        writer
            .write(&Packet { interface: 0, time_ns: 9, direction, data: &data, original_len: 1500 })
            .unwrap();
    }
    writer.statistics(0, 9, 5, 0).unwrap();
    let read = packets(writer.get_mut());
    assert_eq!(read[3], (9, vec![3; 63], 1500));
    assert_eq!(read.len(), 5);
}
