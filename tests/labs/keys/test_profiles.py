"""What strongSwan is told of a tunnel, as the operator sees it; and what is offered to far ends that do not take everything."""

import json

import pytest

from netns import Trouble, wait_for
from routers import CULVERT, NAMES, host
from traffic import ping

PROFILES = ["cisco", "aws", "azure", "google"]


def show_ike(pair, site, *words):
    router = pair.sites.routers[site]
    done = router.namespace.run(CULVERT, "tunnel", "show-ike", NAMES[site], "--socket", router.socket, *words)
    return done.stdout


def tables(**more):
    extra = "\n".join(f"{key} = {value}" for key, value in more.items())
    return {site: f'auth = "psk"\npsk = "a secret that nobody prints"\n{extra}' for site in (1, 2)}


def test_what_strongswan_was_told(pair):
    """Beside what it has; the secret is not there; and a connection that somebody else has unloaded is missed."""
    pair.start(ike=tables())
    text = show_ike(pair, 1)
    assert "no difference" in text and "differs" not in text, text
    for words in ("culvert-oslo {", "esp_proposals = aes128gcm16-x25519-ecp256-ecp384-esn", "load-shared: IKE, for 192.0.2.1, 192.0.3.2"):
        assert words in text, text
    assert "nobody prints" not in text
    shown = json.loads(show_ike(pair, 1, "--json"))
    assert shown["strongswan"] and shown["loaded"] and shown["differences"] == [] and not shown["waiting"]
    # An operator loads his own files: VICI's connections that are not in them go.
    pair.charons[1].swanctl("--load-conns", "--file", "/dev/null")

    def missed():
        return "differs: strongSwan has no connection culvert-oslo" in show_ike(pair, 1)

    wait_for(missed, 20, "the connection that is gone")
    pair.charons[1].stop()
    wait_for(lambda: "has not answered" in show_ike(pair, 1), 20, "that nobody answers")


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles(pair, profile):
    """strongSwan takes what is offered; two ends of a profile agree on the first of it, without extended sequence numbers."""
    pair.start(ike=tables(profile=f'"{profile}"'), suites=["chacha20poly1305", "aes256gcm16", "aes128gcm16"])
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
    assert "no difference" in show_ike(pair, 1)
    [ours, *_] = pair.sites.r1.show("sas")[NAMES[1]]
    assert ours["suite"] == "aes256gcm16"
    assert "esp_proposals = aes256gcm16" in show_ike(pair, 1) and "-esn" not in show_ike(pair, 1)


# What the far end of each profile is said to take at least: IKE and ESP proposals as swanctl.conf has them.
FAR = {
    "cisco": ("aes256-sha256-ecp256", "aes256gcm16-noesn"),
    "aws": ("aes256gcm16-prfsha384-modp2048", "aes256gcm16-modp2048-noesn"),
    "azure": ("aes256-sha384-ecp384", "aes256gcm16-noesn"),
    "google": ("aes256gcm16-prfsha256-modp2048", "aes256gcm16-modp2048-noesn"),
}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_far_end_that_takes_little(pair, profile):
    """A strongSwan with one proposal, set up by hand as such a gateway is, agrees."""
    ike, esp = FAR[profile]
    pair.charons[1].start()
    pair.start_culvert(1, ike=tables(profile=f'"{profile}"'), suites=["aes256gcm16"])
    far = pair.charons[2].start()
    # Culvert is there for its SAs to go to, its tunnel switched off and charon's connection an operator's own.
    pair.start_culvert(2, ike=tables(profile=f'"{profile}"'), suites=["aes256gcm16"])
    reqid = json.loads(show_ike(pair, 2, "--json"))["generated"].split("reqid = ")[1].split()[0]
    pair.sites.r2.namespace.run(CULVERT, "tunnel", "down", NAMES[2], "--socket", pair.sites.r2.socket)
    settings = far.folder / "swanctl.conf"
    settings.write_text(
        f"""connections {{
  gateway {{
    version = 2
    local_addrs = {pair.sites.wan(2, 4)}
    remote_addrs = {pair.sites.wan(1, 4)}
    proposals = {ike}
    local {{
      auth = psk
    }}
    remote {{
      auth = psk
    }}
    children {{
      gateway {{
        mode = transport
        local_ts = dynamic[47]
        remote_ts = dynamic[47]
        esp_proposals = {esp}
        policies = no
        reqid = {reqid}
      }}
    }}
  }}
}}
secrets {{
  ike-gateway {{
    secret = "a secret that nobody prints"
  }}
}}
"""
    )
    far.swanctl("--load-all", "--file", settings, "--noprompt")

    def agreed():
        return any("gateway" in line and "INSTALLED" in line for line in far.swanctl("--list-sas").splitlines())

    try:
        wait_for(agreed, 60, "a child SA")
    except Trouble as trouble:
        raise Trouble(f"{trouble}; {far.text()[-3000:]}") from None
    assert pair.state(1)["state"] == "up"
