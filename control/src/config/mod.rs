//! The configuration: TOML files into one typed model that has been checked as a whole. It knows nothing of the engine's
//! tables and touches no packet; whoever builds those tables may rely on everything that is promised here.
//!
//! Steps of [`Config::load`]:
//! 1. read the named file, through a buffer that is wiped afterwards (`source`);
//! 2. read its tables with typed getters that note what is wrong and go on (`reader`, `sections`);
//! 3. do the same for every file that `include` names;
//! 4. check what only the whole can show: names, references, duplicates (`checks`);
//! 5. hand back the model, or everything that is wrong in the order of files and lines (`report`).

mod carp;
mod checks;
mod ike;
mod lifetimes;
mod model;
mod pki;
mod reader;
mod report;
mod sections;
mod source;
mod sources;
mod values;
mod watching;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::path::Path;

pub use lifetimes::{Life, Lifetimes};
pub use model::{
    Auth, Carp, CarpCheck, CarpGroup, CarpHook, Certified, Config, Device, Direction, Encapsulation, Engine,
    Group, HookEvent, Idle, Ike, Keepalive, KeyPair, Local, Log, LogFormat, LogLevel, MAX_DEPTH, Mac, Manual,
    ManualSa, Metrics, MlKem, Mode, Mtu, Neighbour, Payload, Port, Prefix, Profile, Protect, Revocation,
    Role, Route, RouteTarget, Router, Secret, Suite, Sync, SyncProof, Trust, Tunnel, UdpEncap,
};
pub use report::{ConfigErrors, Position, Problem, Warning};
pub use sources::{Digest, Sources};

use report::Report;
use sections::Draft;
use source::Loader;
use sources::Files;

impl Config {
    /// Loads the configuration in the file `path` and in the files it includes, and checks all of it. Nothing is
    /// changed anywhere.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first (but a syntax error hides the rest of its file). Neither errors nor
    /// warnings ever quote a key or a pre-shared key.
    pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), ConfigErrors> {
        Config::load_with_sources(path).map(|(config, warnings, _)| (config, warnings))
    }

    /// The same, with the files that it was loaded from.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn load_with_sources(path: &Path) -> Result<(Config, Vec<Warning>, Sources), ConfigErrors> {
        let mut loader = Loader::new(Files::System(RefCell::new(Sources::new(path))));
        let (config, warnings) = Config::read(path, &mut loader)?;
        Ok((config, warnings, loader.sources()))
    }

    /// Loads a configuration from the files that it was once loaded from, as they were then.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn from_sources(sources: &Sources) -> Result<(Config, Vec<Warning>), ConfigErrors> {
        Config::read(sources.top(), &mut Loader::new(Files::Noted(sources.clone())))
    }

    fn read(path: &Path, loader: &mut Loader) -> Result<(Config, Vec<Warning>), ConfigErrors> {
        let mut report = Report::default();
        let mut draft = Draft::default();
        if let Some(document) = loader.open(path, None, &mut report) {
            let included = sections::read_top(&document, &mut draft, &mut report);
            drop(document);
            for (file, named_at) in included {
                if let Some(document) = loader.open(&file, named_at.as_ref(), &mut report) {
                    sections::read_included(&document, &mut draft, &mut report);
                }
            }
        }
        carp::resolve(&mut draft.config, &mut report);
        checks::check(&draft, &mut report);
        report.finish(draft.config)
    }
}
