//! Tunnels whose near end a pair of routers shares: they send and receive where this router is master, and are silent where it
//! is not.

use std::borrow::Cow;
use std::time::Instant;

use culvert_engine::wire::ethernet::MacAddr;
use serde_json::{Value, json};

use super::status::{CarpStatus, GroupStatus, LinkStatus};
use super::{Daemon, log};
use crate::Failure;
use crate::carp::hooks::Occasion;
use crate::carp::{Followed, Member, Role, Turn};
use crate::config::{Group, Tunnel};
use crate::plan::KeptTunnel;

impl Daemon {
    /// Looks at the roles, and has those in force that have changed.
    pub(super) fn follow_carp(&mut self, now: Instant) {
        let pair = &self.pair;
        let doubted = self.carp.doubted().next().is_some();
        let turns = self.carp.look(self.host.state(), |group| pair.said(group), now);
        if doubted && self.carp.doubted().next().is_none() && turns.is_empty() {
            // What was put off until it was known.
            self.steer_keys();
        }
        // Before roles are applied: what is carried on is not silent in between.
        self.follow_yield(now);
        if turns.is_empty() {
            return self.look_at_roles(now);
        }
        if turns.iter().any(|turn| turn.from == Role::Master) {
            // What was received last, while it is still this router that receives.
            self.tell_partner(now);
        }
        self.apply_roles(now);
        // CARP has said so as well; between two masters, the last who says it is followed.
        turns.iter().filter(|turn| turn.to == Role::Master).for_each(|turn| self.announce(&turn.group));
        turns.iter().for_each(tell);
        self.run_hooks(&turns);
        self.look_at_roles(now);
    }

    /// Has tunnels send, or be silent, as the roles are.
    pub(super) fn apply_roles(&mut self, now: Instant) {
        self.kept.masters = self.active();
        assign(&self.kept.masters, &self.config.tunnels, &mut self.kept.tunnels);
        self.stand();
        self.install_keys();
        self.rebuild();
        self.tell_tunnels();
        self.tell_partner(now);
        // Packets first: charon takes its time.
        self.steer_keys();
    }

    /// Groups on whose tunnels this router sends and receives: those of which it is master, unless the other one is as well and this
    /// one has to be quiet; and those that it carries on until the other one is.
    pub(super) fn active(&self) -> Vec<Group> {
        let is_carried = |group: &Group| self.yielded.as_ref().is_some_and(|yielded| yielded.carries(group));
        let active = |(group, member): &(&Group, &Member)| {
            (member.role == Role::Master || is_carried(group)) && !self.is_quiet(group)
        };
        self.carp.members().filter(active).map(|(group, _)| group.clone()).collect()
    }

    /// Has the hooks run that are for these changes.
    pub(super) fn run_hooks(&mut self, turns: &[Turn]) {
        for turn in turns {
            let address = self
                .carp
                .members()
                .find(|(group, _)| **group == turn.group)
                .map(|(_, member)| member.address);
            let group = address.map(|address| (turn.group.clone(), address));
            self.hooks.happen(Occasion { event: turn.to.into(), group });
        }
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
                split: self.pair.is_split(group),
                silent: self.is_quiet(group),
                interval: member.interval.map(|interval| f64::from(interval) / 256.0),
            };
            (group.to_string(), status)
        };
        CarpStatus {
            followed: true,
            router: self.config.carp.router.name().to_owned(),
            yielded: self.yielded.is_some(),
            missing: if self.config.carp.at.is_some() { self.missing(Instant::now()) } else { Vec::new() },
            hooks_done: self.hooks.counts.0,
            hooks_failed: self.hooks.counts.1,
            groups: self.carp.members().map(group).collect(),
            sync: self.show_sync(),
        }
    }

    /// The link, with what the partner says of itself.
    fn show_sync(&self) -> Option<LinkStatus> {
        let mut link = self.partner.status()?;
        if let (Some(partner), Some(missing)) = (&mut link.partner, self.pair.missing()) {
            (partner.ready, partner.missing) = (Some(missing.is_empty()), missing.to_vec());
        }
        Some(link)
    }

    /// Why the tunnel is silent, if it is for its near end being another router's.
    pub(super) fn backup(&self, number: usize) -> Option<String> {
        let kept = self.kept.tunnels.get(number).filter(|kept| kept.backup);
        let group = kept.and(self.config.tunnels.get(number)?.local.group())?;
        Some(match self.carp.role(group) {
            Role::Master => format!("both routers are master for {group}, and this one is silent"),
            role => format!("this router is {role} for {group}"),
        })
    }
}

/// The tunnels as keys are negotiated for them: those whose near end another router holds are told of, and nothing begun. Of those
/// whose groups are `left` as they are, the SAs stay.
pub(super) fn negotiated<'t>(
    tunnels: &'t [Tunnel],
    kept: &[KeptTunnel],
    left: &[&Group],
) -> Vec<Cow<'t, Tunnel>> {
    let is_left = |tunnel: &Tunnel| tunnel.local.group().is_some_and(|group| left.contains(&group));
    let quiet = |(tunnel, kept): (&'t Tunnel, &KeptTunnel)| match kept.backup && !is_left(tunnel) {
        false => Cow::Borrowed(tunnel),
        true => Cow::Owned(Tunnel { enabled: false, ..tunnel.clone() }),
    };
    tunnels.iter().zip(kept).map(quiet).collect()
}

/// Tunnels are silent whose near end belongs to a group that is not one of these.
pub(super) fn assign(active: &[Group], tunnels: &[Tunnel], kept: &mut [KeptTunnel]) {
    for (tunnel, kept) in tunnels.iter().zip(kept) {
        kept.backup = tunnel.local.group().is_some_and(|group| !active.contains(group));
    }
}

/// A group's own link address: CARP's, and VRRP's for IPv4 (RFC 9568 section 7.3). On Linux, routers may use their interface's in its place.
pub(super) fn shared_mac(group: &Group) -> MacAddr {
    MacAddr([0, 0, 0x5e, 0, 1, group.vhid])
}

/// Groups of which this router is master.
pub(super) fn masters(carp: &Followed) -> Vec<Group> {
    carp.members().filter(|(_, member)| member.role == Role::Master).map(|(group, _)| group.clone()).collect()
}

pub(super) fn tell(Turn { group, from, to, why }: &Turn) {
    let why = why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    let text = format!("carp {group}: {to}, was {from}{why}");
    if *to == Role::Init { log::warn(text) } else { log::info(text) }
}
