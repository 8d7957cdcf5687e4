//! Has charon negotiate what the tunnels need, and knows how far it is.
//!
//! What happens to a tunnel, from left to right, and back when something goes wrong:
//!
//! ```text
//! Away ──► Loading ──► Looking ──► Waiting ──► Connecting ──► Up
//! (no charon)  (load-shared,   (list-sas)   (for our turn,   (initiate)
//!               load-key, ..,                or a pause)
//!               load-conn)
//! ```
//!
//! Pure but for the clock and the dice it is given: what charon has told goes in ([`Pilot::hear`]), requests come out. charon's
//! events only say that a tunnel is to be looked at; what is so, its list of SAs says.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::connection::{self, Turn};
use super::loaded;
use super::vici::{Answer, Message, Told};
use crate::config::{Ike, MlKem, Tunnel};
use crate::report::IkeReport;

/// Pauses between attempts: the first, and the longest. Each is half again as long as the one before, and up to a quarter
/// longer by chance, so that a thousand tunnels do not try as one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long the end whose turn it is not leaves it to the other.
const COURTESY: Duration = Duration::from_secs(4);
/// How often it is looked whether what is up is up, in case an event was missed; and whether an exchange goes on, since charon
/// tells of the end of one that it has given up in its log alone.
const LOOKS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));

/// How long charon has to put an end to an exchange that it has said the failure of.
const SOON: Duration = Duration::from_millis(500);

/// What charon says within this time of a failure is about that failure.
const ONE_STORY: Duration = Duration::from_secs(2);

/// For how long what charon has listed is taken for what it has.
const FRESH: Duration = Duration::from_secs(2);

/// A request for charon.
pub type Order = (&'static str, Message);

/// How far a tunnel is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// charon is not there.
    Away,
    /// It is being told of the tunnel.
    Loading,
    /// It would not take the tunnel's connection, for this reason.
    Refused(String),
    /// It is asked which SAs the tunnel has.
    Looking,
    /// Nothing is done until then.
    Waiting(Instant),
    /// An exchange goes on.
    Connecting,
    /// There is a pair of SAs.
    Up,
    /// The operator wants no SAs.
    Down,
}

impl State {
    /// Each state's name, in the order in which tunnels go through them.
    const NAMES: [&str; 7] = ["away", "refused", "loading", "waiting", "connecting", "up", "down"];

    fn name(&self) -> &'static str {
        match self {
            State::Away => "away",
            State::Refused(_) => "refused",
            State::Loading | State::Looking => "loading",
            State::Waiting(_) => "waiting",
            State::Connecting => "connecting",
            State::Up => "up",
            State::Down => "down",
        }
    }
}

/// What is known of a tunnel.
#[derive(Debug)]
struct Flight {
    /// What proves who is who; then `load-conn`.
    credentials: Vec<Order>,
    connection: Message,
    ml_kem: MlKem,
    /// How many pairs of SAs it is to have.
    sas: u8,
    /// What charon calls the pairs that it has: as it was last looked, while the tunnel is up.
    installed: Vec<String>,
    /// When more are asked for, while there are fewer.
    more: Option<Instant>,
    /// What charon calls its private key, if it has one and charon has taken it.
    key: Option<String>,
    turn: Turn,
    enabled: bool,
    /// Has another router its near end as well?
    shared: bool,
    state: State,
    attempts: u32,
    /// What charon lists of the connection, while it is asked for its policies.
    connections: Vec<Message>,
    /// What charon lists of the connection and has installed beside it, and when it did so.
    listed: Option<(Vec<Message>, Instant)>,
    /// Is the far end behind a NAT, and this one not?
    nat_there: bool,
    /// When its SAs are to be looked at anyway.
    look: Instant,
    /// What charon last said that explains why there are none, and when.
    why: Option<(String, Instant)>,
}

impl Flight {
    /// Until when it waits.
    fn until(&self, held: Option<Instant>) -> Option<Instant> {
        let State::Waiting(until) = self.state else { return None };
        Some(held.filter(|_| self.shared).map_or(until, |held| until.max(held)))
    }

    /// Is nothing to be begun, since another router may be master?
    fn is_held(&self, held: Option<Instant>, now: Instant) -> bool {
        self.shared && held.is_some_and(|held| now < held)
    }

    /// The children to be begun now, where those that are there are too few.
    fn missing(&mut self, name: &str, there: &[Child], held: Option<Instant>, now: Instant) -> Vec<String> {
        let missing = usize::from(self.sas).saturating_sub(there.len());
        let patience = match self.turn {
            _ if missing == 0 => None,
            Turn::First => Some(Duration::ZERO),
            Turn::Second => Some(COURTESY),
            Turn::Never => None,
        };
        let held = held.filter(|_| self.is_held(held, now)).map_or(Duration::ZERO, |held| held - now);
        let Some(patience) = patience else {
            self.more = None;
            return Vec::new();
        };
        let due = *self.more.get_or_insert(now + patience.max(held));
        if now < due {
            self.look = self.look.min(due);
            return Vec::new();
        }
        // Those that come are seen one by one meanwhile.
        self.more = Some(now + LOOKS.0);
        let all = (0..self.sas).rev().map(|number| connection::child(name, number));
        all.filter(|child| there.iter().all(|there| there.name != *child)).take(missing).collect()
    }
}

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Version,
    Algorithms,
    Credential,
    Connection,
    Look,
    List,
    /// As [`Purpose::List`], of what is installed for [`connection::drop_name`].
    Policies,
    Initiate,
    Other,
}

/// See the module page.
pub struct Pilot {
    connected: bool,
    /// Why charon is not there.
    away: String,
    /// Its version, as it gives it.
    version: Option<String>,
    /// Whether it has ML-KEM; `None` before it has said so.
    ml_kem: Option<bool>,
    tunnels: BTreeMap<String, Flight>,
    /// Until then nothing is begun in tunnels whose near end another router has as well: it may be master.
    held: Option<Instant>,
    asked: HashMap<u64, (Purpose, String)>,
    /// Throws dice: a number from 0 to 1.
    dice: Box<dyn FnMut() -> f64>,
}

impl Pilot {
    /// Without any tunnel. `dice` gives numbers from 0 to 1.
    pub fn new(dice: impl FnMut() -> f64 + 'static) -> Pilot {
        Pilot {
            connected: false,
            away: "strongSwan has not answered yet".to_owned(),
            version: None,
            ml_kem: None,
            tunnels: BTreeMap::new(),
            held: None,
            asked: HashMap::new(),
            dice: Box::new(dice),
        }
    }

    /// charon's version, where it has said so.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// In tunnels whose near end another router has as well, nothing is begun until then.
    pub fn hold(&mut self, until: Option<Instant>) {
        self.held = until;
    }

    /// The tunnels are these from now on. What is asked of charon therefore is handed to `ask`.
    pub fn steer<'t>(
        &mut self,
        wanted: impl Iterator<Item = (&'t Tunnel, &'t Ike, u32)>,
        now: Instant,
        ask: &mut dyn FnMut(Order) -> u64,
    ) {
        let mut before = std::mem::take(&mut self.tunnels);
        for (tunnel, ike, reqid) in wanted {
            let credentials = connection::credentials(tunnel, ike);
            let mut load = connection::load(tunnel, ike, reqid);
            let there = connection::name(&tunnel.name);
            // That it cannot be is said when it is loaded.
            let can_be = self
                .ml_kem
                .is_none_or(|can| connection::offer_ml_kem(&mut load, &there, ike.ml_kem, can).is_ok());
            let kept = before.remove(&tunnel.name);
            let changed = kept
                .as_ref()
                .is_some_and(|kept| kept.connection != load || !can_be && kept.ml_kem != ike.ml_kem);
            let same = kept.as_ref().is_some_and(|kept| !changed && kept.credentials == credentials);
            // What was negotiated by other settings, or with another far end, is not kept on.
            if let Some(State::Up | State::Connecting) = kept.as_ref().map(|kept| &kept.state)
                && changed
                && self.connected
            {
                self.ask(Purpose::Other, &tunnel.name, terminate(&tunnel.name), ask);
            }
            let flight = match kept {
                Some(kept) if same => Flight { enabled: tunnel.enabled, ml_kem: ike.ml_kem, ..kept },
                _ => Flight {
                    credentials,
                    connection: load,
                    ml_kem: ike.ml_kem,
                    sas: ike.sas,
                    installed: Vec::new(),
                    more: None,
                    key: None,
                    connections: Vec::new(),
                    listed: None,
                    turn: connection::turn(tunnel, ike),
                    enabled: tunnel.enabled,
                    shared: tunnel.local.group().is_some(),
                    state: State::Away,
                    attempts: 0,
                    nat_there: false,
                    look: now,
                    why: None,
                },
            };
            let (was, enabled) = (flight.state.clone(), flight.enabled);
            self.tunnels.insert(tunnel.name.clone(), flight);
            match was {
                _ if self.ml_kem.is_none() => {}
                State::Away => self.load(&tunnel.name, ask),
                State::Down if enabled => self.look(&tunnel.name, ask),
                State::Down => {}
                _ if !enabled => self.take_down(&tunnel.name, ask),
                _ => {}
            }
        }
        for (name, flight) in before {
            if self.connected {
                self.ask(Purpose::Other, &name, terminate(&name), ask);
                let unload = Message::new().with("name", connection::name(&name));
                self.ask(Purpose::Other, &name, ("unload-conn", unload), ask);
                if flight.connection.section(&connection::drop_name(&name)).is_some() {
                    let unload = Message::new().with("name", connection::drop_name(&name));
                    self.ask(Purpose::Other, &name, ("unload-conn", unload), ask);
                }
                self.ask(Purpose::Other, &name, connection::forget(&name), ask);
                // A router's tunnels may well have one key.
                let others =
                    |key: &String| self.tunnels.values().any(|other| other.key.as_ref() == Some(key));
                if let Some(key) = flight.key.filter(|key| !others(key)) {
                    self.ask(Purpose::Other, &name, ("unload-key", Message::new().with("id", key)), ask);
                }
            }
        }
    }

    /// Takes in what charon tells.
    pub fn hear(&mut self, told: Told, now: Instant, ask: &mut dyn FnMut(Order) -> u64) {
        match told {
            Told::Connected => {
                self.connected = true;
                self.asked.clear();
                self.ask(Purpose::Version, "", ("version", Message::new()), ask);
                self.ask(Purpose::Algorithms, "", ("get-algorithms", Message::new()), ask);
            }
            Told::Lost(why) => {
                self.connected = false;
                (self.version, self.ml_kem) = (None, None);
                self.away = format!("strongSwan is not there: {why}");
                self.asked.clear();
                self.tunnels.values_mut().for_each(|flight| flight.state = State::Away);
            }
            Told::Answer(answer) => self.answered(answer, now, ask),
            Told::Event(event, message) => self.happened(&event, &message, now, ask),
        }
    }

    /// Looks at the clock.
    pub fn tick(&mut self, now: Instant, ask: &mut dyn FnMut(Order) -> u64) {
        for name in self.names() {
            let Some(flight) = self.tunnels.get_mut(&name) else { continue };
            if flight.until(self.held).is_some_and(|until| now < until) {
                continue;
            }
            match flight.state {
                State::Waiting(until) if now >= until && flight.turn == Turn::Never => {
                    self.look(&name, ask);
                }
                State::Waiting(until) if now >= until => {
                    flight.state = State::Connecting;
                    flight.look = now + LOOKS.1;
                    flight.attempts += 1;
                    let child = connection::name(&name);
                    let initiate =
                        Message::new().with("ike", &child).with("child", &child).with("timeout", "-1");
                    self.ask(Purpose::Initiate, &name, ("initiate", initiate), ask);
                }
                State::Connecting | State::Up if now >= flight.look => self.look(&name, ask),
                _ => {}
            }
        }
    }

    /// How many tunnels are how far: charon is `away`, has `refused` a connection, is told of it (`loading`); the tunnel is
    /// `waiting` to try, `connecting`, `up`, or wanted `down`.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states: BTreeMap<_, _> = State::NAMES.map(|name| (name, 0)).into();
        for flight in self.tunnels.values() {
            *states.entry(flight.state.name()).or_default() += 1;
        }
        states
    }

    /// Is charon there?
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// When there is something to do by the clock; `None` where there is not.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let due = |flight: &Flight| match flight.state {
            State::Waiting(_) => flight.until(self.held),
            State::Connecting | State::Up => Some(flight.look),
            State::Away | State::Loading | State::Refused(_) | State::Looking | State::Down => None,
        };
        self.tunnels.values().filter_map(due).min()
    }

    /// Has new SAs negotiated for the tunnel, beside those that it has. Returns whether charon was asked.
    pub fn rekey(&mut self, name: &str, now: Instant, ask: &mut dyn FnMut(Order) -> u64) -> bool {
        // While it is looked, one that has just come may be half of a pair whose other half is on its way.
        let can = |flight: &&Flight| flight.state == State::Up && !flight.is_held(self.held, now);
        let flight = self.tunnels.get(name).filter(can);
        let Some(installed) = flight.map(|flight| flight.installed.clone()) else { return false };
        for id in installed {
            // Not by its name, which one has as well that the far end puts in its place meanwhile.
            self.ask(Purpose::Other, name, ("rekey", Message::new().with("child-id", id)), ask);
        }
        true
    }

    /// Is the tunnel's far end behind a NAT, and this router not, as far as charon knows?
    #[must_use]
    pub fn has_nat_there(&self, name: &str) -> bool {
        self.tunnels.get(name).is_some_and(|flight| flight.nat_there)
    }

    /// What charon was told of the tunnel, beside what it has.
    ///
    /// # Errors
    /// There is no such tunnel, in words.
    pub fn show(
        &mut self,
        name: &str,
        now: Instant,
        ask: &mut dyn FnMut(Order) -> u64,
    ) -> Result<IkeReport, String> {
        let flight = self.tunnels.get(name).ok_or("its keys are not negotiated")?;
        let listed = flight.listed.as_ref().filter(|(_, at)| now < *at + FRESH).map(|(listed, _)| listed);
        let whose = |(command, message): &Order| {
            let of = message.list("owners").collect::<Vec<_>>().join(", ");
            let kind = message.text("type").unwrap_or_default();
            if of.is_empty() { format!("{command}: {kind}") } else { format!("{command}: {kind}, for {of}") }
        };
        let waiting = self.connected && listed.is_none();
        let report = IkeReport {
            strongswan: self.version.clone(),
            generated: flight.connection.to_swanctl(),
            credentials: flight.credentials.iter().map(whose).collect(),
            loaded: listed.map(|listed| listed.iter().map(Message::to_swanctl).collect()),
            differences: listed
                .map(|listed| loaded::differences(name, &flight.connection, listed))
                .unwrap_or_default(),
            waiting,
        };
        if waiting {
            let list = Message::new().with("ike", connection::name(name));
            self.ask(Purpose::List, name, ("list-conns", list), ask);
        }
        Ok(report)
    }

    /// Why the tunnel has no SAs, or that it waits for them; `None` where charon has them, or does not know the tunnel.
    #[must_use]
    pub fn trouble(&self, name: &str) -> Option<String> {
        let flight = self.tunnels.get(name)?;
        let why = |text: &str| match &flight.why {
            Some((why, _)) => Some(format!("{text}: {why}")),
            None => Some(text.to_owned()),
        };
        match &flight.state {
            State::Up | State::Down => None,
            State::Away => Some(self.away.clone()),
            State::Loading | State::Looking => Some("strongSwan is told of it".to_owned()),
            State::Refused(refused) => Some(format!("strongSwan does not take it: {refused}")),
            State::Waiting(_) if flight.attempts == 0 => why("it waits for the far end to begin"),
            State::Waiting(_) => why("it is tried again soon"),
            State::Connecting => why("its keys are being negotiated"),
        }
    }

    fn names(&self) -> Vec<String> {
        self.tunnels.keys().cloned().collect()
    }

    fn ask(&mut self, purpose: Purpose, name: &str, order: Order, ask: &mut dyn FnMut(Order) -> u64) {
        let number = ask(order);
        self.asked.insert(number, (purpose, name.to_owned()));
    }

    fn load(&mut self, name: &str, ask: &mut dyn FnMut(Order) -> u64) {
        let Some(flight) = self.tunnels.get_mut(name) else { return };
        flight.state = State::Loading;
        flight.why = None;
        let can = self.ml_kem.unwrap_or(false);
        let name_there = connection::name(name);
        if let Err(why) = connection::offer_ml_kem(&mut flight.connection, &name_there, flight.ml_kem, can) {
            flight.state = State::Refused(why);
            return;
        }
        let (credentials, load) = (flight.credentials.clone(), flight.connection.clone());
        for credential in credentials {
            self.ask(Purpose::Credential, name, credential, ask);
        }
        self.ask(Purpose::Connection, name, ("load-conn", load), ask);
    }

    fn look(&mut self, name: &str, ask: &mut dyn FnMut(Order) -> u64) {
        let Some(flight) = self.tunnels.get_mut(name) else { return };
        flight.state = State::Looking;
        let list = Message::new().with("ike", connection::name(name)).with("noblock", "yes");
        self.ask(Purpose::Look, name, ("list-sas", list), ask);
    }

    fn take_down(&mut self, name: &str, ask: &mut dyn FnMut(Order) -> u64) {
        let mut order = terminate(name);
        if let Some(flight) = self.tunnels.get_mut(name) {
            flight.state = State::Down;
            if flight.shared {
                // Nobody hears it where the address is another router's now: let go of at once, and not said again when the
                // address is ours once more, and the far end's SAs are others.
                order.1 = order.1.with("force", "yes");
            }
        }
        self.ask(Purpose::Other, name, order, ask);
    }

    fn answered(&mut self, answer: Answer, now: Instant, ask: &mut dyn FnMut(Order) -> u64) {
        let Some((purpose, name)) = self.asked.remove(&answer.number) else { return };
        if purpose == Purpose::Version {
            let version = answer.response.as_ref().ok().and_then(|response| response.text("version"));
            self.version = version.map(str::to_owned);
            return;
        }
        if purpose == Purpose::Algorithms {
            self.ml_kem = Some(answer.response.as_ref().is_ok_and(connection::knows_ml_kem));
            for name in self.names() {
                self.load(&name, ask);
            }
            return;
        }
        let Some(flight) = self.tunnels.get_mut(&name) else { return };
        if purpose == Purpose::Credential
            && let Ok(Some(key)) = answer.response.as_ref().map(|response| response.text("id"))
        {
            flight.key = Some(key.to_owned());
        }
        match purpose {
            Purpose::List => {
                flight.connections = answer.listed;
                let list = Message::new().with("drop", "yes").with("ike", connection::drop_name(&name));
                self.ask(Purpose::Policies, &name, ("list-policies", list), ask);
                return;
            }
            Purpose::Policies => {
                let mut listed = std::mem::take(&mut flight.connections);
                listed.extend(answer.listed);
                flight.listed = answer.response.is_ok().then_some((listed, now));
                return;
            }
            _ => {}
        }
        match (purpose, answer.outcome()) {
            (
                Purpose::Version | Purpose::Algorithms | Purpose::List | Purpose::Policies | Purpose::Other,
                _,
            )
            | (Purpose::Credential | Purpose::Initiate, Ok(())) => {}
            (Purpose::Credential | Purpose::Connection, Err(why)) => flight.state = State::Refused(why),
            (Purpose::Connection, Ok(())) => {
                if flight.state != State::Loading {
                    // A credential was refused, or the operator has thought again.
                } else if flight.enabled {
                    self.look(&name, ask);
                } else {
                    self.take_down(&name, ask);
                }
            }
            (Purpose::Initiate, Err(why)) => {
                flight.why = Some((why, now));
                self.wait(&name, now);
            }
            (Purpose::Look, _) if flight.state != State::Looking => {}
            (Purpose::Look, Err(why)) => {
                flight.why = Some((why, now));
                self.wait(&name, now);
            }
            (Purpose::Look, Ok(())) => match progress(&answer.listed, &connection::name(&name)) {
                Progress::Installed(children) => {
                    (flight.state, flight.attempts, flight.why) = (State::Up, 0, None);
                    flight.nat_there = is_nat_there(&answer.listed, &connection::name(&name));
                    flight.look = now + LOOKS.0;
                    let missing = flight.missing(&name, &children, self.held, now);
                    flight.installed = children.into_iter().map(|child| child.id).collect();
                    for child in missing {
                        let initiate =
                            Message::new().with("ike", connection::name(&name)).with("child", child);
                        let initiate = initiate.with("timeout", "-1");
                        self.ask(Purpose::Other, &name, ("initiate", initiate), ask);
                    }
                }
                Progress::Negotiating => (flight.state, flight.look) = (State::Connecting, now + LOOKS.1),
                Progress::Nothing => self.wait(&name, now),
            },
        }
    }

    /// The next attempt, after a pause.
    fn wait(&mut self, name: &str, now: Instant) {
        let chance = (self.dice)();
        let Some(flight) = self.tunnels.get_mut(name) else { return };
        let pause = match flight.attempts {
            // It is looked whether the far end has begun.
            _ if flight.turn == Turn::Never => LOOKS.0,
            0 if flight.turn == Turn::First => Duration::ZERO,
            0 => COURTESY.mul_f64(1.0 + chance / 4.0),
            attempts => {
                let growth = 1.5_f64.powi(i32::try_from(attempts - 1).unwrap_or(i32::MAX).min(20));
                PAUSES.0.mul_f64(growth).min(PAUSES.1).mul_f64(1.0 + chance / 4.0)
            }
        };
        flight.state = State::Waiting(now + pause);
    }

    fn happened(&mut self, event: &str, message: &Message, now: Instant, ask: &mut dyn FnMut(Order) -> u64) {
        if event == "log" {
            return self.explain(message, now);
        }
        let names = message.sections().filter_map(|(name, _)| connection::tunnel(name));
        let names: Vec<String> = names.map(str::to_owned).collect();
        for name in names {
            let Some(flight) = self.tunnels.get_mut(&name) else { continue };
            match flight.state {
                State::Up | State::Waiting(_) | State::Connecting | State::Looking => self.look(&name, ask),
                State::Away | State::Loading | State::Refused(_) | State::Down => {}
            }
        }
    }

    /// charon writes why an exchange fails into its log, and nowhere else.
    fn explain(&mut self, message: &Message, now: Instant) {
        let (Some(name), Some(text)) = (message.text("ikesa-name"), message.text("msg")) else { return };
        let Some(flight) = connection::tunnel(name).and_then(|name| self.tunnels.get_mut(name)) else {
            return;
        };
        let Some(reason) = reason(text) else { return };
        // The consequence is said after the cause.
        let known = flight.why.as_ref().is_some_and(|(_, said)| now < *said + ONE_STORY);
        if !(reason.consequence && known) {
            flight.why = Some((reason.means.to_owned(), now));
        }
        // The exchange ends with that, and no event may follow.
        flight.look = flight.look.min(now + SOON);
    }
}

/// The request to end a tunnel's SAs.
fn terminate(name: &str) -> Order {
    ("terminate", Message::new().with("ike", connection::name(name)).with("timeout", "-1"))
}

/// A pair of SAs, as charon has it: its child's name, which those that the far end has begun have from the first, and its own id.
#[derive(Debug, PartialEq, Eq)]
struct Child {
    name: String,
    id: String,
}

/// How far charon is with a tunnel.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// These pairs are there.
    Installed(Vec<Child>),
    Negotiating,
    Nothing,
}

/// What an IKE SA has to do.
const TASKS: [&str; 3] = ["tasks-queued", "tasks-active", "tasks-passive"];

/// What a list of SAs says of the connection `name`.
fn progress(listed: &[Message], name: &str) -> Progress {
    let (mut progress, mut installed) = (Progress::Nothing, Vec::new());
    for sa in listed.iter().filter_map(|message| message.section(name)) {
        let mut busy = TASKS.iter().any(|tasks| sa.list(tasks).next().is_some());
        for (_, child) in sa.section("child-sas").into_iter().flat_map(Message::sections) {
            // One that is being rekeyed is still there; one that has been is about to go.
            if matches!(child.text("state"), Some("INSTALLED" | "REKEYING")) {
                let text = |key, or| child.text(key).unwrap_or(or).to_owned();
                installed.push(Child { name: text("name", name), id: text("uniqueid", "0") });
            }
            busy = true;
        }
        match sa.text("state") {
            Some("CREATED" | "CONNECTING") => progress = Progress::Negotiating,
            // One whose child was refused, or taken away, stays as it is, and nothing comes of it unless asked.
            Some("ESTABLISHED") if busy => progress = Progress::Negotiating,
            _ => {}
        }
    }
    if installed.is_empty() { progress } else { Progress::Installed(installed) }
}

/// Does a list of SAs say of the connection `name` that the far end is behind a NAT, and we are not?
fn is_nat_there(listed: &[Message], name: &str) -> bool {
    let sas = listed.iter().filter_map(|message| message.section(name));
    // One that this router has begun to negotiate as well may come to nothing, just because of that NAT.
    let mut sas = sas.filter(|sa| sa.text("state") == Some("ESTABLISHED")).peekable();
    let is = |sa: &Message, what| sa.text(what) == Some("yes");
    sas.peek().is_some() && sas.all(|sa| is(sa, "nat-remote") && !is(sa, "nat-local"))
}

/// What a line of charon's log says of a failure.
struct Reason {
    /// What the line has in it.
    said: &'static str,
    /// The same in an operator's words.
    means: &'static str,
    /// Does a line before it usually say why?
    consequence: bool,
}

const fn cause(said: &'static str, means: &'static str) -> Reason {
    Reason { said, means, consequence: false }
}

const fn consequence(said: &'static str, means: &'static str) -> Reason {
    Reason { said, means, consequence: true }
}

const SUITES: &str = "the far end takes none of the suites that are offered";
const SELECTORS: &str = "the far end does not want GRE between these two addresses";

/// What charon says of failures.
const REASONS: [Reason; 35] = [
    cause(
        "received AUTHENTICATION_FAILED notify",
        "the far end does not accept our proof of who we are (secret, certificate or identity)",
    ),
    cause("received NO_PROPOSAL_CHOSEN notify", SUITES),
    cause("received TS_UNACCEPTABLE notify", SELECTORS),
    // Where an answer to our proof is nothing but such a notify (OpenIKED's), charon says only that all else is missing.
    cause("IKE_AUTH response 1 [ N(NO_PROP) ]", SUITES),
    cause("IKE_AUTH response 1 [ N(TS_UNACCEPT) ]", SELECTORS),
    cause("received INVALID_KE_PAYLOAD notify", "the far end wants another group for the key exchange"),
    cause("no proposal chosen", "the far end offers none of our suites"),
    cause("tried 1 shared key for", "the far end's secret is another one"),
    cause("no shared key found", "there is no secret for these identities"),
    cause("no matching peer config found", "the far end says it is somebody else than remote_id"),
    cause("unable to allocate SPIs", "strongSwan found nobody to take its SAs"),
    cause("giving up after", "the far end does not answer"),
    cause("certificate was revoked", "the far end's certificate was revoked"),
    cause("subject certificate invalid", "the far end's certificate is not valid now, or no longer"),
    cause("issuer certificate invalid", "the certificate of the far end's CA is not valid now, or no longer"),
    cause("no issuer certificate found", "the far end's certificate is signed by none of ca_files"),
    cause(
        "no capable fetcher found",
        "strongSwan has nothing to ask with whether the far end's certificate was revoked: load its curl plugin",
    ),
    consequence(
        "ocsp request to",
        "nobody answers (OCSP) whether the far end's certificate was revoked: is the responder reachable?",
    ),
    consequence(
        "crl fetching failed",
        "the revocation list of the far end's CA cannot be fetched: is the place that its certificate names reachable?",
    ),
    cause("ocsp response verification failed", "who answers (OCSP) for the far end's CA is not trusted"),
    cause(
        "ocsp response contains no status on our certificate",
        "the OCSP responder does not know the far end's certificate",
    ),
    cause("crl is stale", "the revocation list of the far end's CA is out of date"),
    cause(
        "crl response verification failed",
        "the revocation list for the far end's certificate is not its CA's",
    ),
    consequence(
        "RULE_CRL_VALIDATION is",
        "it cannot be found out whether the far end's certificate was revoked",
    ),
    consequence(
        "RULE_OCSP_VALIDATION is",
        "it cannot be found out whether the far end's certificate was revoked",
    ),
    cause("EAP-MS-CHAPv2 verification failed", "the far end's password is another one"),
    cause("EAP-MS-CHAPv2 failed with error", "the far end does not accept our password"),
    cause("no private key found for", "there is no private key for local_id"),
    cause("but it's not authenticated", "the far end's certificate is another's than remote_id"),
    cause(
        "constraint requires",
        "the far end proves who it is in another way, or is another than it should be",
    ),
    cause("signature validation failed", "the far end's key is another one"),
    consequence("no trusted", "no certificate or key of the far end is trusted for its identity (remote_id)"),
    consequence(
        "constraint check failed",
        "the far end proves who it is in another way, or is another than it should be",
    ),
    consequence("received EAP_FAILURE", "the far end does not accept our proof of who we are by EAP"),
    consequence("EAP method EAP_", "the far end's proof of who it is by EAP failed"),
];

/// What a line of charon's log says of a failure; `None` where it says nothing of one.
fn reason(line: &str) -> Option<&'static Reason> {
    REASONS.iter().find(|reason| line.contains(reason.said))
}

#[cfg(test)]
pub(super) mod tests;
