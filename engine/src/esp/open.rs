//! Opening (RFC 4303 section 3.4):
//! 1. lengths are checked, the whole sequence number is inferred and looked up in the window (sections 3.4.3, A2.2);
//! 2. the cipher checks the ICV and decrypts (section 3.4.4.2);
//! 3. padding and trailer are checked and cut off (section 2.4).
//!
//! The window advances in none of these: the caller tells it once the whole packet has been accepted.

use super::IV_LEN;
use super::cipher::OpenJob;
use super::sa::InboundSa;
use crate::drops::Reason;
use crate::wire::{Esp, esp};

/// A packet that may be new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The whole sequence number, its high half inferred with ESN.
    pub sequence: u64,
    /// The IV that it carries.
    pub iv: [u8; IV_LEN],
}

/// Step 1, on a packet from its ESP header to its end. `None`: it must wait until the packets before it are settled (see
/// [`crate::esp::replay::ReplayWindow::check_in_flight`]). Changes no state that outlives the batch.
///
/// # Errors
/// [`Reason::EspMalformed`] and [`Reason::EspReplay`].
#[inline]
pub fn candidate(packet: &[u8], sa: &InboundSa) -> Result<Option<Candidate>, Reason> {
    let esp = Esp::parse(packet).map_err(|_| Reason::EspMalformed)?;
    let sequence = sa.window().check_in_flight(esp.sequence()).map_err(|_| Reason::EspReplay)?;
    Ok(sequence.map(|sequence| Candidate { sequence, iv: *esp.iv() }))
}

/// Step 2 as a job for the cipher. `data` is `shift` bytes of room, then the ciphertext and ICV of the packet that
/// `candidate` was found in; the plaintext will start where `data` does.
#[inline]
pub fn job<'a>(data: &'a mut [u8], shift: usize, sa: &'a InboundSa, candidate: &Candidate) -> OpenJob<'a> {
    OpenJob {
        key: sa.key(),
        iv: candidate.iv,
        aad: sa.aad(candidate.sequence),
        data,
        shift,
        authentic: false,
    }
}

/// Step 3: the length of the payload, and the next header.
///
/// # Errors
/// [`Reason::EspMalformed`] for wrong padding.
#[inline]
pub fn trailer(plaintext: &[u8]) -> Result<(usize, u8), Reason> {
    let (payload, next_header) = esp::split_trailer(plaintext).map_err(|_| Reason::EspMalformed)?;
    Ok((payload.len(), next_header))
}
