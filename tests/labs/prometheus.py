"""A Prometheus that scrapes the daemon of a router, and promtool: the programs themselves, from Debian's package."""

import json
import os
import urllib.parse
from pathlib import Path

from netns import Trouble, command, wait_for

FOLDER = Path(os.environ.get("PROMETHEUS", Path.home() / ".cache/culvert/prometheus")) / "usr/bin"
READY = 10.0  # seconds
ENDPOINT = "127.0.0.1:9178"  # where the daemon gives its metrics
ITSELF = "127.0.0.1:9090"

CONFIGURATION = f"""
global: {{ scrape_interval: 1s, scrape_timeout: 1s }}
scrape_configs:
  - job_name: culvert
    static_configs: [{{ targets: ["{ENDPOINT}"] }}]
"""

# An answer that is an error is an answer as well: it says what is wrong.
FETCH = """
import json, sys, urllib.error, urllib.request
def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=5).read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
json.dump([fetch(url) for url in json.load(sys.stdin)], sys.stdout)
"""


def fetch(namespace, *urls):
    """What is behind addresses that only this namespace reaches, by one program for all of them."""
    return json.loads(namespace.run("python3", "-S", "-c", FETCH, input=json.dumps(urls)).stdout)


def scrape(router):
    """The metrics of a router's daemon, as text."""
    return fetch(router.namespace, f"http://{ENDPOINT}/metrics")[0]


def complaints(text):
    """What promtool finds wrong with metrics. Nothing: it exits with 0 and says nothing."""
    done = command(FOLDER / "promtool", "check", "metrics", input=text, check=False)
    return done.stdout + done.stderr if done.returncode or done.stderr else ""


class Prometheus:
    """Prometheus in a router's namespace."""

    def __init__(self, router, folder):
        self.namespace = router.namespace
        file = folder / "prometheus.yml"
        file.write_text(CONFIGURATION)
        self.process = router.namespace.start(
            FOLDER / "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address={ITSELF}",
            name="prometheus",
        )
        self.process.wait_text("Server is ready to receive web requests", READY)

    def query(self, *expressions):
        """The results of queries; `Trouble` where one is none."""
        urls = [f"http://{ITSELF}/api/v1/query?{urllib.parse.urlencode({'query': one})}" for one in expressions]
        answers = [json.loads(answer) for answer in fetch(self.namespace, *urls)]
        for expression, answer in zip(expressions, answers, strict=True):
            if answer["status"] != "success":
                raise Trouble(f"{expression}: {answer}")
        return [answer["data"]["result"] for answer in answers]

    def wait_for(self, expression):
        """Waits until a query has a result."""
        return wait_for(lambda: self.query(expression)[0], READY, expression, interval=0.3)

    def stop(self):
        self.process.stop()
