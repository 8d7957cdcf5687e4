"""A NAT between the routers: site 1 is behind it, site 2 is not. It is the kernel's, set by nft, in the middle's namespace."""

from netns import command

RULES = """
table ip lab {{
  chain out {{
    type nat hook postrouting priority 100;
    oifname to2 meta l4proto udp masquerade to :{first}-{last}
  }}
}}
"""


class Nat:
    """The NAT; `outside` is the address that site 2 sees."""

    def __init__(self, sites, first=20000):
        self.sites = sites
        self.outside = sites.gateway(2, 4)
        self.set(first)

    def set(self, first):
        """From now on, new mappings have ports from `first` on."""
        nft = ["ip", "netns", "exec", self.sites.mid.name, "nft"]
        command(*nft, "flush", "ruleset")
        command(*nft, "-f", "-", input=RULES.format(first=first, last=first + 999))

    def forget(self, first, outside=None):
        """All mappings are gone, as when such a router starts anew; the next have other ports, from `first` on, or another
        address. (The kernel forgets the mappings of an address that is taken away.)"""
        mid = self.sites.mid
        self.set(first)
        mid.ip(f"addr del {self.outside}/24 dev to2")
        if outside:
            # Site 2's way back stays what it was.
            mid.ip(f"addr add {outside}/24 dev to2")
        mid.ip(f"addr add {self.outside}/24 dev to2")
        self.outside = outside or self.outside
