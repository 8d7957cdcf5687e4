"""Transparent Ethernet in GRE (protocol type 0x6558): a tunnel bridged with `lan` carries every frame of it, whole."""

import pytest

from witness import (
    GRE_PROTOCOL,
    HOST_MAC,
    LAN_MAC,
    GreOptions,
    Step,
    Tunnel,
    configuration,
    dropped,
    filler,
    from_peer,
    into_lan,
    into_wan,
    judge,
    replay,
    sealed_gre,
    to_far,
    to_near,
)

IPV4, IPV6, ARP, ETHERNET = 0x0800, 0x86DD, 0x0806, 0x6558
SHORTEST = 14  # an Ethernet header and nothing behind it
CARRIERS = {
    "clear": {"mode": None, "sas": ()},
    "transport": {"mode": "transport"},
    "tunnel": {"mode": "tunnel"},
}


@pytest.fixture(params=CARRIERS)
def tunnel(request):
    """A tunnel bridged with `lan`, GRE in clear or in ESP; it routes nothing."""
    return Tunnel(payload="ethernet", bridge="lan", routes=(), gre=GreOptions(key=7), **CARRIERS[request.param])


def ethernet(destination, rest, source=HOST_MAC):
    """A frame: two addresses, and everything from the ethertype on."""
    return bytes.fromhex((destination + source).replace(":", "")) + rest


def frames_of_a_lan():
    """Frames of every kind, also such as Culvert would read, answer or leave to the host on a port of its own."""
    return [
        into_lan(to_far(4)),
        into_lan(to_far(6), pad=b"\xa5"),
        into_lan(to_far(4, ttl=1)),
        ethernet("ff:ff:ff:ff:ff:ff", b"\x08\x06" + filler(46)),
        ethernet("01:00:5e:00:00:05", b"\x08\x00" + to_far(4)),
        ethernet("33:33:00:00:00:01", b"\x86\xdd" + to_far(6)),
        ethernet("02:00:00:00:00:99", b"\x08\x00" + to_far(4)),
        ethernet(LAN_MAC, b"\x81\x00\x00\x07\x08\x00" + to_far(4)),
        ethernet("01:80:c2:00:00:00", b"\x00\x26" + filler(46)),
        ethernet(LAN_MAC, b"\x08\x00not an IP packet"),
        ethernet(LAN_MAC, b"\x88\xb5"),
    ]


def carried(tunnel, number, gre):
    """The frame in which the peer sends a GRE packet."""
    if tunnel.mode is None:
        return into_wan(from_peer(tunnel, GRE_PROTOCOL, gre))
    return sealed_gre(tunnel, number, gre)


def inside(tunnel, packet):
    """The GRE packet in one of our IPv4 packets."""
    if tunnel.mode is None:
        return packet[20:]
    payload = tunnel.outbound.open(packet[20:]).payload
    return payload if tunnel.mode == "transport" else payload[20:]


def test_into_the_tunnel(tmp_path, tunnel):
    """Every frame goes in as it came, whoever it was for; what would not fit the path is dropped."""
    longest = ethernet(LAN_MAC, b"\x88\xb5" + filler(tunnel.mtu() - SHORTEST))
    fit = [*frames_of_a_lan(), longest]
    arriving = [*fit[:3], longest + b"x", fit[0][: SHORTEST - 1], *fit[3:]]
    outcome = replay(tmp_path, configuration(tunnel), lan=arriving)
    assert outcome.drops == {"too-big": 1, "ethernet-malformed": 1}
    assert [inside(tunnel, packet) for packet in outcome.packets("wan")] == [
        tunnel.gre.header(ETHERNET, one) for one in fit
    ]
    assert outcome.frames("host") == [] and outcome.frames("lan") == []


def test_out_of_the_tunnel(tmp_path, tunnel):
    """The frame leaves by the port it is bridged with, to the last byte of its own padding."""
    frames = [*frames_of_a_lan(), ethernet(HOST_MAC, b"\x88\xb5" + filler(1400))]
    steps = [
        Step(f"frame {number}", carried(tunnel, number, tunnel.gre.header(ETHERNET, one)), out=("lan", one))
        for number, one in enumerate(frames, start=1)
    ]
    judge(tmp_path, configuration(tunnel), steps)


def test_refused(tmp_path, tunnel):
    """Other protocol types, and frames without an Ethernet header, are dropped and change no state."""
    inner = {"IPv4": (IPV4, to_near(4)), "IPv6": (IPV6, to_near(6)), "ARP": (ARP, filler(28))}
    cases = [(label, tunnel.gre.header(*content), "gre-unknown") for label, content in inner.items()]
    cases += [
        (f"{length} bytes", tunnel.gre.header(ETHERNET, filler(length)), "ethernet-malformed")
        for length in range(SHORTEST)
    ]
    steps = []
    for number, (label, gre, reason) in enumerate(cases, start=1):
        good = ethernet(HOST_MAC, b"\x88\xb5" + filler(50, number))
        steps.append(dropped(label, carried(tunnel, number, gre), reason))
        arriving = carried(tunnel, number, tunnel.gre.header(ETHERNET, good))
        steps.append(Step(f"after {label}", arriving, out=("lan", good)))
    judge(tmp_path, configuration(tunnel), steps)
