//! Where sessions, events and runs are kept, how safely, and for how long.

use super::{Forward, Secret};
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where what outlives a run is kept: `"noop"`, `"sqlite:par.db"`, `"sqlite::memory:"`, `"postgres://user@host/database"`, or
/// an object with `type`.
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
        /// Whether it is also kept elsewhere.
        #[schemars(default)]
        forward: Option<Forward>,
    },
    /// In a PostgreSQL database, which runtimes of several processes and machines may share.
    Postgres(PostgresConfig),
}

/// In the working directory.
const USUAL_PATH: &str = "par.db";

impl Default for Persistence {
    fn default() -> Self {
        Self::Sqlite { path: USUAL_PATH.into(), forward: None }
    }
}

impl Persistence {
    /// The files that are the runtime's own, at their real paths: no tool of an agent may touch them.
    pub fn files(&self) -> Vec<PathBuf> {
        let path = match self {
            Self::Sqlite { path, .. } => path,
            Self::Noop | Self::Postgres(_) => return Vec::new(),
        };
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

    /// Refuses what makes no sense.
    pub fn check(&self, path: &str) -> Result<()> {
        let (file, forward) = match self {
            Self::Sqlite { path: file, forward } => (file, forward),
            Self::Postgres(config) => return config.check().map_err(|wrong| Error::schema(path, wrong)),
            Self::Noop => return Ok(()),
        };
        if file.is_empty() || file.contains('\0') {
            return Err(Error::schema(format!("{path}.path"), format!("{file:?} cannot be the path of a database")));
        }
        let Some(Forward::On(forward)) = forward else { return Ok(()) };
        if file == ":memory:" {
            let message = "a database in memory cannot be forwarded: what is not shipped in time would be lost";
            return Err(Error::schema(format!("{path}.forward"), message).with_hint("give the path of a file"));
        }
        forward.check(&format!("{path}.forward"))
    }

    fn from_short(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "noop" => Ok(Self::Noop),
            None if text == "sqlite" => Ok(Self::default()),
            Some(("sqlite", path)) => Self::sqlite(path.strip_prefix("//").unwrap_or(path), None),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(PostgresConfig::at(text.to_owned()))),
            // Not repeated: it may be a database's address, with its password.
            Some(_) | None => {
                Err("expected \"noop\", \"sqlite:<file>\", \"sqlite::memory:\" or \"postgres://…\"".to_owned())
            }
        }
    }

    fn sqlite(path: &str, forward: Option<Forward>) -> Result<Self, String> {
        if path.is_empty() || path.contains('\0') {
            return Err(format!("{path:?} cannot be the path of a database"));
        }
        Ok(Self::Sqlite { path: path.to_owned(), forward })
    }
}

/// A PostgreSQL database.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:5432/database?sslmode=verify-full`, as libpq has it (PostgreSQL documentation, 34.1.1.2). Of its
    /// parameters: `sslmode`, `sslrootcert`, `application_name`, `connect_timeout`, `options`, `target_session_attrs`,
    /// `hostaddr`, `keepalives`…, several hosts. A connection that is pooled by transaction does not do.
    pub url: Secret,
    /// The password, where the URL has none. Default: the environment variable `PGPASSWORD`, if it is set.
    pub password: Option<Secret>,
    /// The schema that the tables are in, made if it is not there. Default `par`.
    pub schema: String,
    /// Connections for reading, at most, 1 to 1000; writing and listening have one each. Default 4.
    pub pool_size: usize,
    /// Seconds after which a runtime that has not been heard of is taken for dead: its sessions are free, and its runs are
    /// interrupted. 0.1 to 3600. Default 15.
    pub lease_seconds: f64,
}

impl PostgresConfig {
    /// The database at this address.
    pub(super) fn at(url: String) -> Self {
        Self { url: Secret::Literal(url), password: None, schema: "par".into(), pool_size: 4, lease_seconds: 15.0 }
    }

    /// Refuses what makes no sense.
    pub(super) fn check(&self) -> Result<(), String> {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let starts_well =
            !self.schema.starts_with(|first: char| first.is_ascii_digit()) && !self.schema.starts_with("pg_");
        if !(1..=48).contains(&self.schema.len()) || !self.schema.bytes().all(is_name) || !starts_well {
            return Err(format!("{:?} cannot be a schema: 1 to 48 of a to z, 0 to 9 and _ are, not pg_…", self.schema));
        }
        if !(1..=1_000).contains(&self.pool_size) {
            return Err("pool_size is 1 to 1000".into());
        }
        if !(0.1..=3_600.0).contains(&self.lease_seconds) {
            return Err("lease_seconds is 0.1 to 3600".into());
        }
        Ok(())
    }
}

/// The object form. Which keys belong to which type is said here, not by a variant, since the type has a bare form, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    r#type: Kind,
    path: Option<String>,
    forward: Option<Forward>,
    url: Option<Secret>,
    password: Option<Secret>,
    schema: Option<String>,
    pool_size: Option<usize>,
    lease_seconds: Option<f64>,
}

impl Shape {
    /// The first key that is given and belongs to another type.
    fn stray(&self) -> Option<&'static str> {
        let is_postgres = self.r#type == Kind::Postgres;
        let given = [
            ("path", self.path.is_some(), self.r#type == Kind::Sqlite),
            ("forward", self.forward.is_some(), self.r#type == Kind::Sqlite),
            ("url", self.url.is_some(), is_postgres),
            ("password", self.password.is_some(), is_postgres),
            ("schema", self.schema.is_some(), is_postgres),
            ("pool_size", self.pool_size.is_some(), is_postgres),
            ("lease_seconds", self.lease_seconds.is_some(), is_postgres),
        ];
        given.into_iter().find(|(_, is_given, belongs)| *is_given && !belongs).map(|(key, ..)| key)
    }

    fn read(self) -> Result<Persistence, String> {
        if let Some(key) = self.stray() {
            return Err(format!("this type has no {key:?}"));
        }
        match self.r#type {
            Kind::Noop => Ok(Persistence::Noop),
            Kind::Sqlite => Persistence::sqlite(self.path.as_deref().unwrap_or(USUAL_PATH), self.forward),
            Kind::Postgres => {
                let usual = PostgresConfig::at(String::new());
                let config = PostgresConfig {
                    url: self.url.ok_or("a postgres database needs its \"url\"")?,
                    password: self.password,
                    schema: self.schema.unwrap_or(usual.schema),
                    pool_size: self.pool_size.unwrap_or(usual.pool_size),
                    lease_seconds: self.lease_seconds.unwrap_or(usual.lease_seconds),
                };
                config.check().map(|()| Persistence::Postgres(config))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Noop,
    Sqlite,
    #[serde(alias = "postgresql")]
    Postgres,
}

impl<'de> Deserialize<'de> for Persistence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PersistenceVisitor;
        impl<'de> Visitor<'de> for PersistenceVisitor {
            type Value = Persistence;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"noop\", \"sqlite:<file>\", \"postgres://…\", or an object with \"type\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Persistence, E> {
                Persistence::from_short(text).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Persistence, A::Error> {
                use serde::de::Error as _;
                let shape = Shape::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                shape.read().map_err(A::Error::custom)
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
