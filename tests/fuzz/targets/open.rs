//! ESP packets of any content, and genuine ones with bits changed: nothing panics, and only what was sealed opens.
#![no_main]

use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{ICV_LEN, InboundSa, IvRange, Key, OutboundSa, Router, Suite, cipher, open, seal};
use culvert_engine::wire::protocol;
use libfuzzer_sys::fuzz_target;

const SPI: u32 = 0x1001;

fn key(suite: Suite) -> Key {
    let material: Vec<u8> = (0..suite.material_len() as u8).collect();
    Key::new(suite, &material).unwrap()
}

/// The payload of a packet that a fresh SA accepts.
fn opened(packet: &[u8], suite: Suite, esn: bool) -> Option<(Vec<u8>, u8)> {
    let sa = InboundSa::new(SPI, key(suite), esn, ReplayWindow::new(64, esn).unwrap());
    let candidate = open::candidate(packet, &sa).ok()??;
    let mut data = packet[16..].to_vec();
    let mut jobs = [open::job(&mut data, 0, &sa, &candidate)];
    cipher::open(&mut jobs);
    if !jobs[0].authentic {
        return None;
    }
    data.truncate(data.len() - ICV_LEN);
    let (len, next_header) = open::trailer(&data).ok()?;
    data.truncate(len);
    Some((data, next_header))
}

fuzz_target!(|bytes: &[u8]| {
    let [choice, at_high, at_low, change, payload @ ..] = bytes else { return };
    let suite = Suite::ALL[usize::from(*choice) % 3];
    let esn = choice & 0x80 != 0;
    // Forging a packet with these keys is beyond any fuzzer.
    assert_eq!(opened(payload, suite, esn), None, "a packet that nobody sealed");

    let sa = OutboundSa::new(SPI, key(suite), esn, IvRange::of_run(Router::First, 0).unwrap(), 1);
    let pad = choice >> 2 & 0x1c | (payload.len() as u8).wrapping_add(2).wrapping_neg() & 3;
    let mut packet = vec![0; 16 + payload.len() + seal::tail_len(pad)];
    packet[16..16 + payload.len()].copy_from_slice(payload);
    let number = sa.take(1).unwrap().first;
    seal::prepare(&mut packet, &sa, number, pad, protocol::GRE).unwrap();
    cipher::seal(&mut [seal::job(&mut packet, &sa, number).unwrap()]);
    assert_eq!(opened(&packet, suite, esn), Some((payload.to_vec(), protocol::GRE)), "what was sealed opens");

    let at = usize::from(u16::from_be_bytes([*at_high, *at_low])) % packet.len();
    if *change != 0 && at >= 4 {
        // The SPI is what the SA was found by, and not compared again.
        packet[at] ^= change;
        assert_eq!(opened(&packet, suite, esn), None, "a changed packet");
    }
});
