//! Numbers of tunnels across changes of a running configuration. Packets under way carry the number of their tunnel, in rings
//! and between threads, so a tunnel that stays keeps its number, one that goes leaves its number vacant, and a vacant number
//! rests for [`REST`] before another tunnel takes it: by then nothing under way has it any more.
//!
//! Ports keep their places as well: a change that adds or removes one is not made while the daemon runs.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::time::{Duration, Instant};

use crate::config::{Config, Tunnel};

/// How long a number rests: a thousand times what a thread takes that is awake.
pub const REST: Duration = Duration::from_secs(2);

/// When numbers were given up that are vacant now.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    vacated: BTreeMap<usize, Instant>,
}

impl Numbers {
    /// The wanted configuration with its tunnels and ports in the places that they have in the running one, or that are free.
    #[must_use]
    pub fn arrange(&self, running: &Config, mut wanted: Config, now: Instant) -> Config {
        let numbers: HashMap<&str, usize> = (0..)
            .zip(&running.tunnels)
            .filter(|(_, tunnel)| !tunnel.is_vacant())
            .map(|(number, tunnel)| (tunnel.name.as_str(), number))
            .collect();
        let mut tunnels: Vec<Tunnel> = running.tunnels.iter().map(|_| Tunnel::vacant()).collect();
        let mut new = Vec::new();
        for tunnel in mem::take(&mut wanted.tunnels) {
            match numbers.get(tunnel.name.as_str()).and_then(|number| tunnels.get_mut(*number)) {
                Some(place) => *place = tunnel,
                None => new.push(tunnel),
            }
        }
        let rested = |number: &usize| {
            running.tunnels.get(*number).is_some_and(Tunnel::is_vacant)
                && self.vacated.get(number).is_none_or(|since| now.duration_since(*since) >= REST)
        };
        let mut free = (0..running.tunnels.len()).filter(rested);
        for tunnel in new {
            match free.next().and_then(|number| tunnels.get_mut(number)) {
                Some(place) => *place = tunnel,
                None => tunnels.push(tunnel),
            }
        }
        while tunnels.last().is_some_and(Tunnel::is_vacant) && rested(&(tunnels.len() - 1)) {
            tunnels.pop();
        }
        let places: HashMap<&str, usize> =
            (0..).zip(&running.ports).map(|(place, port)| (port.name.as_str(), place)).collect();
        wanted.ports.sort_by_key(|port| places.get(port.name.as_str()).copied().unwrap_or(usize::MAX));
        wanted.tunnels = tunnels;
        wanted
    }

    /// The configuration `after` has taken the place of `before`: what has become vacant rests from `now` on.
    pub fn took_over(&mut self, before: &[Tunnel], after: &[Tunnel], now: Instant) {
        for (number, tunnel) in after.iter().enumerate() {
            let had_one = before.get(number).is_some_and(|before| !before.is_vacant());
            if !tunnel.is_vacant() {
                self.vacated.remove(&number);
            } else if had_one {
                self.vacated.insert(number, now);
            }
        }
        self.vacated.retain(|number, _| *number < after.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(names: &[&str]) -> Config {
        let named = |name: &&str| Tunnel { name: (*name).to_owned(), ..Tunnel::vacant() };
        Config { tunnels: names.iter().map(named).collect(), ..Config::default() }
    }

    fn names(config: &Config) -> Vec<&str> {
        config.tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect()
    }

    #[test]
    fn tunnels_that_stay_keep_their_numbers_and_others_wait() {
        let (mut numbers, start) = (Numbers::default(), Instant::now());
        let mut change = |running: &Config, wanted: &[&str], seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            let next = numbers.arrange(running, config(wanted), now);
            numbers.took_over(&running.tunnels, &next.tunnels, now);
            next
        };
        let first = change(&Config::default(), &["a", "b", "c"], 0);
        assert_eq!(names(&first), ["a", "b", "c"]);
        let second = change(&first, &["c", "d", "b"], 10);
        assert_eq!(names(&second), ["", "b", "c", "d"]);
        // Its number has not rested.
        let third = change(&second, &["b", "c", "d", "e"], 11);
        assert_eq!(names(&third), ["", "b", "c", "d", "e"]);
        let fourth = change(&third, &["f", "b", "c"], 12);
        assert_eq!(names(&fourth), ["f", "b", "c", "", ""]);
        let fifth = change(&fourth, &["b"], 13);
        assert_eq!(names(&fifth), ["", "b", "", "", ""]);
        let last = change(&fifth, &["b"], 20);
        assert_eq!(names(&last), ["", "b"]);
    }
}
