"""One TCP transfer, whole or not: `receive ADDRESS PORT` prints `ready`; `send ADDRESS PORT BYTES` prints whether all arrived.

The receiver answers with the SHA-256 of what it got. With `fetch` in place of `send` the bytes come the other way.
"""

import hashlib
import json
import random
import socket
import sys
import time

PATIENCE = 60  # seconds without progress


def content(length):
    return random.Random(length).randbytes(length)


def read(connection, length):
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(65536, length - len(data)))
        if not part:
            break
        data += part
    return bytes(data)


def receive(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        print("ready", flush=True)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            order = json.loads(read(connection, 64))
            if order["fetch"]:
                connection.sendall(content(order["length"]))
                read(connection, 1)
            else:
                connection.sendall(hashlib.sha256(read(connection, order["length"])).digest())


def ask(address, port, length, fetch):
    start = time.monotonic()
    with socket.create_connection((address, port), timeout=PATIENCE) as connection:
        connection.sendall(json.dumps({"fetch": fetch, "length": length}).encode().ljust(64))
        if fetch:
            whole = read(connection, length) == content(length)
        else:
            connection.sendall(content(length))
            whole = read(connection, 32) == hashlib.sha256(content(length)).digest()
    print(json.dumps({"whole": whole, "seconds": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    what, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if what == "receive":
        receive(address, port)
    else:
        ask(address, port, int(sys.argv[4]), what == "fetch")
