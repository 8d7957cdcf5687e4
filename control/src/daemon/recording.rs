//! Keeps the record of how far the numbers of SAs with fixed keys are used (see [`crate::transaction::record`]).

use std::time::Instant;

use super::log;
use crate::config::Router;
use crate::plan::Kept;
use crate::transaction::ledger::Ledger;
use crate::transaction::record::Record;
use crate::transaction::store::Folder;

/// The record, and where it is.
pub(super) struct Recording {
    record: Record<Folder>,
    folder: Folder,
    /// What was wrong with it last, so that nothing is told twice.
    told: Option<String>,
}

impl Recording {
    /// The record in that folder. One that is damaged is told, and begun anew.
    pub(super) fn open(folder: Folder) -> Recording {
        let (record, damaged) = Record::open(folder.clone());
        let mut recording = Recording { record, folder, told: None };
        recording.tell(damaged.map_or(Ok(()), Err));
        recording
    }

    /// A ledger whose SAs go on beyond what is recorded.
    pub(super) fn ledger(&self, router: Router) -> Ledger {
        Ledger::beyond(router, self.record.marks().clone())
    }

    /// When to keep ahead, at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.record.due()
    }

    /// Lets SAs send on, once it is recorded how far. To be called before tables with new ones are published, and when it is due.
    pub(super) fn keep_ahead(&mut self, kept: &Kept, now: Instant) {
        let recorded = self.record.keep_ahead(kept.ledger(), now);
        self.tell(recorded);
    }

    /// Nobody sends any more.
    pub(super) fn settle(&mut self, kept: &Kept) {
        let recorded = self.record.settle(kept.ledger());
        self.tell(recorded);
    }

    fn tell(&mut self, recorded: Result<(), String>) {
        let trouble = recorded.err();
        if let Some(why) = &trouble
            && self.told != trouble
        {
            let folder = self.folder.path().display();
            log::error(format_args!(
                "numbers, {folder}: {why}; after a restart, far ends may drop what SAs with fixed keys send (esp-replay)"
            ));
        }
        self.told = trouble;
    }
}
