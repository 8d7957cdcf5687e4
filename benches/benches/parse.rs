//! Parsing: each header of a tunnel packet by itself, then all of them, from the Ethernet header to the inner packet.

use std::hint::black_box;

use criterion::Criterion;
use culvert_engine::wire::{Ethernet, Gre, GreHeader, Ipv4, Malformed, ethernet};

use crate::packets;

const GRE: GreHeader = GreHeader { protocol: ethernet::IPV4, checksum: false, key: Some(42), sequence: None };

/// Total length of the inner packet.
fn whole(frame: &[u8]) -> Result<u16, Malformed> {
    let outer = Ipv4::parse(Ethernet::parse(frame)?.payload())?;
    let gre = Gre::parse(outer.payload())?;
    Ok(Ipv4::parse(gre.payload())?.total_len())
}

pub(crate) fn all(criterion: &mut Criterion) {
    let frame = packets::frame(GRE, 64);
    assert_eq!(whole(&frame), Ok(64));
    let gre = packets::gre(GRE, 64);
    let inner = packets::inner(64);
    let mut group = criterion.benchmark_group("parse");
    group
        .bench_function("ethernet", |b| b.iter(|| Ethernet::parse(black_box(&frame)).map(|f| f.ethertype())));
    group.bench_function("ipv4", |b| b.iter(|| Ipv4::parse(black_box(&inner)).map(|ip| ip.dst())));
    group.bench_function("gre", |b| b.iter(|| Gre::parse(black_box(&gre)).map(|gre| gre.key())));
    group.bench_function("ethernet+ipv4+gre+ipv4", |b| b.iter(|| whole(black_box(&frame))));
    group.finish();
}
