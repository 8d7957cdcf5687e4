//! Far ends behind a NAT that gives them another address or port while their tunnel is up, a *mapping* (RFC 3947 section 4, RFC 7296
//! section 2.23). Their newest genuine packet tells where they are now, long before IKE has a reason to speak.
//!
//! - charon decides where its plugin hears of it, as a kernel's IPsec tells it: it moves the IKE SA and the SAs that belong to it, where the
//!   far end is behind a NAT, and tells of them like of any other move.
//! - It cannot be told where it gives its SAs to a kernel, which sees none of their packets. Then the SAs are moved here, if the far end
//!   is behind a NAT and this router is not; charon follows at the first IKE message from there.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Keys;
use super::sa::Origin;

/// How often it is looked whether a packet came from elsewhere, while any come in UDP.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// After this time a far end may be followed again: one whose packets take two ways is not to keep all busy.
const PAUSE: Duration = Duration::from_millis(250);

/// A far end has another mapping.
#[derive(Debug)]
pub struct Mapping {
    /// The tunnel.
    pub tunnel: String,
    /// Where its packets come from now.
    pub source: SocketAddr,
    /// Is it followed? Else nobody knows of a NAT there.
    pub followed: bool,
}

/// Those of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    /// How many there were, after the first.
    pub(super) count: u64,
    last: Option<Instant>,
}

impl Keys {
    /// Looks where packets come from. Returns whether other SAs are to be installed.
    pub(super) fn follow_mappings(&mut self, now: Instant) -> bool {
        if !self.moved.swap(false, Ordering::Acquire) {
            return false;
        }
        let Some(open) = &self.open else { return false };
        let mut changed = false;
        for (name, tunnel) in &mut self.tunnels {
            if tunnel.mappings.last.is_some_and(|last| now < last + PAUSE) {
                self.moved.store(true, Ordering::Relaxed);
                continue;
            }
            let Some((sa, origin, source)) = tunnel.associations.elsewhere() else { continue };
            let told = origin == Origin::Plugin && open.plugin.tell(sa, source);
            let moves = !told && self.pilot.has_nat_there(name);
            if moves {
                for id in tunnel.associations.follow(sa, source) {
                    self.ids.insert(id, name.clone());
                }
            }
            changed |= moves;
            tunnel.mappings.last = Some(now);
            tunnel.mappings.count += 1;
            self.new_mappings.push(Mapping { tunnel: name.clone(), source, followed: told || moves });
        }
        changed
    }

    /// The mappings that were seen since this was last asked.
    pub fn mappings(&mut self) -> Vec<Mapping> {
        std::mem::take(&mut self.new_mappings)
    }

    /// For each tunnel, how often its far end has had another mapping.
    pub fn mapping_counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.tunnels.iter().map(|(name, tunnel)| (name.as_str(), tunnel.mappings.count))
    }
}
