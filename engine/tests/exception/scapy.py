"""Makes scapy.txt, the packets that tests/exception.rs holds the engine against: `python scapy.py > scapy.txt`.

Each line is a name and a packet in hexadecimal, built by Scapy 2.8 with checksums of its own.
"""

import sys

sys.path.pop(0)  # this file's own folder, where `scapy` would be found first

from scapy.all import (  # noqa: E402
    ICMP, IP, TCP, UDP, ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig,
    ICMPv6TimeExceeded, IPv6, IPv6ExtHdrFragment, Raw, fragment, fragment6,
)

A4, B4, OURS4 = "198.51.100.7", "203.0.113.9", "192.0.2.1"
A6, B6, OURS6 = "2001:db8:7::7", "2001:db8:9::9", "2001:db8::1"


def show(name, packet):
    print(name, bytes(packet).hex())


def udp(length):
    return UDP(sport=40000, dport=33434) / bytes(n & 255 for n in range(length))


sent4 = IP(src=A4, dst=B4, ttl=1, id=0x1234, flags="DF", tos=0xB8) / udp(700)
sent6 = IPv6(src=A6, dst=B6, hlim=1, tc=0xB8) / udp(1400)
show("sent4", sent4)
show("sent6", sent6)
for name, icmp in {
    "time-exceeded": ICMP(type=11, code=0),
    "no-route": ICMP(type=3, code=0),
    "host-unreachable": ICMP(type=3, code=1),
    "prohibited": ICMP(type=3, code=13),
    "too-big": ICMP(type=3, code=4, nexthopmtu=600),
}.items():
    show(name + "4", IP(src=OURS4, dst=A4, ttl=64, tos=0xC0, id=0, flags="DF") / icmp / Raw(bytes(sent4)[:548]))
for name, icmp in {
    "time-exceeded": ICMPv6TimeExceeded(code=0),
    "no-route": ICMPv6DestUnreach(code=0),
    "host-unreachable": ICMPv6DestUnreach(code=3),
    "prohibited": ICMPv6DestUnreach(code=1),
    "too-big": ICMPv6PacketTooBig(mtu=1300),
}.items():
    show(name + "6", IPv6(src=OURS6, dst=A6, hlim=64, tc=0xC0) / icmp / Raw(bytes(sent6)[:1232]))

show("request4", IP(src=A4, dst=OURS4, ttl=9, id=77, tos=0xB8) / ICMP(type=8, id=5, seq=6) / b"anybody?")
show("reply4", IP(src=OURS4, dst=A4, ttl=64, id=77, tos=0xB8) / ICMP(type=0, id=5, seq=6) / b"anybody?")
show("request6", IPv6(src=A6, dst=OURS6, hlim=9) / ICMPv6EchoRequest(id=5, seq=6, data=b"anybody?"))
show("reply6", IPv6(src=OURS6, dst=A6, hlim=64) / ICMPv6EchoReply(id=5, seq=6, data=b"anybody?"))

whole4 = IP(bytes(IP(src=A4, dst=B4, ttl=17, id=0x4321, tos=0xB8) / udp(100)))
show("whole4", whole4)
for number, piece in enumerate(fragment(whole4, fragsize=48)):
    show(f"piece4-{number}", piece)
show("whole6", IPv6(src=A6, dst=OURS6, hlim=17) / udp(150))
long6 = IPv6(bytes(IPv6(src=A6, dst=OURS6, hlim=17) / IPv6ExtHdrFragment(id=0xCAFE) / udp(150)))
for number, piece in enumerate(fragment6(long6, 120)):
    show(f"piece6-{number}", piece)

for name, size in (("syn4", 1460), ("clamped4", 1360)):
    options = [("NOP", None), ("MSS", size), ("SAckOK", b""), ("Timestamp", (1, 0))]
    show(name, IP(src=A4, dst=B4, id=1) / TCP(sport=1024, dport=80, flags="S", seq=1, options=options))
for name, size in (("syn6", 1440), ("clamped6", 1340)):
    options = [("MSS", size), ("WScale", 7)]
    show(name, IPv6(src=A6, dst=B6) / TCP(sport=1024, dport=80, flags="SA", seq=1, options=options))
