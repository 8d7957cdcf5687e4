"""A router is ready to be master when its checks pass: here, when OSPF by FRR is through with the LAN's core router.

Sessions over a tunnel are no such thing: the backup's tunnels are silent, so these come up after it has become master.
"""

import shutil

from frr import Frr
from netns import wait_for
from routers import CULVERT, NAMES
from shared import TAKEN_OVER, carp
from test_hooks import APART

CORE = "9.9.9.9"
# What the README has, but for where FRR's sockets are.
IS_FULL = """#!/bin/sh
vtysh --vty_socket "$2" -d ospfd -c "show ip ospf neighbor $1 json" 2>&1 | grep -q '"nbrState": *"Full' && exit 0
echo "OSPF is not through with $1"
exit 1
"""


def ospf(router_id, *interfaces):
    """The timers as short as they may be."""
    text = "".join(
        f"interface {name}\n ip ospf area 0\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n{more}" for name, more in interfaces
    )
    return f"{text}router ospf\n ospf router-id {router_id}\n"


LAN, TUNNEL = ("lan", ""), (NAMES[1], " ip ospf network point-to-point\n ip ospf mtu-ignore\n")


def is_full(frr, router_id):
    return "Full" in str(frr.ask("ospfd", f"show ip ospf neighbor {router_id}"))


def lacks(twin):
    return twin.show("carp")["missing"]


def check(shared, folder):
    script = shared.lab.folder / "ospf-is-full"
    script.write_text(IS_FULL)
    script.chmod(0o755)
    return f'[[carp.check]]\nname = "ospf"\ncommand = ["{script}", "{CORE}", "{folder}"]\nevery = "300ms"\n'


def test_ready_when_ospf_is_through(shared):
    """Not before it is through with the LAN's core; on the backup as well, whose session over the tunnel is down. When the core is gone, neither is
    ready, and says why. Who becomes master has its session over the tunnel then."""
    assert shutil.which("vtysh")
    a, b = shared.a, shared.b
    folders = {twin: shared.lab.folder / f"frr-{twin.label}" for twin in (a, b)}
    shared.start(APART, others=lambda label: check(shared, folders[a if label == "a" else b]))
    said = [f"check ospf: OSPF is not through with {CORE}"]
    for twin in (a, b):
        wait_for(lambda: lacks(twin) == said, 10, f"r{twin.label} says so: {lacks(twin)}")
    far = Frr(shared.r2.namespace, ospfd=ospf("2.2.2.2", (NAMES[2], TUNNEL[1])))
    frrs = {twin: Frr(twin.namespace, ospfd=ospf(f"1.1.1.{1 + (twin is b)}", LAN, TUNNEL)) for twin in (a, b)}
    for twin, frr in frrs.items():
        # The check was told where they would be.
        folders[twin].symlink_to(frr.folder)
    core = Frr(shared.h1, ospfd=ospf(CORE, LAN))
    for twin in (a, b):
        assert carp(twin, "ready", "--wait", "30s", check=False).returncode == 0, lacks(twin)
        assert is_full(frrs[twin], CORE)
    wait_for(lambda: is_full(frrs[a], "2.2.2.2"), 10, "the master's session over the tunnel is up")
    assert not is_full(frrs[b], "2.2.2.2") and b.role() == "backup"
    # What has to be there when the other router is to take over is not.
    core.stop("ospfd")
    for twin in (a, b):
        wait_for(lambda: lacks(twin) == said, 15, f"r{twin.label} misses it: {lacks(twin)}")
    assert f"not ready: {said[0]}" in carp(b, "ready", check=False).stderr
    assert said[0] in b.namespace.run(CULVERT, "show", "carp", "--socket", b.socket).stdout
    assert f"this router is not ready: {said[0]}" in b.daemon.text()
    a.crash()
    b.wait_role("master", TAKEN_OVER)
    wait_for(lambda: is_full(frrs[b], "2.2.2.2"), 20, "the new master's session over the tunnel comes up")
    assert is_full(far, "1.1.1.2")
