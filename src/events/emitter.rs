//! The one way an event leaves a run: numbered, encoded once, to the run's stream and to the hub.

use super::{Hub, Queue};
use crate::config::{Events, Overflow};
use crate::types::{Envelope, EventBody};
use std::sync::Arc;

/// Text that waits for room, in a stream that coalesces. Bounded by the stream's byte bound, past which the run waits.
#[derive(Debug, Default)]
struct Held {
    text: String,
    is_reasoning: bool,
}

/// See the module's head. Owned by its run, so numbers need no lock.
pub struct Emitter {
    envelope: Envelope,
    queue: Option<Arc<Queue>>,
    hub: Arc<Hub>,
    wishes: Wishes,
    held: Held,
    scratch: Vec<u8>,
}

/// What the request says about its stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// What a full queue means.
    pub overflow: Overflow,
    /// Which events go into it.
    pub events: Events,
    /// The most bytes of text that a coalescing stream holds back.
    pub max_held: usize,
}

impl Emitter {
    /// The emitter of one run. Without a `queue` the run is blocking and only the hub sees its events.
    pub fn new(envelope: Envelope, queue: Option<Arc<Queue>>, hub: Arc<Hub>, wishes: Wishes) -> Self {
        Self { envelope, queue, hub, wishes, held: Held::default(), scratch: Vec::new() }
    }

    /// The number the next event will have.
    pub fn next_seq(&self) -> u64 {
        self.envelope.next_seq()
    }

    /// The run's own queue, if it is a stream.
    pub fn queue(&self) -> Option<&Arc<Queue>> {
        self.queue.as_ref()
    }

    /// Emits an event. Order is kept: text that was held goes first.
    pub fn emit(&mut self, body: &EventBody<'_>) {
        self.flush();
        self.write(body);
    }

    /// Emits a piece of text, or of reasoning; a coalescing stream without room holds it.
    pub fn emit_text(&mut self, text: &str, is_reasoning: bool) {
        let full =
            self.wishes.overflow == Overflow::Coalesce && self.queue.as_ref().is_some_and(|queue| !queue.has_room());
        if full {
            if self.held.is_reasoning != is_reasoning {
                self.flush();
                self.held.is_reasoning = is_reasoning;
            }
            self.held.text.push_str(text);
        } else {
            self.flush();
            self.write_text(text, is_reasoning);
        }
    }

    /// Whether the producer may go on at once.
    pub fn is_ready(&self) -> bool {
        match (&self.queue, self.wishes.overflow) {
            (None, _) => true,
            (Some(queue), Overflow::Backpressure) => queue.has_room(),
            (Some(_), Overflow::Coalesce) => self.held.text.len() < self.wishes.max_held,
        }
    }

    /// Completes when there is room, or the reader is gone, and writes what was held. Cancel safe.
    pub async fn ready(&mut self) {
        match &self.queue {
            Some(queue) => queue.room().await,
            None => return,
        }
        self.flush();
    }

    /// Whether text is held back.
    pub fn is_holding(&self) -> bool {
        !self.held.text.is_empty()
    }

    /// Emits the one terminal event.
    pub fn finish(&mut self, body: &EventBody<'_>) {
        self.flush();
        if !self.encode_into_scratch(body, self.queue.is_some()) {
            return;
        }
        if let Some(queue) = &self.queue {
            queue.stage_terminal(&self.scratch);
        }
        if self.hub.is_active() {
            self.hub.publish(&self.scratch);
        }
    }

    /// Encodes the event, unless neither the queue nor anybody else takes it: then it is only counted.
    fn encode_into_scratch(&mut self, body: &EventBody<'_>, queued: bool) -> bool {
        if !queued && !self.hub.is_active() {
            self.envelope.skip();
            return false;
        }
        if self.scratch.capacity() == 0 {
            self.scratch.reserve(512);
        }
        self.scratch.clear();
        self.envelope.write(body, &mut self.scratch);
        true
    }

    /// Encodes a message for one addressee outside of the stream (host work for the inbox or a callback). It takes no
    /// number, so that the events of the run have no gap.
    pub fn encode(&mut self, body: &EventBody<'_>) -> Vec<u8> {
        self.flush();
        let mut out = Vec::new();
        self.envelope.write_aside(body, &mut out);
        out
    }

    fn flush(&mut self) {
        if self.held.text.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        self.write_text(&held.text, held.is_reasoning);
    }

    fn write_text(&mut self, text: &str, is_reasoning: bool) {
        if is_reasoning {
            self.write(&EventBody::ReasoningDelta { text });
        } else {
            self.write(&EventBody::TextDelta { text });
        }
    }

    fn write(&mut self, body: &EventBody<'_>) {
        let wanted = self.wishes.events == Events::All || body.is_host_work();
        if !self.encode_into_scratch(body, wanted && self.queue.is_some()) {
            return;
        }
        if let Some(queue) = self.queue.as_ref().filter(|_| wanted) {
            queue.stage(&self.scratch);
        }
        if self.hub.is_active() {
            self.hub.publish(&self.scratch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Bounds, Polled};
    use pretty_assertions::assert_eq;
    use serde_json::Value;

    #[test]
    fn a_coalescing_stream_merges_what_waits_and_keeps_order() {
        let queue = Arc::new(Queue::new(Bounds { events: 1, bytes: 1 << 20 }));
        let envelope = Envelope::new(&"r".into(), None);
        let wishes = Wishes { overflow: Overflow::Coalesce, events: Events::All, max_held: 1 << 20 };
        let mut emitter = Emitter::new(envelope, Some(Arc::clone(&queue)), Arc::default(), wishes);
        for text in ["a", "b", "c"] {
            emitter.emit_text(text, false);
        }
        emitter.emit_text("why", true);
        emitter.emit(&EventBody::TurnStarted { turn: 2 });
        queue.flush();
        let mut seen = Vec::new();
        while let Polled::Event(event) = queue.poll(|bytes| serde_json::from_slice::<Value>(bytes).unwrap()).unwrap() {
            seen.push(format!("{} {} {}", event["seq"], event["type"], event["text"]));
        }
        assert_eq!(
            seen,
            [
                r#"1 "text_delta" "a""#,
                r#"2 "text_delta" "bc""#,
                r#"3 "reasoning_delta" "why""#,
                r#"4 "turn_started" null"#
            ]
        );
    }
}
