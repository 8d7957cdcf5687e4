//! What the control thread does for clients: one arm for each command.

use std::time::Duration;

use super::Daemon;
use super::server::Answer;
use super::transact::Proposal;
use crate::Failure;
use crate::api::Command;

impl Daemon {
    /// Does what is asked.
    ///
    /// # Errors
    /// It failed, or what is asked for is wrong.
    pub(super) fn execute(
        &mut self,
        command: Command,
        proposal: Option<Box<Proposal>>,
    ) -> Result<Answer, Failure> {
        match command {
            Command::Show { what } => self.show(what).map(Answer::Once).map_err(Failure::failed),
            Command::Apply { confirm, .. } => {
                let confirm = confirm.map(Duration::from_secs);
                proposal.ok_or_else(nothing).and_then(|it| self.apply(*it, confirm))
            }
            Command::Diff { .. } => {
                proposal.ok_or_else(nothing).and_then(|it| self.diff(&it)).map(Answer::Once)
            }
            Command::Confirm => self.confirm().map(Answer::Once),
            Command::Rollback => self.rollback("as was asked for").map(Answer::Once),
            Command::Tunnel { name, up } => self.switch(&name, up).map(Answer::Once),
            Command::Rekey { name } => self.rekey(&name).map(Answer::Once),
            Command::CarpNotify { group, role } => self.notify_carp(&group, role).map(Answer::Once),
            Command::CarpYield { force } => self.yield_carp(force).map(Answer::Once),
            Command::CarpResume {} => Ok(Answer::Once(self.resume_carp())),
            Command::CarpReady {} => Ok(Answer::Once(self.carp_ready())),
            Command::ShowIke { name } => self.show_ike(&name).map(Answer::Once),
            Command::Watch { what, every } => self.watch(what, every).map(Answer::Stream),
            Command::Metrics {} => Ok(Answer::Once(self.metrics().into())),
            Command::Trace { matching, count } => self.trace(&matching, count).map(Answer::Stream),
            Command::Capture(of) => self.capture(&of).map(Answer::Stream),
            Command::Explain(question) => self.explain(&question).map(Answer::Once),
        }
    }
}

fn nothing() -> Failure {
    Failure::usage("request: no configuration came with it".to_owned())
}
