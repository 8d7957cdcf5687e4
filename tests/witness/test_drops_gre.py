"""GRE packets that must be refused (RFC 2784, 2890), inside ESP and in clear, and the inner packets they carry.

As with ESP, a refused packet is followed by a good one with the same ESP and GRE sequence numbers: nothing had moved.
"""

import struct

import pytest

from witness import (
    CE,
    ECN_BITS,
    EXPERIMENT,
    FAR_HOST,
    GRE_PROTOCOL,
    HEADER,
    LOCAL,
    NEAR_HOST,
    PEER_MAC,
    REMOTE,
    ROUTER_ON_LAN,
    STRANGER,
    WAN_MAC,
    GreOptions,
    Tunnel,
    changed,
    configuration,
    damaged,
    delivered,
    dropped,
    forwarded,
    frame,
    from_peer,
    gre_payload,
    into_lan,
    into_wan,
    ip,
    judge,
    pcap,
    replay,
    run,
    sealed_gre,
    stamped,
    to_far,
    to_host,
    to_near,
    tos_of,
    with_checksum,
)

EVERYTHING = GreOptions(key=42, checksum=True, sequence=True)
IPV4, IPV6, ETHERNET = 0x0800, 0x86DD, 0x6558
CARRIERS = {
    "clear": {"mode": None, "sas": ()},
    "transport": {"mode": "transport"},
    "tunnel": {"mode": "tunnel"},
}


@pytest.fixture(params=CARRIERS)
def carrier(request):
    """How GRE travels: keyword arguments of `Tunnel`."""
    return CARRIERS[request.param]


def carried(tunnel, number, gre, **fields):
    """The frame in which the peer sends a GRE packet: in clear, or with an ESP sequence number."""
    if tunnel.mode is None:
        return into_wan(from_peer(tunnel, GRE_PROTOCOL, gre, **fields))
    return sealed_gre(tunnel, number, gre, **fields)


def good(tunnel, number, inner, label="good", gre_sequence=None):
    """A good packet, its GRE sequence number by default the ESP one."""
    gre = tunnel.gre.header(*gre_payload(inner), number if gre_sequence is None else gre_sequence)
    return delivered(label, carried(tunnel, number, gre), inner)


def refused(tunnel, cases):
    """Steps for (label, GRE packet, reason), each before a good packet with the same ESP and GRE sequence numbers."""
    steps = []
    for number, (label, gre, reason) in enumerate(cases, start=1):
        steps.append(dropped(label, carried(tunnel, number, gre(number) if callable(gre) else gre), reason))
        steps.append(good(tunnel, number, to_near(4 if number % 2 else 6, seed=number), f"after {label}"))
    return steps


def gre_of(flags, payload=None, protocol=IPV4, fields=b""):
    """A GRE packet from its raw flag word."""
    return struct.pack(">HH", flags, protocol) + fields + (to_near(4) if payload is None else payload)


def test_flags_and_version(tmp_path, carrier):
    """Bits 1, 4 and 5 and any version but 0 are refused (RFC 2784 2.3), bits 6 to 12 ignored."""
    tunnel = Tunnel(**carrier)
    cases = [(f"bit {bit}", gre_of(0x8000 >> bit), "gre-malformed") for bit in (1, 4, 5)]
    cases += [(f"version {version}", gre_of(version), "gre-malformed") for version in range(1, 8)]
    cases += [
        ("all reserved bits", gre_of(0x4FF8), "gre-malformed"),
        ("PPTP", gre_of(0x2001, protocol=0x880B), "gre-malformed"),
    ]
    steps = refused(tunnel, cases)
    for number, bit in enumerate(range(6, 13), start=len(cases) + 1):
        inner = to_near(4, seed=bit)
        steps.append(delivered(f"bit {bit}", carried(tunnel, number, gre_of(0x8000 >> bit, inner)), inner))
    judge(tmp_path, configuration(tunnel), steps)


def test_cut_at_every_byte(tmp_path, carrier):
    """A GRE header shorter than its flags say; then an inner packet shorter than its header says."""
    for family in (4, 6):
        tunnel = Tunnel(gre=GreOptions(key=42, sequence=True), **carrier)
        inner = to_near(family)
        whole = tunnel.gre.header(*gre_payload(inner), 1)
        cases = [
            (f"{length} bytes", whole[:length], "gre-malformed" if length < 12 else "ip-malformed")
            for length in range(len(whole))
        ]
        steps = [dropped(label, carried(tunnel, 1, gre), reason) for label, gre, reason in cases]
        judge(tmp_path, configuration(tunnel), [*steps, good(tunnel, 1, inner)])


def test_fields_that_the_flags_promise(tmp_path, carrier):
    """Each option alone, with its word missing or cut."""
    tunnel, cases = Tunnel(**carrier), []
    for flags, length in ((0x8000, 4), (0x2000, 4), (0x1000, 4), (0xA000, 8), (0x9000, 8), (0x3000, 8), (0xB000, 12)):
        cases += [
            (f"flags {flags:#x} with {present} bytes", gre_of(flags, b"", fields=bytes(present)), "gre-malformed")
            for present in range(length)
        ]
    judge(tmp_path, configuration(tunnel), refused(tunnel, cases))


def test_key(tmp_path, carrier):
    """The key has to be the tunnel's: another, or none, is refused; so is one where none is set."""
    inner = to_near(4)
    with_key = Tunnel(gre=GreOptions(key=42), **carrier)
    keys = (0, 41, 43, 0x2A000000, 0xFFFFFFFF)
    cases = [(f"key {key}", GreOptions(key=key).header(IPV4, inner), "gre-key") for key in keys]
    cases.append(("no key", GreOptions().header(IPV4, inner), "gre-key"))
    judge(tmp_path, configuration(with_key), refused(with_key, cases))

    without = Tunnel(**carrier)
    cases = [(f"key {key}", GreOptions(key=key).header(IPV4, inner), "gre-key") for key in (0, 42)]
    judge(tmp_path, configuration(without), refused(without, cases))


def test_key_of_zero(tmp_path, carrier):
    """Key 0 is a key: it is not the same as none."""
    tunnel = Tunnel(gre=GreOptions(key=0), **carrier)
    cases = [("no key", GreOptions().header(IPV4, to_near(4)), "gre-key")]
    judge(tmp_path, configuration(tunnel), refused(tunnel, cases))


def test_checksum(tmp_path, carrier):
    """With `checksum = true` one has to be there, and right over every byte of the GRE packet."""
    tunnel = Tunnel(gre=GreOptions(checksum=True), **carrier)
    for length in (31, 32):
        inner = to_near(4, length)
        whole = tunnel.gre.header(IPV4, inner)
        # From the checksum on; the flags and Reserved1 before the payload have tests of their own.
        places = [4, 5, *range(8, len(whole))]
        cases = [(f"byte {place}", damaged(whole, place), "gre-checksum") for place in places]
        cases.append(("none", GreOptions().header(IPV4, inner), "gre-checksum"))
        cases.append(("zero", whole[:4] + bytes(2) + whole[6:], "gre-checksum"))
        judge(tmp_path, configuration(tunnel), refused(tunnel, cases))


def test_checksum_not_asked_for(tmp_path, carrier):
    """Without `checksum` a right one is taken, and a wrong one still refused."""
    tunnel, inner = Tunnel(**carrier), to_near(6)
    whole = GreOptions(checksum=True).header(IPV6, inner)
    steps = refused(
        tunnel, [("wrong", damaged(whole, 5), "gre-checksum"), ("payload", damaged(whole, -1), "gre-checksum")]
    )
    steps.append(delivered("right", carried(tunnel, 3, whole), inner))
    judge(tmp_path, configuration(tunnel), steps)


def test_reserved1(tmp_path, carrier):
    """Reserved1 beside the checksum is ignored, but the checksum covers it (RFC 2784 2.3.1)."""
    tunnel, inner = Tunnel(gre=GreOptions(checksum=True), **carrier), to_near(4)
    whole = tunnel.gre.header(IPV4, inner)
    # 0x0101 more in Reserved1 is 0x0101 less in the checksum, in ones' complement.
    summed = struct.unpack(">H", whole[4:6])[0]
    less = (summed - 0x0101) % 0xFFFF
    changed = whole[:4] + struct.pack(">HH", less, 0x0101) + whole[8:]
    judge(tmp_path, configuration(tunnel), [delivered("Reserved1", carried(tunnel, 1, changed), inner)])


GRE_SEQUENCES = [
    # The first may be any; then each after the last accepted one, modulo 2^32 (RFC 2890 2.2).
    (0xFFFFFFF0, True), (0xFFFFFFF0, False), (0xFFFFFFEF, False), (0xFFFFFFF1, True), (0xFFFFFFFF, True), (0, True),
    (0xFFFFFFFF, False), (0, False), (1, True), (10, True), (9, False), (2, False), (10, False), (11, True),
    (11 + 0x7FFFFFFF, True), (11, False), (11 + 0x7FFFFFFF + 1, True), (12, False), (0, True),
]  # fmt: skip


def test_sequence(tmp_path, carrier):
    """With `sequence = true` numbers only go forward; a refused one moves neither GRE's state nor ESP's."""
    tunnel, steps, number = Tunnel(gre=GreOptions(sequence=True), **carrier), [], 1
    for place, (gre_sequence, fits) in enumerate(GRE_SEQUENCES):
        inner, label = to_near(4, seed=place), f"{place}: {gre_sequence:#x}"
        arriving = carried(tunnel, number, tunnel.gre.header(IPV4, inner, gre_sequence))
        steps.append(delivered(label, arriving, inner) if fits else dropped(label, arriving, "gre-sequence"))
        number += fits
    judge(tmp_path, configuration(tunnel), steps)


def test_sequence_missing(tmp_path, carrier):
    """`sequence = true` and no number."""
    tunnel = Tunnel(gre=GreOptions(sequence=True), **carrier)
    judge(tmp_path, configuration(tunnel), refused(tunnel, [("none", gre_of(0), "gre-sequence")]))


def test_sequence_not_asked_for(tmp_path, carrier):
    """Without `sequence` a number is read over, in any order."""
    tunnel, steps = Tunnel(**carrier), []
    for number, gre_sequence in enumerate((5, 5, 4, 0, 0xFFFFFFFF), start=1):
        inner = to_near(4, seed=number)
        gre = GreOptions(sequence=True).header(IPV4, inner, gre_sequence)
        steps.append(delivered(f"number {gre_sequence}", carried(tunnel, number, gre), inner))
    judge(tmp_path, configuration(tunnel), steps)


def test_later_failures_move_no_sequence(tmp_path, carrier):
    """A checksum, key, protocol or inner packet that is wrong leaves the GRE sequence where it was."""
    tunnel, inner = Tunnel(gre=EVERYTHING, **carrier), to_near(4)

    def wrong_checksum(number):
        return damaged(tunnel.gre.header(IPV4, inner, number), -1)

    def wrong_key(number):
        return GreOptions(43, True, True).header(IPV4, inner, number)

    def wrong_protocol(number):
        return tunnel.gre.header(0x88B5, inner, number)

    def inner_cut(number):
        return tunnel.gre.header(IPV4, inner[:-1], number)

    cases = [
        ("checksum", wrong_checksum, "gre-checksum"),
        ("key", wrong_key, "gre-key"),
        ("protocol", wrong_protocol, "gre-unknown"),
        ("inner packet", inner_cut, "ip-malformed"),
    ]
    judge(tmp_path, configuration(tunnel), refused(tunnel, cases))


def test_protocol_type(tmp_path, carrier):
    """Only IPv4 and IPv6 in a tunnel with payload `ip`; no Ethernet, no ARP, no keepalive of protocol 0."""
    tunnel = Tunnel(**carrier)
    protocols = (0x0000, 0x0001, 0x0801, 0x0806, 0x8100, 0x86DC, 0x8847, 0x880B, 0x88BE, ETHERNET, 0xFFFF)
    cases = [(f"{protocol:#06x}", gre_of(0, protocol=protocol), "gre-unknown") for protocol in protocols]
    judge(tmp_path, configuration(tunnel), refused(tunnel, cases))


def broken_inner(family):
    """Inner packets whose header is wrong, by label."""
    packet = to_near(family)
    if family == 6:
        return {
            "version 4": changed(packet, 0, b"\x40"),
            "payload length one too long": changed(packet, 4, struct.pack(">H", len(packet) - 39)),
            "payload length 65535": changed(packet, 4, b"\xff\xff"),
            "header cut": packet[:39],
        }
    wrong = {
        "version 6": changed(packet, 0, b"\x65"),
        "header length 4": changed(packet, 0, b"\x44"),
        "header length 0": changed(packet, 0, b"\x40"),
        "header longer than the packet": changed(changed(packet, 0, b"\x4f"), 2, struct.pack(">H", 52)),
        "total length too long": changed(packet, 2, struct.pack(">H", len(packet) + 1)),
        "total length shorter than the header": changed(packet, 2, struct.pack(">H", 19)),
        "total length 0": changed(packet, 2, bytes(2)),
    }
    wrong = {label: with_checksum(one) for label, one in wrong.items()}
    return wrong | {"checksum": damaged(packet, 10), "header cut": packet[:19]}


@pytest.mark.parametrize("family", (4, 6))
def test_broken_inner_packet(tmp_path, carrier, family):
    """The inner IP header is checked like an outer one."""
    tunnel, protocol = Tunnel(**carrier), IPV4 if family == 4 else IPV6
    cases = [(label, gre_of(0, packet, protocol), "ip-malformed") for label, packet in broken_inner(family).items()]
    other = IPV6 if family == 4 else IPV4
    cases.append(("protocol type of the other family", gre_of(0, to_near(family), other), "ip-malformed"))
    cases.append(("nothing", gre_of(0, b"", protocol), "ip-malformed"))
    judge(tmp_path, configuration(tunnel), refused(tunnel, cases))


# --- tunnel lookup --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", (4, 6))
def test_cleartext_for_protected(tmp_path, family):
    """GRE in clear never enters a protected tunnel; only malformed, unknown and wrong-key packets are named first."""
    tunnel, inner = Tunnel(family=family, gre=EVERYTHING), to_near(4)
    right = tunnel.gre.header(IPV4, inner, 1)
    cases = {
        "right in all else": (right, "cleartext-for-protected"),
        "wrong checksum": (damaged(right, -1), "cleartext-for-protected"),
        "no sequence": (GreOptions(42, checksum=True).header(IPV4, inner), "cleartext-for-protected"),
        "other protocol": (tunnel.gre.header(0x88B5, inner), "cleartext-for-protected"),
        "broken inner packet": (tunnel.gre.header(IPV4, b"x"), "cleartext-for-protected"),
        "wrong key": (GreOptions(43, True, True).header(IPV4, inner), "gre-key"),
        "version 1": (gre_of(1), "gre-malformed"),
        "cut": (right[:15], "gre-malformed"),
    }
    steps = [
        dropped(label, into_wan(from_peer(tunnel, GRE_PROTOCOL, gre)), reason) for label, (gre, reason) in cases.items()
    ]
    stranger = from_peer(tunnel, GRE_PROTOCOL, right, source=STRANGER[family])
    steps.append(dropped("from a stranger", into_wan(stranger), "gre-unknown"))
    steps.append(good(tunnel, 1, inner))
    judge(tmp_path, configuration(tunnel), steps)


@pytest.mark.parametrize("family", (4, 6))
def test_unknown_tunnel(tmp_path, family):
    """No tunnel has these addresses; a malformed header is named first."""
    tunnel, inner = Tunnel(family=family, mode=None, sas=()), to_near(4)
    gre = tunnel.gre.header(IPV4, inner)
    steps = [
        dropped("source", into_wan(from_peer(tunnel, GRE_PROTOCOL, gre, source=STRANGER[family])), "gre-unknown"),
        dropped(
            "destination",
            into_wan(from_peer(tunnel, GRE_PROTOCOL, gre, destination=ROUTER_ON_LAN[family])),
            "gre-unknown",
        ),
        dropped(
            "version", into_wan(from_peer(tunnel, GRE_PROTOCOL, gre_of(1), source=STRANGER[family])), "gre-malformed"
        ),
        good(tunnel, 1, inner),
    ]
    judge(tmp_path, configuration(tunnel), steps)


def test_tunnels_told_apart_by_key(tmp_path):
    """Two tunnels between the same addresses, with keys 1 and 2, each with a sequence of its own."""
    one = Tunnel(mode=None, sas=(), gre=GreOptions(1, sequence=True), name="one")
    two = Tunnel(mode=None, sas=(), gre=GreOptions(2, sequence=True), name="two", routes=("10.3.0.0/16",))
    steps = []
    for tunnel, number in ((one, 100), (two, 7), (one, 101), (two, 8)):
        steps.append(good(tunnel, 1, to_near(4, seed=number), gre_sequence=number))
    steps.append(dropped("key 3", carried(one, 1, GreOptions(3).header(IPV4, to_near(4))), "gre-key"))
    outcome = judge(tmp_path, configuration(one, two), steps)
    assert [outcome.tunnel(name)["in_packets"] for name in ("one", "two")] == [2, 2]


# --- inner packets --------------------------------------------------------------------------------------------------


def received_ecn(inner, outer):
    """The ECN bits behind decapsulation (RFC 6040 4.2, figure 4); None: the packet is dropped."""
    not_ect, ect1 = 0, 1
    if inner == not_ect:
        return None if outer == CE else not_ect
    if inner == CE or outer == CE:
        return CE
    return ect1 if outer == ect1 else inner


@pytest.mark.parametrize("family", (4, 6))
def test_ecn_and_dscp(tmp_path, carrier, family):
    """RFC 6040 for ECN; the inner DSCP stays, whatever the outer one is."""
    tunnel, steps, number = Tunnel(family=family, **carrier), [], 1
    for inner_family in (4, 6):
        for inner_ecn in range(4):
            for outer_ecn in range(4):
                inner = to_near(inner_family, seed=number, tos=0x68 | inner_ecn)
                fields = {"tos": 0xB8 | outer_ecn}
                if tunnel.mode == "tunnel":
                    fields["middle_tos"] = inner_ecn
                arriving = carried(tunnel, number, tunnel.gre.header(*gre_payload(inner)), **fields)
                label, expected = f"inner {inner_ecn}, outer {outer_ecn}", received_ecn(inner_ecn, outer_ecn)
                if expected is None:
                    steps.append(dropped(label, arriving, "ecn"))
                    continue  # and the next packet has the same number
                marked = to_near(inner_family, seed=number, tos=0x68 | expected)
                steps.append(delivered(label, arriving, marked))
                assert tos_of(marked) & ECN_BITS == expected
                number += 1
    judge(tmp_path, configuration(tunnel), steps)


def test_nested(tmp_path):
    """What comes out of a tunnel may not be for an outer address of any tunnel."""
    one = Tunnel(gre=GreOptions(1), name="one")
    other = Tunnel(family=6, mode=None, sas=(), gre=GreOptions(2), name="two", routes=("10.3.0.0/16",))
    endpoints = [(family, side[family]) for family in (4, 6) for side in (LOCAL, REMOTE)]
    cases = [
        (f"to {address}", one.gre.header(*gre_payload(ip(FAR_HOST[family], address, EXPERIMENT, b"x"))), "nested")
        for family, address in endpoints
    ]
    judge(tmp_path, configuration(one, other), refused(one, cases))


def test_tunnel_in_a_tunnel(tmp_path):
    """A tunnel whose far end lies behind another: refused with the configuration, or at the latest packet by packet."""
    inside = Tunnel(remote="203.0.113.7", mode=None, sas=(), name="inside")
    around = Tunnel(routes=("203.0.113.0/24",), name="around")
    arriving = [into_lan(to_far(4)), into_lan(ip(NEAR_HOST[4], inside.remote, EXPERIMENT, b"to its end"))]
    outcome = run(tmp_path, configuration(inside, around), [("lan", pcap(stamped(arriving)))])
    if outcome.code == 2:
        assert "inside" in outcome.stderr and "around" in outcome.stderr
    else:
        assert outcome.code == 0, outcome.stderr
        # The reason of the first is open, as `inside` has no port to leave by; both have to stop.
        assert outcome.drops["nested"] >= 1 and outcome.drops.total() == 2
        assert outcome.frames("wan") == []


@pytest.mark.parametrize("family", (4, 6))
def test_for_the_router_itself(tmp_path, carrier, family):
    """A decapsulated packet for one of our addresses goes to the host as a frame, its TTL as it came."""
    tunnel = Tunnel(**carrier)
    inner = ip(FAR_HOST[family], ROUTER_ON_LAN[family], EXPERIMENT, b"for you", ttl=1)
    arriving = carried(tunnel, 1, tunnel.gre.header(*gre_payload(inner)))
    step = to_host("to the router", arriving, handed=frame(PEER_MAC, WAN_MAC, inner))
    judge(tmp_path, configuration(tunnel), [step])


def test_refused_outbound_moves_nothing(tmp_path, carrier):
    """What is dropped before sealing uses up no sequence number, neither GRE's nor ESP's."""
    tunnel = Tunnel(gre=GreOptions(sequence=True), **carrier)
    fine = [to_far(4, seed=1), to_far(4, seed=2), to_far(6, seed=3)]
    wrong = [to_far(4, ttl=1), to_far(4, tunnel.mtu() + 1 - HEADER[4]), to_far(4)[:10]]
    arriving = [one for pair in zip(wrong, fine, strict=True) for one in pair]
    outcome = replay(tmp_path, configuration(tunnel), lan=[into_lan(one) for one in arriving])
    assert outcome.drops == {"ttl-exceeded": 1, "too-big": 1, "ip-malformed": 1}
    sent = [gre_sent(tunnel, packet, place) for place, packet in enumerate(outcome.packets("wan"))]
    assert sent == [tunnel.gre.header(*gre_payload(forwarded(one)), place) for place, one in enumerate(fine)]


def gre_sent(tunnel, packet, place):
    """The GRE packet of the outer packet that we sent `place`-th."""
    if tunnel.mode is None:
        return packet[20:]
    opened = tunnel.outbound.open(packet[20:])
    assert opened.sequence == place + 1
    return opened.payload if tunnel.mode == "transport" else opened.payload[20:]
