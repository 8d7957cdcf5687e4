"""ESP packets that must be refused, each beside the good packet that shows what the refusal left untouched.

The pattern: a bad packet with sequence number n is dropped under its reason, then a good one with the same n is
accepted, so the replay window had not moved (RFC 4303 3.4.3: it is updated after all checks).
"""

import struct

import pytest

from witness import (
    ESP_PROTOCOL,
    GRE_PROTOCOL,
    ICV_LENGTH,
    IP_IN_IP,
    IV_LENGTH,
    LOCAL,
    NO_NEXT_HEADER,
    REMOTE,
    ROUTER_ON_LAN,
    STRANGER,
    UDP_PROTOCOL,
    GreOptions,
    Sa,
    Tunnel,
    configuration,
    delivered,
    dropped,
    esp_frame,
    from_peer,
    gre_payload,
    into_wan,
    ip,
    judge,
    sealed,
    to_host,
    to_near,
    udp,
)

OUT = Sa("out", 0x1001)
PLAIN_IN = Sa("in", 0x2001)
ESN_IN = Sa("in", 0x2001, esn=True)
ENCAP_IN = Sa("in", 0x2001, udp_encap=(4500, 4500))
SHORTEST_ESP = 8 + IV_LENGTH + 2 + ICV_LENGTH


def with_inbound(*inbound, **settings):
    return Tunnel(sas=(OUT, *inbound), **settings)


def esp_of(tunnel, sequence, inner):
    """The bare ESP packet of an inner packet, in transport mode."""
    return tunnel.inbound.seal(sequence, tunnel.gre.header(*gre_payload(inner)))


def plaintext(tunnel, gre, mode=None):
    """What ESP encrypts around a GRE packet, and its next header, in the tunnel's mode or another."""
    if (mode or tunnel.mode) == "transport":
        return gre, GRE_PROTOCOL
    return from_peer(tunnel, GRE_PROTOCOL, gre), IP_IN_IP[tunnel.family]


@pytest.mark.parametrize("family", (4, 6))
@pytest.mark.parametrize("inbound", (PLAIN_IN, ESN_IN, ENCAP_IN), ids=("sn32", "esn", "udp"))
def test_every_bit_is_protected(tmp_path, inbound, family):
    """Any one bit of an ESP packet flipped: no SA has that SPI, or the ICV is wrong."""
    tunnel, inner, sequence = with_inbound(inbound, family=family), to_near(4, 1), 5
    esp = esp_of(tunnel, sequence, inner)
    steps = []
    for bit in range(len(esp) * 8):
        flipped = bytearray(esp)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        reason = "esp-unknown-spi" if bit < 32 else "esp-auth"
        steps.append(dropped(f"bit {bit}", esp_frame(tunnel, bytes(flipped)), reason))
    steps.append(delivered("untouched", esp_frame(tunnel, esp), inner))
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("family", (4, 6))
@pytest.mark.parametrize("inbound", (PLAIN_IN, ESN_IN, ENCAP_IN), ids=("sn32", "esn", "udp"))
def test_cut_at_every_byte(tmp_path, inbound, family):
    """An ESP packet cut short, with lower headers that fit: malformed if too short or unaligned, else not authentic."""
    tunnel, inner = with_inbound(inbound, family=family), to_near(4, 1)
    esp = esp_of(tunnel, 1, inner)
    steps = []
    for length in range(len(esp)):
        aligned = length >= SHORTEST_ESP and (length - 8 - IV_LENGTH - ICV_LENGTH) % 4 == 0
        reason = "esp-auth" if aligned else "esp-malformed"
        steps.append(dropped(f"{length} bytes", esp_frame(tunnel, esp[:length]), reason))
    steps.append(delivered("whole", esp_frame(tunnel, esp), inner))
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("family", (4, 6))
@pytest.mark.parametrize("inbound", (PLAIN_IN, ENCAP_IN), ids=("esp", "udp"))
def test_frame_cut_at_every_byte(tmp_path, inbound, family):
    """The frame is shorter than its headers say."""
    tunnel, inner = with_inbound(inbound, family=family), to_near(4, 1)
    whole = sealed(tunnel, 1, inner)
    steps = [
        dropped(f"{length} bytes", whole[:length], "ethernet-malformed" if length < 14 else "ip-malformed")
        for length in range(1, len(whole))
    ]
    judge(tmp_path, configuration(tunnel), [*steps, delivered("whole", whole, inner)])


def test_unknown_spi(tmp_path):
    """No inbound SA has the SPI; those of outbound SAs do not count."""
    tunnel, inner = Tunnel(), to_near(4)
    unknown = [1, 255, 0x2000, 0x2002, 0x20010000, 0xFFFFFFFF, tunnel.outbound.spi]
    steps = [
        dropped(f"SPI {spi:#x}", esp_frame(tunnel, Sa("in", spi).seal(1, b"\0\0\x08\0" + inner)), "esp-unknown-spi")
        for spi in unknown
    ]
    judge(tmp_path, configuration(tunnel), [*steps, delivered("known", sealed(tunnel, 1, inner), inner)])


def contents(tunnel):
    """Authentic ESP packets with wrong content: label, keyword arguments of `Sa.seal`, reason."""
    inner = to_near(4)
    gre = tunnel.gre.header(*gre_payload(inner))
    payload, next_header = plaintext(tunnel, gre)
    # Packets whose length asks for padding, so that there is something to get wrong.
    payload_with_room = payload + bytes(-len(payload) % 4)
    other_mode, other_next = plaintext(tunnel, gre, "tunnel" if tunnel.mode == "transport" else "transport")
    whole = len(payload_with_room) + 2
    wrong_padding = {
        "zeros": bytes(2),
        "counted from 0": bytes([0, 1]),
        "last byte wrong": bytes([1, 3]),
        "first byte wrong": bytes([2, 2]),
        "first of many wrong": bytes([9, *range(2, 15)]),
        "one in the middle wrong": bytes([*range(1, 8), 0, *range(9, 15)]),
        "last of 254 wrong": bytes([*range(1, 254), 0]),
    }
    cases = [
        (f"padding: {label}", {"payload": payload_with_room, "padding": padding})
        for label, padding in wrong_padding.items()
    ]
    cases += [
        ("pad length one beyond", {"payload": payload_with_room, "padding": b"\1\2", "pad_length": whole + 1}),
        ("pad length 255 beyond", {"payload": payload_with_room, "padding": b"\1\2", "pad_length": 255}),
        ("content of the other mode", {"payload": other_mode, "next_header": other_next}),
    ]
    cases += [
        (f"next header {number}", {"payload": payload, "next_header": number})
        for number in (0, 1, 6, 17, 44, 50, 51, 58, 60, 137, 253, 255)
    ]
    cases = [(label, {"next_header": next_header} | settings, "esp-malformed") for label, settings in cases]
    if tunnel.mode == "tunnel":
        cases += middle_headers(tunnel, gre)
    return cases


def middle_headers(tunnel, gre):
    """Wrong IP headers between ESP and GRE in tunnel mode."""
    family, next_header = tunnel.family, IP_IN_IP[tunnel.family]
    local, remote = tunnel.endpoints
    wrong = {
        "other source": ip(STRANGER[family], local, GRE_PROTOCOL, gre),
        "other destination": ip(remote, STRANGER[family], GRE_PROTOCOL, gre),
        "turned round": ip(local, remote, GRE_PROTOCOL, gre),
        "no GRE but UDP": ip(remote, local, UDP_PROTOCOL, gre),
        "no GRE but ESP": ip(remote, local, ESP_PROTOCOL, gre),
        "other family": ip(REMOTE[10 - family], LOCAL[10 - family], GRE_PROTOCOL, gre),
    }
    return [
        (f"middle header: {label}", {"payload": middle, "next_header": next_header}, "esp-malformed")
        for label, middle in wrong.items()
    ]


@pytest.mark.parametrize("mode", ("transport", "tunnel"))
@pytest.mark.parametrize("family", (4, 6))
def test_wrong_content(tmp_path, family, mode):
    """Authentic, but the padding, the next header or what is inside breaks RFC 4303 or the SA's mode."""
    tunnel = Tunnel(family=family, mode=mode)
    steps = []
    for sequence, (label, settings, reason) in enumerate(contents(tunnel), start=1):
        inner = to_near(4, seed=sequence)
        bad = tunnel.inbound.seal(sequence, **settings)
        steps.append(dropped(label, esp_frame(tunnel, bad), reason))
        steps.append(delivered(f"after {label}", sealed(tunnel, sequence, inner), inner))
    judge(tmp_path, configuration(tunnel), steps)


def test_padding_that_leaves_nothing(tmp_path):
    """All of the plaintext is padding: no GRE header is left."""
    tunnel, inner = Tunnel(), to_near(4)
    nothing = tunnel.inbound.seal(1, b"", padding=bytes(range(1, 31)))
    steps = [
        dropped("nothing but padding", esp_frame(tunnel, nothing), "gre-malformed"),
        delivered("something", sealed(tunnel, 1, inner), inner),
    ]
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("mode", ("transport", "tunnel"))
def test_dummy_packets(tmp_path, mode):
    """Next header 59 (RFC 4303 2.6): taken and dropped, whatever is inside; its sequence number is used up."""
    tunnel, inner = Tunnel(mode=mode), to_near(4)
    insides = [b"", bytes(2), b"x" * 100, b"\xff" * 1000]
    dummies = [
        esp_frame(tunnel, tunnel.inbound.seal(number, inside, NO_NEXT_HEADER))
        for number, inside in enumerate(insides, start=1)
    ]
    steps = [dropped("dummy", dummy, "esp-dummy") for dummy in dummies]
    steps += [dropped("dummy again", dummy, "esp-replay") for dummy in dummies]
    steps += [
        dropped("sequence number of a dummy", sealed(tunnel, 4, inner), "esp-replay"),
        delivered("after the dummies", sealed(tunnel, 5, inner), inner),
    ]
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("align", (4, 8, 16, 64, 252))
@pytest.mark.parametrize("mode", ("transport", "tunnel"))
def test_more_padding_than_needed(tmp_path, mode, align):
    """A sender may pad up to 255 bytes (RFC 4303 2.4)."""
    tunnel, steps = Tunnel(mode=mode), []
    for sequence, length in enumerate(range(20), start=1):
        inner = to_near(4, length)
        gre = tunnel.gre.header(*gre_payload(inner))
        esp = tunnel.inbound.seal(sequence, *plaintext(tunnel, gre), align=align)
        steps.append(delivered(f"{length} bytes", esp_frame(tunnel, esp), inner))
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("mode", ("transport", "tunnel"))
@pytest.mark.parametrize("inner_family", (4, 6))
def test_traffic_flow_padding(tmp_path, mode, inner_family):
    """Bytes behind the inner packet (RFC 4303 2.7) are accepted and cut off."""
    tunnel = Tunnel(mode=mode, gre=GreOptions(checksum=mode == "tunnel"))
    steps = []
    for sequence, extra in enumerate((1, 2, 3, 4, 16, 100, 1000), start=1):
        inner = to_near(inner_family, seed=extra)
        gre = tunnel.gre.header(*gre_payload(inner))
        plain, next_header = plaintext(tunnel, gre)
        esp = tunnel.inbound.seal(sequence, plain + b"\x5a" * extra, next_header)
        steps.append(delivered(f"{extra} bytes more", esp_frame(tunnel, esp), inner))
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("family", (4, 6))
def test_transport_mode_addresses(tmp_path, family):
    """In transport mode the outer addresses are the packet's own: the tunnel's `remote` and `local`."""
    tunnel, inner = Tunnel(family=family), to_near(4)
    steps = [
        dropped("source", sealed(tunnel, 1, inner, source=STRANGER[family]), "esp-malformed"),
        dropped("destination", sealed(tunnel, 1, inner, destination=ROUTER_ON_LAN[family]), "esp-malformed"),
        delivered("right", sealed(tunnel, 1, inner), inner),
    ]
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("family", (4, 6))
@pytest.mark.parametrize("inbound, mode", ((PLAIN_IN, "tunnel"), (ENCAP_IN, "transport"), (ENCAP_IN, "tunnel")))
def test_source_that_may_differ(tmp_path, inbound, mode, family):
    """Tunnel mode, and UDP through a NAT, leave the outer source free: the ICV vouches for the packet."""
    tunnel, inner = with_inbound(inbound, mode=mode, family=family), to_near(4)
    arriving = sealed(tunnel, 1, inner, source=STRANGER[family])
    judge(tmp_path, configuration(tunnel), [delivered("from elsewhere", arriving, inner)])


def test_several_inbound_sas(tmp_path):
    """While keys change, old and new SA are both open, each with its own window."""
    old, new = PLAIN_IN, Sa("in", 0x2002, "chacha20poly1305", esn=True)
    tunnel, steps = with_inbound(old, new), []
    for number, sa in ((1, old), (1, new), (2, old), (3, new), (3, old), (2, new)):
        inner = to_near(4, seed=len(steps))
        arriving = sealed(tunnel, number, inner, sa=sa)
        steps.append(delivered(f"SPI {sa.spi:#x} number {number}", arriving, inner))
        steps.append(dropped("again", arriving, "esp-replay"))
    judge(tmp_path, configuration(tunnel), steps)


# --- UDP encapsulation (RFC 3948) -----------------------------------------------------------------------------------


def datagram(tunnel, payload, source=4500, destination=4500, **fields):
    return into_wan(from_peer(tunnel, UDP_PROTOCOL, udp(source, destination, payload), **fields))


@pytest.mark.parametrize("family", (4, 6))
def test_port_4500(tmp_path, family):
    """Keepalive, non-ESP marker, ESP, and what is none of them (RFC 3948 2)."""
    tunnel, inner = with_inbound(ENCAP_IN, family=family), to_near(4)
    esp = esp_of(tunnel, 1, inner)
    ike = bytes(4) + b"initiator" * 9
    steps = [
        dropped("keepalive", datagram(tunnel, b"\xff"), "nat-keepalive"),
        to_host("IKE behind the marker", datagram(tunnel, ike)),
        to_host("IKE from another port", datagram(tunnel, ike, source=61234)),
        to_host("the marker alone", datagram(tunnel, bytes(4))),
        to_host("the marker and ESP", datagram(tunnel, bytes(4) + esp)),
        dropped("empty", datagram(tunnel, b""), "esp-malformed"),
        dropped("one byte that is no keepalive", datagram(tunnel, b"\xfe"), "esp-malformed"),
        dropped("two bytes of keepalive", datagram(tunnel, b"\xff\xff"), "esp-malformed"),
        dropped("half a marker", datagram(tunnel, bytes(2)), "esp-malformed"),
        dropped("an SPI alone", datagram(tunnel, esp[:4]), "esp-malformed"),
        dropped("7 bytes", datagram(tunnel, esp[:7]), "esp-malformed"),
        dropped("unknown SPI", datagram(tunnel, Sa("in", 0x3003).seal(1, b"x" * 30)), "esp-unknown-spi"),
        delivered("ESP", datagram(tunnel, esp), inner),
        dropped("ESP again", datagram(tunnel, esp), "esp-replay"),
        to_host("UDP to port 500", datagram(tunnel, ike[4:], destination=500)),
        to_host("from 4500 to another port", datagram(tunnel, esp, destination=4501)),
    ]
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("family", (4, 6))
def test_udp_header(tmp_path, family):
    """The UDP length has to fit the packet; the UDP checksum of ESP is not looked at (RFC 3948 2.2)."""
    tunnel, inner = with_inbound(ENCAP_IN, family=family), to_near(4)
    esp = esp_of(tunnel, 1, inner)

    def with_header(length, checksum=0, payload=esp):
        return into_wan(from_peer(tunnel, UDP_PROTOCOL, struct.pack(">HHHH", 4500, 4500, length, checksum) + payload))

    lengths = {"longer than the packet": len(esp) + 9, "65535": 65535, "7": 7, "0": 0}
    steps = [dropped(f"length {label}", with_header(length), "ip-malformed") for label, length in lengths.items()]
    header = udp(4500, 4500, b"")
    steps += [
        dropped(f"{length} bytes of it", into_wan(from_peer(tunnel, UDP_PROTOCOL, header[:length])), "ip-malformed")
        for length in range(4, 8)
    ]
    steps.append(delivered("a wrong checksum", with_header(len(esp) + 8, 0x1234), inner))
    second, last = esp_of(tunnel, 2, inner), to_near(4, seed=2)
    steps.append(delivered("bytes behind the datagram", with_header(len(second) + 8, payload=second + b"more"), inner))
    steps.append(delivered("as it should be", datagram(tunnel, esp_of(tunnel, 3, last)), last))
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("family", (4, 6))
def test_both_forms_are_taken(tmp_path, family):
    """An SA with `udp_encap` takes plain ESP too, and one without takes UDP (RFC 7296 2.23)."""
    for inbound, other_form in ((ENCAP_IN, PLAIN_IN), (PLAIN_IN, ENCAP_IN)):
        tunnel = with_inbound(inbound, family=family)
        first, second = to_near(4, seed=1), to_near(6, seed=2)
        steps = [
            delivered("the other form", sealed(tunnel, 1, first, sa=other_form), first),
            delivered("its own form", sealed(tunnel, 2, second), second),
        ]
        judge(tmp_path, configuration(tunnel), steps)


def test_own_udp_port(tmp_path):
    """The `destination` port of an inbound SA is listened to like 4500."""
    tunnel, inner = with_inbound(Sa("in", 0x2001, udp_encap=(6001, 6000))), to_near(4)
    steps = [
        delivered("ESP", sealed(tunnel, 1, inner), inner),
        dropped("keepalive", datagram(tunnel, b"\xff", 6001, 6000), "nat-keepalive"),
        to_host("marker", datagram(tunnel, bytes(12), 6001, 6000)),
        delivered("ESP to 4500", datagram(tunnel, esp_of(tunnel, 2, inner)), inner),
    ]
    judge(tmp_path, configuration(tunnel), steps)
