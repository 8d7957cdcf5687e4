"""The README's way from rc.conf to running tunnels, step by step; on Linux ports are XDP's in place of netmap's."""

import re

from netns import wait_for
from routers import CULVERT, GRE, INNER, host, link
from traffic import ping, wait_ping

RC_CONF = f"""hostname="r1.example"
ifconfig_wan="inet 192.0.2.1/24"
ifconfig_lan="inet 10.1.0.1 netmask 255.255.255.0"
defaultrouter="192.0.2.254"
gateway_enable="YES"
cloned_interfaces="gre0"
ifconfig_gre0="inet {INNER[1][4]} {INNER[2][4]} netmask 255.255.255.255 tunnel 192.0.2.1 192.0.3.2"
static_routes="far"
route_far="-net 10.2.0.0/24 {INNER[2][4]}"
"""


def test_from_rc_conf_to_running_tunnels(sites):
    """Import, check, run, look, change: each step's output is what the next one needs, and nothing else has to be known."""
    router = sites.r1
    sites.r2.start(sites.configuration(2, GRE))
    root = sites.lab.folder / "freebsd"
    (root / "etc").mkdir(parents=True)
    (root / "etc/rc.conf").write_text(RC_CONF)

    def culvert(*words, status=0):
        done = router.namespace.run(CULVERT, *words, check=False)
        assert done.returncode == status, done
        return done

    imported = culvert("import", root)
    assert "1 tunnels, 0 left out" in imported.stderr
    router.file.write_text(re.sub("netmap:", "xdp:", imported.stdout))
    checked = culvert("check", "-c", router.file, "--live").stdout
    assert "depth 1: gre0 -> port wan" in checked and "0 wrong" in checked, checked
    # What the check says is what there is then.
    [mtu] = re.findall(r"mtu +(\d+) bytes", checked)
    router.start()
    wait_ping(sites.h1, host(2, 4))
    assert ping(sites.h1, host(2, 4), count=20).loss == 0
    ask = ["--socket", router.socket]
    assert re.search(rf"gre0 +wan +up +{mtu} ", culvert("show", "tunnels", *ask).stdout)
    assert "goes through the tunnel" in culvert("explain", host(2, 4), *ask).stdout
    assert link(router.namespace, "gre0")["mtu"] == int(mtu)
    router.file.write_text(router.file.read_text() + 'keepalive = { period = "1s", retries = 3 }\n')
    assert "tunnel gre0: changed" in culvert("diff", router.file, *ask, status=3).stdout
    culvert("apply", router.file, "--confirm", "60s", *ask)
    culvert("confirm", *ask)
    assert culvert("diff", router.file, *ask).stdout == "nothing changes\n"
    wait_for(lambda: router.show("tunnels")["gre0"]["state"] == "up", 10, "the far end answers keepalives")
    assert ping(sites.h1, host(2, 4), count=20).loss == 0
