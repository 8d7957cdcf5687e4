//! Tunnels whose near end a pair of routers shares: they send and receive where this router is master, and are silent where it
//! is not.

use std::borrow::Cow;
use std::time::Instant;

use serde_json::{Value, json};

use super::status::{CarpStatus, GroupStatus};
use super::{Daemon, log};
use crate::Failure;
use crate::carp::{Followed, Member, Role, Turn};
use crate::config::{Group, Tunnel};
use crate::plan::KeptTunnel;

impl Daemon {
    /// Looks at the roles, and has those in force that have changed.
    pub(super) fn follow_carp(&mut self, now: Instant) {
        let turns = self.carp.look(self.host.state(), now);
        if turns.is_empty() {
            return;
        }
        assign(&self.carp, &self.config.tunnels, &mut self.kept.tunnels);
        self.generation += 1;
        self.rebuild();
        turns.iter().for_each(tell);
        self.tell_tunnels();
        // Packets first: charon takes its time.
        self.steer_keys();
    }

    /// Somebody says what this router is.
    ///
    /// # Errors
    /// There is no such group.
    pub(super) fn notify_carp(&mut self, group: &str, role: Role) -> Result<Value, Failure> {
        let of: Group = group.parse().map_err(|why| Failure::usage(format!("carp: {why}")))?;
        self.carp.notify(&of, role).map_err(|why| Failure::usage(format!("carp: {why}")))?;
        self.follow_carp(Instant::now());
        Ok(json!({"group": group, "role": self.carp.role(&of)}))
    }

    /// What `show carp` shows.
    pub(super) fn show_carp(&self) -> CarpStatus {
        let group = |(group, member): (&Group, &Member)| {
            let of_group = |tunnel: &&Tunnel| tunnel.local.group() == Some(group);
            let tunnels = self.config.tunnels.iter().filter(of_group).map(|tunnel| tunnel.name.clone());
            let status = GroupStatus {
                address: member.address,
                role: member.role,
                why: member.why.clone(),
                seconds: member.since.elapsed().as_secs_f64(),
                changes: member.changes,
                tunnels: tunnels.collect(),
            };
            (group.to_string(), status)
        };
        CarpStatus {
            followed: true,
            router: self.config.carp.router.name().to_owned(),
            groups: self.carp.members().map(group).collect(),
        }
    }

    /// Why the tunnel is silent, if it is for its near end being another router's.
    pub(super) fn backup(&self, number: usize) -> Option<String> {
        let kept = self.kept.tunnels.get(number).filter(|kept| kept.backup);
        let group = self.config.tunnels.get(number)?.local.group();
        kept.and(group).map(|group| format!("this router is {} for {group}", self.carp.role(group)))
    }
}

/// The tunnels as keys are negotiated for them: those whose near end another router holds are told of, and nothing begun.
pub(super) fn negotiated<'t>(tunnels: &'t [Tunnel], kept: &[KeptTunnel]) -> Vec<Cow<'t, Tunnel>> {
    let quiet = |(tunnel, kept): (&'t Tunnel, &KeptTunnel)| match kept.backup {
        false => Cow::Borrowed(tunnel),
        true => Cow::Owned(Tunnel { enabled: false, ..tunnel.clone() }),
    };
    tunnels.iter().zip(kept).map(quiet).collect()
}

/// Tunnels are silent where this router is not master of their near end's group.
pub(super) fn assign(carp: &Followed, tunnels: &[Tunnel], kept: &mut [KeptTunnel]) {
    for (tunnel, kept) in tunnels.iter().zip(kept) {
        kept.backup = tunnel.local.group().is_some_and(|group| carp.role(group) != Role::Master);
    }
}

pub(super) fn tell(Turn { group, from, to, why }: &Turn) {
    let why = why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    let text = format!("carp {group}: {to}, was {from}{why}");
    if *to == Role::Init { log::warn(text) } else { log::info(text) }
}
