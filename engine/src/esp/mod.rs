//! ESP (RFC 4303) with AEAD suites: AES-GCM-16 (RFC 4106) and ChaCha20-Poly1305 (RFC 7634).
//!
//! Pure protocol: bytes and state in, bytes and verdict out. A packet leaves through [`seal`] (sequence number and IV
//! from the one [`OutboundSa`], padding, trailer, then the cipher) and comes in through [`open`] (window check, the
//! cipher, trailer check; the window itself advances only when the caller has accepted the whole packet).

pub mod cipher;
pub mod iv;
pub mod open;
pub mod replay;
pub mod sa;
pub mod seal;
pub(crate) mod whence;

pub use cipher::{Key, KeyError, Suite};
pub use iv::{IvRange, Router};
pub use sa::{InboundSa, Mode, OutboundSa, Spi};

pub use crate::wire::esp::{ALIGNMENT, HEADER_LEN, ICV_LEN, IV_LEN, TRAILER_LEN};
