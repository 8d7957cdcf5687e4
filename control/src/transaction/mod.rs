//! x

pub mod diff;
pub mod ledger;
pub mod numbers;
pub mod store;
