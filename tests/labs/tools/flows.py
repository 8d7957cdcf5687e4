"""UDP flows for a long time: `send ADDRESS FLOWS RATE SIZE`, RATE datagrams a second of each flow until it is ended, and `receive
ADDRESS`. Every datagram has its flow and number; every byte behind depends on them.

Each prints `ready`, and when it is ended what it has sent or seen, as JSON. However long it takes, the receiver remembers one number
for each flow: what is not above all before it has come twice or late.
"""

import json
import signal
import socket
import struct
import sys
import time

PORT = 7100
HEAD = struct.Struct(">IQ")
PATTERN = bytes(place * 13 & 0xFF for place in range(256)) * 8
QUIET = 0.5  # seconds without a datagram, after which no more are expected


def body(flow, number, size):
    start = (flow * 31 + number * 7) % 256
    return HEAD.pack(flow, number) + PATTERN[start : start + size - HEAD.size]


def udp_socket(address):
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


def send(address, flows, rate, size, ended):
    """Links come and go: what cannot be sent now is lost, as on the way."""
    outs = [udp_socket(address) for _ in range(flows)]
    for flow, out in enumerate(outs):
        out.bind(("", 40000 + flow))
    print("ready", flush=True)
    number, refused, start = 0, 0, time.monotonic()
    while not ended:
        ahead = start + number / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        for flow, out in enumerate(outs):
            try:
                out.sendto(body(flow, number, size), (address, PORT))
            except OSError:
                refused += 1
        number += 1
    return {"sent": number * flows, "refused": refused}


def receive(address, ended):
    highest, seen, disorder, corrupt = {}, 0, 0, 0
    with udp_socket(address) as into:
        into.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        into.bind((address, PORT))
        into.settimeout(QUIET)
        print("ready", flush=True)
        while True:
            try:
                datagram = into.recv(65535)
            except TimeoutError:
                if ended:
                    break
                continue
            flow, number = HEAD.unpack_from(datagram)
            corrupt += datagram != body(flow, number, len(datagram))
            disorder += number <= highest.get(flow, -1)
            highest[flow] = max(highest.get(flow, -1), number)
            seen += 1
    return {"seen": seen, "flows": len(highest), "disorder": disorder, "corrupt": corrupt}


if __name__ == "__main__":
    over = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    if sys.argv[1] == "send":
        result = send(sys.argv[2], *map(int, sys.argv[3:6]), over)
    else:
        result = receive(sys.argv[2], over)
    print(json.dumps(result), flush=True)
