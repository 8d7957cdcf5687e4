"""The two routers' keys come from strongSwan: the master's alone negotiates, whoever is master."""

from netns import wait_for
from routers import host
from shared import TAKEN_OVER, Charon, assert_nothing_twice, negotiated
from traffic import ping, wait_ping


def test_the_master_alone_negotiates(shared):
    """ra negotiates, and rb's strongSwan has the connection and no SA. Then rb is master: it negotiates, and ra has nothing left."""
    configurations = {
        shared.a: negotiated(shared.a.configuration(0x1001)),
        shared.b: negotiated(shared.b.configuration(0x1011)),
        shared.r2: negotiated(shared.far_configuration([0x1001])),
    }
    charons = {router: Charon(router) for router in configurations}
    for router, configuration in configurations.items():
        charons[router].start()
        router.arguments = ["--vici", charons[router].vici]
        router.start(configuration)
    with shared.capture() as seen:
        shared.a.start_ucarp(skew=0)
        shared.a.wait_role("master")
        shared.b.start_ucarp(skew=100)
        wait_ping(shared.h1, host(2, 4), timeout=TAKEN_OVER)
        assert ping(shared.h1, host(2, 4), count=20).loss <= 10
        # Where both ends have begun at once, the far one takes one of the two away ten seconds later.
        wait_for(lambda: len(charons[shared.a].sas()) == 1, TAKEN_OVER, "ra's strongSwan has one pair")
        assert charons[shared.b].sas() == []
        assert "culvert-oslo" in charons[shared.b].swanctl("--list-conns")
        assert shared.b.tunnel()["state"] == "backup"
        shared.a.stop_ucarp()
        shared.b.wait_role("master")
        wait_ping(shared.h1, host(2, 4), timeout=2 * TAKEN_OVER)
        wait_for(lambda: charons[shared.a].sas() == [], TAKEN_OVER, "ra's strongSwan has nothing left")
        assert shared.a.tunnel()["state"] == "backup"
    assert assert_nothing_twice(seen.frames())
