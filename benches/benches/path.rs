//! Whole batches through a router, ring to ring: only the router is on the clock.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use culvert::lab::{LAN, Lab, Plan, WAN};
use culvert_engine::esp::Suite;
use culvert_engine::ring::BATCH;

fn batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch-of-64");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, suite) in [("gre", None), ("gre+esp", Some(Suite::Aes128Gcm16))] {
        for (direction, encapsulate) in [("encapsulate", true), ("decapsulate", false)] {
            for len in [64, 1400] {
                let mut lab = Lab::new(Plan { suite, tunnels: 1, longest: len }).expect("memory for a lab");
                group.bench_function(BenchmarkId::new(format!("{name}/{direction}"), len), |b| {
                    b.iter_custom(|rounds| (0..rounds).map(|_| round(&mut lab, len, encapsulate)).sum());
                });
                assert_eq!(lab.right.good, lab.left.sent(), "every packet arrived as it was sent");
            }
        }
    }
    group.finish();
}

/// A batch from station to station; the time that one of the routers took.
fn round(lab: &mut Lab, len: usize, encapsulate: bool) -> Duration {
    lab.left.send(BATCH, |_| len);
    let start = Instant::now();
    lab.a.worker.turn(LAN);
    let between = Instant::now();
    lab.b.worker.turn(WAN);
    let end = Instant::now();
    lab.right.receive(|_| len);
    if encapsulate { between - start } else { end - between }
}

criterion_group!(benches, batch);
criterion_main!(benches);
