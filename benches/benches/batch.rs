//! The whole path, a batch at a time, between two routers in memory. Only the router that is measured is on the clock: the
//! stations, which make packets and compare every byte of those that arrive, are not.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use culvert::lab::{LAN, Lab, Plan, WAN};
use culvert_engine::esp::Suite;
use culvert_engine::ring::BATCH;

use crate::packets;

/// Times of the two routers for `batches` batches of packets of `len` bytes: encapsulating, decapsulating.
fn run(lab: &mut Lab, batches: u64, len: usize) -> (Duration, Duration) {
    let (mut encapsulating, mut decapsulating) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..batches {
        assert_eq!(lab.left.send(BATCH, |_| len), BATCH);
        let start = Instant::now();
        lab.a.worker.turn(LAN);
        let between = Instant::now();
        lab.b.worker.turn(WAN);
        let end = Instant::now();
        assert_eq!(lab.right.receive(|_| len), BATCH, "a batch arrives whole");
        encapsulating += between - start;
        decapsulating += end - between;
    }
    (encapsulating, decapsulating)
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(BATCH as u64));
    for suite in [None].into_iter().chain(Suite::ALL.map(Some)) {
        for len in packets::LENGTHS {
            let mut lab =
                Lab::new(Plan { suite, tunnels: 1, longest: len }).expect("memory and random numbers");
            let name = suite.map_or("gre".to_owned(), |suite| format!("gre+{}", suite.name()));
            group.bench_function(BenchmarkId::new(format!("encapsulate/{name}"), len), |b| {
                b.iter_custom(|batches| run(&mut lab, batches, len).0);
            });
            group.bench_function(BenchmarkId::new(format!("decapsulate/{name}"), len), |b| {
                b.iter_custom(|batches| run(&mut lab, batches, len).1);
            });
            assert_eq!((lab.right.corrupt, lab.right.reordered), (0, 0));
        }
    }
    group.finish();
}
