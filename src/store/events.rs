//! Stored events: finding them, and following what any runtime that shares the database has committed, in the order of the
//! commits.

use super::{Durable, EventFilter, Page, Store, block};
use crate::types::{Error, EventKind, Result, Status};
use serde_json::value::RawValue;

/// A place between two stored events: the block's number and the number of the last event in it that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    block: i64,
    seq: u64,
}

impl EventCursor {
    /// Reads what [`EventCursor::to_string`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (block, seq) = text.split_once('.')?;
        Some(Self { block: block.parse().ok()?, seq: seq.parse().ok()? })
    }
}

impl std::fmt::Display for EventCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.block, self.seq)
    }
}

/// A number that no event reaches: what is behind a whole block. Exact also as a double.
const WHOLE_BLOCK: u64 = (1 << 53) - 1;

/// A stored event, and the place behind it.
pub type Followed = (EventCursor, Box<RawValue>);

impl EventCursor {
    /// Behind everything in the block of this number, and in those before.
    fn behind(block: i64) -> Self {
        Self { block, seq: WHOLE_BLOCK }
    }

    /// The last block of which nothing is wanted any more.
    fn last_done(self) -> i64 {
        if self.seq == WHOLE_BLOCK { self.block } else { self.block - 1 }
    }
}

impl Store {
    /// Finds stored events, oldest first, and where the next page begins.
    pub async fn events(
        &self,
        filter: &EventFilter,
        after: Option<EventCursor>,
        limit: usize,
    ) -> Result<(Vec<Box<RawValue>>, Option<EventCursor>)> {
        self.durable()?.writer.flush(false).await?;
        let (found, next) = self.scan(filter, after, i64::MAX, limit).await?;
        Ok((found.into_iter().map(|(_, event)| event).collect(), next))
    }

    /// The place behind all that was said so far.
    pub async fn newest(&self) -> Result<EventCursor> {
        let Durable { backend, writer, .. } = self.durable()?;
        writer.flush(false).await?;
        backend.tail(None).await.map(EventCursor::behind)
    }

    /// Waits until something was committed behind this place, and answers up to where [`Store::committed`] may read. Cancel
    /// safe.
    pub async fn committed_behind(&self, place: EventCursor) -> Result<EventCursor> {
        self.durable()?.backend.tail(Some(place.last_done())).await.map(EventCursor::behind)
    }

    /// The committed events between two places, `limit` of them at most, and the place they lead to.
    pub async fn committed(
        &self,
        filter: &EventFilter,
        from: EventCursor,
        to: EventCursor,
        limit: usize,
    ) -> Result<(Vec<Followed>, EventCursor)> {
        let (found, next) = self.scan(filter, Some(from), to.block, limit).await?;
        Ok((found, next.unwrap_or(to)))
    }

    /// Reads blocks up to the last one, and answers where to go on if the limit was reached before.
    pub(super) async fn scan(
        &self,
        filter: &EventFilter,
        from: Option<EventCursor>,
        last: i64,
        limit: usize,
    ) -> Result<(Vec<Followed>, Option<EventCursor>)> {
        /// Blocks read at once.
        const BLOCKS: usize = 64;
        let backend = &self.durable()?.backend;
        let mut found = Vec::new();
        let mut seen = from;
        // The block that the cursor is in may have more.
        let mut behind = from.map(EventCursor::last_done);
        loop {
            let blocks = backend.events(filter, Page { after: behind, limit: BLOCKS }).await?;
            let is_last = blocks.len() < BLOCKS;
            behind = blocks.last().map_or(behind, |(number, _)| Some(*number));
            for (number, block) in blocks {
                if number > last {
                    return Ok((found, None));
                }
                let lines = block::lines(&block.body)?;
                for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let event = StoredEvent::read(line)?;
                    if seen.is_some_and(|seen| seen.block == number && event.seq <= seen.seq) {
                        continue;
                    }
                    let place = EventCursor { block: number, seq: event.seq };
                    if event.is_wanted(filter) {
                        if found.len() >= limit {
                            return Ok((found, seen));
                        }
                        found.push((place, raw(line)?));
                    }
                    seen = Some(place);
                }
            }
            if is_last {
                return Ok((found, None));
            }
        }
    }
}

/// What decides whether a stored event is wanted.
#[derive(serde::Deserialize)]
struct StoredEvent<'a> {
    seq: u64,
    at_ms: u64,
    #[serde(borrow, rename = "type")]
    kind: std::borrow::Cow<'a, str>,
}

impl<'a> StoredEvent<'a> {
    fn read(line: &'a [u8]) -> Result<Self> {
        serde_json::from_slice(line).map_err(unreadable)
    }

    fn is_wanted(&self, filter: &EventFilter) -> bool {
        let type_fits =
            filter.types == 0 || EventKind::from_name(&self.kind).is_some_and(|kind| filter.types & kind.bit() != 0);
        type_fits
            && filter.from_ms.is_none_or(|from| self.at_ms >= from)
            && filter.to_ms.is_none_or(|to| self.at_ms < to)
    }
}

fn raw(line: &[u8]) -> Result<Box<RawValue>> {
    serde_json::from_slice(line).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::new(Status::Persistence, format!("a stored event cannot be read: {error}")).with_code("store_corrupt")
}
