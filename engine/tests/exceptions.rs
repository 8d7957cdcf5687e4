//! A worker and its exception thread together, over memory wires and in a time that only the tests move: each case reads
//! like the paragraph that it checks, and what leaves is held against bytes known from elsewhere.

#[path = "exceptions/ahead.rs"]
mod ahead;
#[path = "exceptions/early.rs"]
mod early;
mod lab;
#[path = "exceptions/neighbours.rs"]
mod neighbours;
#[path = "exceptions/packets.rs"]
mod packets;
#[path = "exceptions/paths.rs"]
mod paths;
#[path = "exceptions/peers.rs"]
mod peers;
#[path = "exceptions/router.rs"]
mod router;
#[path = "exceptions/senders.rs"]
mod senders;
#[path = "exceptions/storm.rs"]
mod storm;
