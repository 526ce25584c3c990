//! `balancer top`: the fleet of a running balancer in a terminal, from `/fleet.json`.
//!
//! Each answer becomes one text; the loop around it requests one per second and overwrites the
//! previous text. An unreachable balancer is waited for. Names of endpoints, and what they report
//! about themselves, reach the terminal as plain text only.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use wire::health;

use crate::config::{ConfigError, Top};

/// Interval of updates.
const PERIOD: Duration = Duration::from_secs(1);
/// Longest accepted answer: some ten thousand endpoints.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Longest displayed name.
const MAX_NAME: usize = 28;

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings do not say where to ask.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port is chosen by the system.
    #[error("admin has port 0, which the system chooses: give it a number")]
    NoPort,
    /// There is no answer.
    #[error("no answer from {0}: {1}")]
    Silent(SocketAddr, io::Error),
    /// Something other than a balancer answers.
    #[error("what answers at {0} is no balancer")]
    Other(SocketAddr),
    /// It does not show its fleet to this client.
    #[error("{0}: {1}")]
    Refused(SocketAddr, String),
    /// The terminal is gone.
    #[error(transparent)]
    Output(#[from] io::Error),
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy)]
struct Size {
    rows: usize,
    columns: usize,
}

/// Shows the fleet until the terminal is closed, or once.
pub fn run(asked: Top, out: &mut impl Write) -> Result<(), Error> {
    let settings = asked.settings.with_file()?;
    let address = health::reachable(settings.admin_address());
    if address.port() == 0 {
        return Err(Error::NoPort);
    }
    let token = Top::token(&settings)?;
    let mut fleet = ask(address, token.as_deref())?;
    if asked.once || !io::stdout().is_terminal() {
        let whole = Size { rows: usize::MAX, columns: usize::MAX };
        return Ok(out.write_all(screen(&fleet, address, whole).as_bytes())?);
    }
    let mut trouble = None;
    out.write_all(b"\x1b[2J")?;
    loop {
        let mut text = screen(&fleet, address, size());
        if let Some(error) = trouble.take() {
            let _infallible = writeln!(text, "\n{error}; these figures are old");
        }
        // From the top: each line overwrites its old one; then the rest is cleared.
        let text = text.replace('\n', "\x1b[K\r\n");
        out.write_all(format!("\x1b[H{text}\x1b[J").as_bytes())?;
        out.flush()?;
        std::thread::park_timeout(PERIOD);
        match ask(address, token.as_deref()) {
            Ok(latest) => fleet = latest,
            Err(error) => trouble = Some(error),
        }
    }
}

fn ask(address: SocketAddr, token: Option<&str>) -> Result<Value, Error> {
    let answer = health::ask_as(address, "/fleet.json", token, MAX_ANSWER)
        .map_err(|error| Error::Silent(address, error))?
        .ok_or(Error::Other(address))?;
    let told: Value = serde_json::from_str(&answer.body).map_err(|_| Error::Other(address))?;
    match told["error"].as_str() {
        Some(error) => Err(Error::Refused(address, plain(error))),
        None if answer.well && told["endpoints"].is_array() => Ok(told),
        None => Err(Error::Other(address)),
    }
}

/// The terminal's size, or 80 by 24 if it is unknown.
fn size() -> Size {
    let told = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let told = told.filter(|size| size.ws_row > 0 && size.ws_col > 0);
    told.map_or(Size { rows: 24, columns: 80 }, |size| Size {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}

/// The displayed text: the figures of the fleet, and as many endpoints as fit, those that take no
/// requests first.
fn screen(fleet: &Value, address: SocketAddr, size: Size) -> String {
    let no_endpoints = Vec::new();
    let endpoints = fleet["endpoints"].as_array().unwrap_or(&no_endpoints);
    let is_out = |one: &&Value| one["state"] != "available";
    let available = endpoints.len() - endpoints.iter().filter(is_out).count();
    let rate: f64 = endpoints.iter().filter_map(|one| one["requests_per_second"].as_f64()).sum();
    let outcome = |name: &str| fleet["outcomes"][name].as_u64().unwrap_or_default();
    let failed = outcome("upstream_failed") + outcome("unavailable") + outcome("deadline");
    let models = fleet["models"]
        .as_array()
        .map_or_else(String::new, |models| models.iter().map(text).collect::<Vec<_>>().join(", "));
    let mut lines = vec![
        format!(
            "imagefleet {address}   {}   policy {}   {available} of {} endpoints available",
            state(fleet),
            text(&fleet["policy"]),
            endpoints.len()
        ),
        format!(
            "{rate:.1} requests/s   {} in progress   {} waiting   {} shed   {} retries   {failed} failed   models: {}",
            text(&fleet["active_requests"]),
            text(&fleet["waiting_requests"]),
            outcome("shed"),
            text(&fleet["retries"]),
            if models.is_empty() { "none" } else { &models },
        ),
    ];
    lines.extend(elasticity(&fleet["elasticity"]));
    let head = lines.len() + 2;
    lines.push(String::new());
    let names = endpoints.iter().map(|one| text(&one["name"]).chars().count());
    let width = names.max().unwrap_or_default().clamp(8, MAX_NAME);
    lines.push(format!(
        "{:width$}  {:<13} {:>6} {:>9} {:>9} {:>8} {:>9} {:>9} {:>7} {:>8} {:>6}  reason",
        "endpoint",
        "state",
        "for",
        "in flight",
        "req/s",
        "fail/s",
        "p50 ms",
        "p99 ms",
        "share",
        "expected",
        "weight"
    ));
    let room = size.rows.saturating_sub(head + 2);
    let in_order =
        endpoints.iter().filter(is_out).chain(endpoints.iter().filter(|one| !is_out(one)));
    lines.extend(in_order.take(room).map(|one| row(one, width)));
    if endpoints.len() > room {
        lines.push(format!("and {} more", endpoints.len() - room));
    }
    lines.iter().fold(String::new(), |mut all, line| {
        all.extend(line.trim_end().chars().take(size.columns));
        all.push('\n');
        all
    })
}

/// How many workers the load needs, if the size of the fleet follows it.
fn elasticity(told: &Value) -> Option<String> {
    let number = |name: &str| text(&told[name]);
    told.is_object().then(|| {
        format!(
            "{} workers of {} to {}   {} starting   {} stopping   {}",
            number("workers"),
            number("min"),
            number("max"),
            number("starting"),
            number("stopping"),
            number("reason"),
        )
    })
}

fn row(one: &Value, width: usize) -> String {
    let number =
        |name: &str| one[name].as_f64().map_or("-".to_owned(), |value| format!("{value:.1}"));
    let share = |name: &str| {
        one[name].as_f64().map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0))
    };
    let name: String = text(&one["name"]).chars().take(MAX_NAME).collect();
    let in_flight = match one["in_flight_limit"].as_u64() {
        Some(limit) => format!("{}/{limit}", text(&one["in_flight"])),
        None => text(&one["in_flight"]),
    };
    format!(
        "{name:width$}  {:<13} {:>6} {in_flight:>9} {:>9} {:>8} {:>9} {:>9} {:>7} {:>8} {:>6}  {}",
        endpoint_state(&text(&one["state"])),
        duration(one["seconds_in_state"].as_f64().unwrap_or_default()),
        number("requests_per_second"),
        number("failures_per_second"),
        number("p50_ms"),
        number("p99_ms"),
        share("share"),
        share("expected_share"),
        text(&one["weight"]),
        text(&one["reason"]),
    )
}

fn state(fleet: &Value) -> &'static str {
    let is = |name: &str| fleet[name] == true;
    match (is("draining"), is("panic_mode"), is("ready")) {
        (true, _, _) => "draining",
        (false, true, _) => "panic mode",
        (false, false, true) => "ready",
        (false, false, false) => "not ready",
    }
}

/// The state as worded in the fleet view.
fn endpoint_state(state: &str) -> &str {
    match state {
        "new" => "not ready yet",
        "draining" => "drained",
        state => state,
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 90.0 {
        format!("{seconds:.0} s")
    } else if seconds < 5400.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.0} h", seconds / 3600.0)
    }
}

/// A value of the answer as text; empty if there is none.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Replaces control characters, which a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { '?' } else { one }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Lines above the first endpoint.
    const HEAD: usize = 4;

    fn fleet(endpoints: &[Value]) -> Value {
        json!({
            "policy": "p2c", "ready": true, "draining": false, "panic_mode": false,
            "models": ["mnist"], "active_requests": 3, "waiting_requests": 0, "retries": 1,
            "outcomes": { "shed": 2, "upstream_failed": 1, "unavailable": 1, "deadline": 0 },
            "endpoints": endpoints,
        })
    }

    fn shown(endpoints: &[Value], rows: usize, columns: usize) -> String {
        screen(&fleet(endpoints), ([127, 0, 0, 1], 9900).into(), Size { rows, columns })
    }

    fn endpoint(name: &str, state: &str, reason: Option<&str>) -> Value {
        json!({
            "name": name, "state": state, "reason": reason, "seconds_in_state": 150.0,
            "in_flight": 2, "in_flight_limit": 8, "requests_per_second": 12.5,
            "failures_per_second": 0.0, "p50_ms": 4.0, "p99_ms": null, "share": 0.5,
            "expected_share": 0.5, "weight": 1,
        })
    }

    #[test]
    fn the_figures_of_the_fleet_stand_above_its_endpoints() {
        let all = [endpoint("worker1", "available", None), endpoint("worker2", "available", None)];
        let shown = shown(&all, 24, 200);
        for told in
            ["ready", "policy p2c", "2 of 2 endpoints", "25.0 requests/s", "2 shed", "2 failed"]
        {
            assert!(shown.contains(told), "{told}: {shown}");
        }
        let row = shown.lines().find(|line| line.starts_with("worker1")).expect("a row");
        let cells: Vec<&str> = row.split_whitespace().collect();
        let expected = [
            "worker1",
            "available",
            "2",
            "min",
            "2/8",
            "12.5",
            "0.0",
            "4.0",
            "-",
            "50.0",
            "%",
            "50.0",
            "%",
            "1",
        ];
        assert_eq!(cells, expected);
    }

    #[test]
    fn a_fleet_that_follows_its_load_says_how_many_workers_it_needs_and_why() {
        let mut fleet = fleet(&[endpoint("worker1", "available", None)]);
        fleet["elasticity"] = json!({
            "workers": 2, "min": 1, "max": 4, "starting": 1, "stopping": 0,
            "reason": "workers are 92 % busy",
        });
        let shown = screen(&fleet, ([127, 0, 0, 1], 9900).into(), Size { rows: 24, columns: 200 });
        let told = "2 workers of 1 to 4   1 starting   0 stopping   workers are 92 % busy\n";
        assert!(shown.contains(told), "{shown}");
    }

    #[test]
    fn endpoints_that_take_no_requests_come_first_with_their_reasons_and_the_rest_is_counted() {
        let mut all: Vec<Value> =
            (0..40).map(|one| endpoint(&format!("worker{one}"), "available", None)).collect();
        all.push(endpoint("late", "down", Some("connection refused")));
        let shown = shown(&all, 20, 200);
        assert!(shown.lines().count() < 20, "{shown}");
        let first = shown.lines().nth(HEAD).expect("a row");
        assert!(first.starts_with("late") && first.ends_with("connection refused"), "{first}");
        assert!(shown.ends_with("and 27 more\n"), "{shown}");
    }

    #[test]
    fn nothing_that_is_told_reaches_the_terminal_as_an_order_or_leaves_its_line() {
        let evil = "a\x1b[2Jb\nc\u{9b}31m";
        let mut fleet = fleet(&[endpoint(evil, "available", Some(evil))]);
        fleet["models"] = json!([evil]);
        fleet["policy"] = json!(evil);
        let size = Size { rows: 24, columns: 100 };
        let shown = screen(&fleet, ([127, 0, 0, 1], 9900).into(), size);
        assert!(shown.chars().all(|one| one == '\n' || !one.is_control()), "{shown:?}");
        assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown:?}");
        assert!(shown.contains("models: a?[2Jb?c?31m"), "{shown:?}");
    }

    #[test]
    fn an_empty_fleet_is_shown_too() {
        assert!(shown(&[], 24, 80).contains("0 of 0 endpoints"));
    }
}
