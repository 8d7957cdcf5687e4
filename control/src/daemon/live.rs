//! What the daemon would build on this host now: for `culvert check --live`.

use std::collections::BTreeMap;
use std::time::Instant;

use culvert_engine::tables::Tables;

use super::assemble::{self, Known};
use super::follow::{self, Host};
use super::hold::Holds;
use crate::config::{Config, Problem, Warning};
use crate::plan::{self, Kept};

/// The tables, without SAs, and what is to be said of them.
pub(crate) struct Live {
    pub(crate) tables: Tables,
    /// Tunnels that would lie deeper in tunnels than they may.
    pub(crate) errors: Vec<Problem>,
    /// Those that would keep another way.
    pub(crate) warnings: Vec<Warning>,
}

/// Asks the host, and builds. Nothing is changed.
///
/// # Errors
/// The host does not answer; the engine finds the configuration and the host's routes contradictory.
pub(crate) fn live(config: &Config) -> Result<Live, Vec<Problem>> {
    let unknown = |why: String| {
        let remedy = "check without --live";
        vec![Problem { what: "host".to_owned(), why, remedy: remedy.to_owned(), at: None }]
    };
    let host = follow::source().and_then(|source| Host::new(source, config)).map_err(unknown)?;
    let known = Known {
        config,
        kept: &Kept::without_sas(config, 1),
        links: &host.links(),
        host: &host.tables(),
        found: &BTreeMap::new(),
        path_mtus: &vec![None; config.tunnels.len()],
        holds: &Holds::default(),
        now: Instant::now(),
    };
    let built = assemble::build(&known).map_err(|error| vec![plan::explain(&error, config)])?;
    let errors = built.placed.nested.values().map(|detour| detour.problem(config)).collect();
    let kept = built.placed.held.values().map(|held| {
        let mut problem = held.detour.problem(config);
        problem.why += "; it would keep its way out of a port";
        Warning(problem)
    });
    Ok(Live { warnings: kept.collect(), tables: built.tables, errors })
}
