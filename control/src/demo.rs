//! `culvert demo`: two routers in one process, real traffic through GRE and ESP both ways, every packet compared.
//!
//! It needs no privileges, no network and no file: the [`crate::lab`] gives it routers, keys and stations. Each turn sends a
//! batch from either station, takes it through both routers, and compares what arrives; once a second it says how it goes.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use culvert_engine::esp::Suite;
use culvert_engine::ring::BATCH;

use crate::Failure;
use crate::cli;
use crate::lab::{LAN, Lab, Plan, Station, WAN, imix};

/// Tunnels between the two routers.
const TUNNELS: u32 = 8;
/// Cipher of all tunnels.
const SUITE: Suite = Suite::Aes128Gcm16;
/// How often the figures are shown.
const INTERVAL: Duration = Duration::from_secs(1);

const PICTURE: &str = "
   station ── LAN ─┤ router A ├─ WAN ═══ GRE in ESP ═══ WAN ─┤ router B ├─ LAN ── station

Two routers in this process, joined by in-memory netmap rings. Packets of 64, 570 and 1400 bytes (7:4:1)
go both ways through";

/// Runs the demonstration.
///
/// # Errors
/// No memory or random numbers, and packets that were lost or changed.
pub fn run(args: &cli::Demo) -> Result<(), Failure> {
    let plan = Plan { suite: Some(SUITE), tunnels: TUNNELS, longest: imix(IMIX_LONGEST) };
    let mut lab = Lab::new(plan).map_err(|error| Failure::failed(format!("demo: {error}")))?;
    say(format_args!("{PICTURE} {TUNNELS} tunnels ({}); every byte is compared.\n\n", SUITE.name()))?;
    say(format_args!("{HEADING}\n"))?;

    let start = Instant::now();
    let end = start + Duration::from_secs(args.seconds);
    let mut shown = Totals::default();
    let mut next = start + INTERVAL;
    let mut last = start;
    loop {
        turn(&mut lab);
        let now = Instant::now();
        if now >= next || now >= end {
            let totals = Totals::of(&lab);
            line(now - start, &totals, &shown, now - last)?;
            (shown, last, next) = (totals, now, next + INTERVAL);
        }
        if now >= end {
            break;
        }
    }
    summary(&lab, start.elapsed())
}

/// The packet of the mix that is longest.
const IMIX_LONGEST: u64 = 6;

/// A batch each way.
fn turn(lab: &mut Lab) {
    lab.left.send(BATCH, imix);
    lab.right.send(BATCH, imix);
    lab.a.worker.turn(LAN);
    lab.b.worker.turn(LAN);
    lab.a.worker.turn(WAN);
    lab.b.worker.turn(WAN);
    lab.left.receive(imix);
    lab.right.receive(imix);
}

/// Counts of both stations.
#[derive(Default, Clone, Copy)]
struct Totals {
    rightward: u64,
    leftward: u64,
    bytes: u64,
    faults: u64,
}

impl Totals {
    fn of(lab: &Lab) -> Totals {
        let faults = |station: &Station, sender: &Station| {
            station.corrupt + station.reordered + (sender.sent() - station.good - station.corrupt)
        };
        Totals {
            rightward: lab.right.good,
            leftward: lab.left.good,
            bytes: lab.right.bytes + lab.left.bytes,
            faults: faults(&lab.right, &lab.left) + faults(&lab.left, &lab.right),
        }
    }
}

const HEADING: &str = " time   A to B Mpkt/s   B to A Mpkt/s   Gbit/s   packets compared   lost or wrong";

fn line(elapsed: Duration, now: &Totals, before: &Totals, span: Duration) -> Result<(), Failure> {
    let rate = |now: u64, before: u64| (now - before) as f64 / span.as_secs_f64() / 1e6;
    say(format_args!(
        "{:>4.0}s {:>15.2} {:>15.2} {:>8.2} {:>18} {:>15}\n",
        elapsed.as_secs_f64(),
        rate(now.rightward, before.rightward),
        rate(now.leftward, before.leftward),
        rate(now.bytes, before.bytes) * 8.0 / 1e3,
        now.rightward + now.leftward,
        now.faults,
    ))
}

fn summary(lab: &Lab, elapsed: Duration) -> Result<(), Failure> {
    let totals = Totals::of(lab);
    for (name, router) in [("A", &lab.a), ("B", &lab.b)] {
        for (reason, count) in router.drops() {
            say(format_args!("router {name} dropped {count}: {}\n", reason.name()))?;
        }
    }
    if totals.faults > 0 {
        return Err(Failure::failed(format!("demo: {} packets were lost or changed", totals.faults)));
    }
    let mark = if io::stdout().is_terminal() { "\x1b[32m✓\x1b[0m" } else { "ok:" };
    say(format_args!(
        "\n{mark} {} packets sealed, carried, opened and compared in {:.1} s on one core; none lost, none changed.\n\
         Next: `culvert bench` for figures, `culvert --help` for the rest.\n",
        totals.rightward + totals.leftward,
        elapsed.as_secs_f64(),
    ))
}

fn say(text: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_fmt(text).and_then(|()| stdout.flush()).map_err(Failure::stdout)
}
