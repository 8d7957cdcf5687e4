"""Capture files in and out: order, time stamps, formats, damage; and what the command line and configuration refuse."""

import struct

import pytest

from witness import (
    HOST_MAC,
    LAN_MAC,
    START,
    Sa,
    Tunnel,
    configuration,
    forwarded,
    into_lan,
    into_wan,
    pcap,
    pcapng,
    run,
    sealed,
    stamped,
    to_far,
    to_near,
)

DMZ = """
[[port]]
name = "dmz"
device = "pcap"
mac = "02:00:00:00:00:21"
addresses = ["10.9.0.1/24"]
"""
ETHERNET_HEADER = 14
FORMATS = {
    "pcap nanoseconds": lambda records: pcap(records),
    "pcap microseconds": lambda records: pcap(records, nano=False),
    "pcap nanoseconds, big-endian": lambda records: pcap(records, order=">"),
    "pcap microseconds, big-endian": lambda records: pcap(records, nano=False, order=">"),
    "pcapng nanoseconds": lambda records: pcapng(records),
    "pcapng microseconds": lambda records: pcapng(records, resolution=6),
    "pcapng without a resolution": lambda records: pcapng(records, resolution=None),
    "pcapng milliseconds": lambda records: pcapng(records, resolution=3),
    "pcapng big-endian": lambda records: pcapng(records, order=">"),
}
UNITS = {"micro": 1000, "milli": 10**6, "without": 1000}


def unit_of(form):
    """The nanoseconds of one unit of a format's time stamps."""
    return next((unit for name, unit in UNITS.items() if name in form), 1)


def seeds_opened(tunnel, records):
    """The inner packets behind our own ESP packets, in order."""
    return [tunnel.outbound.open(frame[ETHERNET_HEADER + 20 :]).payload[4:] for _, frame in records]


# --- order and time stamps ------------------------------------------------------------------------------------------


def test_order_across_files(tmp_path):
    """Frames of three files interleave by time stamp; each output frame carries the stamp of its cause."""
    tunnel = Tunnel()
    packets = [to_far(4, seed=number) for number in range(60)]
    # Runs of different lengths, and steps of 1 ns up to beyond a second.
    times = [START + number * number * 997 + number // 20 * 1_500_000_000 for number in range(60)]
    arriving = {"lan": [], "dmz": [], "wan": []}
    expected_wan, expected_lan = [], []
    for number, (time, packet) in enumerate(zip(times, packets, strict=True)):
        if number % 7 == 3:
            back = to_near(4, seed=number)
            arriving["wan"].append((time, sealed(tunnel, number, back)))
            expected_lan.append((time, forwarded(back)))
        else:
            port, mac = ("dmz", "02:00:00:00:00:21") if number % 3 else ("lan", LAN_MAC)
            mac = bytes.fromhex(mac.replace(":", ""))
            arriving[port].append((time, mac + into_lan(packet)[6:]))
            expected_wan.append((time, forwarded(packet)))
    outcome = run(
        tmp_path,
        configuration(tunnel, extra=DMZ),
        [(port, pcap(records)) for port, records in arriving.items()],
        outputs=("wan", "lan", "dmz", "host"),
    )
    assert outcome.code == 0, outcome.stderr
    assert [time for time, _ in outcome.records["wan"]] == [time for time, _ in expected_wan]
    assert seeds_opened(tunnel, outcome.records["wan"]) == [packet for _, packet in expected_wan]
    assert [(time, frame[ETHERNET_HEADER:]) for time, frame in outcome.records["lan"]] == expected_lan


def test_order_does_not_follow_the_command_line(tmp_path):
    """The file named first is the later one."""
    tunnel = Tunnel()
    early, late = to_far(4, seed=1), to_far(4, seed=2)
    dmz_frame = bytes.fromhex("020000000021") + into_lan(early)[6:]
    inputs = [("lan", pcap([(START + 1, into_lan(late))])), ("dmz", pcap([(START, dmz_frame)]))]
    outcome = run(tmp_path, configuration(tunnel, extra=DMZ), inputs)
    assert seeds_opened(tunnel, outcome.records["wan"]) == [forwarded(early), forwarded(late)]


@pytest.mark.parametrize("form", FORMATS)
def test_formats(tmp_path, form):
    """pcap and pcapng, either byte order, each resolution: time stamps come through to the nanosecond."""
    tunnel, unit = Tunnel(), unit_of(form)
    packets = [to_near(4, seed=number) for number in range(5)]
    times = [START + number * 1_000_001_003 // unit * unit for number in range(5)]
    times = [time // unit * unit for time in times]
    frames = [sealed(tunnel, number + 1, packet) for number, packet in enumerate(packets)]
    content = FORMATS[form](list(zip(times, frames, strict=True)))
    outcome = run(tmp_path, configuration(tunnel), [("wan", content)])
    assert outcome.code == 0, outcome.stderr
    assert outcome.records["lan"] == [
        (time, into_near(forwarded(packet))) for time, packet in zip(times, packets, strict=True)
    ]


def into_near(packet):
    """The frame in which router A sends to the near host."""
    header = bytes.fromhex((HOST_MAC + LAN_MAC).replace(":", ""))
    return header + struct.pack(">H", 0x0800) + packet


def test_formats_side_by_side(tmp_path):
    """A microsecond pcap and a nanosecond pcapng are put into one order."""
    tunnel = Tunnel()
    early, middle, late = (to_far(4, seed=number) for number in range(3))
    dmz_frame = bytes.fromhex("020000000021") + into_lan(middle)[6:]
    lan = pcap([(START, into_lan(early)), (START + 1000, into_lan(late))], nano=False)
    outcome = run(
        tmp_path, configuration(tunnel, extra=DMZ), [("lan", lan), ("dmz", pcapng([(START + 999, dmz_frame)]))]
    )
    assert seeds_opened(tunnel, outcome.records["wan"]) == [forwarded(one) for one in (early, middle, late)]
    assert [time for time, _ in outcome.records["wan"]] == [START, START + 999, START + 1000]


def test_pcapng_with_unknown_blocks_and_options(tmp_path):
    """Blocks and options that a reader does not know are stepped over."""
    tunnel, inner = Tunnel(), to_near(4)
    content = pcapng([(START, sealed(tunnel, 1, inner))])
    interface = content.index(struct.pack("<I", 1), 28)
    unknown = struct.pack("<II", 0x0BAD0001, 20) + filler_words(2) + struct.pack("<I", 20)
    outcome = run(
        tmp_path, configuration(tunnel), [("wan", content[:interface] + unknown + content[interface:] + unknown)]
    )
    assert outcome.code == 0, outcome.stderr
    assert outcome.records["lan"] == [(START, into_near(forwarded(inner)))]


def filler_words(count):
    return bytes(range(4 * count))


def test_empty_capture(tmp_path):
    """A file without frames is a file like others, and so is an output without frames."""
    for content in (pcap([]), pcapng([])):
        outcome = run(tmp_path, configuration(Tunnel()), [("wan", content)])
        assert outcome.code == 0, outcome.stderr
        assert outcome.records == {"wan": [], "lan": [], "host": []}


# --- damage ---------------------------------------------------------------------------------------------------------


def three_frames(tunnel):
    packets = [to_near(4, seed=number) for number in range(3)]
    return packets, [sealed(tunnel, number + 1, packet) for number, packet in enumerate(packets)]


def assert_damaged(outcome, port):
    """Exit code 1, and an error that names the file and says something about it."""
    assert outcome.code == 1, f"{outcome.code}: {outcome.stderr}"
    assert outcome.stderr.startswith("culvert: "), outcome.stderr
    assert f"in-0-{port}.pcap" in outcome.stderr
    assert "panicked" not in outcome.stderr


@pytest.mark.parametrize("write", (pcap, pcapng))
def test_truncated_everywhere(tmp_path, write):
    """Cut at every byte: what stood whole before the cut is written, then an error and exit code 1."""
    tunnel = Tunnel()
    packets, frames = three_frames(tunnel)
    records = stamped(frames)
    ends = [len(write(records[:count])) for count in range(len(records) + 1)]
    whole = write(records)
    # Every byte of the file header and of the last record; between them the first bytes behind each record.
    cuts = [*range(ends[0]), *(ends[1] + more for more in range(-3, 20)), *range(ends[2], ends[3], 5)]
    for cut in cuts:
        outcome = run(tmp_path, configuration(tunnel), [("wan", whole[:cut])])
        complete = sum(end <= cut for end in ends[1:])
        if cut in ends or (write is pcapng and cut == len(section_header(whole))):
            assert outcome.code == 0, f"cut at {cut}: {outcome.stderr}"
        else:
            assert_damaged(outcome, "wan")
        written = outcome.records.get("lan", [])
        assert [frame for _, frame in written] == [into_near(forwarded(one)) for one in packets[:complete]], cut


def section_header(content):
    """The first block of a pcapng file: a section without interfaces is whole, if empty."""
    return content[: struct.unpack("<I", content[4:8])[0]]


def damages():
    """Whole files made wrong, with the number of frames that stand before the damage."""
    tunnel = Tunnel()
    _, frames = three_frames(tunnel)
    records = stamped(frames)
    classic, modern = pcap(records), pcapng(records)
    third, third_ng = len(pcap(records[:2])), len(pcapng(records[:2]))
    return {
        "empty": (b"", 0),
        "not a capture": (b"[[port]]\nname = 'wan'\n" * 4, 0),
        "wrong magic": (b"\xa1\xb2\xc3\xd5" + classic[4:], 0),
        "link type not Ethernet": (classic[:20] + struct.pack("<I", 101) + classic[24:], 0),
        "pcapng link type": (modern.replace(struct.pack("<HHI", 1, 0, 262144), struct.pack("<HHI", 101, 0, 262144)), 0),
        "record of 4 GiB": (classic[: third + 8] + b"\xff" * 8 + classic[third + 16 :], 2),
        "record of 2 GiB": (classic[: third + 8] + b"\xff\xff\xff\x7f" * 2 + classic[third + 16 :], 2),
        "block length 0": (modern[: third_ng + 4] + bytes(4) + modern[third_ng + 8 :], 2),
        "block length not a multiple of 4": (modern[: third_ng + 4] + b"\x81" + modern[third_ng + 5 :], 2),
        "block length 4 GiB": (modern[: third_ng + 4] + b"\xfc\xff\xff\xff" + modern[third_ng + 8 :], 2),
        "lengths before and behind differ": (modern[:-4] + b"\x20\0\0\0", 2),
        "captured length beyond the block": (modern[: third_ng + 20] + b"\xff\xff\0\0" + modern[third_ng + 24 :], 2),
        "interface that was never described": (modern[: third_ng + 8] + b"\7\0\0\0" + modern[third_ng + 12 :], 2),
    }


@pytest.mark.parametrize("label", damages())
def test_damaged(tmp_path, label):
    """Nonsense in a file stops the run where it stands; what came before it stays written."""
    tunnel = Tunnel()
    packets, _ = three_frames(tunnel)
    content, before = damages()[label]
    outcome = run(tmp_path, configuration(tunnel), [("wan", content)])
    assert_damaged(outcome, "wan")
    written = [frame for _, frame in outcome.records.get("lan", [])]
    assert written == [into_near(forwarded(one)) for one in packets[:before]]


# --- refused: arguments and configuration ---------------------------------------------------------------------------

KEY = Sa("out", 0x1001).key.hex()
REFUSED = {
    "not TOML": (lambda text: text + "\n[[tunnel\n", None),
    "unknown key at the top": (lambda text: "colour = 1\n" + text, "colour"),
    "unknown key in a port": (lambda text: text.replace("[[port]]", "[[port]]\ncolour = 1", 1), "colour"),
    "unknown key in a tunnel": (lambda text: text.replace("[[tunnel]]", "[[tunnel]]\ncolour = 1"), "colour"),
    "unknown key under protect": (
        lambda text: text.replace("[tunnel.protect]", "[tunnel.protect]\ncolour = 1"),
        "colour",
    ),
    "unknown key in an SA": (lambda text: text.replace("spi = 0x1001", "spi = 0x1001\ncolour = 1"), "colour"),
    "unknown suite": (lambda text: text.replace("aes128gcm16", "des3"), "des3"),
    "unknown mode": (lambda text: text.replace('"transport"', '"teleport"'), "teleport"),
    "unknown direction": (lambda text: text.replace('direction = "out"', 'direction = "up"'), "up"),
    "key too short": (lambda text: text.replace(KEY, KEY[:-2]), None),
    "key too long": (lambda text: text.replace(KEY, KEY + "00"), None),
    "key for another suite": (lambda text: text.replace("aes128gcm16", "aes256gcm16"), None),
    "key not hexadecimal": (lambda text: text.replace(KEY, "zz" + KEY[2:]), None),
    "SPI 0": (lambda text: text.replace("0x1001", "0"), None),
    "SPI of 33 bits": (lambda text: text.replace("0x1001", "0x100001001"), None),
    "local of another family": (lambda text: text.replace('local = "192.0.2.1"', 'local = "2001:db8:2::1"'), None),
    "address that is none": (
        lambda text: text.replace('remote = "192.0.2.2"', 'remote = "192.0.2.256"'),
        "192.0.2.256",
    ),
    "prefix too long": (lambda text: text.replace("10.2.0.0/16", "10.2.0.0/33"), "10.2.0.0/33"),
    "no protection mentioned": (lambda text: text[: text.index("[tunnel.protect]")], "protect"),
    "neighbour of an unknown port": (lambda text: text.replace('port = "wan"', 'port = "moon"', 1), "moon"),
    "two ports of one name": (lambda text: text.replace('name = "lan"', 'name = "wan"'), "wan"),
    "MAC that is none": (lambda text: text.replace(LAN_MAC, "02:00:00:00:00"), None),
    "window of 0": (lambda text: text.replace("replay_window = 1024", "replay_window = 0"), None),
    "pad of 5": (lambda text: text.replace("pad = 16", "pad = 5"), None),
    "key of 33 bits": (lambda text: text.replace("[[tunnel]]", "[[tunnel]]\nkey = 4294967296"), None),
    "TTL of 0": (lambda text: text.replace("ttl = 64", "ttl = 0"), None),
}


@pytest.mark.parametrize("label", REFUSED)
def test_refused_configuration(tmp_path, label):
    """Exit code 2, the file and the wrong word in the error, no key in it, and outputs left as they were."""
    change, word = REFUSED[label]
    right = configuration(Tunnel())
    wrong = change(right)
    assert wrong != right
    before = tmp_path / "out-wan.pcap"
    before.write_bytes(pcap([]))
    outcome = run(tmp_path, wrong, [("lan", pcap(stamped([into_lan(to_far(4))])))])
    assert outcome.code == 2, f"{outcome.code}: {outcome.stderr}"
    assert outcome.stderr.startswith("culvert: ") and "culvert.toml" in outcome.stderr, outcome.stderr
    assert word is None or word in outcome.stderr
    assert KEY[2:16] not in outcome.stderr, "the error shows a key"
    assert before.read_bytes() == pcap([])


@pytest.mark.parametrize("mode", (0o640, 0o604, 0o644))
def test_inline_key_that_others_can_read(tmp_path, mode):
    """An inline key in a file readable by group or others is refused."""
    outcome = run(tmp_path, configuration(Tunnel()), [("lan", pcap([]))], mode=mode)
    assert outcome.code == 2
    assert "culvert.toml" in outcome.stderr


def test_readable_file_without_keys(tmp_path):
    """Without secrets the file may be readable."""
    tunnel = Tunnel(mode=None, sas=())
    outcome = run(tmp_path, configuration(tunnel), [("lan", pcap([]))], mode=0o644)
    assert outcome.code == 0, outcome.stderr


def test_refused_arguments(tmp_path):
    """Ports that the configuration does not have."""
    config, content = configuration(Tunnel()), pcap([(START, into_wan(to_near(4)))])
    unknown_input = run(tmp_path, config, [("moon", content)])
    assert unknown_input.code == 2 and "moon" in unknown_input.stderr
    unknown_output = run(tmp_path, config, [("wan", content)], outputs=("moon",))
    assert unknown_output.code == 2 and "moon" in unknown_output.stderr
    assert not (tmp_path / "out-moon.pcap").exists()
