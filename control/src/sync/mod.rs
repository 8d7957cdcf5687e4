//! What two routers that share addresses tell each other: [`link`] is the connection between their daemons, and knows nothing of
//! what is said on it; [`message`] is what is said, and [`marks`] which router may send with which sequence numbers.

pub mod link;
pub mod marks;
pub mod message;
