//! Reads an archive back.

use super::super::sqlite::{Restored, Sqlite};
use super::super::{Tls, Writer};
use super::object::Objects;
use super::record::Record;
use crate::config::Archive;
use crate::types::{Error, Result, Status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Objects read ahead of what is being written.
const AHEAD: usize = 2;

/// What one object held, as lines, and the object's name.
type Lines = (String, String);

/// Puts everything that was forwarded of a database into an empty one: all of it, or nothing. `source`: which database, if
/// there are several.
pub async fn restore(
    database: &Arc<Sqlite>,
    writer: &Arc<Writer>,
    archive: &Archive,
    source: Option<&str>,
    tls: Tls,
) -> Result<Restored> {
    let objects = Objects::open(archive, tls)?;
    let source = choose(&objects, archive, source).await?;
    let (send, received) = mpsc::channel(AHEAD);
    let database = Arc::clone(database);
    let write = writer.run(move |_| {
        let mut reader = Reader { received, lines: Vec::new(), name: String::new() };
        database.restore(&mut || reader.next())
    });
    let read = read_all(&objects, archive, &source, send);
    // If reading fails, what was written is taken back; if writing fails, reading ends.
    let (written, read) = futures_util::join!(write, read);
    match (written, read) {
        (_, Err(error)) if error.code() != Some(NOBODY_READS) => Err(error),
        (written, _) => written,
    }
}

/// The code of the error that says that writing failed.
const NOBODY_READS: &str = "nobody_reads";

async fn read_all(objects: &Objects, archive: &Archive, source: &str, send: mpsc::Sender<Option<Lines>>) -> Result<()> {
    let mut next = None;
    for path in objects.list(source).await? {
        let (head, lines) = objects.read(&path).await?;
        let expected = next.unwrap_or(head.begins);
        if head.first > expected {
            let message = format!("changes {expected} to {} are missing in {}", head.first - 1, archive.name());
            return Err(Error::new(Status::NotFound, message)
                .with_code("archive_incomplete")
                .with_hint(format!("an object between was removed: the first that is there again is {path}")));
        }
        next = Some(expected.max(head.last + 1));
        let gone = |_| Error::internal("what is read is not written").with_code(NOBODY_READS);
        send.send(Some((path.to_string(), lines))).await.map_err(gone)?;
    }
    if next.is_none() {
        return Err(Error::new(Status::NotFound, format!("there are no objects of {source:?} in {}", archive.name()))
            .with_path("params.from"));
    }
    // Only now it is known that all came.
    send.send(None).await.map_err(|_| Error::internal("what is read is not written").with_code(NOBODY_READS))
}

async fn choose(objects: &Objects, archive: &Archive, wanted: Option<&str>) -> Result<String> {
    let mut found = objects.sources().await?;
    found.sort_unstable();
    let place = archive.name();
    match (wanted, found.as_slice()) {
        (Some(wanted), _) if found.iter().any(|source| source == wanted) => Ok(wanted.to_owned()),
        (None, [only]) => Ok(only.clone()),
        (_, []) => Err(Error::new(Status::NotFound, format!("nothing was forwarded to {place}"))
            .with_path("params.from")
            .with_hint("give \"from\" as \"to\" was configured, with its prefix")),
        (Some(wanted), _) => {
            let error = Error::new(Status::NotFound, format!("no database {wanted:?} was forwarded to {place}"));
            Err(error.with_path("params.source").with_hint(format!("there are: {}", found.join(", "))))
        }
        (None, _) => {
            Err(Error::new(Status::InvalidArg, format!("{} databases were forwarded to {place}", found.len()))
                .with_path("params.source")
                .with_hint(format!("say which: {}", found.join(", "))))
        }
    }
}

/// The writer's end.
struct Reader {
    received: mpsc::Receiver<Option<Lines>>,
    /// Of one object, the next one last.
    lines: Vec<String>,
    name: String,
}

impl Reader {
    fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(line) = self.lines.pop() {
                return Record::read(&line).map(Some).map_err(|error| {
                    Error::new(
                        Status::Persistence,
                        format!("{} holds a record that cannot be read: {error}", self.name),
                    )
                    .with_code("archive_damaged")
                    .with_hint("it was changed, or written by a newer version")
                });
            }
            match self.received.blocking_recv() {
                Some(Some((name, lines))) => {
                    self.name = name;
                    self.lines = lines.lines().rev().map(str::to_owned).collect();
                }
                Some(None) => return Ok(None),
                None => return Err(Error::new(Status::Cancelled, "the archive was not read to its end")),
            }
        }
    }
}

impl Record {
    /// Reads what was shipped.
    pub fn read(line: &str) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Kind<'a> {
            #[serde(borrow)]
            kind: Cow<'a, str>,
        }
        Ok(match &*serde_json::from_str::<Kind<'_>>(line)?.kind {
            "session_deleted" => Self::SessionDeleted(serde_json::from_str(line)?),
            "dead_letter_removed" => Self::DeadLetterRemoved(serde_json::from_str(line)?),
            "run" => Self::Run(serde_json::from_str(line)?),
            "events" => Self::Events(serde_json::from_str(line)?),
            "session" => Self::Session(serde_json::from_str(line)?),
            "entry" => Self::Entry(serde_json::from_str(line)?),
            "blob" => Self::Blob(serde_json::from_str(line)?),
            "dead_letter" => Self::DeadLetter(serde_json::from_str(line)?),
            other => return Err(serde::de::Error::custom(format!("its kind {other:?} is not known"))),
        })
    }
}

/// Bytes that were written in base64.
pub fn from_base64(text: &str) -> Result<Vec<u8>> {
    BASE64.decode(text).map_err(|error| damaged(&error.to_string()))
}

/// Bytes that were written in hex.
pub fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    digits.map(byte).collect::<Option<Vec<u8>>>().ok_or_else(|| damaged("a hash is no hex"))
}

fn damaged(what: &str) -> Error {
    Error::new(Status::Persistence, format!("a record of the archive cannot be read: {what}"))
        .with_code("archive_damaged")
        .with_hint("it was changed, or written by a newer version")
}
