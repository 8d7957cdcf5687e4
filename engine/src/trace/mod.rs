//! Seeing packets on their way: traces of what befalls them, and captures of what they are.
//!
//! - A [`Program`] says which packets: what `--match` is compiled to.
//! - [`Taps`] are opened by whoever wants to see, and read by them; workers fill them ([`watch`]) and never wait.
//! - A [`Way`] is what befell one packet, [`Step`] by step; a [`Captured`] is one packet.
//!
//! - A [`Decision`] is what would become of a packet that nobody sends.
//!
//! While no tap is open, a worker looks at one flag for each batch. While one is, the batch goes through the same stages, compiled a
//! second time with an eye on them (`Eye`), and is looked at between them.

mod decide;
mod headers;
mod program;
mod step;
mod tap;
pub(crate) mod watch;

pub use decide::Decision;
pub use headers::Headers;
pub use program::{Facts, LONGEST, Op, Program, Side, Test};
pub use step::{EspSeen, GreSeen, STEPS, Source, Step, Way};
pub use tap::{CaptureReader, Captured, Direction, SNAP_MAX, TAPS, Taps, Target, TooMany, TraceReader};
