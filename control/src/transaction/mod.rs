//! Transactions: one configuration takes the place of another in a running daemon, whole or not at all.
//!
//! [`client`] reads a configuration's files and sends them; [`diff`] says what is different; [`numbers`] lets tunnels that stay
//! keep their numbers; [`ledger`] sees to it that no SA is made twice; [`store`] keeps what outlives the daemon, and [`record`] how far
//! the numbers of SAs are used. What the daemon does with them is `daemon/transact.rs`.

pub mod client;
pub mod diff;
pub mod ledger;
pub mod numbers;
pub mod record;
pub mod store;
