"""Two routers whose tunnel has its keys from strongSwan."""

from netns import Trouble, wait_for
from routers import CULVERT, NAMES, Carrier, host
from strongswan import Charon
from traffic import wait_ping

UP = 60.0  # seconds, on a machine that has much else to do
SECRET = "a secret that both ends have"


class Pair:
    """Two sites with charon and Culvert on each router."""

    def __init__(self, sites):
        self.sites = sites
        self.charons = {site: Charon(router) for site, router in sites.routers.items()}

    def configuration(
        self, site, secret=SECRET, mode="transport", suites=("aes128gcm16",), family=4, more="", ike=None, **options
    ):
        """The configuration of one router: as with fixed keys, but for where they come from. `ike`: the settings of each site's
        table, in place of the secret."""
        fixed = self.sites.configuration(site, Carrier(family=family, mode="transport"), **options)
        tunnel, _, _ = fixed.partition("[tunnel.protect]")
        names = ", ".join(f'"{suite}"' for suite in suites)
        settings = ike[site] if ike else f'auth = "psk"\npsk = "{secret}"'
        return (
            f'{tunnel}[tunnel.protect]\nmode = "{mode}"\nsuites = [{names}]\n{more}\n[tunnel.protect.ike]\n{settings}\n'
        )

    def start_culvert(self, site, **options):
        router = self.sites.routers[site]
        router.arguments = ["--vici", self.charons[site].vici]
        router.start(self.configuration(site, **options) if options or router.daemon is None else None)
        return router

    def start(self, **options):
        """Everything, strongSwan first, and waits until the tunnel carries packets."""
        for site in self.sites.routers:
            self.charons[site].start()
            self.start_culvert(site, **(options or {"secret": SECRET}))
        self.wait_up()
        return self

    def state(self, site):
        return self.sites.routers[site].tunnel()

    def wait_up(self, timeout=UP):
        """Until both ends say so and packets pass."""
        for site in self.sites.routers:
            wait_for(lambda: self.state(site)["state"] == "up", timeout, f"the tunnel at site {site}: {self.state(site)}")
        wait_ping(self.sites.h1, host(2, 4))

    def wait_reason(self, site, words, timeout=UP):
        """Until the tunnel is down at that site for a reason with these words in it."""
        try:
            wait_for(lambda: words in str(self.state(site).get("why")), timeout, f"{words!r} at site {site}")
        except Trouble as trouble:
            raise Trouble(f"{trouble}; it is {self.state(site)}, charon says:\n{self.charons[site].text()[-3000:]}") from None

    def rekey(self, site):
        """Has site rekey, through Culvert."""
        router = self.sites.routers[site]
        return router.namespace.run(CULVERT, "tunnel", "rekey", NAMES[site], "--socket", router.socket, check=False)

    def have_rekeyed(self, site):
        """Has site rekey, as soon as it is not just looking at what there is."""
        wait_for(lambda: self.rekey(site).returncode == 0, 20, f"a rekey by site {site}")

    def spis(self, site):
        """The SPIs of the SAs that Culvert has, by direction."""
        sas = self.sites.routers[site].show("sas")[NAMES[site]]
        assert {sa["source"] for sa in sas} <= {"plugin"}, sas
        return {way: [sa["spi"] for sa in sas if sa["direction"] == way] for way in ("in", "out")}
