//! Route look-ups in small and large tables, to destinations that no cache or branch predictor has learnt by heart.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion};
use culvert_engine::fib::{Fib, Prefix};

/// Routes in the tables.
const ROUTES: [u32; 2] = [1, 10_000];
/// Destinations that are looked up in turn. A power of two.
const DESTINATIONS: u32 = 1 << 14;

/// The network of route `n`: a /24 in 10.0.0.0/8, or a /48 in 2001::/16.
fn network(n: u32, v6: bool) -> Prefix {
    let (address, len): (IpAddr, u8) = if v6 {
        (Ipv6Addr::from_bits((0x2001_u128 << 112) | (u128::from(n) << 80)).into(), 48)
    } else {
        (Ipv4Addr::from_bits((10 << 24) | (n << 8)).into(), 24)
    };
    Prefix::new(address, len).expect("no bits behind the length")
}

/// Destinations within the networks, in an order without a pattern (Knuth's multiplicative hash).
fn destinations(routes: u32) -> impl Iterator<Item = u32> {
    (0..DESTINATIONS).map(move |n| (n.wrapping_mul(2_654_435_761) >> 8) % routes)
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for routes in ROUTES {
        let both = [false, true].into_iter().flat_map(|v6| (0..routes).map(move |n| (network(n, v6), n)));
        let fib = Fib::build(both).expect("no two are alike");
        let v4: Vec<Ipv4Addr> =
            destinations(routes).map(|n| Ipv4Addr::from_bits((10 << 24) | (n << 8) | 7)).collect();
        let v6: Vec<Ipv6Addr> = destinations(routes)
            .map(|n| Ipv6Addr::from_bits((0x2001_u128 << 112) | (u128::from(n) << 80) | 7))
            .collect();
        assert!(v4.iter().all(|address| fib.lookup_v4(*address).is_some()));
        assert!(v6.iter().all(|address| fib.lookup_v6(*address).is_some()));
        group.bench_function(BenchmarkId::new("ipv4", routes), |b| {
            let mut turn = v4.iter().cycle();
            b.iter(|| turn.next().and_then(|address| fib.lookup_v4(black_box(*address))));
        });
        group.bench_function(BenchmarkId::new("ipv6", routes), |b| {
            let mut turn = v6.iter().cycle();
            b.iter(|| turn.next().and_then(|address| fib.lookup_v6(black_box(*address))));
        });
    }
    group.finish();
}
