"""The Linux kernel's own GRE and ESP, as the commands that make it the other end of a lab's tunnel."""

from routers import FAMILIES, INNER, SPI, far, host, lan_network

AEAD = {
    "aes128gcm16": "rfc4106(gcm(aes))",
    "aes256gcm16": "rfc4106(gcm(aes))",
    "chacha20poly1305": "rfc7539esp(chacha20,poly1305)",
}
ICV_BITS = 128


def underlay(site, wan):
    """The machine's address on the WAN, and a host behind it, on an interface of its own. `wan`: its addresses by family."""
    return "\n".join(
        [
            "sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
            "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0",
            f"ip addr add {wan[4]}/24 dev eth0",
            f"ip addr add {wan[6]}/64 dev eth0 nodad",
            "ip link add lan type dummy",
            "ip link set lan up",
            f"ip addr add {host(site, 4)}/24 dev lan",
            f"ip addr add {host(site, 6)}/64 dev lan nodad",
            # What merges received packets does it badly for GRE in UDP, and is not what is tested.
            "ethtool -K eth0 gro off",
            "espinudp",
        ]
    )


def gre(carrier, site, local, remote, address=host):
    """Makes `tun`, the tunnel's interface, with its addresses and the route to the far LAN from the machine's `address` on its own."""
    kind = {4: "gre", 6: "ip6gre"}[carrier.family]
    words = [f"ip link add tun type {kind} local {local} remote {remote} ttl 64"]
    if carrier.family == 6:
        words.append("encaplimit none")  # RFC 2473's option, which few besides Linux send
    words += [f"key {carrier.key}"] if carrier.key is not None else []
    words += [name for flag, name in ((carrier.checksum, "csum"), (carrier.sequence, "seq")) if flag]
    lines = []
    if carrier.encapsulation == "udp":
        words.append("encap fou encap-sport auto encap-dport 4754")
        lines.append(f"ip fou add port 4754 ipproto 47 {'-6' if carrier.family == 6 else ''}")
    lines.append(" ".join(words))
    lines.append(f"ip link set tun mtu {carrier.mtu()} up")
    for family in FAMILIES:
        length, nodad = {4: (32, ""), 6: (128, "nodad")}[family]
        lines.append(f"ip addr add {INNER[site][family]} peer {INNER[far(site)][family]}/{length} dev tun {nodad}")
        source = address(site, family)
        lines.append(f"ip route add {lan_network(far(site), family)} dev tun src {source}")
    return "\n".join(lines)


def esp(carrier, site, local, remote):
    """The two SAs, and the policies that want them for all GRE between the ends."""
    lines = []
    for sender, source, destination in ((site, local, remote), (far(site), remote, local)):
        sa = carrier.outbound(sender)
        words = [f"ip xfrm state add src {source} dst {destination} proto esp spi {SPI[sender]:#x} mode {carrier.mode}"]
        words.append(f"aead '{AEAD[sa.suite]}' 0x{sa.key.hex()} {ICV_BITS}")
        words.append(f"replay-window {carrier.window}" + (" flag esn" if carrier.esn else ""))
        if carrier.udp_encap:
            source_port, destination_port = carrier.udp_encap
            words.append(f"encap espinudp {source_port} {destination_port} 0.0.0.0")
        lines.append(" ".join(words))
        direction = "out" if sender == site else "in"
        lines.append(
            f"ip xfrm policy add src {source} dst {destination} proto 47 dir {direction} "
            f"tmpl src {source} dst {destination} proto esp mode {carrier.mode}"
        )
    return "\n".join(lines)


def tunnel(carrier, site, local, remote):
    """One end of the tunnel."""
    made = gre(carrier, site, local, remote)
    return f"{made}\n{esp(carrier, site, local, remote)}" if carrier.mode else made


# A server for one run, on the port that iperf3 has of old (5201), once it listens.
IPERF_SERVER = """
killall -q iperf3 || true
iperf3 -s -1 -D
until grep -q ':1451 0*:0000 0A' /proc/net/tcp6; do sleep 0.05; done
"""

REMOVE = """
ip link del tun 2>/dev/null || true
ip fou del port 4754 ipproto 47 2>/dev/null || true
ip fou del port 4754 ipproto 47 -6 2>/dev/null || true
ip xfrm state flush
ip xfrm policy flush
killall -q iperf3 || true
"""
