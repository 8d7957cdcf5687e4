//! What AF_XDP ports take of their frames: packets to the tunnels' near ends that are tunnels' packets, and packets into
//! tunnels. All else stays the host's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use culvert_engine::fib::Prefix;
use culvert_engine::tables::Gateway;

use crate::config::{Config, Direction, ManualSa, Protect};
use crate::routes::prefix_around;

/// IKE and ESP in UDP (RFC 3948 section 2.1).
const NAT_T_PORT: u16 = 4500;

/// Tells ports what is ours, and the log what went wrong, once.
#[cfg(target_os = "linux")]
#[derive(Default)]
pub(super) struct Steering {
    told: Option<String>,
}

#[cfg(target_os = "linux")]
impl Steering {
    /// Tells each port.
    pub(super) fn set(
        &mut self,
        config: &Config,
        routes: &BTreeMap<Prefix, Gateway>,
        ports: &mut [super::devices::OpenPort],
    ) {
        use culvert_engine::ring::xdp::Encapsulation;

        let (local, prefixes) = (local_ends(config), steered(config, routes));
        let esp = esp_ports(config).into_iter().map(|port| (port, Encapsulation::Esp));
        let gre = (culvert_engine::wire::udp::GRE_PORT, Encapsulation::Gre);
        let udp: Vec<(u16, Encapsulation)> = esp.chain([gre]).collect();
        let mut trouble = None;
        for steering in ports.iter_mut().filter_map(|port| port.steering()) {
            let set = steering
                .set_ports(&udp)
                .and_then(|()| steering.set_local(&local))
                .and_then(|()| steering.set_prefixes(&prefixes));
            trouble = trouble.or(set.err().map(|error| error.to_string()));
        }
        if trouble != self.told {
            trouble.iter().for_each(|trouble| super::log::error(format_args!("steering: {trouble}")));
            self.told = trouble;
        }
    }
}

/// The tunnels' near ends, also those that another router holds: what comes for them may be here before the news that it does not any more.
pub(super) fn local_ends(config: &Config) -> Vec<IpAddr> {
    let tunnels = config.tunnels.iter().filter(|tunnel| tunnel.enabled);
    tunnels.filter_map(|tunnel| tunnel.local.address()).collect()
}

/// The UDP ports on which tunnels receive ESP: where the far end sends to, and the well-known one.
pub(super) fn esp_ports(config: &Config) -> BTreeSet<u16> {
    let of_sa = |sa: &ManualSa| {
        let udp = sa.udp_encap?;
        Some(match sa.direction {
            Direction::In => udp.destination,
            Direction::Out => udp.source,
        })
    };
    let manual = config.tunnels.iter().filter_map(|tunnel| match &tunnel.protect {
        Protect::Manual(manual) => Some(&manual.sas),
        Protect::None | Protect::Ike(_) => None,
    });
    manual.flatten().filter_map(of_sa).chain([NAT_T_PORT]).collect()
}

/// Prefixes that lead into tunnels are the engine's, and what lies within one and leads
/// elsewhere is the host's, as the tunnels' own ends are.
pub(super) fn steered(config: &Config, routes: &BTreeMap<Prefix, Gateway>) -> Vec<(IpAddr, u8, bool)> {
    let ours = |gateway: &Gateway| match gateway {
        Gateway::Tunnel(_) => true,
        Gateway::Group(members) => members.iter().any(|(member, _)| matches!(member, Gateway::Tunnel(_))),
        Gateway::Port { .. } | Gateway::Host | Gateway::Discard => false,
    };
    let mut all: BTreeMap<Prefix, bool> =
        routes.iter().map(|(prefix, gateway)| (*prefix, ours(gateway))).collect();
    all.extend(
        config
            .tunnels
            .iter()
            .filter(|tunnel| tunnel.enabled)
            .map(|tunnel| (Prefix::from(tunnel.remote), false)),
    );
    // Where nothing around a prefix is ours, the host has it unasked.
    let within_ours = |prefix: &Prefix| {
        (0..prefix.prefix_len()).any(|len| {
            prefix_around(prefix.addr(), len).is_some_and(|around| all.get(&around) == Some(&true))
        })
    };
    let matters = all.iter().filter(|(prefix, ours)| **ours || within_ours(prefix));
    matters.map(|(prefix, ours)| (prefix.addr(), prefix.prefix_len(), *ours)).collect()
}
