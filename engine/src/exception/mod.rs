//! What the fast path cannot or must not do, as pure protocols: bytes, state and the time in, bytes and a verdict out.
//! Times are those since any fixed moment, the same for all calls, and never run backwards.
//!
//! [`icmp`] tells senders what became of their packets, as often as [`limit`] allows; [`echo`] answers those who ask
//! whether we are there, [`pmtu`] learns from what others tell us, [`fragment`] cuts packets that do not fit, and
//! [`reassembly`] puts those together that others have cut; of UDP datagrams, [`datagrams`] tells which these are.
//! [`neighbour`] finds the stations beside us; packets that wait for one do so there or in [`waiting`], and [`settled`] keeps their flows
//! in order; those that come by an SA before the news of it, in [`early`]; [`keepalive`] finds out whether the far end of a
//! tunnel is there. Memory is allocated here, within bounds that are said in each place.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod allowance;
pub mod datagrams;
pub mod early;
pub mod echo;
pub mod fragment;
pub mod icmp;
pub mod keepalive;
pub mod limit;
pub mod neighbour;
pub mod pmtu;
pub mod reassembly;
#[cfg(test)]
mod samples;
pub mod settled;
pub mod thread;
pub mod waiting;
