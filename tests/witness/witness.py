"""What every witness test shares: the topology, packets, ESP written from the RFCs, captures, and the run itself.

Nothing here knows how Culvert works inside: expectations come from Scapy, from `cryptography`, and from the RFCs.
A test (1) describes router A as a `Router`, (2) builds frames, (3) calls `replay`, (4) compares what came out.
"""

import hashlib
import json
import os
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Raw
from scapy.utils import RawPcapReader, checksum

# --- topology -----------------------------------------------------------------------------------------------------
# hosts 10.1/16 -- lan [router A] wan -- peer -- hosts 10.2/16, and the same in IPv6

WAN_MAC, PEER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
LAN_MAC, HOST_MAC = "02:00:00:00:00:11", "02:00:00:00:00:15"
LOCAL = {4: "192.0.2.1", 6: "2001:db8:2::1"}
REMOTE = {4: "192.0.2.2", 6: "2001:db8:2::2"}
STRANGER = {4: "192.0.2.99", 6: "2001:db8:2::99"}
ROUTER_ON_LAN = {4: "10.1.0.1", 6: "2001:db8:10::1"}
NEAR_HOST = {4: "10.1.0.5", 6: "2001:db8:10::5"}
FAR_HOST = {4: "10.2.0.5", 6: "2001:db8:20::5"}
HEADER = {4: 20, 6: 40}
ETHERTYPE = {4: 0x0800, 6: 0x86DD}
PORT_MTU = 1500
ECN_BITS, CE = 3, 3  # RFC 3168 5
EXPERIMENT = 253  # RFC 3692: a protocol number nobody may interpret

PORTS = f"""
[[port]]
name = "wan"
device = "pcap"
mac = "{WAN_MAC}"
addresses = ["{LOCAL[4]}/24", "{LOCAL[6]}/64"]

[[port]]
name = "lan"
device = "pcap"
mac = "{LAN_MAC}"
addresses = ["{ROUTER_ON_LAN[4]}/24", "{ROUTER_ON_LAN[6]}/64"]
"""


def neighbours():
    """The `[[neighbour]]` tables of the peer and of one host, each in both families."""
    known = [("wan", REMOTE, PEER_MAC), ("lan", NEAR_HOST, HOST_MAC)]
    return "".join(
        f'\n[[neighbour]]\naddress = "{addresses[family]}"\nport = "{port}"\nmac = "{mac}"\n'
        for port, addresses, mac in known
        for family in (4, 6)
    )


# --- security associations, and ESP as RFC 4303, 4106 and 7634 say it -----------------------------------------------


@dataclass(frozen=True)
class Suite:
    """An ESP suite, by the names that Culvert, Scapy and tshark give it."""

    name: str
    key_length: int
    cipher: type
    scapy: str
    tshark: str


SUITES = {
    suite.name: suite
    for suite in (
        Suite("aes128gcm16", 16, AESGCM, "AES-GCM", "AES-GCM with 16 octet ICV [RFC4106]"),
        Suite("aes256gcm16", 32, AESGCM, "AES-GCM", "AES-GCM with 16 octet ICV [RFC4106]"),
        Suite("chacha20poly1305", 32, ChaCha20Poly1305, "CHACHA20-POLY1305", "ChaCha20 with Poly1305 [RFC7634]"),
    )
}
IV_LENGTH, ICV_LENGTH, SALT_LENGTH = 8, 16, 4
GRE_PROTOCOL, ESP_PROTOCOL, UDP_PROTOCOL, NO_NEXT_HEADER = 47, 50, 17, 59
IP_IN_IP = {4: 4, 6: 41}


class NotAuthentic(Exception):
    """The ICV of an ESP packet is wrong."""


@dataclass(frozen=True)
class Opened:
    """An ESP packet after decryption."""

    sequence: int
    iv: bytes
    payload: bytes
    padding: bytes
    next_header: int
    ciphertext_length: int


@dataclass(frozen=True)
class Sa:
    """One manual SA. `key` is the cipher key followed by the salt."""

    direction: str
    spi: int
    suite: str = "aes128gcm16"
    esn: bool = False
    udp_encap: tuple[int, int] | None = None

    @property
    def key(self):
        """A key of the right length that no other SA has; the salt stands behind the cipher key."""
        length = SUITES[self.suite].key_length + SALT_LENGTH
        return hashlib.sha512(f"{self.direction} {self.spi}".encode()).digest()[:length]

    def _aead(self):
        return SUITES[self.suite].cipher(self.key[:-SALT_LENGTH])

    def _nonce(self, iv):
        return self.key[-SALT_LENGTH:] + iv  # RFC 4106 4, RFC 7634 2

    def _associated_data(self, sequence):
        """SPI and sequence number, 64 bits of it with ESN (RFC 4106 5, RFC 7634 2.1)."""
        return struct.pack(">IQ", self.spi, sequence) if self.esn else struct.pack(">II", self.spi, sequence)

    def seal(self, sequence, payload, next_header=GRE_PROTOCOL, *, align=4, padding=None, pad_length=None):
        """An ESP packet (RFC 4303 2). `padding` and `pad_length` can be made wrong on purpose."""
        if padding is None:
            padding = bytes(range(1, 1 + -(len(payload) + 2) % align))
        trailer = bytes([len(padding) if pad_length is None else pad_length, next_header])
        iv = struct.pack(">Q", sequence)
        sealed = self._aead().encrypt(self._nonce(iv), payload + padding + trailer, self._associated_data(sequence))
        return struct.pack(">II", self.spi, sequence & 0xFFFFFFFF) + iv + sealed

    def open(self, packet, high=0):
        """Decrypts an ESP packet whose sequence number has the upper half `high`."""
        spi, low = struct.unpack(">II", packet[:8])
        assert spi == self.spi, f"SPI {spi:#x}, expected {self.spi:#x}"
        sequence = high << 32 | low
        iv, sealed = packet[8 : 8 + IV_LENGTH], packet[8 + IV_LENGTH :]
        try:
            plain = self._aead().decrypt(self._nonce(iv), sealed, self._associated_data(sequence))
        except InvalidTag as wrong:
            raise NotAuthentic(f"sequence number {sequence}") from wrong
        pad_length, next_header = plain[-2:]
        end = len(plain) - 2 - pad_length
        assert end >= 0, f"pad length {pad_length} in {len(plain)} bytes"
        return Opened(sequence, iv, plain[:end], plain[end:-2], next_header, len(plain))

    def toml(self):
        encap = self.udp_encap
        lines = [
            "[[tunnel.protect.manual]]",
            f'direction = "{self.direction}"',
            f"spi = {self.spi:#x}",
            f'suite = "{self.suite}"',
            f"esn = {str(self.esn).lower()}",
            f'key = "{self.key.hex()}"',
        ]
        if encap:
            lines.append(f"udp_encap = {{ source = {encap[0]}, destination = {encap[1]} }}")
        return "\n".join(lines)


# --- tunnels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GreOptions:
    """What a tunnel puts into its GRE headers (RFC 2784, 2890)."""

    key: int | None = None
    checksum: bool = False
    sequence: bool = False

    @property
    def length(self):
        return 4 + 4 * (self.checksum + (self.key is not None) + self.sequence)

    def header(self, protocol, payload, sequence=0):
        """The whole GRE packet that a sender with these options makes."""
        fields = {"proto": protocol}
        if self.checksum:
            fields |= {"chksum_present": 1}
        if self.key is not None:
            fields |= {"key_present": 1, "key": self.key}
        if self.sequence:
            fields |= {"seqnum_present": 1, "sequence_number": sequence & 0xFFFFFFFF}
        return bytes(GRE(**fields) / Raw(payload))


@dataclass(frozen=True)
class Tunnel:
    """A tunnel from router A to its peer; `mode` None means without protection."""

    family: int = 4
    mode: str | None = "transport"
    gre: GreOptions = GreOptions()
    sas: tuple[Sa, ...] = (Sa("out", 0x1001), Sa("in", 0x2001))
    window: int = 1024
    pad: int = 16
    ttl: int = 64
    payload: str = "ip"
    bridge: str | None = None
    name: str = "paris-oslo"
    remote: str | None = None
    routes: tuple[str, ...] = ("10.2.0.0/16", "2001:db8:20::/48")

    @property
    def outbound(self):
        return next(sa for sa in self.sas if sa.direction == "out")

    @property
    def inbound(self):
        return next(sa for sa in self.sas if sa.direction == "in")

    @property
    def endpoints(self):
        """Our outer address and the peer's."""
        return LOCAL[self.family], self.remote or REMOTE[self.family]

    def overhead(self):
        """Bytes before the plaintext of ESP, bytes behind it, and those inside it before the inner IP packet."""
        encap = 8 if self.outbound.udp_encap else 0
        middle = HEADER[self.family] if self.mode == "tunnel" else 0
        return HEADER[self.family] + encap + 8 + IV_LENGTH, ICV_LENGTH, middle + self.gre.length

    def mtu(self):
        """The largest inner IP packet whose outer packet, padded to 4, fits the port."""
        if self.mode is None:
            return PORT_MTU - HEADER[self.family] - self.gre.length
        before, behind, inside = self.overhead()
        return (PORT_MTU - before - behind) // 4 * 4 - 2 - inside

    def toml(self):
        local, remote = self.endpoints
        lines = [
            "[[tunnel]]",
            f'name = "{self.name}"',
            f'local = "{local}"',
            f'remote = "{remote}"',
            f"routes = {json.dumps(self.routes)}",
            f"checksum = {str(self.gre.checksum).lower()}",
            f"sequence = {str(self.gre.sequence).lower()}",
            f"ttl = {self.ttl}",
            f'payload = "{self.payload}"',
        ]
        if self.gre.key is not None:
            lines.append(f"key = {self.gre.key}")
        if self.bridge:
            lines.append(f'bridge = "{self.bridge}"')
        if self.mode is None:
            return "\n".join(lines + ['protect = "none"'])
        lines += ["[tunnel.protect]", f'mode = "{self.mode}"', f"replay_window = {self.window}", f"pad = {self.pad}"]
        return "\n".join(lines + [sa.toml() for sa in self.sas])


def configuration(*tunnels, extra=""):
    """The configuration of router A. `extra` is appended as it is."""
    return "\n".join(["[engine]\nworkers = 1", PORTS, neighbours(), *(tunnel.toml() for tunnel in tunnels), extra, ""])


# --- packets and frames ---------------------------------------------------------------------------------------------


def ip(source, destination, protocol, payload, **fields):
    """An IP packet of the family of its addresses. Fields by their IPv4 names: tos, ttl, id, flags, frag, options."""
    if ":" not in source:
        return bytes(IP(src=source, dst=destination, proto=protocol, **fields) / Raw(payload))
    names = {"tos": "tc", "ttl": "hlim", "fl": "fl"}
    return bytes(
        IPv6(src=source, dst=destination, nh=protocol, **{names[name]: value for name, value in fields.items()})
        / Raw(payload)
    )


def filler(length, seed=0):
    """`length` bytes that differ from place to place and from seed to seed."""
    return bytes((place * 31 + seed * 101 + (place >> 8)) & 0xFF for place in range(length))


def to_far(family, length=32, seed=0, **fields):
    """An inner packet from the near host to the far one, with `length` bytes of payload."""
    return ip(NEAR_HOST[family], FAR_HOST[family], EXPERIMENT, filler(length, seed), **fields)


def to_near(family, length=32, seed=0, **fields):
    """An inner packet from the far host to the near one."""
    return ip(FAR_HOST[family], NEAR_HOST[family], EXPERIMENT, filler(length, seed), **fields)


def family_of(packet):
    return packet[0] >> 4


def tos_of(packet):
    """The DSCP and ECN bits together."""
    return packet[1] if family_of(packet) == 4 else (struct.unpack(">H", packet[:2])[0] >> 4) & 0xFF


def forwarded(packet):
    """The packet behind one router: TTL or hop limit one less, IPv4 checksum made anew, all else untouched."""
    packet = bytearray(packet)
    if family_of(packet) == 6:
        packet[7] -= 1
        return bytes(packet)
    packet[8] -= 1
    return with_checksum(packet)


def with_checksum(packet):
    """An IPv4 packet with its header checksum made right; where the header length is too small, over 20 bytes."""
    packet, length = bytearray(packet), max(20, (packet[0] & 15) * 4)
    packet[10:12] = b"\0\0"
    packet[10:12] = struct.pack(">H", checksum(bytes(packet[:length])))
    return bytes(packet)


def changed(packet, place, value):
    """The packet with other bytes from `place` on."""
    return packet[:place] + value + packet[place + len(value) :]


def damaged(packet, place):
    """The packet with one bit flipped in one byte."""
    other = bytearray(packet)
    other[place] ^= 0x10
    return bytes(other)


def frame(source, destination, packet, *, pad=b""):
    """An Ethernet frame around an IP packet, padded to the 60 bytes of a real NIC where `pad` is given."""
    whole = bytes(Ether(src=source, dst=destination, type=ETHERTYPE[family_of(packet)]) / Raw(packet))
    return whole + pad * (60 - len(whole)) if pad else whole


def into_wan(packet, **options):
    return frame(PEER_MAC, WAN_MAC, packet, **options)


def into_lan(packet, **options):
    return frame(HOST_MAC, LAN_MAC, packet, **options)


def out_of_lan(packet):
    """The frame in which router A hands `packet` to the near host."""
    return frame(LAN_MAC, HOST_MAC, packet)


def from_peer(tunnel, protocol, payload, **fields):
    """An outer packet of the tunnel's peer to router A."""
    local, remote = tunnel.endpoints
    return ip(fields.pop("source", remote), fields.pop("destination", local), protocol, payload, **fields)


def gre_payload(inner):
    """Protocol type and bytes of an inner IP packet, as GRE carries it."""
    return ETHERTYPE[family_of(inner)], inner


def sealed(tunnel, sequence, inner, *, sa=None, gre_sequence=0, **fields):
    """The frame in which the peer sends `inner` through the tunnel; `fields` are those of the outer header."""
    gre = tunnel.gre.header(*gre_payload(inner), gre_sequence)
    return sealed_gre(tunnel, sequence, gre, sa=sa, middle_tos=tos_of(inner) & ECN_BITS, **fields)


def sealed_gre(tunnel, sequence, gre, *, sa=None, middle_tos=0, **fields):
    """The frame in which the peer sends a GRE packet, right or wrong, through the tunnel."""
    sa = sa or tunnel.inbound
    if tunnel.mode == "tunnel":
        middle = from_peer(tunnel, GRE_PROTOCOL, gre, tos=middle_tos)
        return esp_frame(tunnel, sa.seal(sequence, middle, IP_IN_IP[tunnel.family]), sa, **fields)
    return esp_frame(tunnel, sa.seal(sequence, gre), sa, **fields)


def esp_frame(tunnel, esp, sa=None, **fields):
    """The frame in which the peer sends an ESP packet, in UDP where the SA says so."""
    encap = (sa or tunnel.inbound).udp_encap
    if encap:
        return into_wan(from_peer(tunnel, UDP_PROTOCOL, udp(*encap, esp), **fields))
    return into_wan(from_peer(tunnel, ESP_PROTOCOL, esp, **fields))


def udp(source, destination, payload):
    """A UDP datagram with checksum 0 (RFC 3948 2.1)."""
    return bytes(UDP(sport=source, dport=destination, len=8 + len(payload), chksum=0)) + payload


def packet_of(got):
    """The IP packet of a frame we sent; behind it there may be zeros up to Ethernet's 60 bytes, and nothing else."""
    packet = got[14:]
    length = struct.unpack(">H", packet[2:4])[0] if family_of(packet) == 4 else 40 + struct.unpack(">H", packet[4:6])[0]
    rest = packet[length:]
    assert not any(rest) and (not rest or len(got) <= 60), f"{len(rest)} bytes behind the packet: {rest.hex()}"
    return packet[:length]


# --- captures -------------------------------------------------------------------------------------------------------

START = 1_700_000_000 * 10**9  # ns since 1970


def stamped(frames, start=START, step=1000):
    """Pairs of time stamp (ns) and frame, from a list of frames."""
    return [(start + place * step, one) for place, one in enumerate(frames)]


def pcap(records, *, nano=True, order="<"):
    """A pcap file of (ns, frame) pairs."""
    unit = 1 if nano else 1000
    out = struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    for time, one in records:
        out += struct.pack(order + "IIII", time // 10**9, time % 10**9 // unit, len(one), len(one)) + one
    return out


def pcapng(records, *, resolution=9, order="<"):
    """A pcapng file of (ns, frame) pairs; time stamps count units of 10**-resolution s (None: the default, 6)."""

    def block(kind, body):
        length = 12 + len(body)
        return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)

    option = b"" if resolution is None else struct.pack(order + "HHB3xI", 9, 1, resolution, 0)
    out = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    out += block(1, struct.pack(order + "HHI", 1, 0, 262144) + option)
    for time, one in records:
        units = time // 10 ** (9 - (6 if resolution is None else resolution))
        header = struct.pack(order + "IIIII", 0, units >> 32, units & 0xFFFFFFFF, len(one), len(one))
        out += block(6, header + one + bytes(-len(one) % 4))
    return out


def read_capture(path):
    """The (ns, frame) pairs of a pcap or pcapng file, read by Scapy."""
    with RawPcapReader(str(path)) as reader:
        return [(_nanoseconds(reader, meta), one) for one, meta in reader]


def _nanoseconds(reader, meta):
    if hasattr(meta, "tshigh"):
        return (meta.tshigh << 32 | meta.tslow) * 10**9 // meta.tsresol
    return meta.sec * 10**9 + meta.usec * (1 if reader.nano else 1000)


# --- the run --------------------------------------------------------------------------------------------------------


def binary():
    """The binary under test. Missing is a failure: a witness that did not look is none."""
    root = Path(__file__).resolve().parents[2]
    path = Path(os.environ.get("CULVERT", root / "target/release/culvert"))
    if not path.is_file():
        pytest.fail(f"{path} does not exist: build it, or say CULVERT=path of the binary", pytrace=False)
    return path


@dataclass
class Outcome:
    """What a replay left: exit code, standard error, the JSON object, and (ns, frame) pairs by output port."""

    code: int
    stderr: str
    report: dict = field(default_factory=dict)
    records: dict = field(default_factory=dict)

    @property
    def drops(self):
        return Counter(self.report["drops"])

    def frames(self, port):
        return [one for _, one in self.records[port]]

    def packets(self, port):
        """The IP packets of the frames that left by a port."""
        return [packet_of(one) for one in self.frames(port)]

    def tunnel(self, name="paris-oslo"):
        return self.report["tunnels"][name]


def run(directory, config, inputs, *, outputs=("wan", "lan", "host"), mode=0o600):
    """Runs a replay of files as they are: `config` is TOML text, `inputs` a list of (port, bytes of a capture file)."""
    file = directory / "culvert.toml"
    file.write_text(config)
    file.chmod(mode)
    command = [str(binary()), "replay", "-c", str(file)]
    for place, (port, content) in enumerate(inputs):
        source = directory / f"in-{place}-{port}.pcap"
        source.write_bytes(content)
        command += ["--in", f"{port}={source}"]
    for port in outputs:
        command += ["--out", f"{port}={directory / f'out-{port}.pcap'}"]
    done = subprocess.run(command + ["--json"], capture_output=True, timeout=120, check=False)
    stderr = done.stderr.decode(errors="replace")
    assert done.returncode >= 0, f"killed by signal {-done.returncode}: {stderr}"
    written = {port: directory / f"out-{port}.pcap" for port in outputs}
    records = {port: read_capture(path) for port, path in written.items() if path.is_file() and path.stat().st_size}
    report = json.loads(done.stdout) if done.returncode == 0 else {}
    return Outcome(done.returncode, stderr, report, records)


def replay(directory, config, *, outputs=("wan", "lan", "host"), **inputs):
    """Replays frames (or (ns, frame) pairs) by port, and checks that every frame is accounted for."""
    timed = {port: list(frames) for port, frames in inputs.items()}
    for port, frames in timed.items():
        if frames and isinstance(frames[0], bytes):
            timed[port] = stamped(frames)
    outcome = run(directory, config, [(port, pcap(frames)) for port, frames in timed.items()], outputs=outputs)
    assert outcome.code == 0, outcome.stderr
    ports = outcome.report["ports"]
    for port, frames in timed.items():
        assert ports[port]["rx"] == len(frames)
    for port, records in outcome.records.items():
        assert ports[port]["tx"] == len(records)
    received, sent = (sum(port[way] for port in ports.values()) for way in ("rx", "tx"))
    assert received == sent + outcome.drops.total(), outcome.report
    return outcome


# --- sequences of frames with the verdict expected for each ---------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One arriving frame, and what has to become of it: a drop reason, or the port and frame that leave."""

    label: str
    frame: bytes
    reason: str | None = None
    out: tuple[str, bytes] | None = None
    port: str = "wan"


def dropped(label, arriving, reason, port="wan"):
    """The frame is dropped for this reason."""
    return Step(label, arriving, reason=reason, port=port)


def to_host(label, arriving, port="wan", handed=None):
    """The frame goes to the host byte for byte, or as the frame `handed`."""
    return Step(label, arriving, out=("host", handed or arriving), port=port)


def delivered(label, arriving, packet, port="wan"):
    """The frame's packet, given as it arrived, is forwarded to the near host."""
    return Step(label, arriving, out=("lan", out_of_lan(forwarded(packet))), port=port)


def judge(directory, config, steps):
    """Replays the steps in order: each survivor comes out right and in its place, each drop has its reason counted."""
    timed = [(START + place * 1000, step) for place, step in enumerate(steps)]
    inputs = {port: [(time, step.frame) for time, step in timed if step.port == port] for port in ("wan", "lan")}
    outcome = replay(directory, config, **inputs)
    left = {time: (port, one) for port, records in outcome.records.items() for time, one in records}
    wrong = [
        f"{step.label}: expected {_told(step.reason, step.out)}, got {_told(None, left.get(time))}"
        for time, step in timed
        if left.get(time) != step.out
    ]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(steps)}; counted {dict(outcome.drops)}", *wrong[:20]])
    assert outcome.drops == Counter(step.reason for step in steps if step.reason)
    for port, records in outcome.records.items():
        assert [time for time, _ in records] == [time for time, step in timed if step.out and step.out[0] == port]
    return outcome


def _told(reason, out):
    return f"{out[0]} {out[1].hex()}" if out else f"drop {reason or ''}"
