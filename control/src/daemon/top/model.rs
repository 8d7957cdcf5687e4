//! What `culvert top` knows: the last two records, the rates between them, and how rates have been; and what is looked at.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Deserialize;

use crate::daemon::status::{CarpStatus, PortStatus, Sas, TunnelStatus, WorkerStatus};
use crate::report::Counts;

/// Rates that are remembered of each tunnel and worker.
const REMEMBERED: usize = 120;

/// A record of the watch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Sample {
    /// Seconds since the daemon was started.
    pub(super) uptime: f64,
    pub(super) ports: BTreeMap<String, PortStatus>,
    pub(super) workers: Vec<WorkerStatus>,
    pub(super) tunnels: BTreeMap<String, TunnelStatus>,
    pub(super) sas: BTreeMap<String, Sas>,
    pub(super) drops: BTreeMap<String, u64>,
    /// What an older daemon does not tell.
    #[serde(default)]
    pub(super) carp: Option<Box<CarpStatus>>,
}

/// What the watching thread tells.
#[derive(Debug)]
pub(super) enum Told {
    Sample(Sample),
    /// There is no daemon now, and why.
    Gone(String),
}

/// What goes through something in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) in_packets: f64,
    pub(super) in_bits: f64,
    pub(super) out_packets: f64,
    pub(super) out_bits: f64,
}

impl Rate {
    /// Between two counts.
    fn between(before: &Counts, after: &Counts, seconds: f64) -> Rate {
        let each = |before: u64, after: u64| rate(before, after, seconds);
        Rate {
            in_packets: each(before.in_packets, after.in_packets),
            in_bits: 8.0 * each(before.in_bytes, after.in_bytes),
            out_packets: each(before.out_packets, after.out_packets),
            out_bits: 8.0 * each(before.out_bytes, after.out_bytes),
        }
    }

    /// Both ways.
    pub(super) fn bits(&self) -> f64 {
        self.in_bits + self.out_bits
    }
}

/// A counter that went back belongs to something made anew.
fn rate(before: u64, after: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { after.saturating_sub(before) as f64 / seconds } else { 0.0 }
}

/// How rates have been, the latest last.
pub(super) type History = VecDeque<Rate>;

fn remember(history: &mut History, rate: Rate) {
    if history.len() == REMEMBERED {
        history.pop_front();
    }
    history.push_back(rate);
}

/// The order of tunnels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// What has most bits a second first.
    #[default]
    Traffic,
    /// By packets a second.
    Packets,
    /// By name.
    Name,
    /// Those that are down first.
    State,
}

impl Sort {
    pub(super) fn next(self) -> Sort {
        match self {
            Sort::Traffic => Sort::Packets,
            Sort::Packets => Sort::Name,
            Sort::Name => Sort::State,
            Sort::State => Sort::Traffic,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Traffic => "traffic",
            Sort::Packets => "packets",
            Sort::Name => "name",
            Sort::State => "state",
        }
    }
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// What was told last; `None`: nothing yet.
    pub(super) sample: Option<Sample>,
    /// Rates of drops, by reason.
    pub(super) drops: HashMap<String, f64>,
    /// Frames a second through ports: received, sent.
    pub(super) ports: HashMap<String, (f64, f64)>,
    /// Frames a second and the share of the processor's time, by worker.
    pub(super) workers: Vec<(f64, f64)>,
    worker_rates: Vec<History>,
    tunnel_rates: HashMap<String, History>,
    /// Why there is no daemon.
    pub(super) gone: Option<String>,
    pub(super) paused: bool,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) typing: bool,
    pub(super) help: bool,
    pub(super) details: bool,
    selected: Option<String>,
}

impl Model {
    /// Takes in what is told. Paused, what is seen stays as it is, but for a daemon that has gone.
    pub(super) fn hear(&mut self, told: Told) {
        match told {
            Told::Gone(why) => self.gone = Some(why),
            Told::Sample(sample) => {
                self.gone = None;
                if !self.paused {
                    self.take(sample);
                }
            }
        }
    }

    fn take(&mut self, sample: Sample) {
        let before = self.sample.take().unwrap_or_default();
        let seconds = sample.uptime - before.uptime;
        // The first one, or the first of a daemon that was started anew, has nothing to be compared with.
        let comparable = before.uptime > 0.0 && seconds > 0.0;
        let known = self.tunnel_rates.len();
        if comparable {
            self.drops = sample
                .drops
                .iter()
                .map(|(reason, count)| {
                    (reason.clone(), rate(before.drops.get(reason).copied().unwrap_or(0), *count, seconds))
                })
                .collect();
            let ports = sample.ports.iter().filter_map(|(name, port)| {
                let before = before.ports.get(name)?;
                Some((name.clone(), (rate(before.rx, port.rx, seconds), rate(before.tx, port.tx, seconds))))
            });
            self.ports = ports.collect();
            self.workers = sample
                .workers
                .iter()
                .zip(&before.workers)
                .map(|(worker, before)| {
                    let busy = (worker.cpu_seconds - before.cpu_seconds).max(0.0) / seconds;
                    (rate(before.frames, worker.frames, seconds), 100.0 * busy.min(1.0))
                })
                .collect();
            self.worker_rates.resize_with(sample.workers.len(), History::new);
            for ((worker, before), history) in
                sample.workers.iter().zip(&before.workers).zip(&mut self.worker_rates)
            {
                remember(history, Rate::between(&before.counts, &worker.counts, seconds));
            }
            for (name, tunnel) in &sample.tunnels {
                let Some(before) = before.tunnels.get(name) else { continue };
                let rate = Rate::between(&before.counts, &tunnel.counts, seconds);
                remember(self.tunnel_rates.entry(name.clone()).or_default(), rate);
            }
        } else {
            (self.drops, self.ports, self.workers) = Default::default();
        }
        if known > sample.tunnels.len() {
            self.tunnel_rates.retain(|name, _| sample.tunnels.contains_key(name));
        }
        self.sample = Some(sample);
    }

    /// Stops or goes on.
    pub(super) fn pause(&mut self) {
        self.paused = !self.paused;
    }

    /// How a tunnel's rates have been.
    pub(super) fn tunnel(&self, name: &str) -> Option<&History> {
        self.tunnel_rates.get(name)
    }

    /// What goes through a tunnel now.
    pub(super) fn tunnel_now(&self, name: &str) -> Rate {
        self.tunnel(name).and_then(|history| history.back()).copied().unwrap_or_default()
    }

    /// How a worker's rates have been.
    pub(super) fn worker(&self, number: usize) -> Option<&History> {
        self.worker_rates.get(number)
    }

    /// What goes through all tunnels now.
    pub(super) fn all(&self) -> Rate {
        let mut all = Rate::default();
        for rate in self.worker_rates.iter().filter_map(VecDeque::back) {
            all.in_packets += rate.in_packets;
            all.in_bits += rate.in_bits;
            all.out_packets += rate.out_packets;
            all.out_bits += rate.out_bits;
        }
        all
    }

    /// The names of the tunnels that pass the filter, in the order that is wanted.
    pub(super) fn order(&self) -> Vec<&str> {
        let Some(sample) = &self.sample else { return Vec::new() };
        let wanted = self.filter.to_lowercase();
        let mut names: Vec<(&str, &TunnelStatus, Rate)> = sample
            .tunnels
            .iter()
            .filter(|(name, tunnel)| {
                wanted.is_empty()
                    || name.to_lowercase().contains(&wanted)
                    || tunnel.state == wanted
                    || tunnel.remote.to_string().contains(&wanted)
            })
            .map(|(name, tunnel)| (name.as_str(), tunnel, self.tunnel_now(name)))
            .collect();
        // Stable, from the order of names: what is alike does not jump about.
        match self.sort {
            Sort::Traffic => names.sort_by(|a, b| b.2.bits().total_cmp(&a.2.bits())),
            Sort::Packets => {
                let packets = |rate: &Rate| rate.in_packets + rate.out_packets;
                names.sort_by(|a, b| packets(&b.2).total_cmp(&packets(&a.2)));
            }
            Sort::Name => {}
            Sort::State => {
                names.sort_by_key(|(_, tunnel, _)| (tunnel.state == "up", tunnel.nesting.is_none()))
            }
        }
        if self.reversed {
            names.reverse();
        }
        names.into_iter().map(|(name, ..)| name).collect()
    }

    /// The place of the selected tunnel in `order`: it stays selected wherever it goes.
    pub(super) fn place(&self, order: &[&str]) -> usize {
        let selected = self.selected.as_deref();
        order.iter().position(|name| Some(*name) == selected).unwrap_or(0)
    }

    /// Selects the tunnel so many places further down.
    pub(super) fn select(&mut self, step: isize) {
        let order = self.order();
        let place = self.place(&order).saturating_add_signed(step).min(order.len().saturating_sub(1));
        self.selected = order.get(place).map(|name| (*name).to_owned());
    }
}
