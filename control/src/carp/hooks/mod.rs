//! Hooks: commands that run when this router's role or readiness changes, for what providers want (a virtual MAC that is moved by
//! an API) and what scripts do.
//!
//! [`Hooks`] keeps the order and never waits. For each group, and for readiness, one event has its hooks run at a time; of events
//! that come meanwhile the last one is kept, as what was between is no longer so. [`helper`] runs them, in another process.

pub mod helper;
pub(super) mod runner;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use self::helper::{Done, Program};
use self::runner::Runner;
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
    runner: Runner,
    lanes: BTreeMap<Option<Group>, Lane>,
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
        Ok(Hooks::with(hooks, router, Runner::start(programs(hooks))?))
    }

    fn with(hooks: &[CarpHook], router: &str, runner: Runner) -> Hooks {
        Hooks { hooks: hooks.to_vec(), router: router.to_owned(), runner, ..Hooks::default() }
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
        self.runner.wait_fd()
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
                match self.runner.run(hook, self.environment(&occasion)) {
                    Ok(id) => {
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

    /// What the helper says.
    fn hear(&mut self) -> Vec<Done> {
        let (done, gone) = self.runner.hear();
        if gone {
            let running: Vec<_> = self.lanes.values_mut().filter_map(|lane| lane.running.take()).collect();
            let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
            running.into_iter().for_each(|(_, hook, occasion)| self.fail(hook, occasion, &gone));
        }
        done
    }
}

fn programs(hooks: &[CarpHook]) -> Vec<Program> {
    hooks.iter().map(|hook| Program::new(&hook.command, hook.timeout)).collect()
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
