"""Frames that are not ours: tagged ones, and others that are no IP, reach the host's side of the port byte for byte.

The kernel need not have VLAN devices: the frames are made by packet sockets, and looked for behind Culvert's program.
"""

import socket

import pytest

from routers import GRE, TRANSPORT, host
from traffic import capture, ping, wait_ping

BROADCAST = "ff:ff:ff:ff:ff:ff"


def raw(mac):
    return bytes.fromhex(mac.replace(":", ""))


def outer(sites, protocol, payload):
    """An IP packet from the far router to ours, as a tunnel's would be but for what is in it."""
    source, destination = (socket.inet_aton(sites.wan(site, 4)) for site in (2, 1))
    head = bytearray(bytes.fromhex("45000000000040004000") + bytes(2) + source + destination)
    head[2:4] = (20 + len(payload)).to_bytes(2)
    head[9] = protocol
    total = sum(int.from_bytes(head[place : place + 2]) for place in range(0, 20, 2))
    head[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2)
    return bytes(head) + payload


def foreign_frames(sites, to, source):
    """Everything from the ethertype on differs; what follows the tags looks like the tunnel's own traffic."""
    esp = b"\x08\x00" + outer(sites, 50, (0x1002).to_bytes(4) + bytes(60))
    gre = b"\x08\x00" + outer(sites, 47, bytes(4) + bytes(60))
    heads = [b"\x81\x00\x00\x64", b"\x81\x00\xe0\x00", b"\x88\xa8\x00\x05\x81\x00\x00\x06"]
    frames = [raw(to) + raw(source) + head + rest for head in heads for rest in (esp, gre)]
    frames.append(raw(BROADCAST) + raw(source) + heads[0] + b"\x08\x06" + bytes(46))
    frames.append(raw("01:80:c2:00:00:0e") + raw(source) + b"\x88\xcc" + bytes(range(50)))  # LLDP
    frames.append(raw(to) + raw(source) + b"\x88\xb5" + bytes(range(60)))  # RFC 9542: for experiments
    frames.append(raw("01:80:c2:00:00:00") + raw(source) + b"\x00\x26\x42\x42\x03" + bytes(43))  # spanning tree
    return frames


def send(namespace, interface, frames):
    with namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as port:
        port.bind((interface, 0))
        for frame in frames:
            port.send(frame)


@pytest.mark.parametrize("carrier", [GRE, TRANSPORT], ids=str)
@pytest.mark.parametrize("port", ["wan", "lan"])
def test_to_the_host(sites, carrier, port):
    """All of them come out at the host's side, in order and unchanged, and none goes into the tunnel."""
    sites.start(carrier)
    wait_ping(sites.h1, host(2, 4))
    end, interface = (sites.mid, "to1") if port == "wan" else (sites.h1, "lan")
    frames = foreign_frames(sites, sites.r1.namespace.mac(port), end.mac(interface)) * 10
    before = sites.r1.tunnel()
    with capture(sites.r1.namespace, port, direction="in") as seen:
        send(end, interface, frames)
    assert [frame for frame in seen.frames() if frame in frames] == frames
    after = sites.r1.tunnel()
    # The hosts themselves say a word now and then; thirty of these frames would count.
    assert after["in_packets"] - before["in_packets"] < 10 > after["out_packets"] - before["out_packets"]
    assert ping(sites.h1, host(2, 4), count=10).loss == 0


def test_from_the_host(sites):
    """What the host itself sends on the port leaves it unchanged."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    frames = foreign_frames(sites, sites.mid.mac("to1"), sites.r1.namespace.mac("wan"))
    with capture(sites.mid, "to1", direction="in") as seen:
        send(sites.r1.namespace, "wan", frames)
    assert [frame for frame in seen.frames() if frame in frames] == frames
