//! Hooks: commands that run when this router's role or readiness changes, for what providers want (a virtual MAC that is moved by
//! an API) and what scripts do.
//!
//! [`Hooks`] keeps the order and never waits. For each group, and for readiness, one event has its hooks run at a time; of events
//! that come meanwhile the last one is kept, as what was between is no longer so. [`helper`] runs them, in another process.

pub mod helper;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use self::helper::{Done, Order, Program};
use super::Role;
use crate::config::{CarpHook, Group, HookEvent};

/// Something that hooks are run for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occasion {
    /// What has happened.
    pub event: HookEvent,
    /// In which group, and its address; `None`: it is about the router.
    pub group: Option<(Group, IpAddr)>,
}

impl From<Role> for HookEvent {
    fn from(role: Role) -> HookEvent {
        match role {
            Role::Init => HookEvent::Init,
            Role::Backup => HookEvent::Backup,
            Role::Master => HookEvent::Master,
        }
    }
}

/// A hook has ended, or could not be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What it was run for.
    pub occasion: Occasion,
    /// The program and its arguments.
    pub command: String,
    /// Why it failed; `None`: it did not.
    pub why: Option<String>,
    /// For how long it ran, in seconds.
    pub seconds: f64,
    /// The last that it printed.
    pub output: String,
}

/// What runs for a group, or for readiness.
#[derive(Default)]
struct Lane {
    /// The hook that runs now, by its order's number; its occasion; and those of the same occasion that come after it.
    running: Option<(u64, usize, Occasion)>,
    current: Option<Occasion>,
    then: VecDeque<usize>,
    /// What has happened meanwhile.
    next: Option<Occasion>,
}

/// See the module page.
#[derive(Default)]
pub struct Hooks {
    hooks: Vec<CarpHook>,
    router: String,
    helper: Option<UnixStream>,
    /// What the helper has said of a line that has not ended yet.
    read: Vec<u8>,
    lanes: BTreeMap<Option<Group>, Lane>,
    orders: u64,
    /// Reports of what could not even be begun.
    failed: Vec<Report>,
    /// How many hooks have ended well, and otherwise.
    pub counts: (u64, u64),
}

impl Hooks {
    /// Starts the helper for these hooks; without any, there is none.
    ///
    /// # Errors
    /// The system gives no process or descriptors.
    pub fn start(hooks: &[CarpHook], router: &str) -> io::Result<Hooks> {
        if hooks.is_empty() {
            return Ok(Hooks::default());
        }
        Hooks::with(hooks, router, helper::start()?)
    }

    fn with(hooks: &[CarpHook], router: &str, helper: UnixStream) -> io::Result<Hooks> {
        helper.set_nonblocking(true)?;
        let program = |hook: &CarpHook| Program {
            command: hook.command.clone(),
            timeout: u64::try_from(hook.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        let mut made = Hooks {
            hooks: hooks.to_vec(),
            router: router.to_owned(),
            helper: Some(helper),
            ..Hooks::default()
        };
        made.order(&Order::Hooks(hooks.iter().map(program).collect()))?;
        Ok(made)
    }

    /// Something has happened: its hooks run, now or when those of what happened before have ended.
    pub fn happen(&mut self, occasion: Occasion) {
        if !self.hooks.iter().any(|hook| hook.is_for(&occasion)) {
            // Still, what waits is no longer so.
            if let Some(lane) = self.lanes.get_mut(&of(&occasion)) {
                lane.next = None;
            }
            return;
        }
        let lane = self.lanes.entry(of(&occasion)).or_default();
        lane.next = Some(occasion);
        self.go_on();
    }

    /// What has ended since it was asked last. Never waits.
    pub fn reports(&mut self) -> Vec<Report> {
        let mut reports = std::mem::take(&mut self.failed);
        for done in self.hear() {
            let lane = self
                .lanes
                .values_mut()
                .find(|lane| lane.running.as_ref().is_some_and(|run| run.0 == done.id));
            let Some((_, hook, occasion)) = lane.and_then(|lane| lane.running.take()) else { continue };
            reports.push(Report {
                occasion,
                command: self.command(hook),
                why: done.why,
                seconds: done.seconds,
                output: done.output,
            });
        }
        self.go_on();
        reports.append(&mut self.failed);
        for report in &reports {
            match report.why {
                None => self.counts.0 += 1,
                Some(_) => self.counts.1 += 1,
            }
        }
        reports
    }

    /// Readable when something has ended.
    #[must_use]
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.helper.as_ref().map(AsFd::as_fd)
    }

    /// Has everything ended, and been reported?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.failed.is_empty()
            && self
                .lanes
                .values()
                .all(|lane| lane.running.is_none() && lane.then.is_empty() && lane.next.is_none())
    }

    /// Begins what can begin.
    fn go_on(&mut self) {
        let groups: Vec<_> = self.lanes.keys().cloned().collect();
        for group in groups {
            while let Some((hook, occasion)) = self.due(&group) {
                self.orders += 1;
                let id = self.orders;
                let order = Order::Run { id, hook, environment: self.environment(&occasion) };
                match self.order(&order) {
                    Ok(()) => {
                        if let Some(lane) = self.lanes.get_mut(&group) {
                            lane.running = Some((id, hook, occasion));
                        }
                    }
                    Err(error) => self.fail(hook, occasion, &error),
                }
            }
        }
    }

    /// What is to be begun in a lane.
    fn due(&mut self, group: &Option<Group>) -> Option<(usize, Occasion)> {
        let hooks = &self.hooks;
        let lane = self.lanes.get_mut(group).filter(|lane| lane.running.is_none())?;
        if lane.then.is_empty() {
            let occasion = lane.next.clone()?;
            let of_it = hooks.iter().enumerate().filter(|(_, hook)| hook.is_for(&occasion));
            lane.then = of_it.map(|(number, _)| number).collect();
            lane.current = Some(occasion);
            lane.next = None;
        }
        Some((lane.then.pop_front()?, lane.current.clone()?))
    }

    fn fail(&mut self, hook: usize, occasion: Occasion, error: &io::Error) {
        let why = format!("the process that runs hooks is gone ({error}); restart culvert");
        let command = self.command(hook);
        self.failed.push(Report { occasion, command, why: Some(why), seconds: 0.0, output: String::new() });
    }

    fn command(&self, hook: usize) -> String {
        self.hooks.get(hook).map_or(String::new(), |hook| hook.command.join(" "))
    }

    fn environment(&self, occasion: &Occasion) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::from([
            ("CULVERT_EVENT".to_owned(), occasion.event.name().to_owned()),
            ("CULVERT_ROUTER".to_owned(), self.router.clone()),
        ]);
        if let Some((group, address)) = &occasion.group {
            environment.extend([
                ("CULVERT_GROUP".to_owned(), group.to_string()),
                ("CULVERT_VHID".to_owned(), group.vhid.to_string()),
                ("CULVERT_INTERFACE".to_owned(), group.interface.clone()),
                ("CULVERT_ADDRESS".to_owned(), address.to_string()),
            ]);
        }
        environment
    }

    /// Tells the helper. It is told little, and has room for all of it.
    fn order(&mut self, order: &Order) -> io::Result<()> {
        let helper = self.helper.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        helper.write_all(&line)
    }

    /// What the helper says.
    fn hear(&mut self) -> Vec<Done> {
        let Some(helper) = &mut self.helper else { return Vec::new() };
        let mut bytes = [0; 4096];
        let gone = loop {
            match helper.read(&mut bytes) {
                Ok(0) => break true,
                Ok(length) => self.read.extend_from_slice(bytes.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        let mut done = Vec::new();
        while let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.read.drain(..=end).collect();
            done.extend(serde_json::from_slice::<Done>(&line));
        }
        if gone {
            self.helper = None;
            let running: Vec<_> = self.lanes.values_mut().filter_map(|lane| lane.running.take()).collect();
            let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
            running.into_iter().for_each(|(_, hook, occasion)| self.fail(hook, occasion, &gone));
        }
        done
    }
}

fn of(occasion: &Occasion) -> Option<Group> {
    occasion.group.as_ref().map(|(group, _)| group.clone())
}

impl CarpHook {
    fn is_for(&self, occasion: &Occasion) -> bool {
        self.on.contains(&occasion.event)
    }
}

#[cfg(test)]
mod tests;
