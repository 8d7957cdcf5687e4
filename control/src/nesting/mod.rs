//! Tunnels in tunnels: which tunnel the outer packets of another one enter, and the paths that follow. A tunnel routed
//! into itself encapsulates its own packets for ever; one routed into another is a mistake unless somebody wanted it.
//!
//! The graph is plain numbers. Who builds it looks up, for each tunnel, the route to its far end, and says whether that
//! route leads into a tunnel: nothing here knows of route tables. What is wrong with a path is told by a [`Detour`].

mod detour;

use std::collections::{HashMap, HashSet};

pub use detour::{Detour, Detours, Origin};

/// Which tunnel carries which, and how many a packet of each may be in.
#[derive(Debug, Clone, Default)]
pub struct Nesting {
    carriers: Vec<Option<usize>>,
    limits: Vec<usize>,
}

/// The way of a tunnel's outer packets through tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The tunnel itself, the one that carries it, the one that carries that, and so on. Where the path comes back to a
    /// tunnel it has been through, it ends with that tunnel a second time.
    pub tunnels: Vec<usize>,
    /// Does it come back, so that no packet would ever leave?
    pub endless: bool,
}

impl Nesting {
    /// The graph in which tunnel number `n` sends its outer packets into tunnel `carriers[n]`, or out of a port where that
    /// is `None`. A carrier that is not in the list counts as a tunnel that leaves by a port. `limits[n]`: how many tunnels its
    /// packets may be in when they leave, itself counted; 1 where the list ends.
    pub fn new(carriers: Vec<Option<usize>>, limits: Vec<usize>) -> Nesting {
        Nesting { carriers, limits }
    }

    /// The tunnel that carries tunnel `tunnel`.
    pub fn carrier(&self, tunnel: usize) -> Option<usize> {
        self.carriers.get(tunnel).copied().flatten()
    }

    /// How many tunnels a packet of this one may be in when it leaves.
    pub fn limit(&self, tunnel: usize) -> usize {
        self.limits.get(tunnel).copied().unwrap_or(1).max(1)
    }

    /// The tunnel leaves by a port from now on.
    pub fn take_out(&mut self, tunnel: usize) {
        if let Some(carrier) = self.carriers.get_mut(tunnel) {
            *carrier = None;
        }
    }

    /// Would the tunnel's packets be in more tunnels than they may, or never leave?
    pub fn is_nested(&self, tunnel: usize) -> bool {
        self.carrier(tunnel).is_some() && self.depth(tunnel).is_none_or(|depth| depth > self.limit(tunnel))
    }

    /// The tunnels whose packets would be in more tunnels than they may, or would never leave, in order.
    pub fn nested(&self) -> impl Iterator<Item = usize> {
        (0..self.carriers.len()).filter(|tunnel| self.is_nested(*tunnel))
    }

    /// The tunnels that others carry, each after the one that carries it. Those that carry each other in a circle come
    /// together; every other one is alone.
    pub fn carried(&self) -> Vec<Vec<usize>> {
        let mut groups = Vec::new();
        let mut known = HashSet::new();
        for tunnel in 0..self.carriers.len() {
            let mut path = Vec::new();
            let mut places = HashMap::new();
            let mut at = tunnel;
            while let Some(carrier) = self.carrier(at).filter(|_| !known.contains(&at)) {
                if let Some(first) = places.insert(at, path.len()) {
                    groups.push(path.split_off(first));
                    break;
                }
                path.push(at);
                at = carrier;
            }
            groups.extend(path.into_iter().rev().map(|tunnel| vec![tunnel]));
            known.extend(places.into_keys());
        }
        groups
    }

    /// The path from tunnel `tunnel` on.
    pub fn path(&self, tunnel: usize) -> Path {
        let mut tunnels = vec![tunnel];
        let mut seen = HashSet::from([tunnel]);
        let mut at = tunnel;
        while let Some(carrier) = self.carrier(at) {
            tunnels.push(carrier);
            if !seen.insert(carrier) {
                return Path { tunnels, endless: true };
            }
            at = carrier;
        }
        Path { tunnels, endless: false }
    }

    /// How many tunnels a packet of this tunnel is wrapped in when it leaves: 1 as it should be, `None` for never.
    pub fn depth(&self, tunnel: usize) -> Option<usize> {
        let path = self.path(tunnel);
        (!path.endless).then_some(path.tunnels.len())
    }
}

impl Path {
    /// The path in words, `a -> b -> a`. Long ones are cut in the middle.
    pub fn describe<'n>(&self, name: impl Fn(usize) -> &'n str) -> String {
        const ENDS: usize = 8;
        let named =
            |tunnels: &[usize]| tunnels.iter().map(|tunnel| name(*tunnel)).collect::<Vec<_>>().join(" -> ");
        match (self.tunnels.split_at_checked(ENDS), self.tunnels.len().checked_sub(ENDS)) {
            (Some((head, rest)), Some(tail_at)) if rest.len() > ENDS => {
                let left_out = rest.len() - ENDS;
                let tail = self.tunnels.get(tail_at..).unwrap_or_default();
                format!("{} -> ({left_out} more) -> {}", named(head), named(tail))
            }
            _ => named(&self.tunnels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    fn told(nesting: &Nesting, tunnel: usize) -> String {
        nesting.path(tunnel).describe(|number| NAMES[number])
    }

    #[test]
    fn a_tunnel_over_a_port_has_depth_1() {
        let nesting = Nesting::new(vec![None, None], vec![]);
        assert_eq!((nesting.depth(1), told(&nesting, 1).as_str()), (Some(1), "b"));
        assert_eq!(nesting.nested().count(), 0);
    }

    #[test]
    fn a_tunnel_in_itself_never_ends() {
        let nesting = Nesting::new(vec![Some(0)], vec![4]);
        assert_eq!((nesting.depth(0), told(&nesting, 0).as_str()), (None, "a -> a"));
    }

    #[test]
    fn a_loop_is_named_once_round() {
        let nesting = Nesting::new(vec![Some(1), Some(0), Some(0), None], vec![4; 4]);
        assert_eq!((nesting.depth(0), told(&nesting, 0).as_str()), (None, "a -> b -> a"));
        assert_eq!((nesting.depth(2), told(&nesting, 2).as_str()), (None, "c -> a -> b -> a"));
        assert_eq!(nesting.nested().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn chains_count_every_tunnel() {
        let nesting = Nesting::new(vec![Some(1), Some(2), Some(3), None], vec![3, 3, 2, 1]);
        assert_eq!((nesting.depth(0), told(&nesting, 0).as_str()), (Some(4), "a -> b -> c -> d"));
        assert_eq!((nesting.depth(2), nesting.depth(3)), (Some(2), Some(1)));
        assert_eq!(nesting.nested().collect::<Vec<_>>(), [0], "the others may");
    }

    #[test]
    fn what_carries_comes_before_what_it_carries() {
        let graph = |carriers: &[Option<usize>]| Nesting::new(carriers.to_vec(), vec![4; 8]);
        assert_eq!(graph(&[None, None]).carried(), Vec::<Vec<usize>>::new());
        assert_eq!(graph(&[Some(1), Some(2), None, Some(0)]).carried(), [[1], [0], [3]]);
        assert_eq!(graph(&[Some(9), Some(0)]).carried(), [[0], [1]], "a carrier that is not in the list");
        // 0 and 1 carry each other, 2 lies in them, 3 in 2, 4 in itself.
        let mut nesting = graph(&[Some(1), Some(0), Some(0), Some(2), Some(4)]);
        assert_eq!(nesting.carried(), [vec![0, 1], vec![2], vec![3], vec![4]]);
        assert_eq!(graph(&[Some(1), Some(2), Some(1)]).carried(), [vec![1, 2], vec![0]]);
        nesting.take_out(1);
        assert_eq!(nesting.nested().collect::<Vec<_>>(), [4]);
        assert_eq!(nesting.carried(), [[0], [2], [3], [4]]);
    }

    #[test]
    fn long_paths_are_cut() {
        let nesting = Nesting::new((1..=100).map(Some).collect(), vec![]);
        let told = nesting.path(0).describe(|number| {
            if number < 8 {
                "near"
            } else if number < 93 {
                "no"
            } else {
                "far"
            }
        });
        assert_eq!(told, format!("{}(85 more){}", "near -> ".repeat(8), " -> far".repeat(8)));
        assert_eq!(nesting.depth(0), Some(101));
    }
}
