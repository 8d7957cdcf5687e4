//! `--match` beside tcpdump: where their words are the same, both take the same frames of the fixtures, one by one.

use std::collections::VecDeque;
use std::io::Cursor;
use std::path::PathBuf;
use std::process::Command;

use culvert::filter::{HeadersAlone, compile};
use culvert_engine::capture::Reader;
use culvert_engine::trace::{Facts, Headers};

/// Questions about hosts, networks, ports and protocols that are in the fixtures, and some that are not.
const PRIMITIVES: &[&str] = &[
    "ip",
    "ip6",
    "arp",
    "rarp",
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "icmp6",
    "igmp",
    "esp",
    "ah",
    "carp",
    "vrrp",
    "host 10.1.0.11",
    "src host 10.1.0.11",
    "dst host 10.2.0.21",
    "src or dst host 10.1.0.12",
    "host 10.1.0.1",
    "src and dst host 10.1.0.11",
    "host 2001:db8:10::11",
    "dst host 2001:db8:20::21",
    "src 10.1.0.12",
    "dst 2001:db8:20::22",
    "net 10.1.0.0/24",
    "src net 10.0.0.0/8",
    "dst net 10.2.0.0/16",
    "src and dst net 10.0.0.0/8",
    "net 224.0.0.0/4",
    "net 0.0.0.0/0",
    "net 2001:db8:20::/64",
    "src net 2001:db8::/32",
    "dst net ff00::/8",
    "src net fe80::/10",
    "net ::/0",
    "port 53",
    "src port 53",
    "dst port 53",
    "tcp port 5201",
    "tcp dst port 5201",
    "udp src port 53",
    "port 5201 or 53",
    "portrange 1-1000",
    "tcp portrange 5000-6000",
    "src portrange 50000-65535",
    "udp dst portrange 53-54",
    "sctp port 5201",
    "src or dst port 53",
    "src and dst port 53",
    "proto 89",
    "ip proto 1",
    "ip6 proto 58",
    "proto 6",
    "ip6 proto 17",
    "ip proto 2",
    "less 100",
    "greater 1000",
    "less 60",
    "greater 60",
    "host 10.1.0.11 or 10.1.0.12",
    "dst port 53 or 5201",
    "net 10.1.0.0/24 or 10.2.0.0/24",
];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

type Frames = VecDeque<(u64, Vec<u8>, u32)>;

fn frames(file: &[u8]) -> Frames {
    let mut frames = Frames::new();
    let mut reader = Reader::open(Cursor::new(file)).expect("a capture");
    while let Some(record) = reader.next().expect("a whole capture") {
        frames.push_back((record.time_ns, record.data.to_vec(), record.original_len));
    }
    frames
}

/// The frames that tcpdump takes.
fn by_tcpdump(file: &PathBuf, expression: &str) -> Frames {
    let done = Command::new("tcpdump")
        .args(["-n", "--time-stamp-precision=nano", "-r"])
        .arg(file)
        .args(["-w", "-", expression])
        .output()
        .expect("tcpdump (Debian: tcpdump)");
    let said = String::from_utf8_lossy(&done.stderr);
    // Its optimiser sees that no frame can be all of that.
    if said.contains("expression rejects all packets") {
        return Frames::new();
    }
    assert!(done.status.success(), "{expression}: {said}");
    frames(&done.stdout)
}

fn by_us(all: &Frames, expression: &str) -> Frames {
    let program = compile(expression, &HeadersAlone).unwrap_or_else(|error| panic!("{error}"));
    let takes = |(_, data, len): &&(u64, Vec<u8>, u32)| {
        let form = [Headers::of_frame(data, *len as usize)];
        program.takes(&Facts { forms: &form, ..Facts::default() })
    };
    all.iter().filter(takes).cloned().collect()
}

/// Primitives joined in every way, always the same ones.
fn joined(count: usize) -> Vec<String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    // An address alone behind a joined one would repeat the words before it.
    let whole: Vec<&str> = PRIMITIVES
        .iter()
        .copied()
        .filter(|text| !text.contains(" or 1") && !text.contains(" or 5"))
        .collect();
    let mut made = Vec::new();
    for _ in 0..count {
        let mut text = String::new();
        let mut open = 0;
        for place in 0..2 + next(4) {
            if place > 0 {
                text += [" and ", " or ", " && ", " || "][next(4)];
            }
            text += ["", "", "not ", "! "][next(4)];
            if next(4) == 0 {
                text += "(";
                open += 1;
            }
            text += whole[next(whole.len())];
            if open > 0 && next(2) == 0 {
                text += ")";
                open -= 1;
            }
        }
        made.push(text + &")".repeat(open));
    }
    made
}

#[test]
fn tcpdump_takes_the_same() {
    let expressions: Vec<String> =
        PRIMITIVES.iter().map(|text| (*text).to_owned()).chain(joined(120)).collect();
    let (mut telling, mut taken) = (0, 0);
    for name in ["lab-lan1.pcap", "lab-middle.pcap"] {
        let file = fixture(name);
        let all = frames(&std::fs::read(&file).expect("a fixture"));
        for expression in &expressions {
            let (ours, theirs) = (by_us(&all, expression), by_tcpdump(&file, expression));
            assert_eq!(ours.len(), theirs.len(), "{name}: {expression}");
            assert!(ours == theirs, "{name}: {expression}: other frames");
            telling += usize::from(!ours.is_empty() && ours.len() < all.len());
            taken += ours.len();
        }
    }
    assert!(
        telling > expressions.len() && taken > 10_000,
        "{telling} of them tell frames apart, {taken} taken"
    );
}
