"""Path MTU: what is too long is refused with the right number, from an address of ours; TCP never finds out the hard way."""

import socket

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netns import wait_for
from routers import FAMILIES, GRE, TRANSPORT, Carrier, Sites, host, router_on_lan
from traffic import capture, iperf, ping, pings, syn_mss, tcp_rate, wait_ping

SMALL = 1400
ECHO = {4: 28, 6: 48}  # IP and ICMP headers before the data of an echo request
SEGMENT = {4: 40, 6: 60}  # IP and TCP headers without options
CARRIERS = [GRE, TRANSPORT, Carrier(mode="tunnel", family=6)]


@pytest.mark.parametrize("carrier", CARRIERS, ids=str)
def test_own_mtu(sites, carrier):
    """One byte too long for the tunnel: refused at once, by the router's LAN address, with the tunnel's MTU."""
    sites.start(carrier)
    assert sites.r1.interface_mtu() == carrier.mtu()
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
        with capture(sites.h1, "lan", "icmp or icmp6", direction="in") as seen:
            refused = ping(sites.h1, host(2, family), count=3, size=carrier.mtu() + 1 - ECHO[family], df=True)
        assert refused.received == 0 and carrier.mtu() in refused.mtus
        assert_refused(seen.packets(), family, carrier.mtu())
        assert ping(sites.h1, host(2, family), count=3, size=carrier.mtu() - ECHO[family], df=True).loss == 0


def assert_refused(packets, family, mtu):
    """One of the packets is the ICMP error with this MTU, whole, and from the router."""
    errors = []
    for packet in packets:
        if family == 4 and ICMP in packet and (packet[ICMP].type, packet[ICMP].code) == (3, 4):
            errors.append((packet[IP].src, packet[ICMP].nexthopmtu))
            assert checksums_hold(packet, ICMP, "chksum")
        elif family == 6 and ICMPv6PacketTooBig in packet:
            errors.append((packet["IPv6"].src, packet[ICMPv6PacketTooBig].mtu))
            assert checksums_hold(packet, ICMPv6PacketTooBig, "cksum")
    assert (router_on_lan(1, family), mtu) in errors


def checksums_hold(packet, layer, field):
    given = getattr(packet[layer], field)
    again = Ether(bytes(packet))
    delattr(again[layer], field)
    return getattr(Ether(bytes(again))[layer], field) == given


@pytest.mark.parametrize("carrier", CARRIERS, ids=str)
def test_small_link_in_the_middle(lab, carrier):
    """The middle router refuses the outer packets; the tunnel's MTU falls, and inner senders hear of it."""
    sites = Sites(lab, path_mtu=SMALL)
    sites.start(carrier)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
    # One that no longer fits makes the middle router say so; it is lost.
    pings(sites.h1, host(2, 4), size=carrier.mtu() - ECHO[4], df=True)
    small = carrier.mtu(SMALL)
    wait_for(lambda: sites.r1.tunnel()["mtu"] == small, 3, f"the tunnel's MTU falls to {small}")
    wait_for(lambda: sites.r1.interface_mtu() == small, 3, f"its interface's MTU falls to {small}")
    for family in FAMILIES:
        refused = ping(sites.h1, host(2, family), count=3, size=small + 1 - ECHO[family], df=True)
        assert refused.received == 0 and small in refused.mtus
        assert ping(sites.h1, host(2, family), count=3, size=small - ECHO[family], df=True).loss == 0
        for reverse in (False, True):
            assert tcp_rate(iperf(sites.h1, sites.h2, host(2, family), seconds=1, reverse=reverse)) > 5


@pytest.mark.parametrize("carrier", CARRIERS, ids=str)
def test_mss(sites, carrier):
    """What TCP announces fits the tunnel, both ways, without any ICMP error."""
    sites.start(carrier)
    for family in FAMILIES:
        wait_ping(sites.h1, host(2, family))
        for end in (sites.h1, sites.h2):
            with capture(end, "lan", "icmp or icmp6 or tcp", direction="in") as seen:
                iperf(sites.h1, sites.h2, host(2, family), amount=50_000, flows=2)
            announced = syn_mss(seen.packets())
            assert announced and {mss for _, mss in announced} == {carrier.mtu() - SEGMENT[family]}
            assert not [packet for packet in seen.packets() if ICMP in packet or ICMPv6PacketTooBig in packet]


def test_smaller_mss_is_kept(sites):
    """A segment size below the limit is no business of the tunnel's."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    with capture(sites.h2, "lan", "tcp", direction="in") as seen:
        iperf(sites.h1, sites.h2, host(2, 4), amount=50_000, mss=800)
    # iperf3's own connection announces what it may, its data connection what it was told.
    assert {mss for _, mss in syn_mss(seen.packets())} == {800, TRANSPORT.mtu() - SEGMENT[4]}


def test_icmp_about_what_was_never_sent(sites):
    """An ICMP error that quotes no packet of ours changes nothing (a stranger could have sent it)."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    quoted = IP(src=sites.wan(1, 4), dst=sites.wan(2, 4), proto=50, flags="DF")
    for content in (b"\x00\x00\x99\x99" + bytes(4), b"\x00\x00\x10\x01\x7f\xff\xff\xff", b"\x00\x00\x10\x01"):
        error = IP(src=sites.gateway(1, 4), dst=sites.wan(1, 4)) / ICMP(type=3, code=4, nexthopmtu=600)
        inject(sites, error / quoted / Raw(content + bytes(20)))
    assert ping(sites.h1, host(2, 4), count=10, size=TRANSPORT.mtu() - ECHO[4], df=True).loss == 0
    assert sites.r1.tunnel()["mtu"] == TRANSPORT.mtu()


def inject(sites, packet):
    """Sends a packet from the middle router to r1."""
    to, source = sites.r1.namespace.mac("wan"), sites.mid.mac("to1")
    with sites.mid.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as port:
        port.bind(("to1", 0))
        port.send(bytes(Ether(dst=to, src=source) / packet))
