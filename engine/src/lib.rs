//! The packet path of Culvert: network ports as netmap rings, GRE around packets, ESP around GRE, at line rate.
//!
//! A frame lives in one buffer from the receive ring to the transmit ring; see [`ring`] for how, [`tables`] for what it is
//! looked up in, and [`worker`] for the loop. Protocols ([`wire`], [`gre`], [`esp`]) are pure: bytes and state in, bytes and
//! verdict out.
//!
//! The engine reads no files and parses no configuration: whoever embeds it builds a [`tables::TablesSpec`], publishes the
//! [`tables::Tables`] made from it, gives each [`worker::Worker`] its ring pairs, and calls [`worker::Worker::turn`].

pub mod capture;
pub mod counters;
pub mod drops;
pub mod esp;
pub mod exception;
pub mod fan_out;
pub mod fib;
pub mod flow;
pub mod gre;
pub mod hash;
pub mod mss;
mod path;
pub mod ring;
mod sync;
pub mod tables;
pub mod tag;
pub mod trace;
pub mod tunnel;
pub mod wire;
pub mod worker;
