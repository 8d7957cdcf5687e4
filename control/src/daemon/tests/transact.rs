//! Any sequence of changes of the configuration comes to the same tables as a start with the last one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use culvert_engine::tables::Gateway;
use proptest::prelude::*;

use super::super::assemble::{self, Built, Known, Link};
use super::super::hold::Holds;
use super::{config, host};
use crate::config::Config;
use crate::plan::Kept;
use crate::transaction::diff;
use crate::transaction::numbers::Numbers;

/// A tunnel of a pool, in one of its forms.
fn tunnel(number: usize, form: usize) -> String {
    let key = |direction: usize| format!("{number:02x}{direction:02x}").repeat(10);
    let sa = |direction: &str, nth: usize, spi: usize| {
        format!(
            "[[tunnel.protect.manual]]\ndirection = \"{direction}\"\nspi = {spi}\nsuite = \"aes128gcm16\"\nkey = \"{}\"\n",
            key(nth)
        )
    };
    let spi = 1000 + 10 * number;
    let protect = match form % 3 {
        0 => "protect = \"none\"\n".to_owned(),
        nth => format!("[tunnel.protect]\n{}{}", sa("out", 1, spi + nth), sa("in", 2, spi + 5 + nth)),
    };
    format!(
        "[[tunnel]]\nname = \"t{number}\"\nlocal = \"192.0.2.1\"\nremote = \"198.51.100.{}\"\ninner = \"172.27.{number}.1/24\"\n\
         routes = [\"10.{}.0.0/16\"]\nttl = {}\nenabled = {}\n{protect}",
        number + 1,
        10 + number + 20 * (form % 2),
        60 + form,
        form != 5
    )
}

fn whole(tunnels: &[(usize, usize)], gateway: usize) -> Config {
    let mut seen = BTreeSet::new();
    let tunnels = tunnels.iter().filter(|(number, _)| seen.insert(*number));
    let tunnels: String = tunnels.map(|(number, form)| tunnel(*number, *form)).collect();
    config(&format!(
        "[[port]]\nname = \"wan\"\ndevice = \"xdp:eth0\"\n[[port]]\nname = \"lan\"\ndevice = \"tap:tap0\"\naddresses = [\"10.1.0.1/24\"]\n\
         [[route]]\nprefix = \"203.0.113.0/24\"\nport = \"wan\"\nvia = \"192.0.2.{}\"\n{tunnels}",
        100 + gateway
    ))
}

fn build(config: &Config, kept: &Kept) -> Built {
    let known = Known {
        config,
        kept,
        links: &[Link::default(), Link::default()],
        host: &host(),
        found: &BTreeMap::new(),
        path_mtus: &[],
        holds: &Holds::default(),
        now: Instant::now(),
    };
    assemble::build(&known).expect("tables")
}

/// What tables say, by the names of tunnels and not by their numbers.
fn told(config: &Config, built: &Built) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let routes = built.routes.iter().map(|(prefix, gateway)| {
        let gateway = match gateway {
            Gateway::Tunnel(number) => config.tunnels[*number].name.clone(),
            other => format!("{other:?}"),
        };
        (prefix.to_string(), gateway)
    });
    // A vacant number has an address of "this network".
    let routes = routes.filter(|(prefix, _)| !prefix.starts_with("0.") || prefix.ends_with("/0")).collect();
    let tunnels = config.tunnels.iter().zip(built.tables.tunnels()).filter(|(config, _)| !config.is_vacant());
    let tunnels = tunnels.map(|(config, tunnel)| {
        let spis: Vec<u32> = tunnel.outbound().map(|sa| sa.spi()).collect();
        // One that is off stands between addresses that follow from its number.
        let ends = config.enabled.then(|| tunnel.ends());
        let text = format!("{ends:?} {} {:?} {:?} {spis:?}", tunnel.mtu(), tunnel.layout(), tunnel.way_out());
        (config.name.clone(), text)
    });
    (routes, tunnels.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_sequence_of_changes_comes_to_what_a_start_with_the_last_has(
        steps in proptest::collection::vec(
            (proptest::collection::vec((0..8_usize, 0..6_usize), 0..8), 0..3_usize, 0..4_u64), 1..8
        )
    ) {
        let mut now = Instant::now();
        let mut numbers = Numbers::default();
        let mut running = whole(&[], 0);
        let mut kept = Kept::new(&running, 1).expect("a state");
        let mut nonces = HashSet::new();
        for (tunnels, gateway, seconds) in steps {
            now += Duration::from_secs(seconds);
            let wanted = whole(&tunnels, gateway);
            let changes = diff::changes(&running, &wanted);
            let next = numbers.arrange(&running, wanted.clone(), now);
            // What is untouched has its number and its very state.
            let states = kept.succeed(&running.tunnels, &next.tunnels).expect("a state");
            for (number, tunnel) in next.tunnels.iter().enumerate() {
                if tunnel.is_vacant() || changes.tunnels.contains_key(&tunnel.name) {
                    continue;
                }
                prop_assert_eq!(&running.tunnels[number].name, &tunnel.name);
                let (before, after) = (&kept.tunnels[number], &states[number]);
                prop_assert!(std::sync::Arc::ptr_eq(&before.sequences, &after.sequences));
                prop_assert!(before.outbound.iter().zip(&after.outbound).all(|(a, b)| std::sync::Arc::ptr_eq(a, b)));
                prop_assert_eq!(before.outbound.len(), after.outbound.len());
                prop_assert!(before.inbound.iter().zip(&after.inbound).all(|(a, b)| std::sync::Arc::ptr_eq(a, b)));
            }
            kept.take_over(states);
            numbers.took_over(&running.tunnels, &next.tunnels, now);
            running = next;
            let built = build(&running, &kept);
            let fresh = build(&wanted, &Kept::new(&wanted, 1).expect("a state"));
            prop_assert_eq!(told(&running, &built), told(&wanted, &fresh));
            prop_assert!(!diff::changes(&running, &wanted).changed);
            // Everybody sends: no key ever sees a nonce twice. A tunnel has one key, whatever its form.
            for (tunnel, state) in running.tunnels.iter().zip(&kept.tunnels) {
                for sa in &state.outbound {
                    let lease = sa.take(3).expect("numbers");
                    for number in lease.first..lease.first + lease.count {
                        prop_assert!(nonces.insert((tunnel.name.clone(), sa.iv(number))));
                    }
                }
            }
        }
    }
}
