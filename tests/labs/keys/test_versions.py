"""What strongSwans of different versions have in common, and ML-KEM (FIPS 203) where both have it.

Debian's strongSwan is always there. Another stands beside it where CULVERT_STRONGSWAN names the folder that it was installed in; see
tests/labs/README.md.
"""

import os

import pytest

from routers import host
from strongswan import SYSTEM, installed_in
from test_profiles import show_ike, tables
from traffic import datagrams, ping

NEWER = os.environ.get("CULVERT_STRONGSWAN")
INSTALLED = {"system": SYSTEM, **({"newer": installed_in(NEWER)} if NEWER else {})}
PAIRS = [(one, other) for one in INSTALLED for other in INSTALLED]
HYBRID = "aes128gcm16-x25519-ecp256-ecp384-esn-ke1_mlkem768"


@pytest.fixture
def versions(request, pair):
    for site, version in zip((1, 2), request.param):
        pair.charons[site].strongswan = INSTALLED[version]
    return request.param


def agreed_by_ml_kem(charon):
    return "KE1_ML_KEM_768" in charon.text()


@pytest.mark.parametrize("versions", PAIRS, indirect=True, ids="-".join)
def test_versions(pair, versions):
    """They agree, by ML-KEM as well if both have it; traffic passes, and rekeys by either end lose nothing."""
    pair.start(ike=tables())
    for site, version in zip((1, 2), versions):
        text = show_ike(pair, site)
        assert "no difference" in text, text
        assert (HYBRID in text) == (version == "newer"), text
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
    for site in (1, 2):
        before = pair.spis(1)["out"]
        pair.have_rekeyed(site)
        result = datagrams(pair.sites.h1, pair.sites.h2, host(2, 4), count=3000, rate=1000)
        assert (result["unique"], result["duplicates"], result["reordered"], result["corrupt"]) == (3000, 0, 0, 0), result
        assert set(pair.spis(1)["out"]) - set(before)
    both = versions == ("newer", "newer")
    assert all(agreed_by_ml_kem(charon) == both for charon in pair.charons.values()), pair.charons[1].text()[-3000:]


@pytest.mark.parametrize("versions", PAIRS, indirect=True, ids="-".join)
def test_ml_kem_is_required(pair, versions):
    """Whose strongSwan cannot, says so; whose far end cannot, says that."""
    ike = tables(ml_kem='"require"')
    for site, version in zip((1, 2), versions):
        pair.charons[site].start()
        pair.start_culvert(site, ike=ike)
    if versions == ("newer", "newer"):
        pair.wait_up()
        assert all(agreed_by_ml_kem(charon) for charon in pair.charons.values())
        return
    for site, version in zip((1, 2), versions):
        pair.wait_reason(site, "this strongSwan has no ML-KEM" if version == "system" else "")
    assert pair.state(1)["state"] == pair.state(2)["state"] == "down"


@pytest.mark.parametrize("versions", PAIRS, indirect=True, ids="-".join)
def test_ml_kem_is_forbidden(pair, versions):
    """By one end: it is not used, whoever begins."""
    ike = {**tables(), 2: tables(ml_kem='"forbid"')[2]}
    pair.start(ike=ike)
    assert HYBRID not in show_ike(pair, 2)
    assert not any(agreed_by_ml_kem(charon) for charon in pair.charons.values())
    assert ping(pair.sites.h1, host(2, 4), count=20).loss == 0
