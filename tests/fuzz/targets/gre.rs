//! GRE packets of any content against tunnels of any settings: the verdict must be the one that the RFCs' rules, written
//! down here once more and plainly, give; and judging a packet changes nothing.
#![no_main]

use culvert_engine::drops::Reason;
use culvert_engine::gre::{Checked, Options, Payload, Sequences, check};
use culvert_engine::wire::Gre;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [choice, k0, k1, k2, k3, s0, s1, s2, s3, packet @ ..] = bytes else { return };
    let options = Options {
        key: (choice & 1 != 0).then_some(u32::from_be_bytes([*k0, *k1, *k2, *k3])),
        checksum: choice & 2 != 0,
        sequence: choice & 4 != 0,
        payload: if choice & 8 != 0 { Payload::Ethernet } else { Payload::Ip },
    };
    let last = (choice & 16 != 0).then_some(u32::from_be_bytes([*s0, *s1, *s2, *s3]));
    let sequences = Sequences::default();
    if let Some(last) = last {
        sequences.accept(last);
    }
    let packet = if choice & 32 != 0 { with_checksum(packet) } else { packet.to_vec() };
    let verdict = judged(&packet, &options, &sequences);
    assert_eq!(verdict, expected(&packet, &options, last));
    assert_eq!(judged(&packet, &options, &sequences), verdict, "judged again");
    if let Ok(Checked { sequence: Some(sequence), .. }) = verdict {
        sequences.accept(sequence);
        assert_eq!(
            judged(&packet, &options, &sequences),
            Err(Reason::GreSequence),
            "accepted, and seen again"
        );
    }
});

fn judged(packet: &[u8], options: &Options, sequences: &Sequences) -> Result<Checked, Reason> {
    check(&Gre::parse(packet).map_err(|_| Reason::GreMalformed)?, options, sequences)
}

/// RFC 2784 §2, RFC 2890 §2.
fn expected(packet: &[u8], options: &Options, last: Option<u32>) -> Result<Checked, Reason> {
    if packet.len() < 4 || packet[0] & 0x4c != 0 || packet[1] & 7 != 0 {
        return Err(Reason::GreMalformed);
    }
    let [has_checksum, has_key, has_sequence] = [0x80, 0x20, 0x10].map(|flag| packet[0] & flag != 0);
    let header_len = 4 + 4 * [has_checksum, has_key, has_sequence].into_iter().filter(|has| *has).count();
    if packet.len() < header_len {
        return Err(Reason::GreMalformed);
    }
    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    let key_at = if has_checksum { 8 } else { 4 };
    if has_key.then(|| word(key_at)) != options.key {
        return Err(Reason::GreKey);
    }
    if has_checksum && sum(packet) != 0xffff || options.checksum && !has_checksum {
        return Err(Reason::GreChecksum);
    }
    let protocol = u16::from_be_bytes([packet[2], packet[3]]);
    // A keepalive that came back: its header stays, and its number is not asked for.
    if protocol == 0 && options.payload == Payload::Ip {
        return Ok(Checked { header_len: 0, protocol, sequence: None });
    }
    let sequence = has_sequence.then(|| word(header_len - 4));
    if options.sequence {
        // In the half of the number space that follows the last (RFC 2890 §2.2).
        let new = |number: u32| last.is_none_or(|last| (1..0x8000_0000).contains(&number.wrapping_sub(last)));
        if !sequence.is_some_and(new) {
            return Err(Reason::GreSequence);
        }
    }
    let carried: &[u16] = if options.payload == Payload::Ethernet { &[0x6558] } else { &[0x0800, 0x86dd] };
    if !carried.contains(&protocol) {
        return Err(Reason::GreUnknown);
    }
    Ok(Checked { header_len, protocol, sequence: sequence.filter(|_| options.sequence) })
}

/// The one's complement sum of 16-bit words (RFC 1071 §1), the plain way.
fn sum(bytes: &[u8]) -> u32 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    words.fold(0, |sum, word| (sum + word) % 0x10000 + (sum + word) / 0x10000)
}

/// The packet with the right checksum where it says that it has one.
fn with_checksum(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= 8 && packet[0] & 0x80 != 0 {
        packet[4..6].fill(0);
        let check = !sum(&packet) as u16;
        packet[4..6].copy_from_slice(&check.to_be_bytes());
    }
    packet
}
