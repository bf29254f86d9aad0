//! Where sessions, events and runs are kept, how safely, and for how long.

use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where what outlives a run is kept: `"noop"`, `"sqlite:par.db"`, `"sqlite::memory:"`, or an object with `type`.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case")]
pub enum Persistence {
    /// In the memory of the process: sessions last as long as the runtime, events are not kept.
    Noop,
    /// In an SQLite file.
    Sqlite {
        /// The file, made if it is not there; `:memory:` for a database that is gone with the runtime. Default `par.db`, in
        /// the working directory.
        path: String,
    },
}

impl Default for Persistence {
    fn default() -> Self {
        Self::Sqlite { path: "par.db".into() }
    }
}

impl Persistence {
    /// The files that are the runtime's own, at their real paths: no tool of an agent may touch them.
    pub fn files(&self) -> Vec<PathBuf> {
        let Self::Sqlite { path } = self else { return Vec::new() };
        let path = Path::new(path);
        let (Some(name), Ok(whole)) = (path.file_name(), std::path::absolute(path)) else { return Vec::new() };
        let folder = whole.parent().map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.to_owned()));
        let named = |suffix: &str| {
            let mut name = name.to_owned();
            name.push(suffix);
            folder.as_deref().unwrap_or(Path::new("/")).join(name)
        };
        ["", "-wal", "-shm", "-journal", "-locks"].map(named).into()
    }

    fn from_short(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "noop" => Ok(Self::Noop),
            None if text == "sqlite" => Ok(Self::default()),
            Some(("sqlite", path)) => Self::sqlite(path.strip_prefix("//").unwrap_or(path)),
            Some(_) | None => Err(format!("expected \"noop\", \"sqlite:<file>\" or \"sqlite::memory:\", got {text:?}")),
        }
    }

    fn sqlite(path: &str) -> Result<Self, String> {
        if path.is_empty() || path.contains('\0') {
            return Err(format!("{path:?} cannot be the path of a database"));
        }
        Ok(Self::Sqlite { path: path.to_owned() })
    }
}

/// The object form. Which keys belong to which type is said here, not by a variant, since the type has a bare form, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    r#type: Kind,
    path: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Noop,
    Sqlite,
}

impl<'de> Deserialize<'de> for Persistence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PersistenceVisitor;
        impl<'de> Visitor<'de> for PersistenceVisitor {
            type Value = Persistence;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"noop\", \"sqlite:<file>\", or an object with \"type\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Persistence, E> {
                Persistence::from_short(text).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Persistence, A::Error> {
                use serde::de::Error as _;
                let shape = Shape::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                match (shape.r#type, shape.path) {
                    (Kind::Noop, None) => Ok(Persistence::Noop),
                    (Kind::Noop, Some(_)) => Err(A::Error::custom("\"noop\" has no path")),
                    (Kind::Sqlite, None) => Ok(Persistence::default()),
                    (Kind::Sqlite, Some(path)) => Persistence::sqlite(&path).map_err(A::Error::custom),
                }
            }
        }
        deserializer.deserialize_struct("persistence", &[], PersistenceVisitor)
    }
}

/// When what a run does is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// While it goes on, without waiting. A crash of the process may lose the last moments, never an order. Only the intent
    /// to call a tool of the effect `once` is waited for: it survives the process, not a loss of power.
    #[default]
    Async,
    /// Each step is on the disk before the next one: the intent before the tool runs, the result before the model is asked
    /// again, the end before the host is told.
    Sync,
    /// Once, when the run ends, before the host is told. A run that dies with its process leaves nothing behind.
    Exit,
}

/// How what is to be written waits.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct WriterConfig {
    /// Events that may wait to be written; past that, runs wait. 1 to 1000000.
    pub capacity: usize,
    /// The longest that text waits to be written together with what follows it. 1 to 60000.
    pub flush_interval_ms: u64,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self { capacity: 1_000, flush_interval_ms: 50 }
    }
}

impl WriterConfig {
    /// Refuses what makes no sense.
    pub fn check(&self, path: &str) -> Result<()> {
        if !(1..=1_000_000).contains(&self.capacity) {
            return Err(Error::schema(format!("{path}.capacity"), "1 to 1000000 events may wait"));
        }
        if !(1..=60_000).contains(&self.flush_interval_ms) {
            return Err(Error::schema(format!("{path}.flush_interval_ms"), "1 to 60000 milliseconds are needed"));
        }
        Ok(())
    }
}

/// How long what is kept is kept. What has no limit stays until it is deleted. Runs that have not ended, and what belongs to
/// them, always stay.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct RetentionConfig {
    /// Seconds that a run is listed after its end.
    pub runs_seconds: Option<f64>,
    /// Seconds that a session is kept after its last run.
    pub sessions_seconds: Option<f64>,
    /// Seconds that a large result is kept.
    pub blobs_seconds: Option<f64>,
    /// Seconds that an event which could not be delivered is kept.
    pub dead_letters_seconds: Option<f64>,
    /// The most bytes that the database may have; past that the oldest events go, whatever their age.
    pub max_bytes: Option<u64>,
    /// Seconds between two looks at what is too old; the first is when the runtime begins to write.
    pub interval_seconds: f64,
}

/// Seven days.
const WEEK: f64 = 604_800.0;

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            runs_seconds: Some(WEEK),
            sessions_seconds: None,
            blobs_seconds: Some(WEEK),
            dead_letters_seconds: Some(WEEK),
            max_bytes: None,
            interval_seconds: 600.0,
        }
    }
}

impl RetentionConfig {
    /// Refuses what makes no sense.
    pub fn check(&self, path: &str) -> Result<()> {
        let ages = [
            ("runs_seconds", self.runs_seconds),
            ("sessions_seconds", self.sessions_seconds),
            ("blobs_seconds", self.blobs_seconds),
            ("dead_letters_seconds", self.dead_letters_seconds),
        ];
        for (key, seconds) in ages {
            check_seconds(seconds, &format!("{path}.{key}"))?;
        }
        if self.max_bytes.is_some_and(|most| most < 1_048_576) {
            return Err(Error::schema(format!("{path}.max_bytes"), "a database needs at least 1048576 bytes"));
        }
        if !(1.0..=86_400.0).contains(&self.interval_seconds) {
            return Err(Error::schema(format!("{path}.interval_seconds"), "1 to 86400 seconds are needed"));
        }
        Ok(())
    }
}

/// Refuses an age that is none.
pub fn check_seconds(seconds: Option<f64>, path: &str) -> Result<()> {
    match seconds {
        Some(seconds) if !(0.0..=1e11).contains(&seconds) => {
            Err(Error::schema(path, "a number of seconds, 0 or more, is needed"))
        }
        Some(_) | None => Ok(()),
    }
}
