//! The methods of `par_call` about stored events, and about those that could not be delivered.

use super::callbacks::CallbackSlot;
use super::core::{CALLBACK, Core, INBOX};
use super::stored::{MOST_PER_PAGE, PageParams, listed, page, page_size, wrong_cursor};
use super::stream::Answer;
use crate::config::strict;
use crate::store::{DeadLetter, EventCursor, EventFilter, Listed, Page};
use crate::types::{AgentId, Error, EventKind, Result, RunId, Scope, SessionId, Status};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Which events are wanted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryParams {
    /// Whose.
    #[serde(default)]
    scope: Scope,
    /// Of this run alone.
    #[serde(default)]
    run_id: Option<RunId>,
    /// Of this session alone.
    #[serde(default)]
    session: Option<SessionId>,
    /// Of this agent's runs alone.
    #[serde(default)]
    agent: Option<AgentId>,
    /// Of these types alone.
    #[serde(default)]
    types: Vec<String>,
    /// Not older than this, in milliseconds since the epoch.
    #[serde(default)]
    from_ms: Option<u64>,
    /// Older than this.
    #[serde(default)]
    to_ms: Option<u64>,
    /// `next_cursor` of the part before.
    #[serde(default)]
    cursor: Option<String>,
    /// The most events, 1 to 1000. Default 100.
    #[serde(default)]
    limit: Option<usize>,
}

/// Parameters of `events.export`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportParams {
    /// A file that is not there yet.
    path: PathBuf,
    /// Whose.
    #[serde(default)]
    scope: Scope,
    /// Of this run alone.
    #[serde(default)]
    run_id: Option<RunId>,
    /// Of this session alone.
    #[serde(default)]
    session: Option<SessionId>,
    /// Of this agent's runs alone.
    #[serde(default)]
    agent: Option<AgentId>,
    /// Of these types alone.
    #[serde(default)]
    types: Vec<String>,
    /// Not older than this, in milliseconds since the epoch.
    #[serde(default)]
    from_ms: Option<u64>,
    /// Older than this.
    #[serde(default)]
    to_ms: Option<u64>,
}

/// Parameters of `events.replay`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayParams {
    /// Which dead letters.
    ids: Vec<i64>,
}

/// What became of a dead letter that was delivered once more.
enum Replayed {
    /// It is in the queue.
    Taken,
    /// Its subscription has it, and forgets it once it is delivered.
    OnItsWay,
}

impl Core {
    pub(super) async fn query_events(&self, params: QueryParams) -> Answer {
        let QueryParams { scope, run_id, session, agent, types, from_ms, to_ms, cursor, limit } = params;
        let filter = EventFilter { scope, run_id, session, agent, types: kinds(&types)?, from_ms, to_ms };
        let after =
            cursor.map(|cursor| EventCursor::parse(&cursor).ok_or_else(|| wrong_cursor(&cursor))).transpose()?;
        let (items, next) = self.store.events(&filter, after, page_size(limit)?).await?;
        #[derive(Serialize)]
        struct Found {
            items: Vec<Box<RawValue>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            next_cursor: Option<String>,
        }
        let found = Found { items, next_cursor: next.map(|next| next.to_string()) };
        serde_json::to_string(&found).map_err(|error| Error::internal(error.to_string()))
    }

    pub(super) async fn export_events(&self, params: ExportParams) -> Result<Value> {
        let ExportParams { path, scope, run_id, session, agent, types, from_ms, to_ms } = params;
        let filter = EventFilter { scope, run_id, session, agent, types: kinds(&types)?, from_ms, to_ms };
        let refused = |error: std::io::Error| {
            Error::new(Status::Io, format!("{path:?} cannot be written: {error}"))
                .with_path("params.path")
                .with_hint("give the path of a file that is not there, in a directory that can be written to")
        };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(refused)?;
        let mut file = std::io::BufWriter::new(file);
        let (mut count, mut bytes, mut after) = (0_u64, 0, None);
        let exported = loop {
            let (events, next) = match self.store.events(&filter, after, MOST_PER_PAGE).await {
                Ok(found) => found,
                Err(error) => break Err(error),
            };
            count += events.len() as u64;
            bytes += events.iter().map(|event| event.get().len() as u64 + 1).sum::<u64>();
            if let Err(error) = events.iter().try_for_each(|event| writeln!(file, "{}", event.get())) {
                break Err(refused(error));
            }
            after = next;
            if after.is_none() {
                break file.flush().map_err(refused);
            }
        };
        if let Err(error) = exported {
            // Half an export would pass for a whole one.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(json!({"events": count, "bytes": bytes}))
    }

    pub(super) async fn dead_letters(&self, params: PageParams) -> Result<Value> {
        Ok(listed(self.store.dead_letters(page(params.cursor.as_deref(), params.limit)?).await?))
    }

    /// Hands dead letters once more to whom they were for, if there is room. A letter is forgotten when it was delivered.
    pub(super) async fn replay(&self, params: ReplayParams) -> Result<Value> {
        let wanted: BTreeSet<i64> = params.ids.into_iter().collect();
        let (mut taken, mut begun, mut found, mut after) = (Vec::new(), 0, 0, None);
        let mut errors = Vec::new();
        loop {
            let Listed { items, next } = self.store.dead_letters(Page { after, limit: MOST_PER_PAGE }).await?;
            for letter in items.iter().filter(|letter| wanted.contains(&letter.id)) {
                found += 1;
                match self.deliver_again(letter) {
                    Ok(Replayed::Taken) => taken.push(letter.id),
                    Ok(Replayed::OnItsWay) => begun += 1,
                    Err(error) => errors.push(json!({"id": letter.id, "error": error})),
                }
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        let replayed = begun + self.bus.letters().remove(taken).await?;
        if found < wanted.len() {
            return Err(Error::new(Status::NotFound, format!("{} of the letters are not there", wanted.len() - found))
                .with_path("params.ids")
                .with_hint(
                    "events.dead_letters lists them; those that were found were delivered, where there was room",
                ));
        }
        Ok(json!({"replayed": replayed, "left": (found as u64).saturating_sub(replayed), "errors": errors}))
    }

    fn deliver_again(&self, letter: &DeadLetter) -> Result<Replayed> {
        let event = letter.event.to_string();
        let is_taken = match letter.subscription.as_str() {
            CALLBACK => self.callbacks.deliver_if_room(CallbackSlot::Event, event.as_bytes()),
            INBOX => self.inbox.push_if_room(event.as_bytes()),
            _ => return self.bus.replay(letter).map(|()| Replayed::OnItsWay),
        };
        match is_taken {
            true => Ok(Replayed::Taken),
            false => Err(Error::new(Status::Busy, "the queue has no room, or nobody reads it").with_retryable(true)),
        }
    }
}

/// A set of types, by their names.
pub(super) fn kinds(names: &[String]) -> Result<u64> {
    names.iter().enumerate().try_fold(0, |set, (index, name)| match EventKind::from_name(name) {
        Some(kind) => Ok(set | kind.bit()),
        None => {
            let error = Error::schema(format!("params.types[{index}]"), format!("there is no event type {name:?}"));
            Err(match strict::nearest(name, EventKind::ALL.iter().map(|kind| kind.name())) {
                Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                None => error.with_hint("par_call(\"describe\") lists them"),
            })
        }
    })
}
