//! Following stored events: what any runtime that shares the database has committed, in the order of the commits.

use super::{Durable, EventCursor, EventFilter, Page, Store, StoredEvent, block, raw};
use crate::types::Result;
use serde_json::value::RawValue;

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
