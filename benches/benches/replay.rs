//! The anti-replay window: check and accept, of packets in order, in swapped pairs, and with losses that move the window
//! over many words at once; and the refusal of one seen before.

use criterion::{BenchmarkId, Criterion};
use culvert_engine::esp::replay::{MAX_SIZE, Replay, ReplayWindow};

/// Window sizes, in packets.
const SIZES: [u32; 2] = [1024, MAX_SIZE];

fn receive(window: &ReplayWindow, sequence: u64) -> Result<(), Replay> {
    window.check(sequence as u32).and_then(|sequence| window.accept(sequence))
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    for size in SIZES {
        let window = || ReplayWindow::new(size, true).expect("a size within bounds");
        for (name, step) in [("in order", 1), ("one in a thousand arrives", 1000)] {
            let (window, mut sequence) = (window(), 0);
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    sequence += step;
                    receive(&window, sequence)
                });
            });
            assert_eq!(window.highest(), sequence);
        }
        let (swapped, mut turn) = (window(), 0_u64);
        group.bench_function(BenchmarkId::new("in swapped pairs", size), |b| {
            b.iter(|| {
                turn += 1;
                // 2, 1, 4, 3, ..
                receive(&swapped, ((turn - 1) ^ 1) + 1)
            });
        });
        let seen = window();
        assert_eq!(receive(&seen, 9), Ok(()));
        assert_eq!(receive(&seen, 9), Err(Replay::Seen));
        group.bench_function(BenchmarkId::new("seen before", size), |b| b.iter(|| receive(&seen, 9)));
    }
    group.finish();
}
