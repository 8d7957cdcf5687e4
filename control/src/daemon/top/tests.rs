//! Screens of 80 columns and 24 rows, made of records that are played.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::model::{Sample, Sort};
use super::*;

const LOOK: Look = Look { colours: false, bars: true };

/// A record, `second` seconds into a run in which much happens each second.
fn sample(second: u64) -> Sample {
    let tunnel = |name: &str, state: &str, factor: u64| {
        let why = (state == "down").then_some("no SA");
        let status = json!({"local": "192.0.2.1", "remote": "192.0.2.2", "state": state, "why": why, "port": "wan",
            "mtu": 1442, "in_packets": second * 1000 * factor, "in_bytes": second * 125_000 * factor,
            "out_packets": second * 500 * factor, "out_bytes": second * 62_500 * factor, "sas": 2});
        (name.to_owned(), status)
    };
    let tunnels = [tunnel("oslo", "up", 2), tunnel("bergen", "up", 1), tunnel("paris", "down", 0)];
    let record = json!({
        "uptime": second as f64,
        "ports": {"wan": {"device": "xdp:eth0", "mode": "xdp", "mac": "02:00:00:00:00:01", "mtu": 1500, "health": "attached",
            "queues": 1, "rx": second * 4000, "tx": second * 2000, "rx_lost": 0, "tx_lost": 7,
            "copied_frames": 0, "copied_bytes": 0}},
        "workers": [{"worker": 0, "core": 1, "frames": second * 6000, "cpu_seconds": second as f64 / 4.0, "cpu_percent": 25.0,
            "in_packets": second * 3000, "in_bytes": second * 375_000, "out_packets": second * 1500,
            "out_bytes": second * 187_500}],
        "tunnels": serde_json::Map::from_iter(tunnels),
        "sas": {"oslo": [
            {"direction": "out", "spi": 4097, "suite": "aes128gcm16", "state": "live", "age": 3700.0, "used": 12, "remaining": 4_000_000_000_u64},
            {"direction": "in", "spi": 4098, "suite": "aes128gcm16", "state": "live", "age": 3700.0, "highest": 34}]},
        "drops": {"esp-auth": 5, "no-route": second * 10},
    });
    serde_json::from_value(record).expect("a record")
}

/// A model that has been told of a few seconds.
fn model() -> Model {
    let mut model = Model::default();
    (10..15).for_each(|second| model.hear(Told::Sample(sample(second))));
    model
}

fn screen_of(model: &mut Model, width: u16, height: u16, look: Look) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, model, look)).expect("a screen");
    let buffer = terminal.backend().buffer();
    let rows = (0..height).map(|y| {
        let row: String = (0..width).filter_map(|x| buffer.cell((x, y))).map(|cell| cell.symbol()).collect();
        row.trim_end().to_owned() + "\n"
    });
    rows.collect()
}

fn screen(model: &mut Model) -> String {
    screen_of(model, 80, 24, LOOK)
}

fn press(model: &mut Model, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            other => KeyCode::Char(other),
        };
        assert_eq!(super::press(model, code.into()), Wish::GoOn);
    }
}

#[test]
fn a_screen_of_80_by_24_has_it_all() {
    let screen = screen(&mut model());
    let expected = "\
culvert top  up 14s  tunnels 2/3  in 3.00M out 1.50M bit/s  drops 10/s
ports  wan rx 4.00k tx 2.00k lost 7
worker core  cpu% frame/s  in b/s out b/s  in p/s out p/s
     0    1    25   6.00k   3.00M   1.50M   3.00k   1.50k                   ████
tunnel          state  in b/s out b/s  in p/s out p/s
oslo            up      2.00M   1.00M   2.00k   1.00k                       ████
bergen          up      1.00M    500k   1.00k     500                       ████
paris           down        0       0       0       0
";
    assert!(screen.starts_with(expected), "{screen}");
    let last: Vec<&str> = screen.lines().rev().take(4).collect();
    assert_eq!(
        last,
        [
            "? help  s sort: traffic  / filter  p pause  Enter details  q quit",
            "esp-auth                            5       0/s",
            "no-route                          140      10/s",
            "dropped                       packets       now",
        ]
    );
}

#[test]
fn no_line_is_cut_off_or_lost_at_any_size() {
    let mut model = model();
    for (width, height) in [(80, 24), (40, 10), (20, 5), (1, 1), (200, 60), (80, 3)] {
        for keys in ["", "?", "?\n", "\n/"] {
            press(&mut model, keys);
            screen_of(&mut model, width, height, LOOK);
        }
        press(&mut model, "\x1b");
    }
    assert!(screen_of(&mut model, 200, 60, LOOK).contains("? help"));
    let letters = screen_of(&mut model, 80, 24, Look { bars: false, ..LOOK });
    assert!(letters.is_ascii(), "{letters}");
}

#[test]
fn keys_do_what_help_says() {
    let mut model = model();
    assert!(!screen(&mut model).contains("keys"));
    press(&mut model, "?");
    let help = screen(&mut model);
    assert!(help.contains(" keys ") && help.contains("p, space      pause"), "{help}");
    press(&mut model, "\x1b");
    assert!(!screen(&mut model).contains(" keys "));

    assert_eq!(model.order(), ["oslo", "bergen", "paris"]);
    press(&mut model, "ss");
    assert_eq!((model.sort, model.order()), (Sort::Name, vec!["bergen", "oslo", "paris"]));
    press(&mut model, "r");
    assert_eq!(model.order(), ["paris", "oslo", "bergen"]);
    press(&mut model, "rs");
    assert_eq!(model.order(), ["paris", "bergen", "oslo"]);
    press(&mut model, "s/OSL");
    assert!(screen(&mut model).contains("filter: OSL"), "{}", screen(&mut model));
    // Even letters that are keys elsewhere.
    press(&mut model, "q");
    assert!(model.order().is_empty() && model.filter == "OSLq");
    press(&mut model, "\x1b/down\n");
    assert_eq!(model.order(), ["paris"]);
    press(&mut model, "\x1b");
    assert_eq!(model.order().len(), 3);

    // What was selected stays so.
    press(&mut model, "k\n");
    let details = screen(&mut model);
    assert!(details.contains("tunnel bergen  up") && !details.contains("SA out"), "{details}");
    press(&mut model, "k");
    let details = screen(&mut model);
    for line in [
        "192.0.2.1 -> 192.0.2.2  port wan  mtu 1442",
        "SA out 0x00001001 aes128gcm16 live, age 1h01m, number 12, 4.00G left",
        "SA in  0x00001002 aes128gcm16 live, age 1h01m, number 34",
        "in, at most 2.00M bit/s",
        "out, at most 1.00M bit/s",
    ] {
        assert!(details.contains(line), "{line}: {details}");
    }
    press(&mut model, "\x1b");
    assert!(screen(&mut model).contains("in p/s"));
    for code in [KeyCode::Char('q'), KeyCode::Char('c')] {
        let key = KeyEvent::new(code, KeyModifiers::CONTROL);
        assert_eq!(super::press(&mut model, key), Wish::End);
    }
}

#[test]
fn paused_nothing_moves_but_the_word_that_the_daemon_has_gone() {
    let mut model = model();
    let before = screen(&mut model);
    press(&mut model, "p");
    model.hear(Told::Sample(sample(20)));
    let paused = screen(&mut model);
    assert_eq!(paused.replace("  PAUSED", ""), before);
    model.hear(Told::Gone("the daemon ends".to_owned()));
    assert!(screen(&mut model).starts_with("culvert top  no daemon: the daemon ends\n"));
    press(&mut model, "p");
    model.hear(Told::Sample(sample(21)));
    assert!(screen(&mut model).starts_with("culvert top  up 21s"));
}

/// Its counters begin at nothing: that is no rate.
#[test]
fn a_daemon_that_was_started_anew_is_not_compared_with_the_old_one() {
    let mut model = model();
    model.hear(Told::Gone("the daemon ends".to_owned()));
    model.hear(Told::Sample(sample(1)));
    let screen_after = screen(&mut model);
    assert!(screen_after.starts_with("culvert top  up 1s  tunnels 2/3"), "{screen_after}");
    assert!(screen_after.contains("drops 0/s"), "{screen_after}");
    model.hear(Told::Sample(sample(2)));
    assert!(screen(&mut model).contains("oslo            up      2.00M   1.00M   2.00k   1.00k"));
}

/// The selected tunnel stays selected when it moves, and the list goes along with it.
#[test]
fn a_selection_holds_on_to_its_tunnel() {
    let mut record = sample(10);
    let some = record.tunnels["oslo"].clone();
    record.tunnels = (0..1000).map(|number| (format!("t{number:03}"), some.clone())).collect();
    let mut model = Model::default();
    model.hear(Told::Sample(record));
    press(&mut model, "ss");
    for _ in 0..50 {
        assert_eq!(super::press(&mut model, KeyCode::PageDown.into()), Wish::GoOn);
    }
    let selected = |model: &Model| {
        let order = model.order();
        order[model.place(&order)].to_owned()
    };
    assert_eq!(selected(&model), "t500");
    assert!(screen(&mut model).contains("t500"));
    press(&mut model, "r");
    assert_eq!(selected(&model), "t500");
    assert!(screen(&mut model).contains("t500"));
    assert_eq!(super::press(&mut model, KeyCode::End.into()), Wish::GoOn);
    assert_eq!(selected(&model), "t000");
}
