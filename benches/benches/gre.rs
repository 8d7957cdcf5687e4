//! What a tunnel checks of a GRE packet, parsing included: with nothing but the header, with key and sequence number, and
//! with a checksum over the whole packet.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use culvert_engine::drops::Reason;
use culvert_engine::gre::{Checked, Options, Payload, Sequences, check};
use culvert_engine::wire::{Gre, GreHeader, ethernet};

use crate::packets;

const PLAIN: Options = Options { key: None, checksum: false, sequence: false, payload: Payload::Ip };

fn accept(packet: &[u8], options: &Options, sequences: &Sequences) -> Result<Checked, Reason> {
    let gre = Gre::parse(packet).map_err(|_| Reason::GreMalformed)?;
    check(&gre, options, sequences)
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gre");
    for (name, options, lengths) in [
        ("plain", PLAIN, &[64][..]),
        ("key+sequence", Options { key: Some(42), sequence: true, ..PLAIN }, &[64]),
        ("checksum", Options { checksum: true, ..PLAIN }, &packets::LENGTHS),
    ] {
        let header = GreHeader {
            protocol: ethernet::IPV4,
            checksum: options.checksum,
            key: options.key,
            sequence: options.sequence.then_some(7),
        };
        // Never told of what was accepted, so that one packet is new for ever.
        let sequences = Sequences::default();
        for len in lengths {
            let packet = packets::gre(header, *len);
            assert!(accept(&packet, &options, &sequences).is_ok());
            group.throughput(Throughput::Bytes(*len as u64));
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| accept(black_box(&packet), &options, &sequences));
            });
        }
    }
    group.finish();
}
