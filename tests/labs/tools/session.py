"""A terminal-like TCP session: `serve ADDRESS PORT` echoes, `talk ADDRESS PORT` sends a short line every 20 ms and awaits it.

The talker prints `ready` after the first echo, and when it is ended its account, as JSON. One connection, never renewed.
"""

import json
import signal
import socket
import sys
import time

PACE = 0.02
ended = []


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(address, port):
    with socket.socket(family(address), socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        print("ready", flush=True)
        connection, _ = listener.accept()
        while data := connection.recv(4096):
            connection.sendall(data)


def talk(address, port):
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    lines, longest, broken = 0, 0.0, None
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(0.25)
        while not ended:
            line = f"line {lines}\n".encode()
            start = time.monotonic()
            try:
                exchange(connection, line)
            except OSError as trouble:
                broken = str(trouble)
                break
            longest = max(longest, time.monotonic() - start)
            if lines == 0:
                print("ready", flush=True)
            lines += 1
            time.sleep(PACE)
    print(json.dumps({"lines": lines, "longest_gap": longest, "broken": broken}), flush=True)


def exchange(connection, line):
    """Sends a line and reads its echo, for as long as that takes or the session lasts."""
    connection.sendall(line)
    echo = b""
    while len(echo) < len(line):
        try:
            part = connection.recv(len(line) - len(echo))
        except TimeoutError:
            if ended:
                return
            continue
        if not part:
            raise OSError("closed by the other end")
        echo += part
    if echo != line:
        raise OSError(f"sent {line!r}, got {echo!r}")


if __name__ == "__main__":
    {"serve": serve, "talk": talk}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
