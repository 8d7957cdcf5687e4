//! The stages one by one, on single packets: parsing, routes, GRE, the replay window, sealing and opening.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{InboundSa, IvRange, Key, OutboundSa, Router, Suite, cipher, open, seal};
use culvert_engine::fib::{Fib, Prefix};
use culvert_engine::gre::{self, Options, Payload, Sequences};
use culvert_engine::wire::{
    Ethernet, EthernetHeader, Gre, GreHeader, Ipv4, Ipv4Header, MacAddr, ethernet, protocol,
};

/// Ethernet, IPv4, GRE with a key, IPv4 of 64 bytes.
fn frame() -> Vec<u8> {
    let ip = |total_len, protocol| Ipv4Header {
        tos: 0,
        total_len,
        id: 0,
        dont_fragment: true,
        ttl: 64,
        protocol,
        src: Ipv4Addr::new(192, 0, 2, 1),
        dst: Ipv4Addr::new(192, 0, 2, 2),
    };
    let mut frame = vec![0; 14 + 20 + 8 + 64];
    let (link, rest) = frame.split_first_chunk_mut().expect("room");
    EthernetHeader { dst: MacAddr([2; 6]), src: MacAddr([4; 6]), ethertype: ethernet::IPV4 }.emit(link);
    let (outer, rest) = rest.split_first_chunk_mut().expect("room");
    ip(92, protocol::GRE).emit(outer);
    ip(64, protocol::UDP).emit(rest[8..].first_chunk_mut().expect("room"));
    let header = GreHeader { protocol: ethernet::IPV4, checksum: false, key: Some(42), sequence: None };
    header.emit(rest).expect("room");
    frame
}

fn parse(c: &mut Criterion) {
    let frame = frame();
    c.bench_function("parse/ethernet-ipv4-gre-ipv4", |b| {
        b.iter(|| {
            let ethernet = Ethernet::parse(black_box(&frame)).expect("a frame");
            let outer = Ipv4::parse(ethernet.payload()).expect("a packet");
            let gre = Gre::parse(outer.payload()).expect("a GRE packet");
            Ipv4::parse(gre.payload()).expect("a packet").dst()
        });
    });
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for count in [1_u32, 10_000] {
        let address = |n: u32| Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + (n << 8));
        let routes = (0..count).map(|n| (Prefix::new(address(n).into(), 24).expect("a prefix"), n));
        let fib = Fib::build(routes).expect("distinct routes");
        let mut n = 0_u32;
        group.bench_function(BenchmarkId::new("ipv4", count), |b| {
            b.iter(|| {
                n = n.wrapping_add(7919);
                fib.lookup_v4(black_box(address(n % count)))
            });
        });
    }
    group.finish();
}

fn gre_check(c: &mut Criterion) {
    let frame = frame();
    let packet = &frame[34..];
    let sequences = Sequences::default();
    let options = Options { key: Some(42), checksum: false, sequence: false, payload: Payload::Ip };
    c.bench_function("gre/check", |b| {
        b.iter(|| gre::check(&Gre::parse(black_box(packet)).expect("a GRE packet"), &options, &sequences));
    });
}

fn window(c: &mut Criterion) {
    let window = ReplayWindow::new(1024, true).expect("a window");
    let mut number = 0_u32;
    c.bench_function("window/check-accept", |b| {
        b.iter(|| {
            number += 1;
            let sequence = window.check(black_box(number)).expect("a new number");
            window.accept(sequence).expect("a new number");
        });
    });
}

const SPI: u32 = 0x1001;

fn material(suite: Suite) -> Vec<u8> {
    (0..suite.material_len() as u8).collect()
}

/// A prepared packet: ESP header, IV, `len` bytes of payload padded to 16, trailer, ICV.
fn prepared(sa: &OutboundSa, len: usize) -> (Vec<u8>, u64) {
    let pad = culvert_engine::wire::esp::pad_len(len, 16);
    let mut packet = vec![0; 16 + len + seal::tail_len(pad)];
    let number = sa.take(1).expect("numbers left").first;
    seal::prepare(&mut packet, sa, number, pad, protocol::GRE).expect("room");
    (packet, number)
}

fn esp(c: &mut Criterion) {
    let mut group = c.benchmark_group("esp");
    for suite in Suite::ALL {
        let key = || Key::new(suite, &material(suite)).expect("the suite's length");
        for len in [64, 512, 1400] {
            let iv = IvRange::of_run(Router::First, 0).expect("a run");
            let out = OutboundSa::new(SPI, key(), true, iv, 1);
            let window = ReplayWindow::new(64, true).expect("a window");
            let inbound = InboundSa::new(SPI, key(), true, window);
            let (mut packet, number) = prepared(&out, len);
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(format!("seal/{}", suite.name()), len), |b| {
                b.iter(|| {
                    cipher::seal(&mut [seal::job(&mut packet, &out, number).expect("a prepared packet")])
                });
            });
            let (mut packet, number) = prepared(&out, len);
            cipher::seal(&mut [seal::job(&mut packet, &out, number).expect("a prepared packet")]);
            let candidate = open::Candidate { sequence: number, iv: out.iv(number) };
            group.bench_function(BenchmarkId::new(format!("open/{}", suite.name()), len), |b| {
                b.iter_batched_ref(
                    || packet[16..].to_vec(),
                    |data| {
                        let mut jobs = [open::job(data, 0, &inbound, &candidate)];
                        cipher::open(&mut jobs);
                        assert!(jobs[0].authentic);
                    },
                    criterion::BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, parse, route, gre_check, window, esp);
criterion_main!(benches);
