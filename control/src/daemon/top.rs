//! `culvert top`: what the daemon does, as it does it, on a terminal.
//!
//! One thread watches the daemon, and asks again when it has gone ([`watch`]); this one takes what it tells into the
//! [`model`], takes keys, and draws ([`view`]). Nothing of it runs in the daemon but the watch, which `culvert show` has as well.

mod model;
#[cfg(test)]
mod tests;
mod view;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use nix::sys::signal::{SigSet, Signal};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::model::{Model, Told};
use self::view::Look;
use super::status::What;
use crate::api::client::Stream;
use crate::api::{Command, Line};
use crate::{Failure, cli};

/// What is watched.
const WATCHED: [What; 6] = [What::Ports, What::Workers, What::Tunnels, What::Sas, What::Drops, What::Carp];
/// From one attempt to find the daemon to the next.
const RETRY: Duration = Duration::from_secs(1);
/// How long a key waits for news at most, and news for a key.
const TURN: Duration = Duration::from_millis(100);
/// Rows that a page key goes.
const PAGE: isize = 10;

/// Runs the command.
///
/// # Errors
/// Code 1 where there is no terminal, or no daemon at the start. One that goes away later is waited for.
pub fn run(arguments: &cli::Top) -> Result<(), Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::failed(format!("top: {why}"));
    if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return Err(failed(
            &"standard output is no terminal; culvert show has the same for scripts, with --json and --watch",
        ));
    }
    // Who has no daemon hears of it before the screen is taken.
    let stream = open(&arguments.socket, arguments.every).map_err(|failure| failure.about("top"))?;
    let ended = end_on_signal().map_err(|error| failed(&error))?;
    let (news, told) = bounded(4);
    let (socket, every) = (arguments.socket.clone(), arguments.every);
    thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || watch(stream, &socket, every, &news))
        .map_err(|error| failed(&error))?;
    let mut terminal = ratatui::try_init().map_err(|error| failed(&error))?;
    let done = turn(&mut terminal, &told, &ended, Look::of_terminal());
    ratatui::restore();
    done.map_err(|error| failed(&error))
}

/// Ended by a signal, the terminal is to be left as it was as well.
fn end_on_signal() -> std::io::Result<Arc<AtomicBool>> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT].into_iter().collect();
    signals.thread_block()?;
    let ended = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&ended);
    let wait = move || {
        let _ = signals.wait();
        tell.store(true, Ordering::Relaxed);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(ended)
}

fn open(socket: &Path, every: u32) -> Result<Stream, Failure> {
    let every = u64::from(every) * 1000;
    Stream::open(socket, &Command::Watch { what: WATCHED.to_vec(), every })
}

/// Tells all that the daemon tells, and finds it again when it comes back, until nobody listens any more.
fn watch(mut stream: Stream, socket: &Path, every: u32, news: &Sender<Told>) {
    loop {
        let gone = loop {
            match stream.next(None) {
                Ok(Some(Line::Record(record))) => match serde_json::from_value(record) {
                    Ok(sample) => {
                        if news.send(Told::Sample(sample)).is_err() {
                            return;
                        }
                    }
                    Err(error) => break format!("the daemon's record: {error}"),
                },
                // Rates are over whatever time has passed.
                Ok(Some(Line::Lost(_)) | None) => {}
                Ok(Some(Line::End(why))) => break why,
                Err(failure) => break failure.lines().join("; "),
            }
        };
        if news.send(Told::Gone(gone)).is_err() {
            return;
        }
        stream = loop {
            thread::sleep(RETRY);
            match open(socket, every) {
                Ok(stream) => break stream,
                Err(failure) => {
                    if news.send(Told::Gone(failure.lines().join("; "))).is_err() {
                        return;
                    }
                }
            }
        };
    }
}

/// Draws and takes keys until it is told to end.
fn turn(
    terminal: &mut ratatui::DefaultTerminal,
    told: &Receiver<Told>,
    ended: &AtomicBool,
    look: Look,
) -> std::io::Result<()> {
    let mut model = Model::default();
    let mut stale = true;
    while !ended.load(Ordering::Relaxed) {
        for news in told.try_iter() {
            model.hear(news);
            stale = true;
        }
        if stale {
            terminal.draw(|frame| view::draw(frame, &mut model, look))?;
            stale = false;
        }
        if event::poll(TURN)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if press(&mut model, key) == Wish::End {
                        return Ok(());
                    }
                    stale = true;
                }
                Event::Resize(..) => stale = true,
                _ => {}
            }
        }
    }
    Ok(())
}

/// What follows from a key.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    GoOn,
    End,
}

/// Does what a key is for.
fn press(model: &mut Model, key: KeyEvent) -> Wish {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && matches!(key.code, KeyCode::Char('c')) {
        return Wish::End;
    }
    if model.typing {
        match key.code {
            KeyCode::Enter => model.typing = false,
            KeyCode::Esc => (model.typing, model.filter) = (false, String::new()),
            KeyCode::Backspace => drop(model.filter.pop()),
            KeyCode::Char(character) if !control && model.filter.chars().count() < 32 => {
                model.filter.push(character)
            }
            _ => {}
        }
        model.select(0);
        return Wish::GoOn;
    }
    match key.code {
        KeyCode::Char('q') => return Wish::End,
        // One step back from wherever one is.
        KeyCode::Esc if model.help => model.help = false,
        KeyCode::Esc if model.details => model.details = false,
        KeyCode::Esc => model.filter.clear(),
        KeyCode::Char('?' | 'h') => model.help = !model.help,
        KeyCode::Char('s') => model.sort = model.sort.next(),
        KeyCode::Char('r') => model.reversed = !model.reversed,
        KeyCode::Char('/') => (model.typing, model.details) = (true, false),
        KeyCode::Char('p' | ' ') => model.pause(),
        KeyCode::Enter => model.details = !model.details,
        KeyCode::Up | KeyCode::Char('k') => model.select(-1),
        KeyCode::Down | KeyCode::Char('j') => model.select(1),
        KeyCode::PageUp => model.select(-PAGE),
        KeyCode::PageDown => model.select(PAGE),
        KeyCode::Home => model.select(isize::MIN),
        KeyCode::End => model.select(isize::MAX),
        _ => {}
    }
    Wish::GoOn
}
