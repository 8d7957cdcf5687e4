//! Checks: commands that are run again and again, and by whose outcome this router is ready to be master, or is not (whether
//! routing sessions are up, say).
//!
//! [`Checks`] never waits; [`helper`](super::hooks::helper) runs them, in another process. One run of a check ends before the
//! next begins.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::hooks::helper::{Done, Program};
use super::hooks::runner::Runner;
use crate::config::CarpCheck;
use crate::text::{cut, harmless};

/// How much is told of why a check failed, in bytes.
const TOLD: usize = 200;

/// A check, and what it has said.
struct Check {
    settings: CarpCheck,
    /// The order that runs now.
    running: Option<u64>,
    /// When it is run next.
    due: Instant,
    /// How often in a row it has failed.
    failures: u32,
    /// Why it does not let the router be ready; `None`: it does.
    why: Option<String>,
}

/// See the module page.
#[derive(Default)]
pub struct Checks {
    checks: Vec<Check>,
    router: String,
    runner: Runner,
}

impl Checks {
    /// Starts the process that runs these; without any, there is none. Until it has passed, a check does not let the router be
    /// ready.
    ///
    /// # Errors
    /// The system gives no process or descriptors.
    pub fn start(checks: &[CarpCheck], router: &str) -> io::Result<Checks> {
        Ok(Checks::with(checks, router, Runner::start(programs(checks))?))
    }

    fn with(checks: &[CarpCheck], router: &str, runner: Runner) -> Checks {
        let now = Instant::now();
        let check = |settings: &CarpCheck| Check {
            settings: settings.clone(),
            running: None,
            due: now,
            failures: 0,
            why: Some("it has not ended yet".to_owned()),
        };
        Checks { checks: checks.iter().map(check).collect(), router: router.to_owned(), runner }
    }

    /// Takes in what has ended, and begins what is due. `masters`: the groups of which this router is master. Has an outcome
    /// changed?
    pub fn follow(&mut self, masters: &str, now: Instant) -> bool {
        let (done, gone) = self.runner.hear();
        let mut changed = false;
        for done in done {
            let check = self.checks.iter_mut().find(|check| check.running == Some(done.id));
            changed |= check.is_some_and(|check| check.end(&done, now));
        }
        let Checks { checks, router, runner } = self;
        for (number, check) in checks.iter_mut().enumerate() {
            if gone && check.running.take().is_some() {
                changed |= check.lose("its process has ended");
            }
            if check.running.is_some() || now < check.due {
                continue;
            }
            let environment = [
                ("CULVERT_EVENT", "check"),
                ("CULVERT_CHECK", &check.settings.name),
                ("CULVERT_ROUTER", router),
                ("CULVERT_MASTER", masters),
            ];
            let environment: BTreeMap<String, String> =
                environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            match runner.run(number, environment) {
                Ok(id) => check.running = Some(id),
                Err(error) => changed |= check.lose(&error.to_string()),
            }
            check.due = now + check.settings.every;
        }
        changed
    }

    /// What does not let the router be ready, for people.
    pub fn missing(&self) -> impl Iterator<Item = String> {
        self.checks
            .iter()
            .filter_map(|check| Some(format!("check {}: {}", check.settings.name, check.why.as_ref()?)))
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }

    /// When one is to begin.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.checks.iter().filter(|check| check.running.is_none()).map(|check| check.due).min()
    }

    /// Readable when one has ended.
    #[must_use]
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.runner.wait_fd()
    }
}

impl Check {
    /// It has ended. Is the outcome another one?
    fn end(&mut self, done: &Done, now: Instant) -> bool {
        self.running = None;
        // Not sooner than that after one that took its time.
        self.due = now + self.settings.every;
        let before = self.why.is_some();
        match &done.why {
            None => (self.failures, self.why) = (0, None),
            Some(how) => {
                self.failures += 1;
                // One that has never passed has nothing to lose.
                if self.failures >= self.settings.failures || self.why.is_some() {
                    let said = done.output.lines().map(str::trim).find(|line| !line.is_empty());
                    self.why = Some(said.map_or_else(|| how.clone(), |said| harmless(cut(said, TOLD))));
                }
            }
        }
        self.why.is_some() != before
    }

    /// There is nobody to run it.
    fn lose(&mut self, error: &str) -> bool {
        let why = format!("the process that runs checks is gone ({error}); restart culvert");
        self.why.replace(why).is_none()
    }
}

fn programs(checks: &[CarpCheck]) -> Vec<Program> {
    checks.iter().map(|check| Program::new(&check.command, check.timeout)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::super::hooks::helper;
    use super::*;
    use crate::config::Position;

    const EVERY: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(20);

    fn check(name: &str, script: &str, failures: u32) -> CarpCheck {
        CarpCheck {
            name: name.to_owned(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            every: EVERY,
            timeout: Duration::from_millis(500),
            failures,
            at: Position::nowhere(),
        }
    }

    /// With a helper in a thread.
    fn start(list: &[CarpCheck]) -> (Checks, thread::JoinHandle<io::Result<()>>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let helper = thread::spawn(move || helper::serve(theirs));
        (Checks::with(list, "second", Runner::with(programs(list), ours).expect("told")), helper)
    }

    /// Follows until what is missing is that.
    fn until(checks: &mut Checks, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let end = Instant::now() + LONG;
        loop {
            checks.follow("2@vmx0", Instant::now());
            let missing: Vec<String> = checks.missing().collect();
            if wanted(&missing) {
                return missing;
            }
            assert!(Instant::now() < end, "{missing:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn ready_when_it_passes_and_not_before() {
        let place = std::env::temp_dir().join(format!("culvert-checks-{}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a folder");
        let script = format!(
            "cd {}; echo; echo \"$CULVERT_ROUTER is master for $CULVERT_MASTER\"; echo more; echo >>runs; test -e up",
            place.display()
        );
        let (mut checks, helper) = start(&[check("ospf", &script, 3)]);
        assert_eq!(checks.missing().collect::<Vec<_>>(), ["check ospf: it has not ended yet"]);
        // What it prints first is why; one that has never passed is believed at once.
        let missing = until(&mut checks, |missing| !missing.iter().any(|it| it.contains("not ended")));
        assert_eq!(missing, ["check ospf: second is master for 2@vmx0"]);
        std::fs::write(place.join("up"), "").expect("written");
        until(&mut checks, <[String]>::is_empty);
        // Then it takes three in a row.
        let runs = || std::fs::read(place.join("runs")).map_or(0, |runs| runs.len());
        std::fs::remove_file(place.join("up")).expect("it was there");
        let before = runs();
        until(&mut checks, |missing| !missing.is_empty());
        let took = runs() - before;
        assert!((3..=4).contains(&took), "{took}");
        drop(checks);
        helper.join().expect("it has ended").expect("well");
        std::fs::remove_dir_all(&place).expect("ours");
    }

    /// One that hangs is killed at its time and says so; it is run again, and does not hold up the other one. One that cannot be
    /// run says why.
    #[test]
    fn checks_that_hang_or_are_not_there() {
        let none = CarpCheck { command: vec!["/nonexistent/check".to_owned()], ..check("none", "", 1) };
        let (mut checks, helper) = start(&[check("hangs", "sleep 600", 1), check("well", "true", 1), none]);
        let missing = until(&mut checks, |missing| missing.len() == 2 && missing[0].contains("killed"));
        assert!(missing[0].starts_with("check hangs: it did not end within 500ms"), "{missing:?}");
        assert!(missing[1].starts_with("check none: cannot be run"), "{missing:?}");
        drop(checks);
        helper.join().expect("it has ended").expect("well");
    }

    #[test]
    fn whoever_runs_them_is_gone() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let list = [check("ospf", "true", 3)];
        let mut checks = Checks::with(&list, "first", Runner::with(programs(&list), ours).expect("told"));
        drop(theirs);
        let missing = until(&mut checks, |missing| missing.iter().any(|it| it.contains("is gone")));
        assert!(missing[0].contains("restart culvert"), "{missing:?}");
        assert!(checks.wait_fd().is_none(), "nothing spins");
    }
}
