//! The one way an event leaves a run: numbered, encoded once, to the run's stream, to its log and to the hub.
//!
//! A run and the runs below it share a [`Channel`]: one stream, one numbering. Each has an [`Emitter`] of its own, which
//! knows how its events are addressed.

use super::{Hub, Origin, Queue};
use crate::config::{Events, Overflow};
use crate::store::RunLog;
use crate::types::{Envelope, EventBody, EventKind, Result, now_ms};
use parking_lot::Mutex;
use std::sync::Arc;

/// Takes a message for the host: the token and the event's JSON.
pub type Deliver = Arc<dyn Fn(u64, &[u8]) + Send + Sync>;

/// Emits the events of one run. Cheap to clone.
#[derive(Clone)]
pub struct Emitter {
    envelope: Envelope,
    /// 0 for the run whose stream it is, 1 for those it started, and so on.
    depth: u32,
    /// The run whose events they are to whoever listens to the runtime; none for a method.
    origin: Option<Arc<Origin>>,
    channel: Arc<Channel>,
}

struct Channel {
    queue: Option<Arc<Queue>>,
    hub: Arc<Hub>,
    log: Option<Arc<RunLog>>,
    wishes: Wishes,
    // Held for the time it takes to encode one event, never across an await.
    state: Mutex<State>,
}

struct State {
    next_seq: u64,
    held: Option<Held>,
    scratch: Vec<u8>,
    /// Events that must be on the disk before they are shown, and are not yet.
    unkept: usize,
    /// The wait for one of them was cut off, or it could not be written. A later commit shows it.
    is_cut_off: bool,
    /// What comes behind them, and they themselves: shown in order when the last one is on the disk.
    behind: Vec<Behind>,
}

/// An event that is shown later.
struct Behind {
    kind: EventKind,
    event: Vec<u8>,
    is_for_queue: bool,
    origin: Option<Arc<Origin>>,
}

/// Text that waits for room, in a stream that coalesces. Bounded by the stream's byte bound, past which the run waits.
struct Held {
    text: String,
    is_reasoning: bool,
    envelope: Envelope,
    depth: u32,
    origin: Option<Arc<Origin>>,
}

/// What the request says about its stream.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// What a full queue means.
    pub overflow: Overflow,
    /// Which events go into it.
    pub events: Events,
    /// How deep the runs may be whose events go into it; host work always does.
    pub max_depth: u32,
    /// The most bytes of text that a coalescing stream holds back.
    pub max_held: usize,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { overflow: Overflow::default(), events: Events::default(), max_depth: u32::MAX, max_held: 0 }
    }
}

/// A terminal event that nobody was told yet.
pub struct Sealed {
    kind: EventKind,
    event: Vec<u8>,
}

impl Emitter {
    /// The emitter of one run. Without a `queue` the run is blocking and only the hub sees its events.
    pub fn new(envelope: Envelope, queue: Option<Arc<Queue>>, hub: Arc<Hub>, wishes: Wishes) -> Self {
        Self::with_log(envelope, queue, hub, wishes, None, 0)
    }

    /// The same, with a log that keeps the events. `last_seq`: the number of the run's last event so far.
    pub fn with_log(
        envelope: Envelope,
        queue: Option<Arc<Queue>>,
        hub: Arc<Hub>,
        wishes: Wishes,
        log: Option<Arc<RunLog>>,
        last_seq: u64,
    ) -> Self {
        let state = Mutex::new(State {
            next_seq: last_seq + 1,
            held: None,
            scratch: Vec::new(),
            unkept: 0,
            is_cut_off: false,
            behind: Vec::new(),
        });
        Self { envelope, depth: 0, origin: None, channel: Arc::new(Channel { queue, hub, log, wishes, state }) }
    }

    /// The emitter of a run below this one, whose events are also of this one.
    pub fn child(&self, envelope: Envelope) -> Self {
        Self { envelope, depth: self.depth + 1, origin: self.origin.clone(), channel: Arc::clone(&self.channel) }
    }

    /// The same, of a run of its own.
    pub fn of(self, origin: Origin) -> Self {
        Self { origin: Some(Arc::new(origin)), ..self }
    }

    /// The number the next event will have.
    pub fn next_seq(&self) -> u64 {
        self.channel.state.lock().next_seq
    }

    /// The stream's queue, if there is one.
    pub fn queue(&self) -> Option<&Arc<Queue>> {
        self.channel.queue.as_ref()
    }

    /// Emits an event. Order is kept: text that was held goes first.
    pub fn emit(&self, body: &EventBody<'_>) {
        let mut state = self.channel.state.lock();
        self.flush(&mut state);
        self.write(&mut state, body);
    }

    /// Emits an event that ends a step. With the durability `sync` it is on the disk before anyone sees it.
    pub async fn emit_step(&self, body: &EventBody<'_>) -> Result<()> {
        match self.channel.log.as_ref().is_some_and(|log| log.is_sync()) {
            true => self.emit_kept(body).await,
            false => {
                self.emit(body);
                Ok(())
            }
        }
    }

    /// Emits an event that is on the disk before anyone sees it. Events that are emitted meanwhile wait behind it. `Err`: it
    /// could not be written, and is not shown unless a later commit succeeds.
    pub async fn emit_kept(&self, body: &EventBody<'_>) -> Result<()> {
        let Some(log) = self.channel.log.as_ref().filter(|log| log.keeps_steps()) else {
            self.emit(body);
            return Ok(());
        };
        self.channel.state.lock().unkept += 1;
        let mut unkept = Unkept { emitter: self, is_cut_off: true };
        self.emit(body);
        log.commit_now().await?;
        unkept.is_cut_off = false;
        Ok(())
    }

    /// A commit has written every event so far: shows what was cut off.
    pub fn kept(&self) {
        let mut state = self.channel.state.lock();
        if state.unkept == 0 && state.is_cut_off {
            self.release(&mut state);
        }
    }

    /// Before a run ends: writes and shows what was cut off. What cannot be written is not shown, so the terminal event that
    /// follows is not the next number.
    pub async fn settle(&self) {
        let Some(log) = self.channel.log.as_ref().filter(|_| self.channel.state.lock().is_cut_off) else { return };
        let written = log.commit_now().await;
        let mut state = self.channel.state.lock();
        match written {
            Ok(()) => self.release(&mut state),
            Err(_) => {
                state.behind.clear();
                state.is_cut_off = false;
            }
        }
    }

    /// Shows the events that wait for the disk.
    fn release(&self, state: &mut State) {
        state.is_cut_off = false;
        for Behind { kind, event, is_for_queue, origin } in std::mem::take(&mut state.behind) {
            if let Some(queue) = self.channel.queue.as_ref().filter(|_| is_for_queue) {
                queue.stage(&event);
            }
            self.channel.hub.publish(origin.as_deref(), kind, &event);
        }
    }

    /// Emits a piece of text, or of reasoning; a coalescing stream without room holds it.
    pub fn emit_text(&self, text: &str, is_reasoning: bool) {
        let mut state = self.channel.state.lock();
        let full = self.channel.wishes.overflow == Overflow::Coalesce
            && self.channel.queue.as_ref().is_some_and(|queue| !queue.has_room());
        if !full {
            self.flush(&mut state);
            self.write_text(&mut state, text, is_reasoning);
            return;
        }
        match &mut state.held {
            Some(held) if held.is_reasoning == is_reasoning && held.envelope.is(&self.envelope) => {
                held.text.push_str(text)
            }
            Some(_) | None => {
                self.flush(&mut state);
                let Self { envelope, depth, origin, .. } = self.clone();
                state.held = Some(Held { text: text.to_owned(), is_reasoning, envelope, depth, origin });
            }
        }
    }

    /// Whether the producer may go on at once.
    pub fn is_ready(&self) -> bool {
        if self.channel.log.as_ref().is_some_and(|log| !log.has_room()) {
            return false;
        }
        if !self.channel.hub.is_ready(self.origin.as_deref()) {
            return false;
        }
        match (&self.channel.queue, self.channel.wishes.overflow) {
            (None, _) => true,
            (Some(queue), Overflow::Backpressure) => queue.has_room(),
            (Some(_), Overflow::Coalesce) => {
                let state = self.channel.state.lock();
                state.held.as_ref().map_or(0, |held| held.text.len()) < self.channel.wishes.max_held
            }
        }
    }

    /// Completes when there is room, or the reader is gone, and writes what was held. Cancel safe.
    pub async fn ready(&self) {
        if let Some(log) = &self.channel.log {
            log.room().await;
        }
        self.channel.hub.ready(self.origin.as_deref()).await;
        match &self.channel.queue {
            Some(queue) => queue.room().await,
            None => return,
        }
        self.flush(&mut self.channel.state.lock());
    }

    /// Whether text is held back.
    pub fn is_holding(&self) -> bool {
        self.channel.wishes.overflow == Overflow::Coalesce && self.channel.state.lock().held.is_some()
    }

    /// Emits the one terminal event.
    pub fn finish(&self, body: &EventBody<'_>) {
        let mut state = self.channel.state.lock();
        if self.encode_end(&mut state, body) {
            self.tell_end(body.kind(), &state.scratch);
        }
    }

    /// Emits a terminal event that the log does not keep.
    pub fn finish_unlogged(&self, body: &EventBody<'_>) {
        let mut state = self.channel.state.lock();
        self.flush(&mut state);
        let mut event = Vec::new();
        self.envelope.write(state.next_seq, body, &mut event);
        self.tell_end(body.kind(), &event);
    }

    /// Numbers and keeps the one terminal event, and tells nobody yet.
    pub fn seal(&self, body: &EventBody<'_>) -> Sealed {
        let mut state = self.channel.state.lock();
        let event = if self.encode_end(&mut state, body) { std::mem::take(&mut state.scratch) } else { Vec::new() };
        Sealed { kind: body.kind(), event }
    }

    fn encode_end(&self, state: &mut State, body: &EventBody<'_>) -> bool {
        self.flush(state);
        let is_wanted = self.channel.queue.is_some() || self.is_told(body.kind());
        self.encode(state, body, is_wanted)
    }

    /// Tells the terminal event.
    pub fn unseal(&self, sealed: &Sealed) {
        if !sealed.event.is_empty() {
            self.tell_end(sealed.kind, &sealed.event);
        }
    }

    /// Tells another terminal event in the place of one that was sealed and could not be kept.
    pub fn unseal_as(&self, body: &EventBody<'_>) {
        let seq = self.channel.state.lock().next_seq - 1;
        let mut event = Vec::new();
        self.envelope.write(seq, body, &mut event);
        self.tell_end(body.kind(), &event);
    }

    fn tell_end(&self, kind: EventKind, event: &[u8]) {
        if let Some(queue) = &self.channel.queue {
            queue.stage_terminal(event);
        }
        if self.is_told(kind) {
            self.channel.hub.publish(self.origin.as_deref(), kind, event);
        }
    }

    /// Whether anyone besides the stream wants an event of this type.
    fn is_told(&self, kind: EventKind) -> bool {
        self.channel.hub.wants(self.origin.as_deref(), kind)
    }

    /// Hands host work to whoever takes it: the callback, the run's own stream, the inbox. False if nobody does.
    pub fn hand_over(
        &self,
        callback: Option<Deliver>,
        inbox: Option<Deliver>,
        token: u64,
        work: &EventBody<'_>,
    ) -> bool {
        if let Some(callback) = callback {
            callback(token, &self.encode_aside(work));
        } else if self.queue().is_some_and(|queue| !queue.is_abandoned()) {
            self.emit(work);
        } else if let Some(inbox) = inbox {
            inbox(token, &self.encode_aside(work));
        } else {
            return false;
        }
        true
    }

    /// The same for work that must be on the disk before anyone sees it.
    pub async fn hand_over_kept(
        &self,
        callback: Option<Deliver>,
        inbox: Option<Deliver>,
        work: &EventBody<'_>,
    ) -> Result<bool> {
        let goes_to_stream = callback.is_none() && self.queue().is_some_and(|queue| !queue.is_abandoned());
        if goes_to_stream {
            self.emit_kept(work).await?;
            return Ok(true);
        }
        if let Some(log) = self.channel.log.as_ref().filter(|log| log.keeps_steps()) {
            log.commit_now().await?;
        }
        Ok(self.hand_over(callback, inbox, 0, work))
    }

    /// Encodes a message for one addressee outside of the stream (host work for the inbox or a callback). It takes no
    /// number, so that the events of the run have no gap: it has that of the last event before it.
    fn encode_aside(&self, body: &EventBody<'_>) -> Vec<u8> {
        let mut state = self.channel.state.lock();
        self.flush(&mut state);
        let mut out = Vec::new();
        self.envelope.write(state.next_seq - 1, body, &mut out);
        out
    }

    fn write_text(&self, state: &mut State, text: &str, is_reasoning: bool) {
        if is_reasoning {
            self.write(state, &EventBody::ReasoningDelta { text });
        } else {
            self.write(state, &EventBody::TextDelta { text });
        }
    }

    fn write(&self, state: &mut State, body: &EventBody<'_>) {
        let wishes = &self.channel.wishes;
        let wanted = (wishes.events == Events::All && self.depth <= wishes.max_depth) || body.is_host_work();
        let queue = self.channel.queue.as_ref().filter(|_| wanted);
        let kind = body.kind();
        let is_told = self.is_told(kind);
        if !self.encode(state, body, queue.is_some() || is_told) {
            return;
        }
        if state.unkept > 0 || state.is_cut_off {
            let (event, is_for_queue) = (state.scratch.clone(), queue.is_some());
            state.behind.push(Behind { kind, event, is_for_queue, origin: self.origin.clone() });
            return;
        }
        if let Some(queue) = queue {
            queue.stage(&state.scratch);
        }
        if is_told {
            self.channel.hub.publish(self.origin.as_deref(), kind, &state.scratch);
        }
    }

    /// Numbers the event and keeps it, and encodes it if anybody else takes it (`is_wanted`).
    fn encode(&self, state: &mut State, body: &EventBody<'_>, is_wanted: bool) -> bool {
        let seq = state.next_seq;
        state.next_seq += 1;
        let mut log = self.channel.log.as_ref();
        // Pieces are joined before they are kept.
        if let Some(keeps) = log
            && let Some((piece, text)) = body.as_piece()
        {
            keeps.piece(&self.envelope, seq, piece, text);
            log = None;
        }
        if !is_wanted && log.is_none() {
            return false;
        }
        if state.scratch.capacity() == 0 {
            state.scratch.reserve(512);
        }
        state.scratch.clear();
        let at_ms = now_ms();
        self.envelope.write_merged(seq, seq, at_ms, body, &mut state.scratch);
        if let Some(log) = log {
            log.event(seq, at_ms, body.kind(), &state.scratch);
        }
        true
    }

    fn flush(&self, state: &mut State) {
        if let Some(Held { text, is_reasoning, envelope, depth, origin }) = state.held.take() {
            let of = Self { envelope, depth, origin, channel: Arc::clone(&self.channel) };
            of.write_text(state, &text, is_reasoning);
        }
    }
}

/// An event that is being written. Dropped, it is written, or it was cut off.
struct Unkept<'e> {
    emitter: &'e Emitter,
    is_cut_off: bool,
}

impl Drop for Unkept<'_> {
    fn drop(&mut self) {
        let mut state = self.emitter.channel.state.lock();
        state.unkept -= 1;
        if self.is_cut_off {
            state.is_cut_off = true;
        } else if state.unkept == 0 && !state.is_cut_off {
            self.emitter.release(&mut state);
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
        let wishes = Wishes { overflow: Overflow::Coalesce, events: Events::All, max_held: 1 << 20, max_depth: 0 };
        let emitter = Emitter::new(envelope, Some(Arc::clone(&queue)), Arc::default(), wishes);
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
