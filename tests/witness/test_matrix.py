"""Every combination of suite, mode, outer family, ESN, UDP encapsulation and GRE options, both ways, at telling sizes.

What Culvert seals is opened twice, by Scapy's SecurityAssociation and by the decoder in `witness`; what it opens was
sealed by Scapy. All sizes of one combination, in both inner families, go through one replay.
"""

import struct
from itertools import product

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.l2 import GRE

from witness import (
    ESP_PROTOCOL,
    ETHERTYPE,
    GRE_PROTOCOL,
    HEADER,
    HOST_MAC,
    IP_IN_IP,
    LAN_MAC,
    PEER_MAC,
    PORT_MTU,
    SUITES,
    UDP_PROTOCOL,
    WAN_MAC,
    GreOptions,
    Sa,
    Tunnel,
    checksum,
    configuration,
    forwarded,
    frame,
    gre_payload,
    into_lan,
    into_wan,
    ip,
    replay,
    to_far,
    to_near,
    tos_of,
)

GRE_VARIANTS = {
    "plain": GreOptions(),
    "key": GreOptions(key=42),
    "checksum": GreOptions(checksum=True),
    "sequence": GreOptions(sequence=True),
    "all": GreOptions(key=0xDEADBEEF, checksum=True, sequence=True),
}
# Source and destination differ, so that a swap shows; 4500 is in each, so that Scapy knows ESP when it sees it.
ENCAP_OUT, ENCAP_IN = (4500, 4501), (4501, 4500)
FIRST_GRE_SEQUENCE_OF_PEER = 0xFFFFFFF8  # so that it wraps on the way

COMBINATIONS = [
    pytest.param(
        Tunnel(
            family=family,
            mode=mode,
            gre=GRE_VARIANTS[gre],
            sas=(
                Sa("out", 0x1001, suite, esn, ENCAP_OUT if encap else None),
                Sa("in", 0x2001, suite, esn, ENCAP_IN if encap else None),
            ),
        ),
        id=f"{suite}-{mode}-v{family}-{'esn' if esn else 'sn32'}-{'udp' if encap else 'esp'}-{gre}",
    )
    for suite, mode, family, esn, encap, gre in product(
        SUITES, ("transport", "tunnel"), (4, 6), (False, True), (False, True), GRE_VARIANTS
    )
]


def payload_lengths(tunnel, family):
    """IP payload lengths around the cipher's block and the tunnel's MTU."""
    largest = tunnel.mtu() - HEADER[family]
    return [0, 1, 15, 16, 17, 63, 64, largest - 1, largest, 512]


def inner_packets(make, tunnel):
    """One packet of each length and family, every one with other DSCP and ECN bits, TTL and payload."""
    packets = []
    for family in (4, 6):
        for length in payload_lengths(tunnel, family):
            seed = len(packets)
            packets.append(make(family, length, seed, tos=(seed * 53) & 0xFF, ttl=2 + seed * 11))
    return packets


def scapy_sa(tunnel, sa):
    """Scapy's own implementation of an SA."""
    return SecurityAssociation(
        ESP,
        spi=sa.spi,
        crypt_algo=SUITES[sa.suite].scapy,
        crypt_key=sa.key,
        esn_en=sa.esn,
        esn=0,
        nat_t_header=UDP(sport=sa.udp_encap[0], dport=sa.udp_encap[1]) if sa.udp_encap else None,
        tunnel_header=outer_header(tunnel, sa) if tunnel.mode == "tunnel" else None,
    )


def outer_header(tunnel, sa):
    """The addresses of packets that use an SA, as a Scapy header."""
    local, remote = tunnel.endpoints
    source, destination = (local, remote) if sa.direction == "out" else (remote, local)
    return (IP if tunnel.family == 4 else IPv6)(src=source, dst=destination)


def expected_outer(tunnel, inner, payload_length):
    """The outer IP header, byte for byte: DF, ID 0, flow label 0, our TTL, DSCP and ECN of the inner packet."""
    protocol = UDP_PROTOCOL if tunnel.outbound.udp_encap else ESP_PROTOCOL
    fields = {"flags": "DF", "id": 0} if tunnel.family == 4 else {"fl": 0}
    fields |= {"ttl": tunnel.ttl, "tos": tos_of(inner)}
    return ip(*tunnel.endpoints, protocol, bytes(payload_length), **fields)[: HEADER[tunnel.family]]


def without_checksum(packet):
    """The same packet for Scapy to compute the UDP checksum of, which follows the IPv6 header; parsed anew, it is there."""
    asked = IPv6(packet)
    del asked[UDP].chksum
    return bytes(asked)


def open_outer(tunnel, packet, inner):
    """Checks outer IP and UDP headers, and gives the ESP packet behind them."""
    header = HEADER[tunnel.family]
    assert packet[:header] == expected_outer(tunnel, inner, len(packet) - header)
    body = packet[header:]
    if tunnel.outbound.udp_encap:
        ports, length, check = body[:4], *struct.unpack(">HH", body[4:8])
        assert struct.unpack(">HH", ports) == tunnel.outbound.udp_encap
        assert length == len(body)
        # RFC 3948 2.1 wants none over IPv4; over IPv6 there is one (RFC 8200 8.1), and Linux insists on it.
        assert check == (0 if tunnel.family == 4 else IPv6(bytes(without_checksum(packet)))[UDP].chksum)
        body = body[8:]
    return body


def check_padding(tunnel, opened, packet):
    """Padding is 1, 2, 3 .. up to a multiple of 16 where that fits the path, else of 4 (RFC 4303 2.4)."""
    assert opened.padding == bytes(range(1, len(opened.padding) + 1))
    content = len(opened.payload) + 2
    around = len(packet) - opened.ciphertext_length
    to_pad, to_four = (-(-content // align) * align for align in (tunnel.pad, 4))
    expected = to_pad if around + to_pad <= PORT_MTU else to_four
    assert opened.ciphertext_length == expected
    assert len(packet) <= PORT_MTU


def strip_middle(tunnel, opened):
    """In tunnel mode checks the IP header between ESP and GRE. Gives the GRE packet."""
    if tunnel.mode == "transport":
        assert opened.next_header == GRE_PROTOCOL
        return opened.payload
    assert opened.next_header == IP_IN_IP[tunnel.family]
    middle = (IP if tunnel.family == 4 else IPv6)(opened.payload)
    assert (middle.src, middle.dst) == tunnel.endpoints
    header, length = HEADER[tunnel.family], len(opened.payload)
    if tunnel.family == 4:
        assert (middle.ihl, middle.len, middle.proto, middle.frag) == (5, length, GRE_PROTOCOL, 0)
        assert checksum(opened.payload[:header]) == 0
        assert middle.ttl > 1
    else:
        assert (middle.plen, middle.nh) == (length - header, GRE_PROTOCOL)
        assert middle.hlim > 1
    return opened.payload[header:]


def open_with_scapy(tunnel, association, packet):
    """The GRE packet, as Scapy decrypts it."""
    plain = association.decrypt(type(outer_header(tunnel, tunnel.outbound))(packet))
    return bytes(plain[GRE])


@pytest.mark.parametrize("tunnel", COMBINATIONS)
def test_sealed(tmp_path, tunnel):
    """Inner packets into `lan`: the peer can open what leaves `wan`, and every field of it is right."""
    inner = inner_packets(to_far, tunnel)
    too_big = [to_far(family, tunnel.mtu() + 1 - HEADER[family]) for family in (4, 6)]
    # In between, so that a sequence number spent on a dropped packet would show as a gap.
    arriving = inner[:5] + too_big[:1] + inner[5:15] + too_big[1:] + inner[15:]
    outcome = replay(tmp_path, configuration(tunnel), lan=[into_lan(one, pad=b"\xee") for one in arriving])

    assert outcome.drops == {"too-big": 2}
    assert outcome.frames("lan") == [] and outcome.frames("host") == []
    for got, packet in zip(outcome.frames("wan"), outcome.packets("wan"), strict=True):
        assert got[:14] == frame(WAN_MAC, PEER_MAC, packet)[:14]
    association, ivs = scapy_sa(tunnel, tunnel.outbound), set()
    for place, (packet, original) in enumerate(zip(outcome.packets("wan"), inner, strict=True)):
        opened = tunnel.outbound.open(open_outer(tunnel, packet, original))
        gre = strip_middle(tunnel, opened)
        assert opened.sequence == place + 1
        assert gre == tunnel.gre.header(*gre_payload(forwarded(original)), sequence=place)
        check_padding(tunnel, opened, packet)
        assert open_with_scapy(tunnel, association, packet) == gre
        assert opened.iv[0] & 0x80
        ivs.add(opened.iv)
    assert len(ivs) == len(inner)
    counted = outcome.tunnel()
    assert (counted["out_packets"], counted["out_bytes"]) == (len(inner), sum(map(len, inner)))
    assert (counted["in_packets"], counted["in_bytes"]) == (0, 0)


@pytest.mark.parametrize("tunnel", COMBINATIONS)
def test_opened(tmp_path, tunnel):
    """Scapy's ESP packets into `wan`: the inner packets leave `lan` bit for bit, but for the TTL."""
    inner = inner_packets(to_near, tunnel)
    association = scapy_sa(tunnel, tunnel.inbound)
    arriving = []
    for place, packet in enumerate(inner):
        gre = tunnel.gre.header(*gre_payload(packet), FIRST_GRE_SEQUENCE_OF_PEER + place)
        clear = ip(*reversed(tunnel.endpoints), GRE_PROTOCOL, gre)
        outer = association.encrypt(type(outer_header(tunnel, tunnel.inbound))(clear), seq_num=place + 1)
        arriving.append(into_wan(bytes(outer), pad=b"\xee"))
    outcome = replay(tmp_path, configuration(tunnel), wan=arriving)

    assert outcome.drops == {}
    assert outcome.frames("wan") == [] and outcome.frames("host") == []
    assert outcome.packets("lan") == [forwarded(packet) for packet in inner]
    for got, packet in zip(outcome.frames("lan"), inner, strict=True):
        assert got[:14] == frame(LAN_MAC, HOST_MAC, packet)[:14]
    counted = outcome.tunnel()
    assert (counted["in_packets"], counted["in_bytes"]) == (len(inner), sum(map(len, inner)))
    assert (counted["out_packets"], counted["out_bytes"]) == (0, 0)


@pytest.mark.parametrize("gre", GRE_VARIANTS)
@pytest.mark.parametrize("family", (4, 6))
def test_unprotected(tmp_path, family, gre):
    """`protect = "none"`: plain GRE with exact outer headers, 1476 bytes of room over IPv4 without options."""
    tunnel = Tunnel(family=family, mode=None, gre=GRE_VARIANTS[gre], sas=(), ttl=37)
    out = [to_far(one, length, one) for one in (4, 6) for length in (0, 64, tunnel.mtu() - HEADER[one])]
    back = [to_near(one, length, one) for one in (4, 6) for length in (0, 64, tunnel.mtu() - HEADER[one])]
    arriving = [
        into_wan(ip(*reversed(tunnel.endpoints), GRE_PROTOCOL, tunnel.gre.header(*gre_payload(one), place)))
        for place, one in enumerate(back)
    ]
    too_big = to_far(4, tunnel.mtu() + 1 - HEADER[4])
    outcome = replay(tmp_path, configuration(tunnel), lan=[into_lan(one) for one in [*out, too_big]], wan=arriving)

    fields = {"flags": "DF", "id": 0} if family == 4 else {"fl": 0}
    assert outcome.packets("wan") == [
        ip(
            *tunnel.endpoints,
            GRE_PROTOCOL,
            tunnel.gre.header(*gre_payload(forwarded(one)), place),
            ttl=tunnel.ttl,
            tos=0,
            **fields,
        )
        for place, one in enumerate(out)
    ]
    assert outcome.packets("lan") == [forwarded(one) for one in back]
    assert outcome.drops == {"too-big": 1}


@pytest.mark.parametrize("mode", ("transport", "tunnel"))
def test_pad_setting_of_4(tmp_path, mode):
    """`pad = 4` adds no more than RFC 4303 2.4 demands."""
    tunnel = Tunnel(mode=mode, pad=4)
    inner = [to_far(4, length) for length in range(40)]
    outcome = replay(tmp_path, configuration(tunnel), lan=[into_lan(one) for one in inner])
    for packet, original in zip(outcome.packets("wan"), inner, strict=True):
        opened = tunnel.outbound.open(open_outer(tunnel, packet, original))
        check_padding(tunnel, opened, packet)
        assert strip_middle(tunnel, opened)[4:] == forwarded(original)


def test_ttl_setting(tmp_path):
    """`ttl` is the outer TTL, whatever the inner one is."""
    tunnel = Tunnel(ttl=7)
    inner = [to_far(4, ttl=200), to_far(6, ttl=3)]
    outcome = replay(tmp_path, configuration(tunnel), lan=[into_lan(one) for one in inner])
    assert [packet[8] for packet in outcome.packets("wan")] == [7, 7]


def test_scapy_agrees_with_the_decoder():
    """Scapy's ESP opens with the decoder written from the RFCs, and the other way round: the two witnesses agree."""
    for parameters in COMBINATIONS:
        tunnel = parameters.values[0]
        association = scapy_sa(tunnel, tunnel.outbound)
        gre = tunnel.gre.header(ETHERTYPE[4], to_far(4, 77))
        clear = ip(*tunnel.endpoints, GRE_PROTOCOL, gre)
        header = outer_header(tunnel, tunnel.outbound)
        behind = HEADER[tunnel.family] + (8 if tunnel.outbound.udp_encap else 0)
        packet = bytes(association.encrypt(type(header)(clear), seq_num=5))
        assert strip_middle(tunnel, tunnel.outbound.open(packet[behind:])) == gre
        assert open_with_scapy(tunnel, association, packet) == gre
        plain = (gre, GRE_PROTOCOL) if tunnel.mode == "transport" else (clear, IP_IN_IP[tunnel.family])
        ours = packet[:behind] + tunnel.outbound.seal(5, *plain)
        assert open_with_scapy(tunnel, association, ours) == gre
