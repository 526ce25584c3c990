//! The operator's log: what changed and what is wrong, one event per line, on standard error.
//!
//! As text a line is `TIME LEVEL message name=value …`; as JSON it is an object with `time`,
//! `level`, `message`, `target` (the module that logs) and the same values. Messages are fixed and
//! short, so that they can be searched for. Output of local workers is interleaved under their
//! names. See docs/balancer.md for the list of names.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::text;
use super::writer::{Destination, LogWriter};
use crate::config::EventFormat;

/// Bytes of events that may wait for a reader.
const LIMIT: usize = 1024 * 1024;
/// The target of lines printed by a local worker.
pub(crate) const WORKER_OUTPUT: &str = "worker_output";
/// Sends all events that pass `filter` to standard error from now on, including panics.
pub fn start(filter: &str, format: EventFormat) -> anyhow::Result<Arc<LogWriter>> {
    use std::io::IsTerminal;
    let log = LogWriter::start("operator", &Destination::StandardError, LIMIT)?;
    let log = Arc::new(log);
    // Workers have filters of their own.
    let passed = format!("{WORKER_OUTPUT}=info").parse()?;
    let filter = EnvFilter::try_new(filter)?.add_directive(passed);
    tracing_subscriber::fmt()
        .event_format(Lines { format, is_coloured: std::io::stderr().is_terminal() })
        .with_writer(Arc::clone(&log))
        .with_env_filter(filter)
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let reason = panic.payload_as_str().unwrap_or_default();
        tracing::error!(thread, reason, "panicked at {place}");
    }));
    Ok(log)
}

/// Formats events as lines.
struct Lines {
    format: EventFormat,
    is_coloured: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = EventParts::default();
        event.record(&mut line);
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let text = match self.format {
            EventFormat::Json => line.json(&time.to_string(), event.metadata()),
            EventFormat::Text if event.metadata().target() == WORKER_OUTPUT => line.output(),
            EventFormat::Text => {
                let level = *event.metadata().level();
                let (colour, end) = if self.is_coloured { colour(level) } else { ("", "") };
                format!("{time} {colour}{level:>5}{end} {}", line.text())
            }
        };
        writeln!(out, "{text}")
    }
}

fn colour(level: Level) -> (&'static str, &'static str) {
    let begin = match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    };
    (begin, "\x1b[0m")
}

/// The parts of an event.
#[derive(Debug, Default)]
struct EventParts {
    message: String,
    values: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
enum Value {
    Text(String),
    /// A number or a boolean, which JSON writes without quotes.
    Bare(String),
}

impl Visit for EventParts {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Values recorded with `%` arrive here too; their debug output is their text.
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.values.push((field.name(), Value::Text(value.to_owned())));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.values.push((field.name(), Value::Bare(value.to_string())));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.values.push((field.name(), Value::Bare(value.to_string())));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        let text = value.to_string();
        let value = if value.is_finite() { Value::Bare(text) } else { Value::Text(text) };
        self.values.push((field.name(), value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.values.push((field.name(), Value::Bare(value.to_string())));
    }
}

impl EventParts {
    fn text(&self) -> String {
        let mut out = String::new();
        text::message(&mut out, &self.message);
        for (name, value) in &self.values {
            out.push(' ');
            out.push_str(name);
            out.push('=');
            match value {
                Value::Text(value) => text::value(&mut out, value),
                Value::Bare(value) => out.push_str(value),
            }
        }
        out
    }

    /// The output of a worker, preceded by its name.
    fn output(&self) -> String {
        let mut out = String::new();
        for (_, value) in &self.values {
            if let Value::Text(name) = value {
                text::message(&mut out, name);
            }
        }
        out.push_str(" | ");
        text::message(&mut out, &self.message);
        out
    }

    fn json(&self, time: &str, metadata: &tracing::Metadata<'_>) -> String {
        let level = metadata.level().as_str().to_ascii_lowercase();
        let mut out =
            format!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"message\":").into_bytes();
        text::json(&mut out, self.message.as_bytes());
        out.extend_from_slice(b",\"target\":");
        text::json(&mut out, metadata.target().as_bytes());
        for (name, value) in &self.values {
            out.push(b',');
            text::json(&mut out, name.as_bytes());
            out.push(b':');
            match value {
                Value::Text(value) => text::json(&mut out, value.as_bytes()),
                Value::Bare(value) => out.extend_from_slice(value.as_bytes()),
            }
        }
        out.push(b'}');
        String::from_utf8_lossy(&out).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: EventFormat, work: impl FnOnce()) -> String {
        let kept = Kept::default();
        let out = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Lines { format, is_coloured: false })
            .with_writer(move || out.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("text")
    }

    fn event() {
        let error = std::io::Error::other("two\nlines \u{9b}31m \"quoted\"");
        tracing::warn!(endpoint = "worker1", attempts = 3, is_new = true, %error, "endpoint down");
    }

    #[test]
    fn an_event_is_one_line_of_text_whatever_it_tells() {
        let text = logged(EventFormat::Text, event);
        let rest = text.split_once("  WARN ").expect("the level").1;
        assert_eq!(
            rest,
            "endpoint down endpoint=worker1 attempts=3 is_new=true \
             error=\"two\\nlines \\u{9b}31m \\\"quoted\\\"\"\n"
        );
    }

    #[test]
    fn an_event_is_one_json_object_whatever_it_tells() {
        let text = logged(EventFormat::Json, event);
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["level"], "warn");
        assert_eq!(value["message"], "endpoint down");
        assert_eq!(value["endpoint"], "worker1");
        assert_eq!(value["attempts"], 3);
        assert_eq!(value["is_new"], true);
        assert_eq!(value["error"], "two\nlines \u{9b}31m \"quoted\"");
        assert!(humantime::parse_rfc3339(value["time"].as_str().expect("text")).is_ok());
    }

    #[test]
    fn what_a_worker_prints_stands_after_its_name() {
        let line =
            || tracing::info!(target: WORKER_OUTPUT, worker = "worker1", "model\u{1b}[2J ready");
        assert_eq!(logged(EventFormat::Text, line), "worker1 | model\\u{1b}[2J ready\n");
        let text = logged(EventFormat::Json, line);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&value["worker"], &value["target"]),
            (&"worker1".into(), &WORKER_OUTPUT.into())
        );
    }
}
