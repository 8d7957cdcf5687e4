"""Carries frames between two interfaces, and treats some of them badly: `relay.py NEAR FAR [--loss P] ..`.

Stands in for the kernel's netem, which not every kernel has. Impaired are IP packets to one station only (not ARP, nor ICMPv6, which
finds neighbours, nor what hosts tell their groups by themselves): each is (1) perhaps lost, (2) perhaps fragmented, (3) perhaps sent
twice, (4) sent at once or later. Prints `ready`, and when it is ended its counts, as JSON. Probabilities come from a generator with a
fixed seed.
"""

import argparse
import heapq
import json
import random
import select
import signal
import socket
import struct
import time

ETH_P_ALL = 3
PACKET_OUTGOING = 4
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
ICMPV6, FRAGMENT = 58, 44


def open_port(interface):
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    port.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
    port.bind((interface, ETH_P_ALL))
    membership = struct.pack("=IHH8s", socket.if_nametoindex(interface), 1, 0, b"")  # PACKET_MR_PROMISC
    port.setsockopt(263, 1, membership)  # SOL_PACKET, PACKET_ADD_MEMBERSHIP
    port.setblocking(False)
    return port


def is_impaired(frame):
    if frame[0] & 1:
        return False
    kind = frame[12:14]
    return kind == IPV4 or (kind == IPV6 and frame[20] != ICMPV6)


def checksum(header):
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pieces(payload, room):
    """(offset, bytes, whether more follow): every piece but the last a multiple of 8 bytes."""
    room = room // 8 * 8
    for offset in range(0, len(payload), room):
        yield offset, payload[offset : offset + room], offset + room < len(payload)


def fragments(frame, size, number):
    """The frame as fragments of at most `size` bytes of IP, whatever its DF says; `number` is their identification."""
    link, packet = frame[:14], frame[14:]
    if frame[12:14] == IPV4:
        length = struct.unpack(">H", packet[2:4])[0]
        header = packet[: (packet[0] & 15) * 4]
        if length <= size or struct.unpack(">H", packet[6:8])[0] & 0x3FFF:
            return [frame]
        made = []
        for offset, part, more in pieces(packet[len(header) : length], size - len(header)):
            piece = bytearray(header)
            piece[2:8] = struct.pack(">HHH", len(header) + len(part), number & 0xFFFF, more << 13 | offset // 8)
            piece[10:12] = b"\0\0"
            piece[10:12] = struct.pack(">H", checksum(bytes(piece)))
            made.append(link + bytes(piece) + part)
        return made
    length = 40 + struct.unpack(">H", packet[4:6])[0]
    if length <= size or packet[6] == FRAGMENT:
        return [frame]
    made = []
    for offset, part, more in pieces(packet[40:length], size - 48):
        extension = struct.pack(">BBHI", packet[6], 0, offset | more, number)
        head = packet[:4] + struct.pack(">H", 8 + len(part)) + bytes([FRAGMENT]) + packet[7:40]
        made.append(link + head + extension + part)
    return made


class Relay:
    """Two ports, the frames that wait, and the counts."""

    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.ports = [open_port(options.near), open_port(options.far)]
        self.other = {self.ports[0]: self.ports[1], self.ports[1]: self.ports[0]}
        self.waiting, self.number = [], 0
        names = ("forwarded", "lost", "duplicated", "delayed", "fragmented", "failed")
        self.counts = [dict.fromkeys(names, 0) for _ in self.ports]

    def take(self, port, frame):
        counts, out = self.counts[self.ports.index(port)], self.other[port]
        counts["forwarded"] += 1
        if len(frame) < self.options.least or not is_impaired(frame):
            return self.send(counts, out, frame)
        if self.random.random() < self.options.loss:
            counts["lost"] += 1
            return None
        frames = [frame]
        if self.options.fragment:
            self.number += 1
            frames = fragments(frame, self.options.fragment, self.number)
            counts["fragmented"] += len(frames) > 1
            if len(frames) > 1 and self.options.lose_fragment and counts["fragmented"] % self.options.lose_fragment == 0:
                counts["lost"] += 1
                frames.pop()
            if self.options.backwards:
                frames.reverse()
        if self.random.random() < self.options.duplicate:
            counts["duplicated"] += 1
            frames = frames * 2
        wait = self.options.delay / 1000
        if self.random.random() < self.options.reorder:
            counts["delayed"] += 1
            wait += self.options.late / 1000
        for one in frames:
            if wait:
                self.number += 1
                heapq.heappush(self.waiting, (time.monotonic() + wait, self.number, out, one, counts))
            else:
                self.send(counts, out, one)
        return None

    def send(self, counts, out, frame):
        try:
            out.send(frame)
        except OSError:
            counts["failed"] += 1

    def release(self):
        """Sends what has waited long enough; returns the seconds until the next."""
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, out, frame, counts = heapq.heappop(self.waiting)
            self.send(counts, out, frame)
        return min(0.1, max(0.0, self.waiting[0][0] - now)) if self.waiting else 0.1

    def turn(self):
        ready, _, _ = select.select(self.ports, [], [], self.release())
        for port in ready:
            for _ in range(64):
                try:
                    frame, address = port.recvfrom(65535)
                except OSError:
                    break  # none left, or the link is down
                if address[2] != PACKET_OUTGOING:
                    self.take(port, frame)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("near")
    parser.add_argument("far")
    for name in ("loss", "duplicate", "reorder"):
        parser.add_argument(f"--{name}", type=float, default=0.0, help="probability")
    parser.add_argument("--late", type=float, default=5.0, help="milliseconds that reordered packets are late")
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds for every packet")
    parser.add_argument("--fragment", type=int, default=0, help="longest IP packet")
    parser.add_argument("--lose-fragment", type=int, default=0, help="every how manieth packet lacks its last fragment")
    parser.add_argument("--backwards", action="store_true", help="the last fragment first")
    parser.add_argument("--least", type=int, default=0, help="bytes of the shortest frame that is treated badly")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    over = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    relay = Relay(arguments())
    print("ready", flush=True)
    while not over:
        relay.turn()
    print(json.dumps({"near": relay.counts[0], "far": relay.counts[1]}), flush=True)
