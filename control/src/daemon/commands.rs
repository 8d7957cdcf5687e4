//! What the control thread does for clients: one arm for each command.

use super::Daemon;
use super::server::Answer;
use crate::Failure;
use crate::api::Command;

impl Daemon {
    /// Does what is asked.
    ///
    /// # Errors
    /// It failed, or what is asked for is wrong.
    pub(super) fn execute(&mut self, command: Command) -> Result<Answer, Failure> {
        match command {
            Command::Show { what } => self.show(what).map(Answer::Once).map_err(Failure::failed),
            Command::Watch { what, every } => self.watch(what, every).map(Answer::Stream),
            Command::Trace { matching, count } => self.trace(&matching, count).map(Answer::Stream),
            Command::Capture(of) => self.capture(&of).map(Answer::Stream),
            Command::Explain(question) => self.explain(&question).map(Answer::Once),
        }
    }
}
