//! Logs without a global logger: a `tracing` subscriber of one runtime, installed only for its own threads and calls.
//!
//! Off unless somebody listens; then a message of a wanted level becomes one JSON object:
//! `{"type":"log","level":"warn","target":"par::llm","message":"…","at_ms":…, …fields}`.

use crate::config::LogLevel;
use crate::types::now_ms;
use parking_lot::RwLock;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, Interest, LevelFilter, Metadata, Subscriber};

/// Takes encoded log messages. Must not block.
pub type LogSink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// A listener to log messages: the level it wants, and where they go.
pub type LogFilter = (LogLevel, LogSink);

/// Each sink by a name that makes it replaceable.
type Sinks = Vec<(&'static str, LogLevel, LogSink)>;

/// See the module's head.
#[derive(Default)]
pub struct LogSubscriber {
    /// The loudest level that any sink wants.
    level: AtomicU8,
    /// Replaced as a whole, so that no lock is held while a sink runs: a sink may write to the log.
    sinks: RwLock<Arc<Sinks>>,
}

impl LogSubscriber {
    /// Adds a sink, or replaces the one of that name, or removes it.
    pub fn set(&self, name: &'static str, filter: Option<LogFilter>) {
        let mut current = self.sinks.write();
        let mut sinks = Sinks::clone(&current);
        sinks.retain(|(other, ..)| *other != name);
        sinks.extend(filter.map(|(level, sink)| (name, level, sink)));
        let loudest = sinks.iter().map(|(_, level, _)| *level).max().unwrap_or_default();
        self.level.store(loudest as u8, Ordering::Release);
        *current = Arc::new(sinks);
        drop(current);
        // `tracing` caches who is interested in what.
        tracing::callsite::rebuild_interest_cache();
    }

    /// Removes every sink.
    pub fn clear(&self) {
        *self.sinks.write() = Arc::default();
        self.level.store(LogLevel::Off as u8, Ordering::Release);
    }

    /// Whether anyone takes messages of any level.
    pub fn is_active(&self) -> bool {
        self.level.load(Ordering::Acquire) > LogLevel::Off as u8
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && level_of(metadata) as u8 <= self.level.load(Ordering::Relaxed)
    }
}

fn level_of(metadata: &Metadata<'_>) -> LogLevel {
    match *metadata.level() {
        tracing::Level::ERROR => LogLevel::Error,
        tracing::Level::WARN => LogLevel::Warn,
        tracing::Level::INFO => LogLevel::Info,
        tracing::Level::DEBUG => LogLevel::Debug,
        tracing::Level::TRACE => LogLevel::Trace,
    }
}

fn name_of(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Off => "off",
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

impl Subscriber for LogSubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Levels change at run time and several runtimes share callsites: ask each time, cheaply.
        if metadata.is_event() { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.level.load(Ordering::Acquire) {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = level_of(event.metadata());
        let mut fields = Fields(Map::new());
        fields.0.insert("type".into(), "log".into());
        fields.0.insert("level".into(), name_of(level).into());
        fields.0.insert("target".into(), event.metadata().target().into());
        event.record(&mut fields);
        fields.0.insert("at_ms".into(), now_ms().into());
        let line = Value::Object(fields.0).to_string();
        let sinks = Arc::clone(&self.sinks.read());
        for (_, wanted, sink) in sinks.iter() {
            if level <= *wanted {
                sink(line.as_bytes());
            }
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
}

/// The dispatcher of a runtime, for `tracing::dispatcher::with_default` and friends.
impl LogSubscriber {
    /// Wraps the subscriber for `tracing`.
    pub fn dispatch(self: &Arc<Self>) -> tracing::Dispatch {
        tracing::Dispatch::new(Arc::clone(self))
    }
}
