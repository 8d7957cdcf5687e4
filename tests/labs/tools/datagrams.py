"""Numbered UDP datagrams: `send ADDRESS COUNT RATE SIZE` and `receive ADDRESS`. Every byte behind the number depends on it.

The receiver prints `ready`, and when it is ended what it has seen, as JSON. So does the sender, which may be ended before the last.
"""

import json
import signal
import socket
import struct
import sys
import time

PORT = 7000
SO_TIMESTAMPNS = 35  # Linux's
QUIET = 0.5  # seconds without a datagram, after which no more are expected


def body(number, size):
    return struct.pack(">Q", number) + bytes((number * 7 + place * 13) & 0xFF for place in range(size - 8))


def udp_socket(address):
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


def ended_by_sigterm():
    """A list that is empty until then."""
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    return ended


def send(address, count, rate, size):
    ended, sent = ended_by_sigterm(), 0
    with udp_socket(address) as out:
        out.connect((address, PORT))
        start = time.monotonic()
        for number in range(count):
            if ended:
                break
            ahead = start + number / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            try:
                out.send(body(number, size))
            except ConnectionRefusedError:
                pass  # an ICMP error to an earlier one
            sent += 1
    print(json.dumps({"sent": sent}), flush=True)


def gaps(seen):
    """Where numbers are missing between others, at most the first twenty places: the first number, and how many."""
    found, last = [], -1
    for number in sorted(seen):
        if number > last + 1:
            found.append((last + 1, number - last - 1))
        last = number
    return found[:20]


def came_at(ancillary):
    """When the kernel took a datagram in, by the wall's clock: this program may have been kept waiting."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("ll", data)
            return seconds + nanoseconds / 1e9
    return time.time()


def receive(address):
    ended = ended_by_sigterm()
    # The longest time without a datagram between two: how long, and since when.
    silent, since, last = 0.0, 0.0, None
    seen, duplicates, reordered, corrupt, highest = set(), 0, 0, 0, -1
    with udp_socket(address) as into:
        into.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        into.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        into.bind((address, PORT))
        into.settimeout(QUIET)
        print("ready", flush=True)
        while True:
            try:
                datagram, ancillary, *_ = into.recvmsg(65535, 64)
            except TimeoutError:
                if ended:
                    break
                continue
            now = came_at(ancillary)
            if last is not None and now - last > silent:
                silent, since = now - last, last
            last = now
            number = struct.unpack(">Q", datagram[:8])[0]
            corrupt += datagram != body(number, len(datagram))
            duplicates += number in seen
            reordered += number not in seen and number < highest
            seen.add(number)
            highest = max(highest, number)
    counts = {"unique": len(seen), "duplicates": duplicates, "reordered": reordered, "corrupt": corrupt}
    counts |= {"gaps": gaps(seen), "silent": silent, "since": since}
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], *map(int, sys.argv[3:6]))
    else:
        receive(sys.argv[2])
