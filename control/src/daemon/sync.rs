//! The link to the other router of the pair: kept as `[carp.sync]` has it, told of, and listened to.

use std::sync::Arc;
use std::time::Instant;

use super::status::{LinkStatus, PartnerStatus};
use super::{Bell, Daemon, log};
use crate::config::{Router, Sync};
use crate::sync::link::{Event, Frame, Link, Unsent};

/// The link, if there is to be one.
#[derive(Default)]
pub(super) struct Partner {
    link: Option<Link>,
    /// What it was made of.
    settings: Option<Sync>,
    /// Why it could not be made.
    trouble: Option<String>,
    /// What was told last.
    told: Option<String>,
}

impl Partner {
    /// Has the link as the settings want it. One that fits stays: that is returned.
    pub(super) fn steer(&mut self, settings: Option<&Sync>, router: Router, bell: &Arc<Bell>) -> bool {
        let same = |one: &Sync| settings.is_some_and(|other| one.is_like(other));
        if self.settings.as_ref().map_or(settings.is_none(), same) {
            return true;
        }
        // The old one has to be gone from the address that the new one wants.
        *self = Partner::default();
        self.settings = settings.cloned();
        let bell = Arc::clone(bell);
        match settings.map(|settings| Link::start(settings, router, move || bell.wake())) {
            Some(Ok(link)) => self.link = Some(link),
            Some(Err(error)) => self.trouble = Some(error.to_string()),
            None => {}
        }
        false
    }

    /// What has happened next.
    pub(super) fn next(&self) -> Option<Event> {
        self.link.as_ref()?.next()
    }

    /// Sends it in this session.
    ///
    /// # Errors
    /// It will not arrive; the session has ended, or ends.
    pub(super) fn send(&self, frame: Frame) -> Result<(), Unsent> {
        self.link.as_ref().ok_or(Unsent::Down)?.send(frame)
    }

    /// Has nothing happened?
    pub(super) fn is_silent(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.is_silent())
    }

    /// Tells why there is no session, when that is another reason than before.
    fn look_after(&mut self) {
        let Some(status) = self.status() else { return };
        if status.why == self.told {
            return;
        }
        if let Some(why) = &status.why {
            log::warn(format_args!("carp sync: no link with the partner: {why}"));
        }
        self.told = status.why;
    }

    /// What there is to show; `None`: there is to be no link.
    pub(super) fn status(&self) -> Option<LinkStatus> {
        let settings = self.settings.as_ref()?;
        let Some(link) = &self.link else {
            let why = self.trouble.clone();
            return Some(LinkStatus { why, ..LinkStatus::down(settings) });
        };
        let status = link.status();
        let partner = status.up.map(|(partner, version)| PartnerStatus {
            address: partner.address,
            router: partner.router.name().to_owned(),
            program: partner.program,
            version,
            ready: None,
            missing: Vec::new(),
        });
        Some(LinkStatus {
            up: partner.is_some(),
            partner,
            why: status.why,
            seconds: status.since.as_secs_f64(),
            sessions: status.sessions,
            waiting_out: status.waiting.0,
            waiting_in: status.waiting.1,
            out_frames: status.frames.0,
            in_frames: status.frames.1,
            out_bytes: status.bytes.0,
            in_bytes: status.bytes.1,
            refused: status.refused,
            ..LinkStatus::down(settings)
        })
    }
}

impl Daemon {
    /// Has the link as the configuration wants it.
    pub(super) fn steer_partner(&mut self) {
        let carp = &self.config.carp;
        if !self.partner.steer(carp.sync.as_ref(), carp.router, &self.bell) {
            self.miss_partner();
        }
    }

    /// Hears what the partner says, and what becomes of the link.
    pub(super) fn hear_partner(&mut self) {
        let (now, mut changed) = (Instant::now(), false);
        while let Some(event) = self.partner.next() {
            match event {
                Event::Up { partner, version } => {
                    log::info(format_args!(
                        "carp sync: linked with the partner, router {} at {}, {}, version {version}",
                        partner.router.name(),
                        partner.address,
                        partner.program
                    ));
                    self.meet_partner(version, now);
                }
                Event::Down { why } => {
                    log::warn(format_args!("carp sync: the link with the partner ended: {why}"));
                    self.partner.told = Some(why);
                    self.miss_partner();
                }
                Event::Frame(frame) => changed |= self.hear_message(&frame, now),
            }
        }
        if self.claim() | changed {
            self.install_keys();
            self.rebuild();
            self.tell_tunnels();
        }
        self.remind_partner(now);
    }

    /// From time to time.
    pub(super) fn look_after_partner(&mut self) {
        self.partner.look_after();
    }
}
