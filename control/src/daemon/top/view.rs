//! The screen of `culvert top`, for 80 columns and 24 rows; more of either shows more.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Sparkline, Table, TableState};

use super::model::{History, Model, Rate, Sample};
use crate::report::Numbers;
use crate::text::{age, short};

/// Workers that have a row of their own, at most.
const WORKERS: usize = 4;
/// Reasons of drops that are told, at most.
const DROPS: usize = 4;

/// What the terminal can show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) colours: bool,
    /// Bars by eighths; else letters.
    pub(super) bars: bool,
}

impl Look {
    /// By the environment (`NO_COLOR`, `TERM`, and the locale).
    pub(super) fn of_terminal() -> Look {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
        let locale = locale.into_iter().find(|value| !value.is_empty()).unwrap_or_default().to_lowercase();
        Look { colours: crate::text::colours(), bars: locale.contains("utf-8") || locale.contains("utf8") }
    }

    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn state(self, state: &str) -> Style {
        let colour = crate::text::state(state).map(|colour| match colour {
            anstyle::AnsiColor::Green => Color::Green,
            anstyle::AnsiColor::Yellow => Color::Yellow,
            _ => Color::Red,
        });
        colour.map_or(Style::new(), |colour| self.colour(colour))
    }

    /// The latest of a history, each a bar in one column, the highest full.
    fn graph(self, history: Option<&History>, width: usize) -> String {
        const LETTERS: [&str; 9] = [" ", ".", ".", ":", ":", "-", "=", "#", "#"];
        let set = bar::NINE_LEVELS;
        let eighths = [
            set.empty,
            set.one_eighth,
            set.one_quarter,
            set.three_eighths,
            set.half,
            set.five_eighths,
            set.three_quarters,
            set.seven_eighths,
            set.full,
        ];
        let symbols = if self.bars { eighths } else { LETTERS };
        let Some(history) = history else { return String::new() };
        let shown = || history.iter().skip(history.len().saturating_sub(width)).map(Rate::bits);
        let highest = shown().fold(1.0, f64::max);
        // Whatever there is can be seen.
        let symbol = |bits: f64| symbols.get((bits / highest * 8.0).ceil() as usize).copied().unwrap_or(" ");
        let graph: String = shown().map(symbol).collect();
        format!("{graph:>width$}")
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, look: Look) {
    let workers = model.sample.as_ref().map_or(0, |sample| sample.workers.len()).min(WORKERS) as u16;
    let drops = model.sample.as_ref().map_or(0, |sample| sample.drops.len()).min(DROPS) as u16;
    let [head, ports, work, middle, dropped, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1 + workers),
        Constraint::Min(3),
        Constraint::Length(if drops > 0 { 1 + drops } else { 0 }),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(model, look), head);
    if let Some(sample) = &model.sample {
        frame.render_widget(port_line(sample, model, look), ports);
        frame.render_widget(worker_table(sample, model, look, work.width), work);
        frame.render_widget(drop_table(sample, model, look), dropped);
        let selected = model.order().get(model.place(&model.order())).map(|name| (*name).to_owned());
        match selected {
            Some(name) if model.details => details(frame, &name, sample, model, look, middle),
            _ => tunnel_table(frame, sample, model, look, middle),
        }
    }
    frame.render_widget(foot(model, look), keys);
    if model.help {
        help(frame);
    }
}

/// How the daemon is, or that there is none.
fn heading<'a>(model: &'a Model, look: Look) -> Line<'a> {
    let mut spans = vec![Span::styled("culvert top", BOLD)];
    if let Some(why) = &model.gone {
        spans.push(Span::styled(format!("  no daemon: {why}"), look.colour(Color::Red)));
        return Line::from(spans);
    }
    let Some(sample) = &model.sample else { return Line::from("culvert top  waits for the daemon") };
    let up = sample.tunnels.values().filter(|tunnel| tunnel.state == "up").count();
    let (all, lost) = (model.all(), model.drops.values().sum::<f64>());
    spans.push(Span::raw(format!("  up {}  tunnels ", age(sample.uptime))));
    let state = if up == sample.tunnels.len() { "up" } else { "down" };
    spans.push(Span::styled(format!("{up}/{}", sample.tunnels.len()), look.state(state)));
    spans.push(Span::raw(format!(
        "  in {} out {} bit/s  drops {}/s",
        short(all.in_bits),
        short(all.out_bits),
        short(lost)
    )));
    for (name, group) in sample.carp.iter().flat_map(|carp| &carp.groups) {
        spans.push(Span::raw(format!("  {name} {}", group.role)));
    }
    if model.paused {
        spans.push(Span::styled("  PAUSED", SELECTED));
    }
    Line::from(spans)
}

/// Ports, in one line.
fn port_line<'a>(sample: &'a Sample, model: &Model, look: Look) -> Line<'a> {
    let mut spans = vec![Span::styled("ports ", BOLD)];
    for (name, port) in &sample.ports {
        let (rx, tx) = model.ports.get(name).copied().unwrap_or_default();
        let health = if port.health == "attached" { "" } else { port.health.as_str() };
        spans.push(Span::raw(format!(" {name} ")));
        spans.push(Span::styled(health, look.state(&port.health)));
        spans.push(Span::raw(format!(
            "{}rx {} tx {}",
            if health.is_empty() { "" } else { " " },
            short(rx),
            short(tx)
        )));
        let lost = port.rx_lost + port.tx_lost;
        if lost > 0 {
            spans.push(Span::styled(format!(" lost {}", short(lost as f64)), look.colour(Color::Yellow)));
        }
    }
    Line::from(spans)
}

fn right(text: impl Into<String>, width: usize) -> String {
    format!("{:>width$}", text.into())
}

/// The columns of rates, and what is left of `width` for a graph.
fn rate_columns(before: &[u16], width: u16) -> (Vec<Constraint>, usize) {
    let taken: u16 = before.iter().map(|width| width + 1).sum::<u16>() + 4 * 8;
    let graph = width.saturating_sub(taken);
    let widths = before.iter().copied().chain([7; 4]).chain([graph]);
    (widths.map(Constraint::Length).collect(), usize::from(graph))
}

fn rate_cells(rate: &Rate) -> [String; 4] {
    [rate.in_bits, rate.out_bits, rate.in_packets, rate.out_packets].map(|number| right(short(number), 7))
}

const RATES: [&str; 4] = ["in b/s", "out b/s", "in p/s", "out p/s"];

fn head<const N: usize>(left: [&str; N]) -> Row<'static> {
    let rates = RATES.map(|name| right(name, 7));
    Row::new(left.map(str::to_owned).into_iter().chain(rates)).style(BOLD)
}

fn worker_table<'a>(sample: &'a Sample, model: &Model, look: Look, width: u16) -> Table<'a> {
    let (columns, graph) = rate_columns(&[6, 4, 5, 7], width);
    let rows = sample.workers.iter().take(WORKERS).map(|worker| {
        let history = model.worker(worker.worker);
        let now = history.and_then(|history| history.back()).copied().unwrap_or_default();
        let (frames, busy) = model.workers.get(worker.worker).copied().unwrap_or_default();
        let core = worker.core.map_or("any".to_owned(), |core| core.to_string());
        let left = [
            right(worker.worker.to_string(), 6),
            right(core, 4),
            right(format!("{busy:.0}"), 5),
            right(short(frames), 7),
        ];
        Row::new(left.into_iter().chain(rate_cells(&now)).chain([look.graph(history, graph)]))
    });
    let more = sample.workers.len().saturating_sub(WORKERS);
    let worker = if more == 0 { "worker".to_owned() } else { format!("w. +{more}") };
    Table::new(rows, columns).column_spacing(1).header(head([&worker, "core", " cpu%", "frame/s"]))
}

fn tunnel_table(frame: &mut Frame<'_>, sample: &Sample, model: &Model, look: Look, area: Rect) {
    let (columns, graph) = rate_columns(&[15, 5], area.width);
    let order = model.order();
    let place = model.place(&order);
    // Only what can be seen is made: there may be many.
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    let first = place.saturating_sub(room.saturating_sub(1));
    let rows = order.iter().skip(first).take(room).filter_map(|name| {
        let tunnel = sample.tunnels.get(*name)?;
        let state =
            if tunnel.nesting.is_some() && tunnel.state == "up" { "kept" } else { tunnel.state.as_str() };
        let rates = rate_cells(&model.tunnel_now(name)).map(Span::raw);
        let cells = [Span::raw(*name), Span::styled(state, look.state(state))];
        let graph = Span::styled(look.graph(model.tunnel(name), graph), look.colour(Color::Cyan));
        Some(Row::new(cells.into_iter().chain(rates).chain([graph])))
    });
    let table = Table::new(rows, columns)
        .column_spacing(1)
        .header(head(["tunnel", "state"]))
        .row_highlight_style(SELECTED);
    let mut state = TableState::new().with_selected(order.get(place).map(|_| place - first));
    frame.render_stateful_widget(table, area, &mut state);
}

/// Everything about one tunnel.
fn details(frame: &mut Frame<'_>, name: &str, sample: &Sample, model: &Model, look: Look, area: Rect) {
    let Some(tunnel) = sample.tunnels.get(name) else { return };
    let now = model.tunnel_now(name);
    let state = match &tunnel.why {
        Some(why) => format!("{}: {why}", tunnel.state),
        None => tunnel.state.clone(),
    };
    let mut lines = vec![
        Line::from(vec![
            Span::styled(format!("tunnel {name}  "), BOLD),
            Span::styled(state, look.state(&tunnel.state)),
        ]),
        Line::from(format!(
            "{} -> {}  port {}  mtu {}",
            tunnel.local,
            tunnel.remote,
            tunnel.port.as_deref().unwrap_or("-"),
            tunnel.mtu
        )),
        Line::from(format!(
            "in {} bit/s {} p/s, out {} bit/s {} p/s; {} packets in, {} out",
            short(now.in_bits),
            short(now.in_packets),
            short(now.out_bits),
            short(now.out_packets),
            tunnel.counts.in_packets,
            tunnel.counts.out_packets
        )),
    ];
    if let Some(nesting) = &tunnel.nesting {
        lines.push(Line::styled(nesting.why.clone(), look.colour(Color::Yellow)));
    }
    for sa in sample.sas.get(name).into_iter().flatten() {
        let (used, left) = match sa.report.numbers {
            Numbers::Out { used, remaining } => (used, format!(", {} left", short(remaining as f64))),
            Numbers::In { highest } => (highest, String::new()),
        };
        let report = &sa.report;
        lines.push(Line::from(vec![
            Span::raw(format!("SA {:3} {:#010x} {} ", report.direction, report.spi, report.suite)),
            Span::styled(report.state.clone(), look.state(&report.state)),
            Span::raw(format!(", age {}, number {used}{left}", age(sa.age))),
        ]));
    }
    let [text, into, out] =
        Layout::vertical([Constraint::Length(lines.len() as u16), Constraint::Fill(1), Constraint::Fill(1)])
            .areas(area);
    frame.render_widget(Paragraph::new(lines), text);
    for (area, title, of) in
        [(into, "in", (|rate| rate.in_bits) as fn(&Rate) -> f64), (out, "out", |rate| rate.out_bits)]
    {
        let width = usize::from(area.width);
        let history = model.tunnel(name);
        let shown = |history: &History| {
            history.iter().skip(history.len().saturating_sub(width)).map(of).collect::<Vec<f64>>()
        };
        let bits = history.map(shown).unwrap_or_default();
        let highest = bits.iter().copied().fold(0.0, f64::max);
        let block = Block::new().title(format!("{title}, at most {} bit/s", short(highest)));
        let mut graph = Sparkline::default()
            .block(block)
            .data(bits.iter().map(|bits| *bits as u64))
            .style(look.colour(Color::Cyan));
        if !look.bars {
            graph = graph.bar_set(bar::Set {
                full: "#",
                seven_eighths: "#",
                three_quarters: "#",
                five_eighths: "=",
                half: "=",
                three_eighths: "-",
                one_quarter: "-",
                one_eighth: ".",
                empty: " ",
            });
        }
        frame.render_widget(graph, area);
    }
}

fn drop_table<'a>(sample: &'a Sample, model: &Model, look: Look) -> Table<'a> {
    let mut drops: Vec<(&str, u64, f64)> = sample
        .drops
        .iter()
        .map(|(reason, count)| (reason.as_str(), *count, model.drops.get(reason).copied().unwrap_or(0.0)))
        .collect();
    // What is being dropped now, then what was.
    drops.sort_by(|a, b| b.2.total_cmp(&a.2).then(b.1.cmp(&a.1)));
    let more = drops.len().saturating_sub(DROPS);
    let rows = drops.into_iter().take(DROPS).map(|(reason, count, rate)| {
        let style = if rate > 0.0 { look.colour(Color::Red) } else { Style::new() };
        Row::new([reason.to_owned(), right(count.to_string(), 12), right(format!("{}/s", short(rate)), 9)])
            .style(style)
    });
    let heading = if more == 0 { "dropped".to_owned() } else { format!("dropped, {more} more reasons") };
    let widths = [24, 12, 9].map(Constraint::Length);
    Table::new(rows, widths)
        .column_spacing(1)
        .header(Row::new([heading, right("packets", 12), right("now", 9)]).style(BOLD))
}

fn foot<'a>(model: &Model, look: Look) -> Line<'a> {
    if model.typing {
        return Line::from(vec![
            Span::styled("filter: ", BOLD),
            Span::raw(model.filter.clone()),
            Span::styled(" ", SELECTED),
            Span::raw("  Enter: keep  Esc: clear"),
        ]);
    }
    let reversed = if model.reversed { ", reversed" } else { "" };
    let filter = if model.filter.is_empty() { String::new() } else { format!(" ({})", model.filter) };
    let text = format!(
        "? help  s sort: {}{reversed}  / filter{filter}  p pause  Enter details  q quit",
        model.sort.name()
    );
    Line::styled(text, look.colour(Color::DarkGray))
}

const HELP: [&str; 14] = [
    "q, ^C         quit",
    "?, h          this",
    "arrows, j, k  select a tunnel",
    "PgUp, PgDn    ten further; Home, End",
    "Enter         details of the tunnel; again: back",
    "s             sort by traffic, packets, name, state",
    "r             the other way round",
    "/             filter: part of a name or of the far",
    "              end's address, up, down",
    "p, space      pause; again: go on",
    "Esc           back; clear the filter",
    "",
    "b/s are bits of inner packets; kept: on its way,",
    "against a route that leads into a tunnel",
];

fn help(frame: &mut Frame<'_>) {
    let (width, height) = (52, HELP.len() as u16 + 2);
    let all = frame.area();
    let area = Rect {
        x: all.x + all.width.saturating_sub(width) / 2,
        y: all.y + all.height.saturating_sub(height) / 2,
        width: width.min(all.width),
        height: height.min(all.height),
    };
    frame.render_widget(Clear, area);
    frame.render_widget(
        Paragraph::new(HELP.map(Line::from).to_vec()).block(Block::bordered().title(" keys ")),
        area,
    );
}
