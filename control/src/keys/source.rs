//! Where SAs come from. Each source has a thread of its own that listens to it and tells what it hears through an [`Ear`]; the
//! control thread takes it in with [`Heard`]. A source that waits for an answer (charon believes only what is installed) is
//! held up; nobody else is. Tests tell through an ear themselves.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use super::associations::Used;
use super::sa::{Change, Id};

/// How long a source waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a source has to say.
#[derive(Debug)]
pub enum Saying {
    /// Something has changed.
    Change(Change),
    /// What has gone through that SA?
    Query(Id),
}

/// What it is answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The change is in force, or why it is not.
    Changed(Result<(), String>),
    /// What has gone through the SA, if it is there.
    Used(Option<Used>),
}

/// A saying, and where its answer goes if one is waited for.
#[derive(Debug)]
pub struct Said {
    /// The saying.
    pub saying: Saying,
    answer: Option<Sender<Answer>>,
}

impl Said {
    /// Answers, if an answer is waited for.
    pub fn answer(self, answer: Answer) {
        if let Some(asked) = self.answer {
            // Who has had to wait too long is gone.
            let _ = asked.send(answer);
        }
    }
}

/// Where sources say what there is.
#[derive(Clone)]
pub struct Ear {
    saying: Sender<Said>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// Where it is heard.
pub type Heard = Receiver<Said>;

impl Ear {
    /// An ear, and where it is heard; `wake` is called whenever there is something to hear.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> (Ear, Heard) {
        let (saying, heard) = unbounded();
        (Ear { saying, wake: Arc::new(wake) }, heard)
    }

    /// Says so, and waits for nothing. False: nobody listens any more.
    pub fn say(&self, change: Change) -> bool {
        let heard = self.saying.send(Said { saying: Saying::Change(change), answer: None }).is_ok();
        (self.wake)();
        heard
    }

    /// Says so, and waits for the answer. `None`: there is none in time.
    pub fn ask(&self, saying: Saying) -> Option<Answer> {
        let (answer, answered) = bounded(1);
        self.saying.send(Said { saying, answer: Some(answer) }).ok()?;
        (self.wake)();
        answered.recv_timeout(PATIENCE).ok()
    }
}
