"""Ends that are not where they were: NATs in between, mappings that change, routers that move, and far ends that die."""

import re
import signal

from nat import SILENT, Nat, silent_after
from netns import wait_for
from routers import NAMES, host
from traffic import ping, wait_ping

IDS = {1: "oslo.example", 2: "paris.example"}
MOVED = 40.0  # seconds: until the far end's silence is noticed, and all that follows


def tables(secret="a secret that both ends have", **more):
    """The `ike` tables of both sites, by names rather than addresses."""
    extra = "\n".join(f"{key} = {value}" for key, value in {"dpd": '"2s"', **more}.items())
    return {
        site: f'auth = "psk"\npsk = "{secret}"\nlocal_id = "{IDS[site]}"\nremote_id = "{IDS[3 - site]}"\n{extra}' for site in (1, 2)
    }


def far_port(pair):
    """The UDP port at which site 2's charon speaks to site 1."""
    found = re.search(r"remote-port=(\d+)", pair.charons[2].swanctl("--list-sas", "--raw"))
    return int(found[1]) if found else 0


def start_behind(pair, nat, **more):
    """Starts both; to site 2, site 1 is where the NAT is."""
    ike = tables(**more)
    for site in (1, 2):
        pair.charons[site].start()
        text = pair.configuration(site, ike=ike)
        if site == 2:
            text = text.replace(f'remote = "{pair.sites.wan(1, 4)}"', f'remote = "{nat.outside}"')
        router = pair.sites.routers[site]
        router.arguments = ["--vici", pair.charons[site].vici]
        router.start(text)
    pair.wait_up(MOVED)


def goes_on(pair, what):
    """Packets pass again, and then all do."""
    wait_ping(pair.sites.h1, host(2, 4), timeout=MOVED)
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0, what


def test_nat(pair):
    """ESP goes in UDP, from the port that the NAT has given, and rekeys go on."""
    nat = Nat(pair.sites)
    start_behind(pair, nat)
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
    assert 20000 <= far_port(pair) < 21000
    assert pair.state(2)["remote"] == nat.outside
    before = pair.spis(2)["out"]

    def rekeyed():
        # Not heeded while it is being looked how far an exchange is.
        pair.rekey(2)
        return pair.spis(2)["out"] not in ([], before)

    wait_for(rekeyed, MOVED, "new keys", interval=2)
    goes_on(pair, "after a rekey")


def test_the_mapping_changes(pair):
    """The NAT forgets, and gives another port, then another address, under traffic: site 2 follows at once, charon as well, and no new
    IKE SA is made."""
    nat = Nat(pair.sites)
    start_behind(pair, nat, dpd='"30s"')
    initiated, before = pair.charons[1].text().count("initiating IKE_SA"), nat.outside

    def port_is(first):
        return lambda: first <= far_port(pair) < first + 1000

    pauses = [
        silent_after(pair, lambda: nat.forget(30000), port_is(30000)),
        silent_after(pair, lambda: nat.forget(40000, outside="192.0.3.77"), port_is(40000)),
    ]
    print("silent after another port, and another address:", ", ".join(f"{1000 * pause:.0f} ms" for pause in pauses))
    assert max(pauses) < SILENT, pauses
    assert pair.state(2)["remote"] == "192.0.3.77"
    assert pair.charons[1].text().count("initiating IKE_SA") == initiated
    said = [line for line in pair.sites.r2.daemon.text().splitlines() if "sends from" in line]
    assert [re.search(r"sends from ([\d.]+:\d)", line)[1] for line in said] == [f"{before}:3", "192.0.3.77:4"], said


def only_ipv4(pair):
    """Leaves charon no address but the WAN's: it would move to any that leads to the far end, an IPv6 one as well."""
    for site, router in pair.sites.routers.items():
        router.namespace.sysctl("net.ipv6.conf.wan.disable_ipv6=1")
        pair.charons[site].settings = f"interfaces_ignore = lan, {NAMES[site]}"


def test_a_router_moves(pair):
    """MOBIKE: site 1 has another address from one moment to the next. Both ends follow; the keys stay."""
    only_ipv4(pair)
    pair.start(ike=tables(mobike="true"))
    before, initiated = pair.spis(1), pair.charons[1].text().count("initiating IKE_SA")
    router, gateway = pair.sites.r1.namespace, pair.sites.gateway(1, 4)
    router.ip(
        f"addr del {pair.sites.wan(1, 4)}/24 dev wan", "addr add 192.0.2.77/24 dev wan", f"route replace default via {gateway}"
    )
    wait_for(lambda: pair.state(2)["remote"] == "192.0.2.77", MOVED, "the other address, at the far end")
    assert pair.state(1)["local"] == "192.0.2.77"
    goes_on(pair, "from another address")
    assert pair.spis(1) == before
    assert pair.charons[1].text().count("initiating IKE_SA") == initiated
    ignored = [line for line in pair.charons[1].text().splitlines() if "appeared on" in line or "activated" in line]
    assert not [line for line in ignored if "lan" in line or NAMES[1] in line], ignored


def test_a_router_that_has_moved_starts_anew(pair):
    """Where it is now, nobody has written down: with `mobike` its identity is enough."""
    only_ipv4(pair)
    pair.sites.r1.namespace.ip(
        f"addr del {pair.sites.wan(1, 4)}/24 dev wan", "addr add 192.0.2.77/24 dev wan",
        f"route replace default via {pair.sites.gateway(1, 4)}",
    )
    pair.charons[2].start()
    pair.start_culvert(2, ike=tables(mobike="true"))
    pair.charons[1].start()
    text = pair.configuration(1, ike=tables(mobike="true")).replace(f'local = "{pair.sites.wan(1, 4)}"', 'local = "192.0.2.77"')
    pair.sites.r1.arguments = ["--vici", pair.charons[1].vici]
    pair.sites.r1.start(text)
    pair.wait_up(MOVED)
    assert pair.state(2)["remote"] == "192.0.2.77"


def test_a_far_end_dies_and_returns(pair):
    """Its silence is noticed, and said; when it is back, so is the tunnel."""
    pair.start(ike=tables())
    pair.sites.r2.daemon.stop(signal.SIGKILL)
    pair.charons[2].stop(signal.SIGKILL)
    pair.wait_reason(1, "the far end does not answer", MOVED)
    assert pair.state(1)["state"] == "down"
    assert pair.spis(1) == {"in": [], "out": []}
    pair.charons[2].start()
    pair.start_culvert(2)
    pair.wait_up(90)
    goes_on(pair, "after its return")


def test_who_is_heard_is_not_asked(pair):
    """While packets come in, charon hears of it, and sends no DPD."""
    pair.start(ike=tables())

    def asked():
        return sum(charon.text().count("sending DPD request") for charon in pair.charons.values())

    wait_for(lambda: asked() >= 2, 30, "DPD in silence")
    ping(pair.sites.h1, host(2, 4), count=30, interval=0.1)
    before = asked()
    ping(pair.sites.h1, host(2, 4), count=80, interval=0.1)
    # One may have been due already.
    assert asked() - before <= 1, pair.charons[1].text()[-2000:] + pair.charons[2].text()[-2000:]
