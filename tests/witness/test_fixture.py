"""Real traffic (tests/fixtures/lab-*.pcap) out and back through Culvert's tunnel, compared bit by bit.

The captures hold what two routers received on their LAN ports from real programs; lab-a.toml and lab-b.toml are Culvert
in the place of those routers. What must become of each frame is worked out here from the frame and the lab's addresses:

1. split the frames of a LAN capture into: for the host stack, not ours, too few hops left, for the tunnel
2. replay them through the near router; look at the host output and at the ESP packets on the wire
3. replay that wire through the far router; its LAN output must be the packets of step 1, two hops older

The ESP packets on the wire are opened by the decoder in `witness`, so that two routers with one mistake cannot agree.
"""

import ipaddress
import shutil
import struct
from collections import Counter, namedtuple
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.utils import checksum

from witness import ESP_PROTOCOL, GRE_PROTOCOL, Sa, family_of, forwarded, read_capture, replay, tos_of

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"

IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP, OSPF, ICMP, ICMPV6 = 6, 17, 89, 1, 58
ESP_TRAILER = 2  # pad length and next header, RFC 4303 section 2
OUTER_TTL = 64
GRE_KEY_PRESENT, GRE_KEY = 0x2000, 42  # RFC 2890 section 2
IPERF_PORT = 5201  # left out of lab-middle.pcap
DONT_FRAGMENT = 0x4000  # RFC 791 section 3.1


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def addresses(*texts):
    return {ipaddress.ip_address(text) for text in texts}


@dataclass
class Router:
    """One router of the lab, as fixtures/README.md lists it."""

    config: str
    capture: str
    lan_mac: bytes
    wan_mac: bytes
    wan_address: ipaddress.IPv4Address
    local: set
    networks: list
    hosts: dict
    spi_out: int


A = Router(
    config="lab-a.toml",
    capture="lab-lan1.pcap",
    lan_mac=mac("02:00:00:01:00:01"),
    wan_mac=mac("02:00:00:03:00:01"),
    wan_address=ipaddress.ip_address("192.0.2.1"),
    local=addresses("10.1.0.1", "2001:db8:10::1", "fe80::ff:fe01:1", "192.0.2.1", "2001:db8:c0::1", "fe80::ff:fe03:1"),
    networks=[ipaddress.ip_network("10.1.0.0/24"), ipaddress.ip_network("2001:db8:10::/64")],
    hosts={
        ipaddress.ip_address(address): mac(f"02:00:00:01:00:{address[-2:]}")
        for address in ("10.1.0.11", "10.1.0.12", "2001:db8:10::11", "2001:db8:10::12")
    },
    spi_out=0x1201,
)
B = Router(
    config="lab-b.toml",
    capture="lab-lan2.pcap",
    lan_mac=mac("02:00:00:02:00:01"),
    wan_mac=mac("02:00:00:03:00:02"),
    wan_address=ipaddress.ip_address("192.0.2.2"),
    local=addresses("10.2.0.1", "2001:db8:20::1", "fe80::ff:fe02:1", "192.0.2.2", "2001:db8:c0::2", "fe80::ff:fe03:2"),
    networks=[ipaddress.ip_network("10.2.0.0/24"), ipaddress.ip_network("2001:db8:20::/64")],
    hosts={
        ipaddress.ip_address(address): mac(f"02:00:00:02:00:{address[-2:]}")
        for address in ("10.2.0.21", "10.2.0.22", "2001:db8:20::21", "2001:db8:20::22")
    },
    spi_out=0x2101,
)
BOTH_WAYS = pytest.mark.parametrize("near, far", [(A, B), (B, A)], ids=["a-to-b", "b-to-a"])


# Frames and headers


class Frame(namedtuple("Frame", "time data")):
    """One captured Ethernet frame; `time` in nanoseconds."""

    destination = property(lambda self: self.data[0:6])
    source = property(lambda self: self.data[6:12])
    ethertype = property(lambda self: int.from_bytes(self.data[12:14], "big"))

    @property
    def packet(self):
        """The IP packet, without Ethernet padding."""
        payload = self.data[14:]
        if self.ethertype == IPV4:
            return payload[: int.from_bytes(payload[2:4], "big")]
        return payload[: 40 + int.from_bytes(payload[4:6], "big")]


def frames_of(records):
    return [Frame(*record) for record in records]


def read_fixture(name):
    return frames_of(read_capture(FIXTURES / name))


def is_v4(packet):
    return family_of(packet) == 4


def destination(packet):
    return ipaddress.ip_address(packet[16:20] if is_v4(packet) else packet[24:40])


def source(packet):
    return ipaddress.ip_address(packet[12:16] if is_v4(packet) else packet[8:24])


def hops_left(packet):
    return packet[8] if is_v4(packet) else packet[7]


def transport_of(packet):
    """(protocol, payload, is a fragment). IPv6 extension headers in the lab: hop-by-hop (0) and fragment (44)."""
    if is_v4(packet):
        fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF != 0
        return packet[9], packet[(packet[0] & 0x0F) * 4 :], fragment
    protocol, payload, fragment = packet[6], packet[40:], False
    while protocol in (0, 44):
        fragment |= protocol == 44
        length = 8 if protocol == 44 else 8 + 8 * payload[1]
        protocol, payload = payload[0], payload[length:]
    return protocol, payload, fragment


def transport_checksum(packet, protocol, payload):
    """0 where the TCP, UDP, ICMP or ICMPv6 checksum is right."""
    if protocol == ICMP:
        return checksum(payload)
    endpoints = packet[12:20] if is_v4(packet) else packet[8:40]
    return checksum(endpoints + struct.pack(">II", len(payload), protocol) + payload)


# What must become of a frame


def verdict(frame, router, port_mac, other):
    """What the router owes to a frame received on the port with `port_mac`: an output, or a drop reason."""
    if frame.destination[0] & 1:
        return "host"
    if frame.destination != port_mac:
        return "not-ours"
    if frame.ethertype not in (IPV4, IPV6):
        return "host"
    address = destination(frame.packet)
    if address in router.local:
        return "host"
    if hops_left(frame.packet) <= 1:
        return "ttl-exceeded"
    if any(address in network for network in other.networks):
        return "tunnel"
    if address in router.hosts:
        return "lan"
    raise AssertionError(f"the lab has no place for a packet to {address}")


def sort_frames(frames, router, port_mac, other):
    sorted_frames = {name: [] for name in ("host", "not-ours", "ttl-exceeded", "tunnel", "lan")}
    for frame in frames:
        sorted_frames[verdict(frame, router, port_mac, other)].append(frame)
    return sorted_frames


def drops_of(sorted_frames):
    """As replay reports them: reasons that did not occur are left out."""
    return {reason: len(sorted_frames[reason]) for reason in ("not-ours", "ttl-exceeded") if sorted_frames[reason]}


# Running Culvert


@pytest.fixture
def lab(tmp_path):
    """A copy of the fixtures with keys that nobody else can read: git keeps no 0600."""
    directory = tmp_path / "lab"
    shutil.copytree(FIXTURES, directory)
    for path in directory.glob("*.key"):
        path.chmod(0o600)
    return directory


def replay_lab(lab, router, **inputs):
    """Replays frames by port through the router's configuration."""
    return replay(lab, (lab / router.config).read_text(), **inputs)


def assert_same_frames(actual, causes, expected, what):
    """One comparison a frame, so that a failure names the first that differs; each has the time stamp of its cause."""
    for index, (got, want) in enumerate(zip(frames_of(actual), expected)):
        assert got.data.hex() == want.hex(), f"{what}: number {index} differs"
    assert [time for time, _ in actual] == [cause.time for cause in causes], f"{what}: how many, or their time stamps"


class LabSa(Sa):
    """An SA of the fixture, with the key from its file."""

    @property
    def key(self):
        name = {A.spi_out: "lab-a-to-b.key", B.spi_out: "lab-b-to-a.key"}[self.spi]
        return bytes.fromhex((FIXTURES / name).read_text())


def assert_protects(frame, near, far, sequence, inner):
    """`frame` is `inner` in GRE in ESP from the near router to the far one, to the last bit but the IV."""
    assert (frame.destination, frame.source, frame.ethertype) == (far.wan_mac, near.wan_mac, IPV4)
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x45,
        tos_of(inner),
        len(frame.data) - 14,
        0,
        DONT_FRAGMENT,
        OUTER_TTL,
        ESP_PROTOCOL,
        0,
        near.wan_address.packed,
        far.wan_address.packed,
    )
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    assert frame.packet[:20].hex() == header.hex(), f"outer header of ESP packet {sequence}"

    opened = LabSa("out", near.spi_out, esn=True).open(frame.packet[20:])
    assert (opened.sequence, opened.next_header) == (sequence, GRE_PROTOCOL)
    gre = struct.pack(">HHI", GRE_KEY_PRESENT, IPV4 if is_v4(inner) else IPV6, GRE_KEY)
    assert opened.payload.hex() == (gre + inner).hex(), f"contents of ESP packet {sequence}"
    # RFC 4303 section 2.4; padding to 16 fits the MTU for every packet of the lab
    pad_length = -(len(opened.payload) + ESP_TRAILER) % 16
    assert opened.padding == bytes(range(1, pad_length + 1))
    return opened.iv


# The fixtures themselves


@pytest.mark.parametrize("name", ["lab-lan1.pcap", "lab-lan2.pcap", "lab-middle.pcap"])
def test_every_checksum_in_the_capture_is_right(name):
    """Offloads were off: what is compared below is what a wire would carry."""
    frames = read_fixture(name)
    checked = 0
    for number, frame in enumerate(frames, 1):
        if frame.ethertype not in (IPV4, IPV6):
            continue
        packet = frame.packet
        if is_v4(packet):
            assert checksum(packet[: (packet[0] & 0x0F) * 4]) == 0, f"{name}: frame {number}, IPv4 header"
        protocol, payload, fragment = transport_of(packet)
        if fragment or protocol not in (TCP, UDP, ICMP, ICMPV6):
            continue
        if protocol == UDP and is_v4(packet) and payload[6:8] == bytes(2):
            continue  # RFC 768: sent without a checksum
        assert transport_checksum(packet, protocol, payload) == 0, f"{name}: frame {number}, protocol {protocol}"
        checked += 1
    assert checked > 200


@BOTH_WAYS
def test_the_capture_holds_what_its_description_promises(near, far):
    """A recording that lost a kind of traffic would let the tests below pass for less than they say."""
    frames = read_fixture(near.capture)
    assert {frame.source for frame in frames} == set(near.hosts.values())
    parts = sort_frames(frames, near, near.lan_mac, far)
    assert not parts["lan"]
    assert parts["host"] and parts["ttl-exceeded"]
    assert near is B or parts["not-ours"]
    unicast_to_host = [frame for frame in parts["host"] if frame.destination == near.lan_mac]
    assert {frame.ethertype for frame in unicast_to_host} == {IPV4, IPV6, 0x0806}

    packets = [frame.packet for frame in parts["tunnel"]]
    for v4 in (True, False):
        family = [packet for packet in packets if is_v4(packet) == v4]
        kinds = {transport_of(packet)[0] for packet in family}
        assert kinds >= {TCP, UDP, ICMP if v4 else ICMPV6}
        assert any(transport_of(packet)[2] for packet in family), "fragments"
        assert {hops_left(packet) for packet in family} >= {2, 3, 64}
        assert {len(packet) % 16 for packet in family} == set(range(16)), "every padding length"
        assert max(len(packet) for packet in family) == 1400
        assert any(tos_of(packet) & 3 for packet in family), "ECN"


def is_iperf(packet):
    protocol, payload, fragment = transport_of(packet)
    return protocol in (TCP, UDP) and not fragment and IPERF_PORT in struct.unpack_from(">HH", payload)


@BOTH_WAYS
def test_the_recorded_routers_forwarded_as_this_file_expects(near, far):
    """The oracle against real routers: what they put on the middle link is what `verdict` and `forwarded` say."""
    frames, middle = read_fixture(near.capture), read_fixture("lab-middle.pcap")
    from_lan = sort_frames(frames, near, near.lan_mac, far)["tunnel"]
    expected = Counter(forwarded(f.packet) for f in from_lan if not is_iperf(f.packet))
    on_the_middle = Counter(
        f.packet
        for f in middle
        if f.source == near.wan_mac and f.ethertype in (IPV4, IPV6) and source(f.packet) in near.hosts
    )
    assert on_the_middle == expected


# Through the tunnel


@BOTH_WAYS
def test_a_lan_crosses_the_tunnel_bit_by_bit(lab, near, far):
    """Near LAN, ESP on the wire, far LAN: every packet once, in order, two hops older and otherwise untouched."""
    frames = read_fixture(near.capture)
    parts = sort_frames(frames, near, near.lan_mac, far)

    out = replay_lab(lab, near, lan=frames)
    assert_same_frames(out.records["host"], parts["host"], [frame.data for frame in parts["host"]], "host output")
    assert out.records["lan"] == []
    assert out.drops == drops_of(parts)

    inner = [forwarded(frame.packet) for frame in parts["tunnel"]]
    wire = frames_of(out.records["wan"])
    assert [frame.time for frame in wire] == [frame.time for frame in parts["tunnel"]]
    ivs = {
        assert_protects(frame, near, far, sequence, packet)
        for sequence, (frame, packet) in enumerate(zip(wire, inner, strict=True), 1)
    }
    assert len(ivs) == len(wire), "an IV was used twice"
    tunnel = out.tunnel("lab")
    assert (tunnel["out_packets"], tunnel["out_bytes"]) == (len(inner), sum(map(len, inner)))

    back = replay_lab(lab, far, wan=wire)
    arriving = [frame for frame in parts["tunnel"] if hops_left(frame.packet) > 2]
    expected = [
        far.hosts[destination(frame.packet)] + far.lan_mac + frame.data[12:14] + forwarded(forwarded(frame.packet))
        for frame in arriving
    ]
    assert_same_frames(back.records["lan"], arriving, expected, "far LAN")
    assert back.records["wan"] == [] and back.records["host"] == []
    assert back.drops == {"ttl-exceeded": len(inner) - len(arriving)}
    tunnel = back.tunnel("lab")
    assert (tunnel["in_packets"], tunnel["in_bytes"]) == (len(inner), sum(map(len, inner)))


def test_the_middle_link_goes_to_the_host_or_is_routed(lab):
    """OSPF (multicast and unicast), ND and ARP reach the host untouched; packets for the LAN are routed."""
    frames = read_fixture("lab-middle.pcap")
    parts = sort_frames(frames, A, A.wan_mac, B)
    ospf = [frame for frame in parts["host"] if frame.ethertype == IPV4 and frame.packet[9] == OSPF]
    assert {frame.destination[0] & 1 for frame in ospf} == {0, 1}
    assert parts["lan"] and parts["not-ours"] and not parts["tunnel"]

    out = replay_lab(lab, A, wan=frames)
    assert_same_frames(out.records["host"], parts["host"], [frame.data for frame in parts["host"]], "host output")
    expected = [
        A.hosts[destination(frame.packet)] + A.lan_mac + frame.data[12:14] + forwarded(frame.packet)
        for frame in parts["lan"]
    ]
    assert_same_frames(out.records["lan"], parts["lan"], expected, "LAN output")
    assert out.records["wan"] == []
    assert out.drops == drops_of(parts)
