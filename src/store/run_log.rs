//! A run's way into the store.
//!
//! What a run has to say is collected here, cheaply, and fetched by the writer: so that a run which ends before the writer
//! came is one row and one block of events. Pieces of text are merged until something else happens.

use super::block::{BlockHead, EventBlock};
use super::record::{CallRecord, RunBegin, RunEnd};
use super::sessions::PendingCommit;
use super::writer::{Ordered, Urgency, Writer};
use crate::config::Durability;
use crate::types::{Changes, Envelope, Error, EventKind, Piece, Result, ToolCallId, ToolResult, now_ms};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

/// See the module's head. Shared by the run, its events and the writer.
pub struct RunLog {
    begin: RunBegin,
    durability: Durability,
    writer: Arc<Writer>,
    /// The number of its row, once it has one.
    row: AtomicI64,
    /// Why nothing of it is written any more.
    lost: OnceLock<Error>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether the row's making was fetched.
    is_made: bool,
    lines: Vec<u8>,
    head: BlockHead,
    /// Events in `lines`.
    events: usize,
    /// How many of them the writer counts as waiting.
    counted: usize,
    held: Option<Held>,
    changes: Option<Changes>,
    calls: Vec<CallRecord>,
    /// The terminal event is in `lines`. They are fetched with the run's end and not before, so that no crash can leave one
    /// without the other.
    is_ending: bool,
    /// Where each call stands in `calls`.
    call_places: HashMap<ToolCallId, usize>,
    /// Hash of the last block.
    chain: [u8; 32],
    /// Whether the writer knows that there is something to fetch, and how soon.
    queued: Option<Urgency>,
}

/// Text that waits for more of the same.
struct Held {
    envelope: Envelope,
    of: HeldOf,
    first_seq: u64,
    last_seq: u64,
    at_ms: u64,
    text: String,
}

/// A [`Piece`] that can wait.
#[derive(PartialEq)]
enum HeldOf {
    Text,
    Reasoning,
    Arguments(ToolCallId),
}

impl HeldOf {
    fn new(piece: Piece<'_>) -> Self {
        match piece {
            Piece::Text => Self::Text,
            Piece::Reasoning => Self::Reasoning,
            Piece::Arguments(call) => Self::Arguments(call.clone()),
        }
    }

    fn piece(&self) -> Piece<'_> {
        match self {
            Self::Text => Piece::Text,
            Self::Reasoning => Piece::Reasoning,
            Self::Arguments(call) => Piece::Arguments(call),
        }
    }
}

/// Text longer than this waits no longer.
const MOST_HELD: usize = 16 * 1024;

/// Room for the events of a short run.
const USUAL_BLOCK: usize = 2 * 1024;

/// What a run has come to since the writer last fetched.
pub struct RunWrite {
    log: Arc<RunLog>,
    /// Whether its row is to be made first.
    pub makes_row: bool,
    /// What was said.
    pub changes: Option<Changes>,
    /// Tool calls, each as it stands now.
    pub calls: Vec<CallRecord>,
    /// Its events.
    pub block: Option<EventBlock>,
    /// Its end.
    pub end: Option<RunEnd>,
    /// It stops without an end: no runtime owns it any more.
    pub releases: bool,
}

impl RunWrite {
    /// The run as it began.
    pub fn begin(&self) -> &RunBegin {
        &self.log.begin
    }

    /// How many events it writes; pieces of one text count as one for each piece.
    pub fn events(&self) -> usize {
        let count = self.block.as_ref().map_or(0, |block| block.head.last_seq + 1 - block.head.first_seq);
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// The number of its row; 0 before it has one.
    pub fn row(&self) -> i64 {
        self.log.row.load(Ordering::Acquire)
    }

    /// It was not written, and nothing of the run will be any more: somebody else has gone on with it, or with its session.
    pub fn lose(&self, why: Error) {
        // The first reason is the reason.
        let _ = self.log.lost.set(why);
    }

    /// Whether somebody else has gone on with it, or with its session.
    pub fn is_lost(&self) -> bool {
        self.log.lost.get().is_some()
    }

    /// Its row has this number. Said again when the first transaction failed.
    pub fn has_row(&self, row: i64) {
        self.log.row.store(row, Ordering::Release);
    }
}

impl RunLog {
    /// The log of a run that begins.
    pub fn new(begin: RunBegin, durability: Durability, writer: Arc<Writer>) -> Arc<Self> {
        Self::with_state(begin, durability, writer, State::default())
    }

    /// The log of a run that goes on: its row is there, and its last block has this hash.
    pub fn resumed(begin: RunBegin, durability: Durability, writer: Arc<Writer>, chain: [u8; 32]) -> Arc<Self> {
        let state = State { is_made: true, chain, ..State::default() };
        Self::with_state(begin, durability, writer, state)
    }

    fn with_state(begin: RunBegin, durability: Durability, writer: Arc<Writer>, state: State) -> Arc<Self> {
        let (row, lost) = (AtomicI64::new(0), OnceLock::new());
        Arc::new(Self { begin, durability, writer, row, lost, state: Mutex::new(state) })
    }

    /// The run as it began.
    pub fn begin(&self) -> &RunBegin {
        &self.begin
    }

    /// Whether what it does is kept while it goes on, so that it can be resumed.
    pub fn keeps_steps(&self) -> bool {
        self.durability != Durability::Exit
    }

    /// An event other than a piece of text, as JSON.
    pub fn event(self: &Arc<Self>, seq: u64, at_ms: u64, kind: EventKind, json: &[u8]) {
        let mut state = self.state.lock();
        state.release();
        state.line(kind, seq, seq, at_ms, |lines| lines.extend_from_slice(json));
        state.is_ending |= kind.is_terminal();
        self.count(&mut state);
        let wake = self.wants(&mut state, Urgency::Soon);
        drop(state);
        self.wake(wake);
    }

    /// A piece of text.
    pub fn piece(self: &Arc<Self>, envelope: &Envelope, seq: u64, piece: Piece<'_>, text: &str) {
        let mut state = self.state.lock();
        match &mut state.held {
            Some(held) if held.of.piece() == piece && held.envelope.is(envelope) && held.text.len() < MOST_HELD => {
                held.text.push_str(text);
                held.last_seq = seq;
            }
            Some(_) | None => {
                state.release();
                self.count(&mut state);
                let (envelope, text) = (envelope.clone(), text.to_owned());
                let of = HeldOf::new(piece);
                state.held = Some(Held { envelope, of, first_seq: seq, last_seq: seq, at_ms: now_ms(), text });
            }
        }
        let wake = self.wants(&mut state, Urgency::Later);
        drop(state);
        self.wake(wake);
    }

    /// What was said since it was last told.
    pub fn said(self: &Arc<Self>, changes: Option<Changes>) {
        let Some(changes) = changes else { return };
        let mut state = self.state.lock();
        match &mut state.changes {
            None => state.changes = Some(changes),
            Some(waiting) if changes.from >= waiting.from => {
                waiting.entries.truncate(changes.from - waiting.from);
                waiting.entries.extend(changes.entries);
            }
            Some(waiting) => *waiting = changes,
        }
        let wake = self.wants(&mut state, Urgency::Soon);
        drop(state);
        self.wake(wake);
    }

    /// A tool call is about to run. When this returns it may: its intent is as safe as the durability promises.
    pub async fn call_starts(self: &Arc<Self>, call: CallRecord) -> Result<()> {
        let is_once = call.effect == "once";
        self.state.lock().keep_call(call);
        match (self.durability, is_once) {
            (Durability::Sync, _) => self.commit(true).await,
            (Durability::Async, true) => self.commit(false).await,
            (Durability::Async, false) => {
                self.soon();
                self.check()
            }
            (Durability::Exit, _) => self.check(),
        }
    }

    /// A tool call has a result.
    pub fn call_ended(self: &Arc<Self>, id: &ToolCallId, name: &str, effect: &str, result: &ToolResult) {
        let record = CallRecord {
            id: id.clone(),
            name: name.to_owned(),
            effect: effect.to_owned(),
            result: Some(result.clone()),
        };
        let mut state = self.state.lock();
        state.keep_call(record);
        let wake = self.wants(&mut state, Urgency::Soon);
        drop(state);
        self.wake(wake);
    }

    /// A step is done. With the durability `sync` it is on the disk when this returns.
    pub async fn step(self: &Arc<Self>) -> Result<()> {
        match self.durability {
            Durability::Sync => self.commit(true).await,
            Durability::Async | Durability::Exit => self.check(),
        }
    }

    /// The run has ended, and leaves this in its session, which the next run may have from now on. Unless the durability is
    /// `async` the end is on the disk when this returns.
    pub async fn end(self: &Arc<Self>, mut end: RunEnd, session: Option<PendingCommit>) -> Result<()> {
        let turn = session.map(|PendingCommit { commit, lock, turn }| {
            end.session = Some((commit, lock));
            turn
        });
        let ordered = Ordered::End(Arc::clone(self), Box::new(end));
        match self.durability {
            Durability::Sync | Durability::Exit => self.writer.commit_ordered(ordered, turn).await?,
            Durability::Async => self.writer.push_ordered(ordered, turn),
        }
        self.check()
    }

    /// The run stops without an end, and any runtime may resume it. On the disk when this returns.
    pub async fn release(self: &Arc<Self>) -> Result<()> {
        self.writer.commit_ordered(Ordered::Release(Arc::clone(self)), None).await?;
        self.check()
    }

    /// Whether each step is on the disk before the host sees it.
    pub fn is_sync(&self) -> bool {
        self.durability == Durability::Sync
    }

    /// Writes everything so far; on the disk when this returns.
    pub async fn commit_now(self: &Arc<Self>) -> Result<()> {
        self.commit(true).await
    }

    /// Fails if somebody else has gone on with the run, or with its session.
    fn check(&self) -> Result<()> {
        self.lost.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    async fn commit(self: &Arc<Self>, durable: bool) -> Result<()> {
        self.writer.commit(self, durable).await?;
        self.check()
    }

    /// Whether more may be told at once.
    pub fn has_room(&self) -> bool {
        self.durability == Durability::Exit || self.writer.has_room()
    }

    /// Completes when more may be told.
    pub async fn room(&self) {
        if !self.has_room() {
            self.writer.room().await;
        }
    }

    fn soon(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let wake = self.wants(&mut state, Urgency::Soon);
        drop(state);
        self.wake(wake);
    }

    /// Counts what waits now. What is written when the run ends, and not before, waits for nobody: it must not keep others
    /// waiting.
    fn count(&self, state: &mut State) {
        if self.durability != Durability::Exit {
            self.writer.waits(state.events - state.counted);
            state.counted = state.events;
        }
    }

    /// Whether the writer must be told, so that it comes.
    fn wants(&self, state: &mut State, urgency: Urgency) -> Option<Urgency> {
        // Written when it ends, and not before.
        if self.durability == Durability::Exit || state.queued.is_some_and(|queued| queued >= urgency) {
            return None;
        }
        state.queued = Some(urgency);
        Some(urgency)
    }

    fn wake(self: &Arc<Self>, wake: Option<Urgency>) {
        if let Some(urgency) = wake {
            self.writer.enqueue(self, urgency);
        }
    }

    /// Fetches what there is to write; none if nothing is.
    pub(super) fn fetch(self: &Arc<Self>) -> Option<RunWrite> {
        let mut state = self.state.lock();
        if state.is_ending {
            return None;
        }
        let write = self.take(&mut state);
        drop(state);
        let is_empty = write.block.is_none() && write.changes.is_none() && write.calls.is_empty();
        (!is_empty || write.makes_row).then_some(write)
    }

    /// Fetches the run's end, with all there is to write.
    pub(super) fn fetch_end(self: &Arc<Self>, end: RunEnd) -> RunWrite {
        let mut write = self.take(&mut self.state.lock());
        // What would only be of use to go on with is not written at all.
        write.changes = None;
        write.calls.clear();
        write.end = Some(end);
        write
    }

    /// Fetches what there is to write of a run that stops without an end.
    pub(super) fn fetch_release(self: &Arc<Self>) -> RunWrite {
        RunWrite { releases: true, ..self.take(&mut self.state.lock()) }
    }

    fn take(self: &Arc<Self>, state: &mut State) -> RunWrite {
        state.queued = None;
        state.release();
        let events = std::mem::take(&mut state.events);
        let counted = std::mem::take(&mut state.counted);
        let mut write = RunWrite {
            log: Arc::clone(self),
            makes_row: !std::mem::replace(&mut state.is_made, true),
            changes: state.changes.take(),
            calls: state.take_calls(),
            block: None,
            end: None,
            releases: false,
        };
        let (head, lines) = (state.head, std::mem::take(&mut state.lines));
        if events > 0 {
            let block = EventBlock::new(head, &lines, &state.chain);
            state.chain = block.hash;
            write.block = Some(block);
        }
        self.writer.waits_no_more(counted);
        write
    }
}

impl State {
    /// Keeps a call as it stands now.
    fn keep_call(&mut self, record: CallRecord) {
        let next = self.calls.len();
        let place = *self.call_places.entry(record.id.clone()).or_insert(next);
        match self.calls.get_mut(place) {
            Some(call) => *call = record,
            None => self.calls.push(record),
        }
    }

    fn take_calls(&mut self) -> Vec<CallRecord> {
        self.call_places.clear();
        std::mem::take(&mut self.calls)
    }

    fn line(&mut self, kind: EventKind, first_seq: u64, seq: u64, at_ms: u64, write: impl FnOnce(&mut Vec<u8>)) {
        if self.events == 0 {
            self.head = BlockHead { first_seq, first_at_ms: at_ms, ..BlockHead::default() };
            self.lines.reserve(USUAL_BLOCK);
        }
        self.head.last_seq = seq;
        self.head.last_at_ms = at_ms;
        self.head.types |= kind.bit();
        self.events += 1;
        write(&mut self.lines);
        self.lines.push(b'\n');
    }

    /// Writes out the text that waits.
    fn release(&mut self) {
        let Some(Held { envelope, of, first_seq, last_seq, at_ms, text }) = self.held.take() else { return };
        let body = of.piece().says(&text);
        self.line(body.kind(), first_seq, last_seq, at_ms, |lines| {
            envelope.write_merged(first_seq, last_seq, at_ms, &body, lines);
        });
    }
}
