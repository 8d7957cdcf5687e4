"""GRE in UDP (RFC 8086): Scapy makes and reads the datagrams, both ways, over IPv4 and IPv6."""

import dataclasses

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE
from scapy.packet import Raw

from witness import (
    FAR_HOST,
    GRE_PROTOCOL,
    HEADER,
    LOCAL,
    NEAR_HOST,
    PORT_MTU,
    REMOTE,
    STRANGER,
    UDP_PROTOCOL,
    GreOptions,
    Step,
    Tunnel,
    changed,
    configuration,
    delivered,
    dropped,
    filler,
    forwarded,
    from_peer,
    gre_payload,
    into_lan,
    into_wan,
    ip,
    judge,
    pcap,
    replay,
    run,
    to_far,
    to_host,
    to_near,
)

PORT = 4754  # RFC 8086 3.2.2
FIRST_DYNAMIC = 49152  # RFC 8086 3.2.1
OPTIONS = (
    GreOptions(),
    GreOptions(key=42),
    GreOptions(key=42, checksum=True, sequence=True),
)


@dataclasses.dataclass(frozen=True)
class UdpTunnel(Tunnel):
    """A tunnel whose GRE goes in UDP."""

    mode: str | None = None
    sas: tuple = ()

    def toml(self):
        return super().toml().replace('payload = "', 'encapsulation = "udp"\npayload = "', 1)

    def mtu(self):
        return super().mtu() - 8


def datagram(tunnel, gre, *, source=50000, destination=PORT, **fields):
    """The packet in which the peer sends a GRE packet; Scapy computes the checksum unless `chksum` is given."""
    layer = IP(src=REMOTE[4], dst=LOCAL[4]) if tunnel.family == 4 else IPv6(src=REMOTE[6], dst=LOCAL[6])
    return bytes(layer / UDP(sport=source, dport=destination, **fields) / Raw(gre))


def carried(tunnel, inner, number=0, **fields):
    return into_wan(datagram(tunnel, tunnel.gre.header(*gre_payload(inner), number), **fields))


@pytest.fixture(params=(4, 6), ids=("v4", "v6"))
def family(request):
    return request.param


@pytest.fixture(params=OPTIONS, ids=("plain", "key", "all"))
def tunnel(request, family):
    return UdpTunnel(family=family, gre=request.param)


def tcp_to_far(family, source_port, length=20):
    """Inner packets of one TCP conversation for each source port."""
    ports = source_port.to_bytes(2, "big") + (443).to_bytes(2, "big")
    return ip(NEAR_HOST[family], FAR_HOST[family], 6, ports + filler(length, source_port))


def test_into_the_tunnel(tmp_path, tunnel):
    """Scapy finds its own layers, lengths and checksums right, up to the longest packet that fits."""
    overhead = tunnel.mtu() - HEADER[4]
    inner = [to_far(4), to_far(6), tcp_to_far(4, 1000, 33), to_far(4, length=overhead), to_far(4, length=overhead + 1)]
    outcome = replay(tmp_path, configuration(tunnel), lan=[into_lan(packet) for packet in inner])
    assert outcome.drops == {"too-big": 1}
    sent = outcome.packets("wan")
    assert len(sent) == 4 and len(sent[3]) == PORT_MTU
    for number, (packet, original) in enumerate(zip(sent, inner, strict=False)):
        outer = IP(packet) if tunnel.family == 4 else IPv6(packet)
        assert (outer.src, outer.dst) == (LOCAL[tunnel.family], REMOTE[tunnel.family])
        header = outer[UDP]
        assert header.dport == PORT and header.sport >= FIRST_DYNAMIC
        assert header.len == len(packet) - HEADER[tunnel.family]
        gre = packet[HEADER[tunnel.family] + 8 :]
        assert gre == tunnel.gre.header(*gre_payload(forwarded(original)), number)
        assert isinstance(outer[UDP].payload, GRE), "Scapy knows the port as GRE's"
        found = header.chksum
        if tunnel.family == 4:
            assert found == 0  # RFC 8086 6.1
        else:
            del outer[UDP].chksum  # RFC 8086 6.2: made anew by Scapy
            assert IPv6(bytes(outer))[UDP].chksum == found != 0


def test_out_of_the_tunnel(tmp_path, tunnel):
    """Datagrams of any source port are taken; behind the datagram's length nothing counts."""
    steps = []
    for number, (inner, source) in enumerate([(to_near(4), 50000), (to_near(6), 4754), (to_near(4, 1000), 1)]):
        steps.append(delivered(f"{number}", carried(tunnel, inner, number, source=source), inner))
    if tunnel.family == 4:
        inner = to_near(4, seed=9)
        steps.append(delivered("no checksum", carried(tunnel, inner, 3, chksum=0), inner))
    else:
        # RFC 8200 8.1, RFC 8086 6.2: not without leave.
        steps.append(dropped("no checksum", carried(tunnel, to_near(4), 3, chksum=0), "udp-checksum"))
    judge(tmp_path, configuration(tunnel), steps)


def test_flows_have_source_ports_of_their_own(tmp_path, family):
    """A flow keeps its port; a hundred flows have nearly a hundred."""
    tunnel = UdpTunnel(family=family)
    inner = [tcp_to_far(4, 1000 + flow, length) for length in (20, 21) for flow in range(100)]
    outcome = replay(tmp_path, configuration(tunnel), lan=[into_lan(packet) for packet in inner])
    at = HEADER[family]
    ports = [int.from_bytes(packet[at : at + 2], "big") for packet in outcome.packets("wan")]
    assert ports[:100] == ports[100:]
    assert len(set(ports)) > 95 and min(ports) >= FIRST_DYNAMIC


def test_refused(tmp_path, tunnel):
    """Damaged, foreign and misplaced packets, each by its reason; what is not ours is the host's."""
    good = tunnel.gre.header(*gre_payload(to_near(4)))
    whole = datagram(tunnel, good)
    at = HEADER[tunnel.family]
    other_key = GreOptions(key=43).header(*gre_payload(to_near(4)))
    steps = [
        dropped("damaged", into_wan(changed(whole, len(whole) - 1, bytes([whole[-1] ^ 1]))), "udp-checksum"),
        dropped("length beyond the packet", into_wan(changed(whole, at + 4, b"\xff\xff")), "ip-malformed"),
        dropped("length under the header", into_wan(changed(whole, at + 4, b"\x00\x07")), "ip-malformed"),
        dropped("shorter than GRE", into_wan(datagram(tunnel, b"\x00\x00\x08")), "gre-malformed"),
        dropped("GRE version 1", into_wan(datagram(tunnel, changed(good, 1, b"\x01"))), "gre-malformed"),
        dropped("other key", into_wan(datagram(tunnel, other_key)), "gre-key"),
        dropped("not in UDP", into_wan(from_peer(tunnel, GRE_PROTOCOL, good)), "gre-unknown"),
        to_host("other port", into_wan(datagram(tunnel, good, destination=4755))),
    ]
    if tunnel.family == 4:
        stranger = ip(STRANGER[4], LOCAL[4], UDP_PROTOCOL, changed(whole[at:], 6, b"\0\0"))
        steps.append(dropped("from a stranger", into_wan(stranger), "gre-unknown"))
        fragment = ip(REMOTE[4], LOCAL[4], UDP_PROTOCOL, whole[at:], flags="MF")
        steps.append(dropped("first fragment", into_wan(fragment), "fragment"))
    steps.append(delivered("after all that", carried(tunnel, to_near(4)), to_near(4)))
    judge(tmp_path, configuration(tunnel), steps)


def test_the_port_is_the_hosts_without_such_a_tunnel(tmp_path, family):
    """Nothing changes for routers that do not use it, and a plain tunnel takes no UDP."""
    plain = Tunnel(family=family, mode=None, sas=())
    packet = into_wan(datagram(plain, plain.gre.header(*gre_payload(to_near(4)))))
    judge(tmp_path, configuration(plain), [to_host("GRE in UDP", packet)])
    in_udp = UdpTunnel(family=family, gre=GreOptions(key=7), name="in-udp", routes=())
    judge(tmp_path, configuration(plain, in_udp), [dropped("GRE in UDP", packet, "gre-unknown")])


def test_ethernet_frames(tmp_path, family):
    """A bridged tunnel, its source port by what the frames carry; broadcast and tagged frames as they are."""
    tunnel = UdpTunnel(family=family, payload="ethernet", bridge="lan", routes=())
    frames = [into_lan(tcp_to_far(4, 1)), into_lan(tcp_to_far(4, 2))]
    tagged = [one[:12] + b"\x81\x00\x00\x07" + one[12:] for one in frames]
    broadcast = b"\xff" * 6 + bytes.fromhex("020000000015") + b"\x08\x06" + filler(46)
    frames += [*tagged, broadcast]
    outcome = replay(tmp_path, configuration(tunnel), lan=frames)
    at = HEADER[family]
    sent = outcome.packets("wan")
    assert [packet[at + 8 :] for packet in sent] == [tunnel.gre.header(0x6558, one) for one in frames]
    ports = [packet[at : at + 2] for packet in sent]
    assert ports[0] == ports[2] != ports[1] == ports[3]
    back = tmp_path / "back"
    back.mkdir()
    steps = [
        Step(f"frame {number}", into_wan(datagram(tunnel, tunnel.gre.header(0x6558, one))), out=("lan", one))
        for number, one in enumerate(frames)
    ]
    judge(back, configuration(tunnel), steps)


def test_not_for_protected_tunnels(tmp_path):
    """Refused, with what to do instead."""
    config = configuration(Tunnel()).replace('payload = "ip"', 'payload = "ip"\nencapsulation = "udp"')
    outcome = run(tmp_path, config, [("lan", pcap([]))])
    assert outcome.code == 2 and "udp_encap" in outcome.stderr and "encapsulation" in outcome.stderr
