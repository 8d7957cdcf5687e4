"""The master's role goes to and fro: a second after a router is master, its ucarp gives up again.

Numbered datagrams pass both ways all the time: none comes twice, and when it is over, none is lost. On the far router's wire no SPI is seen
twice with a sequence number, nor with an IV, from both routers together, and nothing in clear.
"""

import signal
import time

from routers import host
from shared import GROUP, TAKEN_OVER, BothWays, mac, wait_shared, wait_up, watched
from test_sync import linked  # noqa: F401 (a fixture)
from test_takeover import paired  # noqa: F401 (a fixture)
from traffic import wait_ping

FLAPS = 6


def test_the_role_flaps(paired):  # noqa: F811 (a fixture)
    """Six times, each without a wait for what the one before has begun: SAs, tellings, and strongSwan's exchanges are under way."""
    a, b = paired.a, paired.b
    mac_a, mac_b = mac(a), mac(b)
    changes = lambda: a.show("carp")["groups"][GROUP]["changes"]  # noqa: E731
    before = changes()
    with watched(paired) as frames:
        traffic = BothWays(paired)
        time.sleep(1)
        started = time.monotonic()
        for nth in range(FLAPS):
            from_, to = (b, a) if nth % 2 else (a, b)
            for process in from_.ucarps:
                process.child.send_signal(signal.SIGUSR2)
            to.wait_role("master")
            # So long that both of its addresses carry packets.
            time.sleep(1)
        took = time.monotonic() - started
        wait_ping(paired.h1, host(2, 4), timeout=TAKEN_OVER)
        out, back = traffic.end()
        assert changes() - before >= FLAPS
        # It has come to rest.
        wait_up(a, b)
        wait_shared(paired)
        rest = BothWays(paired)
        time.sleep(3)
        assert [lost for _, lost, _ in rest.end()] == [0, 0]
    print(f"\nflapping, {FLAPS} times in {took:.1f} s: lost {out[1]} of {out[0]} out, {back[1]} of {back[0]} back")
    senders = [frame[6:12] for frame in frames if frame[6:12] in (mac_a, mac_b)]
    turns = sum(one != other for one, other in zip(senders, senders[1:]))
    print(f"seen on the wire: {turns} changes of who sends")
    assert turns >= FLAPS // 2, "those that were master have carried packets"
