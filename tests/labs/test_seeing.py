"""What an operator sees: metrics read by Prometheus itself, the dashboard's queries, the API held against its schema, the log,
`culvert top` on a terminal, and completion in shells."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import jsonschema
import pytest
from netns import command, wait_for
from prometheus import ENDPOINT, Prometheus, complaints, scrape
from prometheus_client.parser import text_string_to_metric_families
from routers import CULVERT, GRE, TRANSPORT, host
from test_daemon import WHAT, ask
from traffic import ping, wait_ping

DOCS = Path(__file__).resolve().parents[2] / "docs"
METRICS = f'workers = 1\n\n[metrics]\nlisten = "{ENDPOINT}"\n'


def samples(text):
    """Metrics by name and labels, read by Prometheus' own Python client."""
    read = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in read, key
            read[key] = sample.value
    return read


def test_metrics(sites):
    """Promtool has nothing to say against them; they are what `show` shows; nobody reads them from outside."""
    sites.start(TRANSPORT, engine=METRICS)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    ping(sites.h1, "10.2.0.77", count=3, interval=0.05)  # nobody has this address
    text = scrape(router)
    assert complaints(text) == ""
    read = samples(text)
    tunnel = router.tunnel()

    def one(name, **labels):
        return read[(name, tuple(sorted(labels.items())))]

    assert one("culvert_tunnel_up", tunnel="oslo") == 1 and one("culvert_tunnel_held", tunnel="oslo") == 0
    assert one("culvert_tunnel_mtu_bytes", tunnel="oslo") == tunnel["mtu"]
    for way, shown in (("receive", "in"), ("transmit", "out")):
        for what in ("packets", "bytes"):
            count = one(f"culvert_tunnel_{way}_{what}_total", tunnel="oslo")
            assert 0 < count <= tunnel[f"{shown}_{what}"]
            assert one(f"culvert_worker_{way}_{what}_total", worker="0") == count
    assert one("culvert_port_up", port="wan", device="xdp:wan") == 1
    for port in ("wan", "lan"):
        assert one("culvert_port_receive_frames_total", port=port) > 0
    sas = router.show("sas")["oslo"]
    for sa in sas:
        labels = {"tunnel": "oslo", "direction": sa["direction"], "spi": f"{sa['spi']:#010x}"}
        assert one("culvert_sa_live", **labels) == 1 and 0 < one("culvert_sa_age_seconds", **labels) < sa["age"]
        assert one("culvert_sa_sequence_number", **labels) <= sa.get("used", sa.get("highest"))
    # Every reason is there from the start, so that its first drop is a rate as well.
    reasons = {labels[0][1] for name, labels in read if name == "culvert_drops_total"}
    assert set(router.show("drops")) <= reasons and len(reasons) > 30
    assert abs(one("culvert_start_time_seconds") - time.time()) < 60
    printed = router.namespace.run(CULVERT, "metrics", "--socket", router.socket).stdout
    assert set(samples(printed)) == set(read)
    assert TRANSPORT.outbound(1).key.hex() not in text
    outside = sites.h1.run("python3", "-c", "import socket, sys; socket.create_connection((sys.argv[1], 9178), 2)", "10.1.0.1", check=False)
    assert outside.returncode != 0


def expressions(dashboard):
    """The queries of a dashboard, with Grafana's variables as Grafana would fill them in."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5s")
            yield panel["title"], re.sub(r"\$\w+", ".*", query)


def test_the_dashboard_finds_what_it_asks_for(sites, tmp_path):
    """Prometheus scrapes the daemon, and every query of the dashboard has a result; so have those that fill its variables."""
    sites.start(TRANSPORT, engine=METRICS)
    wait_ping(sites.h1, host(2, 4))
    prometheus = Prometheus(sites.r1, tmp_path)
    load = sites.h1.start("ping", "-q", "-i", "0.01", host(2, 4), name="ping")
    # Rates take two scrapes.
    prometheus.wait_for("rate(culvert_tunnel_transmit_packets_total[5s]) > 10")
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    asked = list(expressions(dashboard))
    assert len(asked) > 20
    for (title, expression), result in zip(asked, prometheus.query(*(expression for _, expression in asked)), strict=True):
        assert result, f"{title}: {expression}"
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            assert all(label in result["metric"] for result in prometheus.query(metric)[0]), variable
    # A series that nobody looks at is one too many.
    names = {name for name, _ in samples(scrape(sites.r1))}
    seen = {name for name in names if any(name in expression for _, expression in asked)}
    assert names - seen <= {"culvert_build_info", "culvert_carp_hooks_total", "culvert_worker_copied_bytes_total", "culvert_worker_copied_frames_total", "culvert_port_mtu_bytes", "culvert_sa_live", "culvert_sa_sequence_number",
                            "culvert_worker_receive_packets_total", "culvert_worker_transmit_packets_total"}, names - seen
    load.stop()
    prometheus.stop()


def test_what_is_answered_is_what_the_schema_says(sites):
    """Every reply of the daemon, and records of its streams, by an implementation of JSON schema that is not ours."""
    sites.start(TRANSPORT, engine=METRICS)
    wait_ping(sites.h1, host(2, 4))
    router = sites.r1
    whole = json.loads((DOCS / "api.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(whole)

    def check(of, name):
        schema = {"$ref": f"#/$defs/{name}", "$defs": whole["$defs"]}
        jsonschema.Draft202012Validator(schema).validate(of)

    def request(**of):
        check(of, "Request")
        return json.dumps(of).encode() + b"\n"

    for what in WHAT:
        reply = ask(router, request(version=1, command="show", what=what))
        check(reply, "Reply")
        check(reply["result"], "Shown")
        assert list(reply["result"]) == [what]
    # So does what stands in for a daemon in the tests of the command line.
    check(json.loads((DOCS.parent / "tests/fixtures/cli/answers.json").read_text())["show"], "Shown")
    for broken in (b"{}\n", b"[]\n", request(version=1, command="watch", what=[], every=1)):
        reply = ask(router, broken)
        check(reply, "Reply")
        assert reply["ok"] is False and reply["code"] == 2
    watched = router.namespace.start(CULVERT, "show", "tunnels", "--watch", "--json", "--socket", router.socket, name="watch")
    wait_for(lambda: watched.out.read_text().count("\n") >= 2, 5, "two records")
    for line in watched.out.read_text().splitlines()[:2]:
        check(json.loads(line), "Shown")
    # Left alone, it ends with the daemon and says so.
    router.stop()
    assert watched.wait(5) == 1 and "the daemon ends" in watched.err.read_text()
    with pytest.raises(jsonschema.ValidationError):
        check({"tunnels": {"oslo": {"state": "up"}}}, "Shown")


def test_the_log(sites):
    """Lines of JSON with levels and what they are about; `--log` goes before the configuration; no key at any level."""
    router = sites.r1
    sites.routers = {1: router}
    log = 'workers = 1\n\n[log]\nlevel = "error"\nformat = "json"\n'
    router.file.write_text(sites.configuration(1, TRANSPORT, engine=log))
    router.file.chmod(0o600)
    words = [CULVERT, "run", "-c", router.file, "--socket", router.socket, "--log", "debug"]
    daemon = router.namespace.start(*words, name="culvert-log")
    daemon.wait_ready()

    def lines():
        return [json.loads(line) for line in daemon.err.read_text().splitlines()]

    wait_for(lambda: [line for line in lines() if line.get("tunnel") == "oslo"], 5, "a line about the tunnel")
    router.namespace.ip("link set wan down")
    wait_for(lambda: [line for line in lines() if line.get("port") == "wan" and line["level"] == "warn"], 5, "the port is down")
    assert daemon.stop() == 0
    assert {line["level"] for line in lines()} >= {"debug", "info", "warn"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines())
    assert TRANSPORT.outbound(1).key.hex() not in daemon.text()


def test_the_log_is_changed_by_an_apply(sites):
    """At once, both ways; where metrics are, is set at the start."""
    router = sites.r1

    def write(level, form, more=""):
        log = f'workers = 1\n\n[log]\nlevel = "{level}"\nformat = "{form}"\n{more}'
        router.file.write_text(sites.configuration(1, GRE, engine=log))
        router.file.chmod(0o600)

    def apply(check=True):
        return router.namespace.run(CULVERT, "apply", router.file, "--socket", router.socket, check=check)

    write("error", "text")
    daemon = router.namespace.start(CULVERT, "run", "-c", router.file, "--socket", router.socket, name="culvert-log")
    daemon.wait_ready()
    assert daemon.err.read_text() == ""
    write("info", "json")
    assert "log.level: error -> info" in apply().stdout
    wait_for(daemon.err.read_text, 5, "a line")
    assert json.loads(daemon.err.read_text())["msg"].startswith("applied: ")
    router.namespace.run(CULVERT, "rollback", "--socket", router.socket)
    written = daemon.err.read_text()
    write("info", "json", f'[metrics]\nlisten = "{ENDPOINT}"\n')
    refused = apply(check=False)
    assert refused.returncode == 2 and "restart culvert" in refused.stderr
    write("error", "logfmt")
    apply()
    assert daemon.err.read_text() == written
    assert daemon.stop() == 0


# --- culvert top ----------------------------------------------------------------------------------------------------


class Screen:
    """A terminal with one program in it, kept by a tmux of its own."""

    def __init__(self, namespace, folder, *words, width=80, height=24):
        self.socket = folder / "tmux"
        env = {name: value for name, value in os.environ.items() if name != "TMUX"}
        self.env = env | {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        # tmux itself now and then misses how a program ended.
        command_line = [*namespace.inside("sh", "-c", '"$@"; echo "ended with $?"; exec cat', "sh", *words)]
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", width, "-y", height, *command_line)

    def tmux(self, *words):
        return command("tmux", "-S", self.socket, *words, env=self.env).stdout

    def text(self):
        return self.tmux("capture-pane", "-p")

    def press(self, *keys):
        self.tmux("send-keys", *keys)

    def wait(self, pattern, timeout=8.0):
        """Waits until the screen matches, and gives the match."""
        return wait_for(lambda: re.search(pattern, self.text(), re.M), timeout, f"{pattern!r} in\n{self.text()}")


@pytest.fixture
def screens(tmp_path):
    """Makes screens, and ends them."""
    made = []

    def make(*words, **options):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Screen(*words[:1], folder, *words[1:], **options))
        return made[-1]

    yield make
    for screen in made:
        command("tmux", "-S", screen.socket, "kill-server", check=False)


def test_top(sites, screens):
    """Under load at 80x24: rates that are those of the load, keys, another size, a daemon that ends and comes back."""
    sites.start(TRANSPORT, engine="workers = 1")
    wait_ping(sites.h1, host(2, 4))
    load = sites.h1.start("ping", "-q", "-i", "0.01", "-s", "972", host(2, 4), name="ping")
    top = screens(sites.r1.namespace, CULVERT, "top", "--socket", sites.r1.socket)
    row = top.wait(r"^oslo +up +(\d+)k +(\d+)k +(\d+) +(\d+) .*[▁-█]$")
    # 100 packets of 1000 bytes a second each way, as far as a busy machine sends them.
    assert all(200 < int(bits) < 900 for bits in row.groups()[:2]) and all(25 < int(packets) < 115 for packets in row.groups()[2:])
    lines = top.text().splitlines()
    assert re.fullmatch(r"culvert top  up \d+s  tunnels 1/1  in \d+k out \d+k bit/s  drops \d+/s", lines[0]), lines[0]
    assert re.match(r"ports  lan rx \d+ tx \d+  wan rx \d+ tx \d+|ports  lan rx \d+ tx \d+ wan", lines[1]), lines[1]
    assert lines[2].split() == "worker core cpu% frame/s in b/s out b/s in p/s out p/s".split()
    assert lines[23] == "? help  s sort: traffic  / filter  p pause  Enter details  q quit"
    top.press("?")
    top.wait("p, space +pause")
    top.press("Escape")
    top.press("s")
    top.wait("sort: packets")
    top.press("/", "n", "o", "n", "e")
    top.wait("filter: none")
    assert "oslo" not in top.text()
    top.press("Escape")
    top.wait("^oslo")
    top.press("Enter")
    top.wait(r"^SA out 0x00001001 aes128gcm16 live, age \d+s, number \d+, [\d.]+G left")
    top.wait(r"^tunnel oslo  up")
    top.press("Enter")
    top.press("p")
    top.wait("PAUSED")
    before = top.text()
    time.sleep(1.5)
    assert top.text() == before
    top.press("p")
    top.tmux("resize-window", "-x", "120", "-y", "40")
    top.wait(r"(?s)^oslo +up.{80,}\n\? help")
    assert len(top.text().splitlines()) == 40
    top.tmux("resize-window", "-x", "60", "-y", "12")
    top.wait("^oslo")
    sites.r1.stop()
    top.wait("no daemon")
    sites.r1.start()
    top.wait(r"up \ds  tunnels 1/1")
    top.press("q")
    # On the screen that was there before.
    top.wait("^ended with 0$")
    assert "tunnels" not in top.text()
    load.stop()


def test_top_says_what_it_needs(sites):
    """A daemon, and a terminal."""
    done = sites.r1.namespace.run(CULVERT, "top", "--socket", sites.r1.socket, check=False)
    assert done.returncode == 1 and "no terminal" in done.stderr


# --- completion -----------------------------------------------------------------------------------------------------

BASH = """
source <(culvert completions bash)
COMP_WORDS=({words}) COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )) COMP_TYPE=9
$(complete -p culvert | sed -E 's/.*-F ([^ ]+) culvert/\\1/') culvert "${{COMP_WORDS[COMP_CWORD]}}" ""
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = 'culvert completions fish | source; complete -C "{words}"'


def complete(router, shell, script, words):
    """What a shell offers in place of the last word."""
    env = os.environ | {"PATH": f"{CULVERT.parent}:{os.environ['PATH']}", "HOME": str(router.file.parent)}
    done = router.namespace.run(shell, *(["--norc"] if shell == "bash" else []), "-c", script.format(words=words), env=env)
    assert done.stderr == "", done.stderr
    return {line.split("\t")[0].strip() for line in done.stdout.splitlines() if line.strip()}


@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("fish", FISH)])
def test_completion(sites, shell, script):
    """Commands and values, and the names of what the daemon has; without a daemon none, and no word about it."""
    assert shutil.which(shell)
    router = sites.r1
    assert "tunnels" in complete(router, shell, script, "culvert show t")
    capture = f"culvert capture --socket {router.socket} "
    empty = "''" if shell == "bash" else ""
    assert not {"oslo", "wan"} & complete(router, shell, script, capture + empty)
    router.start(sites.configuration(1, GRE))
    assert {"oslo", "wan", "lan"} <= complete(router, shell, script, capture + empty)
    assert complete(router, shell, script, capture + "os") == {"oslo"}
    switched = complete(router, shell, script, f"culvert tunnel --socket {router.socket} down " + empty)
    assert "oslo" in switched and "wan" not in switched


def test_completion_on_zsh(sites, screens):
    """zsh completes on a terminal alone."""
    router = sites.r1
    router.start(sites.configuration(1, GRE))
    screen = screens(router.namespace, "env", f"PATH={CULVERT.parent}:{os.environ['PATH']}", "zsh", "-f")
    screen.press("autoload -U compinit; compinit -u -D; source <(culvert completions zsh); PS1='ready> '", "Enter")
    screen.wait("^ready>$", timeout=30)  # compinit reads a thousand functions
    screen.press(f"culvert capture --socket {router.socket} os", "Tab")
    screen.wait(r"capture --socket \S+ oslo")
