"""Changing a running configuration: what stays, what comes back by itself, and what a restart starts with."""

import json
import re
import signal
import socket
import stat
import time
from pathlib import Path

import pytest

from netns import wait_for
from prometheus import ENDPOINT, complaints, scrape
from routers import CULVERT, GRE, INNER, TRANSPORT, far, host, link
from traffic import Session, datagrams, ping, pings, start_tool, tool_result, wait_ping

DATAGRAMS = 3000


def command(router, *words, asks=True):
    """Runs a command, of the daemon's unless it asks nobody, to whatever end."""
    return router.namespace.run(CULVERT, *words, *(["--socket", router.socket] if asks else []), check=False)


def write(router, text, name="next.toml"):
    """A configuration beside the router's own."""
    path = router.file.with_name(f"{router.namespace.label}-{name}")
    path.write_text(text)
    path.chmod(0o600)
    return path


def more(count, first=0):
    """Tunnels to nobody."""
    return "".join(
        f'\n[[tunnel]]\nname = "t{number}"\nlocal = "192.0.2.1"\nremote = "198.18.{number // 250}.{number % 250 + 1}"\n'
        f'routes = ["100.{64 + number // 16384}.{number // 64 % 256}.{number % 64 * 4}/30"]\nprotect = "none"\n'
        for number in range(first, first + count)
    )


def sas(router):
    return {sa["direction"]: sa for sa in router.show("sas")["oslo"]}


def test_untouched_tunnels_lose_nothing(sites):
    """Tunnels come and go beside one that carries traffic: every datagram arrives, its SAs and counters go on."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    base = sites.configuration(1, TRANSPORT)
    with_more, with_others = write(router, base + more(20), "a.toml"), write(router, base + more(5, 50), "b.toml")
    index = link(router.namespace, "oslo")["ifindex"]
    before = sas(router)["out"]["used"], router.tunnel()["out_packets"]
    waiting = start_tool(sites.h2, "datagrams", "receive", host(2, 4))
    waiting.wait_ready()
    sender = start_tool(sites.h1, "datagrams", "send", host(2, 4), DATAGRAMS, 1000, 200)
    for file in (with_more, with_others, router.file, with_others):
        time.sleep(0.3)
        done = command(router, "apply", file, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["untouched"] >= 1
    assert sender.wait() == 0
    seen = tool_result(waiting)
    assert (seen["unique"], seen["reordered"], seen["corrupt"]) == (DATAGRAMS, 0, 0), seen
    assert sas(router)["out"]["used"] >= before[0] + DATAGRAMS and router.tunnel()["out_packets"] >= before[1] + DATAGRAMS
    assert link(router.namespace, "oslo")["ifindex"] == index
    wait_for(lambda: link(router.namespace, "t52") and link(router.namespace, "t3") is None, 5, "interfaces follow")
    assert set(router.show("tunnels")) == {"oslo", *(f"t{number}" for number in range(50, 55))}
    again = command(router, "apply", with_others)
    assert (again.returncode, again.stdout) == (0, "nothing changes\n")
    # Of those that went nothing is seen.
    nobody = command(router, "capture", "nobody", "-w", "-")
    assert nobody.returncode == 2 and "there is wan, lan, oslo, t5" in nobody.stderr, nobody
    assert not [route for route in router.show("routes") if re.match(r"0\..*/32", route["prefix"])]


def interfaces(router):
    """Those of the tunnels that lead to nobody."""
    return set(re.findall(r": (t\d+):", router.namespace.run("ip", "-o", "link").stdout))


def test_interfaces_follow_piece_by_piece(sites):
    """Hundreds of them are made while the daemon goes on answering, and go again when the change is taken back meanwhile."""
    sites.start(GRE)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    many = write(router, sites.configuration(1, GRE) + more(400))
    assert command(router, "apply", many, "--confirm", "60s").returncode == 0
    assert command(router, "rollback").returncode == 0
    wait_for(lambda: not interfaces(router), 20, "they go")
    assert command(router, "apply", many).returncode == 0
    wait_for(lambda: len(interfaces(router)) == 400, 30, "they are made", interval=0.2)
    others = write(router, sites.configuration(1, GRE) + more(300, 200))
    assert command(router, "apply", others).returncode == 0
    wait_for(lambda: interfaces(router) == {f"t{number}" for number in range(200, 500)}, 30, "they follow", interval=0.2)
    assert ping(sites.h1, host(2, 4), count=20).loss == 0


def test_diff(sites):
    """What would change, with an exit code of its own, and never a key."""
    sites.start(TRANSPORT)
    router = sites.r1
    same = command(router, "diff", router.file)
    assert (same.returncode, same.stdout) == (0, "nothing changes\n")
    base = sites.configuration(1, TRANSPORT)
    keys = re.findall(r'key = "([0-9a-f]+)"', base)
    other = keys[0][:-1] + ("0" if keys[0][-1] != "0" else "1")
    changed = base.replace(keys[0], other, 1).replace("[tunnel.protect]", "ttl = 9\n\n[tunnel.protect]") + more(1)
    done = command(router, "diff", write(router, changed))
    assert done.returncode == 3 and "tunnel t0: added" in done.stdout and "ttl: 64 -> 9" in done.stdout, done
    assert ".key: another one" in done.stdout
    shown = command(router, "diff", write(router, changed), "--json").stdout
    assert json.loads(shown)["tunnels"]["oslo"]["settings"]["ttl"] == {"from": 64, "to": 9}
    assert not any(key in done.stdout + shown for key in (*keys, other))
    assert set(router.show("tunnels")) == {"oslo"}


def test_refused_as_a_whole(sites):
    """What is wrong, and what takes a restart: code 2, and nothing has changed."""
    sites.start(GRE)
    router = sites.r1
    base = sites.configuration(1, GRE)
    for text, says in (
        (base + more(1).replace("protect", "protekt"), "protekt"),
        (base + '\n[[port]]\nname = "dmz"\ndevice = "tap:dmz0"\n', "restart culvert"),
        (base.replace("[engine]\n", "[engine]\nworkers = 3\n", 1) + more(1), "restart culvert"),
        (base + more(1).replace("100.64.0.0/30", "192.0.3.0/24"), "tunnel"),
    ):
        file = write(router, text)
        done = command(router, "apply", file)
        assert done.returncode == 2 and says in done.stderr, (says, done)
        # A diff tells before: of what is wrong as the apply does, and what takes a restart.
        told = command(router, "diff", file)
        expected = (3, "takes a restart") if says == "restart culvert" else (2, says)
        assert told.returncode == expected[0] and expected[1] in told.stdout + told.stderr, (says, told)
        assert set(router.show("tunnels")) == {"oslo"} and link(router.namespace, "t0") is None
    for words, says in ((["confirm"], "nothing waits"), (["rollback"], "nothing to go back to")):
        done = command(router, *words)
        assert done.returncode == 1 and says in done.stderr
    wait_ping(sites.h1, host(2, 4))


def test_nonsense_from_a_client(sites):
    """A time to confirm in that no clock has is refused, and the daemon goes on."""
    sites.start(GRE)
    text = sites.configuration(1, GRE) + more(1)
    files = {"c.toml": {"mode": 0o600, "content": {"text": text}}}
    body = json.dumps({"top": "c.toml", "files": files, "lists": {}, "again": []}).encode()
    for more_said, says in (
        ({"confirm": 2**64 - 1}, "confirm: give 1 to 86400 seconds"),
        ({"confirm": 0}, "confirm: give"),
        ({"watch": ["192.0.2.9"] * 17}, "at most 16"),
        ({"watch": ["192.0.2"]}, "invalid IP address"),
    ):
        request = {"version": 1, "command": "apply", "length": len(body), **more_said}
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(sites.r1.socket))
            client.sendall(json.dumps(request).encode() + b"\n" + body)
            answer = json.loads(client.makefile().readline())
        assert answer["code"] == 2 and says in answer["error"], answer
    assert set(sites.r1.show("tunnels")) == {"oslo"}


def test_a_rollback_is_not_refused(sites):
    """What ran before would be refused as a change by now, as the host leads a tunnel of it into the other. It runs again all the
    same, and that tunnel is held, as it would have been."""
    sites.start(GRE)
    router = sites.r1
    assert command(router, "apply", write(router, sites.configuration(1, GRE) + more(1))).returncode == 0
    assert command(router, "apply", router.file, "--confirm", "2s").returncode == 0
    router.namespace.ip("route add 198.18.0.1/32 dev oslo")
    wait_for(lambda: "t0" in router.show("tunnels"), 5, "it is taken back")
    assert router.show("tunnels")["t0"]["nesting"]["path"] == ["t0", "oslo"]
    assert command(router, "confirm").returncode == 1
    wait_ping(sites.h1, host(2, 4))


def test_a_change_that_cuts_the_operator_off_is_undone(sites):
    """The session runs through the tunnel that the change breaks; nobody can confirm, and it comes back by itself."""
    sites.start(TRANSPORT)
    wait_ping(sites.h2, INNER[1][4])
    router = sites.r1
    session = Session(sites.h2, router.namespace, INNER[1][4])
    broken = sites.configuration(1, TRANSPORT).replace(sites.wan(2, 4), "192.0.3.77")
    used = sas(router)["out"]["used"]
    done = command(router, "apply", write(router, broken), "--confirm", "3s")
    assert done.returncode == 0 and "taken back in 3 s" in done.stdout, done
    assert not pings(sites.h2, INNER[1][4])
    second = command(router, "apply", router.file)
    assert second.returncode == 1 and "waits to be confirmed" in second.stderr
    wait_ping(sites.h2, INNER[1][4], timeout=6)
    result = session.end()
    assert not result["broken"] and 2 < result["longest_gap"] < 6, result
    assert sas(router)["out"]["used"] > used, "numbers go on"
    assert command(router, "confirm").returncode == 1


def test_watched_addresses(sites):
    """A tunnel that is set up wrongly on both ends: each end watches the other's inner address, and each goes back by itself. With
    --confirm as well it is at once, not when the time is up. A change that hurts nobody stays, and what was silent before is no reason."""
    sites.start(TRANSPORT)
    for site, router in sites.routers.items():
        wait_ping(router.namespace, INNER[far(site)][4])
    waiting = {}
    for site, router in sites.routers.items():
        wrong = sites.configuration(site, TRANSPORT).replace(sites.wan(far(site), 4), f"192.0.{far(site) + 1}.77")
        words = ["apply", write(router, wrong), "--watch", f"{INNER[far(site)][4]},198.18.0.9", "--socket", router.socket]
        waiting[site] = router.namespace.start(CULVERT, *words, name=f"apply-{site}")
    for site, router in sites.routers.items():
        waiting[site].wait()
        assert waiting[site].child.returncode == 1
        assert f"rolled back, as {INNER[far(site)][4]} has stopped answering" in waiting[site].text()
        wait_ping(router.namespace, INNER[far(site)][4], timeout=2)
        assert command(router, "diff", router.file).returncode == 0
    router, inner = sites.r1, INNER[2][4]
    base = sites.configuration(1, TRANSPORT)
    start = time.monotonic()
    done = command(router, "apply", write(router, base.replace(sites.wan(2, 4), "192.0.3.77")), "--watch", inner, "--confirm", "60s")
    assert done.returncode == 0 and f"at once if it stops answering: {inner}" in done.stdout, done
    assert command(router, "diff", router.file).returncode == 3
    wait_for(lambda: command(router, "diff", router.file).returncode == 0, 5, "it is taken back")
    assert 1 < time.monotonic() - start
    again = command(router, "confirm")
    assert again.returncode == 1 and f"rolled back, as {inner} has stopped answering" in again.stderr
    none = command(router, "apply", write(router, base + more(1)), "--watch", "198.18.0.9")
    assert none.returncode == 1 and "none of the addresses answers" in none.stderr
    assert set(router.show("tunnels")) == {"oslo"}
    # It waits while it watches, and stays.
    start = time.monotonic()
    done = command(router, "apply", write(router, base + more(1)), "--watch", f"{inner},{sites.wan(2, 4)},198.18.0.9", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and (set(result["watched"]), result["silent"]) == ({inner, sites.wan(2, 4)}, ["198.18.0.9"])
    assert 10 <= time.monotonic() - start < 15
    assert command(router, "confirm").returncode == 1
    router.daemon.kill()
    router.start()
    assert set(router.show("tunnels")) == {"oslo", "t0"}


def test_confirmed_and_rolled_back(sites):
    """Confirmed, it stays; rolled back, it is as before; the SA that went and came goes on."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    without = f"[engine]\n\n{sites.configuration(1, TRANSPORT).split('[[tunnel]]')[0].split('[engine]')[1]}" + more(1)
    used = sas(router)["out"]["used"]
    assert command(router, "apply", write(router, without), "--confirm", "1s").returncode == 0
    assert command(router, "confirm").stdout == "confirmed\n"
    time.sleep(1.5)
    assert set(router.show("tunnels")) == {"t0"} and link(router.namespace, "oslo") is None
    assert command(router, "rollback").returncode == 0
    assert set(router.show("tunnels")) == {"oslo"}
    wait_ping(sites.h1, host(2, 4))
    assert ping(sites.h1, host(2, 4), count=20).loss == 0 and sas(router)["out"]["used"] > used
    assert router.drops("esp-replay") == 0 and sites.r2.drops("esp-replay") == 0


def state_of(router):
    return router.socket.with_name(router.socket.name + ".state")


@pytest.mark.parametrize("confirmed", [False, True])
def test_killed(sites, confirmed):
    """Killed in the window, the next start has the configuration before; once confirmed, the one that was applied. A file that
    was changed since comes first, and what is kept is its owner's alone."""
    sites.start(GRE)
    router = sites.r1
    file = write(router, sites.configuration(1, GRE) + more(1))
    assert command(router, "apply", file, "--confirm", "60s").returncode == 0
    if confirmed:
        assert command(router, "confirm").returncode == 0
    router.daemon.kill()
    folder = state_of(router)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    router.start()
    assert set(router.show("tunnels")) == ({"oslo", "t0"} if confirmed else {"oslo"}), router.daemon.text()
    wait_ping(sites.h1, host(2, 4))
    router.daemon.kill()
    router.start(sites.configuration(1, GRE) + more(1, 7))
    assert set(router.show("tunnels")) == {"oslo", "t7"}
    router.daemon.kill()
    (folder / "state").write_bytes((folder / "state").read_bytes()[:-3])
    router.start()
    assert set(router.show("tunnels")) == {"oslo", "t7"} and "set aside" in router.daemon.text()
    assert (folder / "state.damaged").exists()


# System calls of the state's way to the disk, in their order; each by its how-manieth one of an apply. Two files are written and
# renamed, the folder is brought to the disk after each, and the configuration before last goes.
STEPS = [
    *((call, nth) for nth in (1, 2) for call in ("fsync", "rename")),
    *(("fsync", nth) for nth in (3, 4)),
    ("unlink", 3),
]


def test_killed_at_every_step_of_an_apply(sites):
    """The old configuration or the new one, and the old one for as long as the new one is not on the disk: strace kills the daemon
    as it is about to take each step."""
    sites.start(GRE)
    router = sites.r1
    base = sites.configuration(1, GRE)
    # There is one before last.
    assert command(router, "apply", write(router, base + more(1, 900))).returncode == 0
    assert command(router, "apply", write(router, base + more(1, 901))).returncode == 0
    outcomes = []
    for turn, (call, nth) in enumerate(STEPS):
        before, names = set(router.show("tunnels")), {f"t{number}" for number in range(10 * turn, 10 * turn + 5)}
        words = ["-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={nth}"]
        tracer = router.namespace.start("strace", *words, "-p", router.daemon.pid, name=f"strace-{turn}")
        wait_for(lambda: "TracerPid:\t0" not in Path(f"/proc/{router.daemon.pid}/status").read_text(), 5, "strace is there")
        done = command(router, "apply", write(router, base + more(5, 10 * turn)))
        wait_for(lambda: not router.daemon.running, 5, f"killed at {call} {nth}: {done}")
        tracer.wait()
        assert done.returncode == 1
        router.start()
        after = set(router.show("tunnels"))
        assert after in (before, {"oslo"} | names), (call, nth)
        outcomes.append(after == before)
    assert outcomes[0] and not outcomes[-1] and outcomes == sorted(outcomes, reverse=True), outcomes
    wait_ping(sites.h1, host(2, 4))


def test_several_at_once(sites):
    """Of several changes at the same time one is made, and the others are told; so are those who come while it waits."""
    sites.start(GRE)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    base = sites.configuration(1, GRE)
    applies = [
        router.namespace.start(
            CULVERT, "apply", write(router, base + more(3, 10 * nth), f"{nth}.toml"), "--confirm", "60s", "--socket", router.socket
        )
        for nth in range(6)
    ]
    codes = [apply.wait() for apply in applies]
    assert sorted(codes) == [0, 1, 1, 1, 1, 1]
    assert all("waits to be confirmed" in apply.text() for apply, code in zip(applies, codes) if code)
    winner = {"oslo", *(f"t{10 * codes.index(0) + number}" for number in range(3))}
    router.daemon.child.send_signal(signal.SIGHUP)
    router.daemon.wait_text("is not applied: a change waits to be confirmed")
    assert set(router.show("tunnels")) == winner
    ends = [router.namespace.start(CULVERT, "confirm", "--json", "--socket", router.socket) for _ in range(3)]
    assert sorted(end.wait() for end in ends) == [0, 1, 1]
    assert set(router.show("tunnels")) == winner


def test_a_file_for_each_tunnel(sites):
    """As configuration management has it: files that come, change and go in conf.d, exit codes, and nothing done twice."""
    sites.start(GRE)
    router = sites.r1
    folder = router.file.with_name(f"{router.namespace.label}-conf.d")
    folder.mkdir()
    top = write(router, f'include = ["{folder.name}/*.toml"]\n' + sites.configuration(1, GRE), "top.toml")

    def applied():
        done = command(router, "apply", top, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert applied()["changed"] is False
    sa = '[tunnel.protect]\n[[tunnel.protect.manual]]\ndirection = "{}"\nspi = {}\nsuite = "aes128gcm16"\nkey_file = "{}.key"\n'
    both = sa.format("out", 1000, "out") + sa.format("in", 1001, "in").split("\n", 1)[1]
    for name, digit in (("out", "1"), ("in", "2")):
        (folder / f"{name}.key").write_text(digit * 40)
        (folder / f"{name}.key").chmod(0o600)
    (folder / "a.toml").write_text(more(1).replace('protect = "none"\n', both))
    (folder / "b.toml").write_text(more(1, 1))
    assert command(router, "check", "-c", top, asks=False).returncode == 0
    assert command(router, "diff", top).returncode == 3
    assert set(applied()["tunnels"]) == {"t0", "t1"}
    assert applied()["changed"] is False and command(router, "diff", top).returncode == 0
    (folder / "out.key").write_text("3" * 40)
    (folder / "b.toml").unlink()
    changed = applied()["tunnels"]
    assert (changed["t0"]["change"], changed["t1"]["change"]) == ("changed", "removed")
    (folder / "c.toml").write_text("[[tunnel]]\n")
    wrong = command(router, "apply", top)
    assert wrong.returncode == 2 and "c.toml:1" in wrong.stderr and set(router.show("tunnels")) == {"oslo", "t0"}


def test_reloaded_and_switched(sites):
    """SIGHUP applies the file as it is now; a tunnel is switched off and on by hand."""
    sites.start(TRANSPORT)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    router.file.write_text(sites.configuration(1, TRANSPORT) + more(1))
    router.daemon.child.send_signal(signal.SIGHUP)
    wait_for(lambda: "t0" in router.show("tunnels"), 3, "the file is applied")
    router.file.write_text("nonsense")
    router.daemon.child.send_signal(signal.SIGHUP)
    router.daemon.wait_text("is not applied")
    assert command(router, "tunnel", "down", "oslo").returncode == 0
    assert router.tunnel()["state"] == "down" and router.tunnel()["why"] == "switched off"
    assert not pings(sites.h1, host(2, 4)) and link(router.namespace, "oslo") is None
    assert command(router, "tunnel", "up", "oslo").returncode == 0
    wait_ping(sites.h1, host(2, 4))
    assert ping(sites.h1, host(2, 4), count=20).loss == 0
    rekey = command(router, "tunnel", "rekey", "oslo")
    assert rekey.returncode == 1 and "its keys are fixed" in rekey.stderr
    none = command(router, "tunnel", "up", "nobody")
    assert none.returncode == 2 and "none of this name" in none.stderr


def test_ten_thousand_tunnels_beside_one_under_load(sites):
    """They come, some of them change, they are measured, and they go: whoever is not touched loses nothing. They carry Ethernet
    frames, so that times are those of the changes and not of making interfaces. (`pytest -s` shows the times.)"""
    sites.start(TRANSPORT, engine=f'workers = 1\n\n[metrics]\nlisten = "{ENDPOINT}"\n')
    wait_ping(sites.h1, host(2, 4))
    router, base = sites.r1, sites.r1.file.read_text()
    many = re.sub(r"routes = .*\n", 'payload = "ethernet"\n', more(10_000))
    big = write(router, base + many)
    others = write(router, base + many.replace('"t7"', '"seven"').replace('"198.18.0.9"\n', '"198.18.0.9"\nttl = 9\n'), "others.toml")
    waiting = start_tool(sites.h2, "datagrams", "receive", host(2, 4))
    waiting.wait_ready()
    # As long as it takes.
    sender = start_tool(sites.h1, "datagrams", "send", host(2, 4), 1_000_000, 1000, 200)
    times = {}
    for name, file, changed in (("add", big, 10_000), ("change", others, 3), ("remove", router.file, 10_000)):
        begun = time.monotonic()
        done = command(router, "apply", file, "--json")
        times[name] = round(time.monotonic() - begun, 2)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert (len(result["tunnels"]), result["untouched"]) == (changed, 1 if changed > 3 else 9_999)
        if name == "change":
            begun = time.monotonic()
            text = scrape(router)
            times["scrape"] = round(time.monotonic() - begun, 2)
            series = [line for line in text.splitlines() if not line.startswith("#")]
            assert complaints(text) == "" and 10_000 < len(series) < 200_000, len(series)
    assert sender.running, "the changes were under load"
    sent, seen = tool_result(sender)["sent"], tool_result(waiting)
    print(json.dumps({"seconds": times, "series": len(series), "bytes": len(text), "datagrams": sent}))
    assert (seen["unique"], seen["reordered"], seen["corrupt"]) == (sent, 0, 0), seen
    # Far from what they take; a machine may have other work.
    assert max(times.values()) < 30, times
