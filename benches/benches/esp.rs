//! Sealing and opening one packet in transport mode, each with all that the SA does for it: number and IV, padding and
//! trailer, window look-up.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{
    ALIGNMENT, HEADER_LEN, IV_LEN, InboundSa, IvRange, Key, OutboundSa, Router, Suite, TRAILER_LEN, cipher,
    open, seal,
};
use culvert_engine::wire::{GreHeader, ethernet, protocol};

use crate::packets;

const SPI: u32 = 0x1001;
const GRE: GreHeader = GreHeader { protocol: ethernet::IPV4, checksum: false, key: None, sequence: None };
/// Where the ciphertext starts.
const TEXT_AT: usize = HEADER_LEN + IV_LEN;

fn key(suite: Suite) -> Key {
    Key::new(suite, &vec![7; suite.material_len()]).expect("as long as the suite says")
}

fn outbound(suite: Suite) -> OutboundSa {
    let iv = IvRange::of_run(Router::First, 0).expect("a number below the highest");
    OutboundSa::new(SPI, key(suite), true, iv, 1)
}

fn inbound(suite: Suite) -> InboundSa {
    let window = ReplayWindow::new(1024, true).expect("a size within bounds");
    InboundSa::new(SPI, key(suite), true, window)
}

/// A packet laid out for sealing, and the length of its padding: GRE around an inner packet of `len` bytes.
fn laid_out(len: usize) -> (Vec<u8>, u8) {
    let payload = packets::gre(GRE, len);
    let text_len = payload.len() + TRAILER_LEN;
    let pad_len = (text_len.next_multiple_of(ALIGNMENT) - text_len) as u8;
    let mut packet = vec![0; TEXT_AT];
    packet.extend(payload);
    packet.resize(packet.len() + seal::tail_len(pad_len), 0);
    (packet, pad_len)
}

/// Seals in place; afterwards the packet can be sealed again, with its ciphertext as the text.
fn seal_one(packet: &mut [u8], pad_len: u8, sa: &OutboundSa) -> bool {
    let Ok(lease) = sa.take(1) else { return false };
    let prepared = seal::prepare(packet, sa, lease.first, pad_len, protocol::GRE);
    let Ok(job) = prepared.and_then(|()| seal::job(packet, sa, lease.first)) else { return false };
    cipher::seal(&mut [job]);
    true
}

/// Opens in place, the length of the payload; the window does not advance, so that the packet stays new.
fn open_one(packet: &mut [u8], sa: &InboundSa) -> Option<usize> {
    let candidate = open::candidate(packet, sa).ok().flatten()?;
    sa.window().settle();
    let mut jobs = [open::job(packet, TEXT_AT, sa, &candidate)];
    cipher::open(&mut jobs);
    let [job] = jobs;
    let text = job.authentic.then_some(job.data)?;
    let text_len = text.len().checked_sub(TEXT_AT + culvert_engine::esp::ICV_LEN)?;
    open::trailer(text.get(..text_len)?).ok().map(|(len, _)| len)
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("esp");
    for suite in Suite::ALL {
        for len in packets::LENGTHS {
            group.throughput(Throughput::Bytes(len as u64));
            let sender = outbound(suite);
            let (mut packet, pad_len) = laid_out(len);
            group.bench_function(BenchmarkId::new(format!("seal/{}", suite.name()), len), |b| {
                b.iter(|| seal_one(&mut packet, pad_len, &sender));
            });

            let receiver = inbound(suite);
            let (mut sealed, pad_len) = laid_out(len);
            assert!(seal_one(&mut sealed, pad_len, &outbound(suite)));
            assert_eq!(open_one(&mut sealed.clone(), &receiver), Some(GRE.len() + len));
            group.bench_function(BenchmarkId::new(format!("open/{}", suite.name()), len), |b| {
                b.iter_batched_ref(
                    || sealed.clone(),
                    |packet| open_one(packet, &receiver),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}
