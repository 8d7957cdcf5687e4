"""Whether a router with all that it can carry to do is still heard: advertisements leave in time, nobody takes over that need not, and who has to
does so as soon as without load."""

import threading
import time

from scapy.utils import rdpcap

from netns import Trouble
from routers import host
from shared import GROUP, OWN
from test_takeover import took_over
from traffic import capture, iperf, tcp_rate

CARP = 112  # IP protocol
SECONDS = 10
APART = (0x1001, 0x1011)


def changes(twin):
    return twin.show("carp")["groups"][GROUP]["changes"]


def test_advertisements_under_full_load(shared):
    """TCP as fast as it goes through the master: its advertisements, a second apart, reach the other router, and neither changes its role.
    Then the master dies under that load."""
    shared.start(APART)
    before = [changes(twin) for twin in (shared.a, shared.b)]
    with capture(shared.wans, "wb", f"proto {CARP} and src 192.0.2.{OWN['a']}") as seen:
        began = time.time()
        rate = tcp_rate(iperf(shared.h1, shared.h2, host(2, 4), seconds=SECONDS, flows=2))
        assert [changes(twin) for twin in (shared.a, shared.b)] == before
        ended = time.time()

        def load():
            try:
                iperf(shared.h1, shared.h2, host(2, 4), seconds=SECONDS, flows=2)
            except Trouble:
                pass  # It is cut off.

        thread = threading.Thread(target=load)
        thread.start()
        time.sleep(3)
        shared.a.crash()
        shared.b.wait_role("master")
        thread.join()
    times = [float(packet.time) for packet in rdpcap(str(seen.path))]
    loaded = sum(began <= at <= ended for at in times)
    last = max(times)
    gaps = [after - before for before, after in zip(times, times[1:])]
    elected = took_over(shared.b) - last  # of the two groups, the later one
    print(f"\n{rate:.0f} Mbit/s of TCP: {loaded} advertisements, {min(gaps):.2f} to {max(gaps):.2f} s apart; elected {elected:.1f} s after the last")
    assert loaded >= SECONDS - 1 and max(gaps) < 2, gaps
    assert elected < 6
