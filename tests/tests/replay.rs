//! `culvert replay` from outside: files in, files out, what it prints, and what it refuses. That packets are right in every
//! combination of settings is for `tests/witness`; here it is the command around them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;

use culvert_tests::{Folder, START, Stamped, frame, ipv4, pcap, read_pcap};

const ROUTER: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [192, 0, 2, 2];
const NEAR: [u8; 4] = [10, 1, 0, 5];
const FAR: [u8; 4] = [10, 2, 0, 5];
const UDP: u8 = 17;
const GRE: u8 = 47;
/// GRE without options around IPv4 (RFC 2784 section 2.1).
const GRE_IPV4: [u8; 4] = [0, 0, 8, 0];

const PORTS: &str = r#"
[[port]]
name = "wan"
device = "pcap"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.1/24"]

[[port]]
name = "lan"
device = "pcap"
mac = "02:00:00:00:00:11"
addresses = ["10.1.0.1/24"]

[[port]]
name = "dmz"
device = "pcap"
mac = "02:00:00:00:00:21"
addresses = ["10.9.0.1/24"]

[[neighbour]]
address = "192.0.2.2"
port = "wan"
mac = "02:00:00:00:00:02"

[[neighbour]]
address = "10.1.0.5"
port = "lan"
mac = "02:00:00:00:00:15"
"#;

const TUNNEL: &str = r#"
[[tunnel]]
name = "oslo"
local = "192.0.2.1"
remote = "192.0.2.2"
routes = ["10.2.0.0/16"]
"#;

fn plain() -> String {
    format!("{PORTS}{TUNNEL}protect = \"none\"\n")
}

fn protected(sas: &str) -> String {
    format!("{PORTS}{TUNNEL}[tunnel.protect]\nreplay_window = 1024\n{sas}")
}

fn sa(direction: &str, spi: u32, key: u8) -> String {
    let key = format!("{key:02x}").repeat(20);
    format!(
        "[[tunnel.protect.manual]]\ndirection = \"{direction}\"\nspi = {spi}\nsuite = \"aes128gcm16\"\nkey = \"{key}\"\n"
    )
}

/// A packet from the near host to the far one, `number` in its payload.
fn outward(number: u16, ttl: u8) -> Vec<u8> {
    ipv4(NEAR, FAR, UDP, ttl, false, &[[0; 8].as_slice(), &number.to_be_bytes()].concat())
}

/// Frames that the port with this MAC receives, a microsecond apart.
fn arriving(mac: u8, packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Stamped> {
    (START..).step_by(1000).zip(packets).map(|(time, packet)| (time, frame(mac, 0x15, &packet))).collect()
}

fn folder(config: &str) -> Folder {
    let folder = Folder::new();
    folder.write("r.toml", config);
    folder
}

#[test]
fn a_packet_into_the_tunnel_bit_by_bit() {
    let folder = folder(&plain());
    let inputs = arriving(0x11, [outward(1, 64)]);
    folder.write("lan.pcap", pcap(&inputs));
    // What an output held before is gone, however long it was.
    folder.write("wan.pcap", [0; 9999]);
    let ran =
        folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap", "--out", "wan=wan.pcap", "--json"]);
    ran.succeeds();
    let payload = [GRE_IPV4.as_slice(), &outward(1, 63)].concat();
    let outer = ipv4(ROUTER, PEER, GRE, 64, true, &payload);
    assert_eq!(read_pcap(&folder.path("wan.pcap")), [(START, frame(0x02, 0x01, &outer))]);
    // The whole object, in the configuration's order.
    assert_eq!(
        ran.stdout,
        "{\"ports\":{\"wan\":{\"rx\":0,\"tx\":1},\"lan\":{\"rx\":1,\"tx\":0},\"dmz\":{\"rx\":0,\"tx\":0},\
         \"host\":{\"rx\":0,\"tx\":0}},\"tunnels\":{\"oslo\":{\"in_packets\":0,\"in_bytes\":0,\"out_packets\":1,\
         \"out_bytes\":30,\"mtu\":1476}},\"drops\":{}}\n"
    );
}

#[test]
fn through_two_routers_and_what_is_told_of_their_sas() {
    let near = folder(&protected(&(sa("out", 0x1001, 0xa1) + &sa("in", 0x2001, 0xb2))));
    let count = 150;
    near.write("lan.pcap", pcap(&arriving(0x11, (0..count).map(|number| outward(number, 64)))));
    let ran =
        near.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap", "--out", "wan=wan.pcap", "--json"]);
    ran.succeeds();
    let sas = &ran.json()["tunnels"]["oslo"]["sas"];
    let expected = serde_json::json!([
        {"direction": "out", "spi": 0x1001, "suite": "aes128gcm16", "used": 150, "remaining": u32::MAX - 150, "state": "live", "source": "manual"},
        {"direction": "in", "spi": 0x2001, "suite": "aes128gcm16", "highest": 0, "state": "live", "source": "manual"},
    ]);
    assert_eq!(*sas, expected);

    // The far router: addresses and SAs the other way round.
    let mirrored = protected(&(sa("in", 0x1001, 0xa1) + &sa("out", 0x2001, 0xb2)))
        .replace("192.0.2.1", "192.0.2.9")
        .replace("192.0.2.2", "192.0.2.1")
        .replace("192.0.2.9", "192.0.2.2")
        .replace("10.1.0", "10.2.0")
        .replace("10.2.0.0/16", "10.1.0.0/16")
        .replace("00:01\"", "00:02\"");
    let far = folder(&mirrored);
    fs::copy(near.path("wan.pcap"), far.path("wan.pcap")).unwrap();
    let ran =
        far.culvert(["replay", "-c", "r.toml", "--in", "wan=wan.pcap", "--out", "lan=lan.pcap", "--json"]);
    ran.succeeds();
    let sas = &ran.json()["tunnels"]["oslo"]["sas"];
    assert_eq!((&sas[0]["highest"], &sas[1]["used"]), (&150.into(), &0.into()));
    let arrived: Vec<Vec<u8>> =
        read_pcap(&far.path("lan.pcap")).into_iter().map(|(_, frame)| frame).collect();
    let sent: Vec<Vec<u8>> = (0..count).map(|number| frame(0x15, 0x11, &outward(number, 62))).collect();
    assert_eq!(arrived, sent);
}

#[test]
fn frames_of_one_time_come_in_the_order_of_ports() {
    let folder = folder(&plain());
    // Named the other way round than in the configuration; the second frame of `dmz` is earlier than its first.
    folder.write(
        "dmz.pcap",
        pcap(&[
            (START, frame(0x21, 0x15, &outward(2, 64))),
            (START - 5, frame(0x21, 0x15, &outward(3, 64))),
            (START + 8, frame(0x21, 0x15, &outward(5, 64))),
            (START + 9, frame(0x21, 0x15, &outward(7, 64))),
        ]),
    );
    folder.write(
        "lan.pcap",
        pcap(&[
            (START, frame(0x11, 0x15, &outward(1, 64))),
            (START + 7, frame(0x11, 0x15, &outward(4, 64))),
            (START + 9, frame(0x11, 0x15, &outward(6, 64))),
        ]),
    );
    let inputs = ["--in", "dmz=dmz.pcap", "lan=lan.pcap", "--out", "wan=wan.pcap"];
    folder.culvert(["replay", "-c", "r.toml"].iter().chain(&inputs)).succeeds();
    let sent = read_pcap(&folder.path("wan.pcap"));
    let numbers: Vec<(u64, u8)> = sent.iter().map(|(time, frame)| (*time, *frame.last().unwrap())).collect();
    // Within a file its own order stands; `lan` comes before `dmz` in the configuration.
    let times = [0, 0, -5, 7, 8, 9, 9].map(|offset| START.wrapping_add_signed(offset));
    assert_eq!(numbers, times.into_iter().zip(1..).collect::<Vec<_>>());
}

#[test]
fn nothing_is_lost_however_many_come() {
    let folder = folder(&plain());
    let count = 20_000_u16;
    let both: Vec<Stamped> =
        (START..).zip(0..count).map(|(time, number)| (time, outward(number, 64))).collect();
    // Runs of growing length, from single frames to many batches, change from one port to the other.
    let runs = (1..).flat_map(|run: usize| std::iter::repeat_n(run.is_multiple_of(2), run * run));
    let (mut lan, mut dmz) = (Vec::new(), Vec::new());
    for ((time, packet), to_lan) in both.iter().zip(runs) {
        let (frames, mac) = if to_lan { (&mut lan, 0x11) } else { (&mut dmz, 0x21) };
        frames.push((*time, frame(mac, 0x15, packet)));
    }
    assert!(lan.len() > 1000 && dmz.len() > 1000);
    folder.write("lan.pcap", pcap(&lan));
    folder.write("dmz.pcap", pcap(&dmz));
    let ran = folder.culvert([
        "replay",
        "-c",
        "r.toml",
        "--in",
        "lan=lan.pcap",
        "dmz=dmz.pcap",
        "--out",
        "wan=wan.pcap",
        "--json",
    ]);
    ran.succeeds();
    assert_eq!(ran.json()["drops"], serde_json::json!({}));
    let sent = read_pcap(&folder.path("wan.pcap"));
    let told: Vec<(u64, &[u8])> =
        sent.iter().map(|(time, frame)| (*time, &frame[frame.len() - 2..])).collect();
    let numbers: Vec<[u8; 2]> = (0..count).map(u16::to_be_bytes).collect();
    let expected: Vec<(u64, &[u8])> = (START..).zip(numbers.iter().map(<[u8; 2]>::as_slice)).collect();
    assert_eq!(told, expected);
}

/// A segment as a card with offloads hands it over is longer than a buffer; it still belongs to the host.
#[test]
fn long_frames_reach_the_host_whole() {
    let folder = folder(&plain());
    let payload: Vec<u8> = (0..60_000_u32).map(|place| (place * 7 / 8) as u8).collect();
    let inputs: Vec<Stamped> = arriving(0x01, (0..40).map(|_| ipv4(PEER, ROUTER, 6, 9, true, &payload)));
    folder.write("wan.pcap", pcap(&inputs));
    let ran = folder.culvert([
        "replay",
        "-c",
        "r.toml",
        "--in",
        "wan=wan.pcap",
        "--out",
        "host=host.pcap",
        "--json",
    ]);
    ran.succeeds();
    assert!(read_pcap(&folder.path("host.pcap")) == inputs, "frames differ");
    assert_eq!(ran.json()["ports"]["host"], serde_json::json!({"rx": 0, "tx": 40}));
}

#[test]
fn jumbo_frames_fit_where_a_port_says_so() {
    let jumbo = plain().replace("device = \"pcap\"", "device = \"pcap\"\nmtu = 9000");
    let folder = folder(&jumbo);
    let packet = |ttl| ipv4(NEAR, FAR, UDP, ttl, false, &[7; 8976 - 20]);
    folder.write("lan.pcap", pcap(&arriving(0x11, [packet(64)])));
    let ran =
        folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap", "--out", "wan=wan.pcap", "--json"]);
    ran.succeeds();
    let outer = ipv4(ROUTER, PEER, GRE, 64, true, &[GRE_IPV4.as_slice(), &packet(63)].concat());
    assert_eq!(outer.len(), 9000);
    assert_eq!(read_pcap(&folder.path("wan.pcap")), [(START, frame(0x02, 0x01, &outer))]);
}

#[test]
fn the_table_names_what_happened() {
    let folder = folder(&protected(&(sa("out", 0x1001, 0xa1) + &sa("in", 0x2001, 0xb2))));
    let elsewhere = ipv4(NEAR, [172, 16, 0, 1], UDP, 64, false, b"where to?");
    let frames = arriving(
        0x11,
        [outward(1, 64), outward(2, 1), elsewhere, ipv4(NEAR, [10, 1, 0, 1], 1, 1, false, b"to us")],
    );
    folder.write("lan.pcap", pcap(&frames));
    let ran = folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap"]);
    ran.succeeds();
    let expected = "\
port  received  sent
wan          0     1
lan          4     0
dmz          0     0
host         0     1

tunnel  in packets  in bytes  out packets  out bytes   mtu
oslo             0         0            1         30  1442

tunnel  SA              suite        state  last number   remaining
oslo    out 0x00001001  aes128gcm16  live             1  4294967294
oslo    in 0x00002001   aes128gcm16  live             0

dropped       packets
ttl-exceeded        1
no-route            1
";
    assert_eq!(ran.stdout, expected);
}

#[test]
fn a_cut_file_keeps_what_stood_before() {
    let folder = folder(&plain());
    let whole = pcap(&arriving(0x11, (0..3).map(|number| outward(number, 64))));
    folder.write("lan.pcap", &whole[..whole.len() - 7]);
    // What another port receives before and after the cut.
    folder.write(
        "dmz.pcap",
        pcap(&[
            (START + 500, frame(0x21, 0x15, &outward(100, 64))),
            (START + 1_000_000, frame(0x21, 0x15, &outward(101, 64))),
        ]),
    );
    let ran = folder.culvert([
        "replay",
        "-c",
        "r.toml",
        "--in",
        "lan=lan.pcap",
        "dmz=dmz.pcap",
        "--out",
        "wan=wan.pcap",
        "--json",
    ]);
    ran.fails(1, &["culvert: replay: lan.pcap: ", "ends at byte"]);
    let numbers: Vec<u8> =
        read_pcap(&folder.path("wan.pcap")).iter().map(|(_, frame)| *frame.last().unwrap()).collect();
    assert_eq!(numbers, [0, 100, 1]);
    assert_eq!(ran.json()["ports"]["wan"]["tx"], 3);
}

#[test]
fn inputs_that_cannot_be_had_leave_outputs_alone() {
    let folder = folder(&plain());
    folder.write("wan.pcap", "precious");
    folder.write("text.pcap", "no capture at all");
    folder.write("empty.pcap", "");
    for (input, why) in
        [("gone.pcap", "cannot be opened"), ("text.pcap", "magic number"), ("empty.pcap", "is empty")]
    {
        let input = format!("lan={input}");
        let ran = folder.culvert([
            "replay",
            "-c",
            "r.toml",
            "--in",
            &input,
            "--out",
            "wan=wan.pcap",
            "host=new.pcap",
        ]);
        ran.fails(1, &["culvert: replay: ", &input[4..], why]);
        assert_eq!(
            (fs::read(folder.path("wan.pcap")).unwrap().as_slice(), ran.stdout.as_str()),
            (b"precious".as_slice(), "")
        );
        assert!(!folder.path("new.pcap").exists());
    }
}

#[test]
fn outputs_that_cannot_be_had_leave_each_other_alone() {
    let folder = folder(&plain());
    folder.write("lan.pcap", pcap(&[]));
    folder.write("wan.pcap", "precious");
    let outputs = ["--out", "wan=wan.pcap", "host=no/such/folder.pcap"];
    let ran = folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap"].iter().chain(&outputs));
    ran.fails(1, &["culvert: replay: no/such/folder.pcap: cannot be written"]);
    assert_eq!(fs::read(folder.path("wan.pcap")).unwrap(), b"precious");
}

#[test]
fn ports_that_are_not_there() {
    let folder = folder(&plain());
    folder.write("lan.pcap", pcap(&[]));
    let ran = folder.culvert(["replay", "-c", "r.toml", "--in", "lann=lan.pcap", "--out", "wan=wan.pcap"]);
    ran.fails(2, &["culvert: replay: --in lann: ", "no such port", "wan, lan, dmz, host"]);
    let ran = folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap", "--out", "wann=wan.pcap"]);
    ran.fails(2, &["culvert: replay: --out wann: "]);
    assert!(!folder.path("wan.pcap").exists());
    folder.culvert(["replay", "-c", "r.toml"]).fails(2, &["culvert: arguments: "]);
}

#[test]
fn files_are_not_used_twice() {
    let folder = folder(&plain());
    let content = pcap(&arriving(0x11, [outward(1, 64)]));
    folder.write("lan.pcap", &content);
    symlink(folder.path("lan.pcap"), folder.path("link.pcap")).unwrap();
    fs::hard_link(folder.path("lan.pcap"), folder.path("hard.pcap")).unwrap();
    let outputs: [&[&str]; 6] = [
        &["wan=lan.pcap"],
        &["wan=./lan.pcap"],
        &["wan=link.pcap"],
        &["wan=hard.pcap"],
        &["wan=r.toml"],
        &["wan=new.pcap", "host=./new.pcap"],
    ];
    for outputs in outputs {
        let ran =
            folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap", "--out"].iter().chain(outputs));
        ran.fails(2, &["culvert: replay: --out ", "is used already"]);
    }
    assert_eq!(fs::read(folder.path("lan.pcap")).unwrap(), content);
    assert!(!folder.path("new.pcap").exists());
    // The same input twice is only read, and a device keeps nothing.
    let both = ["--in", "lan=lan.pcap", "dmz=lan.pcap", "--out", "wan=/dev/null", "host=/dev/null"];
    folder.culvert(["replay", "-c", "r.toml"].iter().chain(&both)).succeeds();
}

#[test]
fn what_needs_the_daemon_is_refused() {
    let ike = protected("ike = { auth = \"psk\", psk = \"hush\" }\n")
        .replace("local = \"192.0.2.1\"", "local = \"carp:2@em0\"");
    let folder = folder(&ike);
    folder.write("lan.pcap", pcap(&[]));
    let ran = folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap", "--out", "wan=wan.pcap"]);
    ran.fails(2, &["culvert: tunnel \"oslo\", local: carp:2@em0", "r.toml:", "give the address itself"]);
    ran.fails(2, &["culvert: tunnel \"oslo\", protect: ", "IKE", "[[tunnel.protect.manual]]"]);
    assert!(!folder.path("wan.pcap").exists());
}

#[test]
fn a_tunnel_in_itself_is_refused() {
    let folder = folder(&plain().replace("10.2.0.0/16", "192.0.2.0/25"));
    folder.write("lan.pcap", pcap(&[]));
    let ran = folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap", "--out", "wan=wan.pcap"]);
    ran.fails(2, &["tunnel \"oslo\": ", "192.0.2.0/25", "oslo -> oslo", "r.toml:"]);
    assert!(!folder.path("wan.pcap").exists());
}

#[test]
fn pcapng_is_written_by_name() {
    let folder = folder(&plain());
    folder.write("lan.pcap", pcap(&arriving(0x11, [outward(1, 64)])));
    let output = "--out=wan=wan.PCAPNG";
    folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap", output]).succeeds();
    let written = fs::read(folder.path("wan.PCAPNG")).unwrap();
    // draft-ietf-opsawg-pcapng section 4.1: the section header block; its interface carries the port's name.
    assert_eq!(written.first_chunk(), Some(&[0x0a, 0x0d, 0x0d, 0x0a]));
    assert!(written.windows(3).any(|bytes| bytes == b"wan"));
    let packet = outward(1, 63);
    assert!(written.windows(packet.len()).any(|bytes| bytes == packet));
    // And it is read again.
    fs::rename(folder.path("wan.PCAPNG"), folder.path("again.pcapng")).unwrap();
    let ran = folder.culvert(["replay", "-c", "r.toml", "--in", "wan=again.pcapng", "--json"]);
    assert_eq!(ran.json()["ports"]["wan"]["rx"], 1);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told() {
    let folder = folder(&plain());
    folder.write("lan.pcap", pcap(&arriving(0x11, (0..500).map(|number| outward(number, 64)))));
    let outputs = ["--out", "wan=/dev/full", "host=host.pcap", "--json"];
    let ran = folder.culvert(["replay", "-c", "r.toml", "--in", "lan=lan.pcap"].iter().chain(&outputs));
    ran.fails(1, &["culvert: replay: /dev/full: writing failed"]);
    assert_eq!(ran.json()["ports"]["wan"]["tx"], 500);
    assert_eq!(read_pcap(&folder.path("host.pcap")), []);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = folder.culvert_into(full.into(), ["replay", "-c", "r.toml", "--in", "lan=lan.pcap"]);
    ran.fails(1, &["culvert: standard output: "]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = folder(&plain());
    folder.write("lan.pcap", pcap(&[]));
    for arguments in [
        &["replay", "-c", "r.toml", "--in", "lan=lan.pcap"][..],
        &["man"],
        &["--help"],
        &["completions", "bash"],
    ] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        reader.read_exact(&mut []).unwrap();
        drop(reader);
        folder.culvert_into(writer.into(), arguments).succeeds();
    }
}
