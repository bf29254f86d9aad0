//! One subscription: events that wait, those that were handed over and not acknowledged yet, and what becomes of them.
//!
//! Nothing here waits or spawns: [`super::Bus`] drives it. An event is offered until its queue takes it and, where that is
//! asked for, until the host has acknowledged it; each attempt is counted, and the last one that fails makes it a dead
//! letter. Those never offered keep their order; one that is offered again comes when its delay is over.

use super::outlet::Outlet;
use crate::config::WhenFull;
use crate::store::{EventCursor, EventFilter};
use crate::types::Error;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Why an event was not taken.
const FULL: &str = "its reader was too slow: the queue was full";
/// Events offered at once: a run that emits meanwhile waits for the end of it.
const MOST_AT_ONCE: usize = 256;
/// Events that may wait to become dead letters, if the buffer is smaller.
const MOST_GIVEN_UP: usize = 1_000;
const BUFFER_FULL: &str =
    "its reader was too slow: event_bus.buffer_capacity events, or event_bus.buffer_bytes of them, waited already";
/// Stored events read at once: what waits in memory is a page of them.
const MOST_READ: usize = 1_000;

/// What a subscription is.
#[derive(Debug)]
pub struct Rules {
    /// Its name.
    pub name: String,
    /// Which events it wants.
    pub filter: EventFilter,
    /// Whether each must be acknowledged.
    pub ack: bool,
    /// What a full queue means.
    pub overflow: WhenFull,
    /// How often an event is offered.
    pub max_attempts: u32,
    /// How long the host has to acknowledge.
    pub timeout: Duration,
    /// The delay before the second attempt, and the longest.
    pub delays: [Duration; 2],
    /// What may wait, in the buffer and for its acknowledgement.
    pub room: Room,
}

/// How much may wait: as long as neither bound is reached, one more event is taken.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Events.
    pub events: usize,
    /// Bytes of their JSON.
    pub bytes: usize,
}

impl Rules {
    /// How long to wait after so many attempts.
    fn delay(&self, attempts: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.delays[0].saturating_mul(factor).min(self.delays[1])
    }
}

/// What a subscription has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tally {
    /// Events that were handed over.
    pub delivered: u64,
    /// Of these, those that the host has acknowledged.
    pub acknowledged: u64,
    /// Attempts after the first of an event.
    pub retried: u64,
    /// Events that became dead letters.
    pub dead_letters: u64,
    /// Events that wait to be handed over.
    pub waiting: usize,
    /// Events that were handed over, and are not acknowledged.
    pub unacknowledged: usize,
}

/// An event on its way.
#[derive(Debug)]
struct Parcel {
    event: Box<[u8]>,
    cursor: Option<EventCursor>,
    /// The dead letter that it was, which is forgotten once it is delivered.
    letter: Option<i64>,
    /// How often it was offered.
    attempts: u32,
}

/// A parcel that was handed over at least once.
struct Flight {
    parcel: Parcel,
    /// When the host's time, or the delay before the next attempt, is over.
    due: Instant,
    /// Whether it is the host's turn.
    is_out: bool,
}

/// An event that is given up.
#[derive(Debug)]
pub struct Lost {
    /// The event, as JSON.
    pub event: Box<[u8]>,
    /// Why.
    pub reason: String,
    /// How often it was offered.
    pub attempts: u32,
    /// The dead letter that it was.
    pub letter: Option<i64>,
}

/// What an answer of the host was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A delivery that waited for it.
    Known,
    /// None that is on its way.
    Unknown,
}

/// What driving a subscription came to.
#[derive(Debug, Default)]
pub struct Driven {
    /// When to come again, whatever else happens.
    pub next: Option<Instant>,
    /// Whether the queue is full.
    pub is_stalled: bool,
    /// Whether it took anything.
    pub has_moved: bool,
    /// Events that are given up.
    pub lost: Vec<Lost>,
    /// Dead letters that were delivered.
    pub settled: Vec<i64>,
}

#[derive(Default)]
struct State {
    /// Oldest first. The first may have been offered already.
    waiting: VecDeque<Parcel>,
    /// When the first is offered again.
    stalled_until: Option<Instant>,
    flights: BTreeMap<u64, Flight>,
    /// Bytes of the events that wait or fly.
    bytes: usize,
    /// When each flight is due.
    timers: BTreeSet<(Instant, u64)>,
    /// Given up, and not fetched yet.
    lost: Vec<Lost>,
    /// Bytes of those.
    lost_bytes: usize,
    settled: Vec<i64>,
    tally: Tally,
    ended: bool,
}

impl State {
    /// How many events fit into so much room.
    fn vacancy(&self, room: Room) -> usize {
        let held = self.waiting.len() + self.flights.len();
        if self.bytes < room.bytes { room.events.saturating_sub(held) } else { 0 }
    }

    /// Puts an event behind those that wait.
    fn wait_last(&mut self, parcel: Parcel) {
        self.bytes += parcel.event.len();
        self.waiting.push_back(parcel);
    }

    /// Puts an event back where it was.
    fn wait_first(&mut self, parcel: Parcel) {
        self.bytes += parcel.event.len();
        self.waiting.push_front(parcel);
    }

    /// Takes the first event that waits.
    fn next_waiting(&mut self) -> Option<Parcel> {
        let parcel = self.waiting.pop_front()?;
        self.bytes -= parcel.event.len();
        Some(parcel)
    }

    fn lose(&mut self, parcel: Parcel, reason: &str) {
        let Parcel { event, letter, attempts, .. } = parcel;
        self.tally.dead_letters += 1;
        self.lost_bytes += event.len();
        self.lost.push(Lost { event, reason: reason.to_owned(), attempts, letter });
    }

    fn take_lost(&mut self) -> Vec<Lost> {
        self.lost_bytes = 0;
        std::mem::take(&mut self.lost)
    }

    fn settle(&mut self, parcel: &Parcel) {
        self.settled.extend(parcel.letter);
    }

    /// Takes a flight out of the air.
    fn land(&mut self, delivery: u64) -> Option<Flight> {
        let flight = self.flights.remove(&delivery)?;
        self.bytes -= flight.parcel.event.len();
        self.timers.remove(&(flight.due, delivery));
        Some(flight)
    }

    fn fly(&mut self, delivery: u64, parcel: Parcel, due: Instant, is_out: bool) {
        self.bytes += parcel.event.len();
        self.timers.insert((due, delivery));
        self.flights.insert(delivery, Flight { parcel, due, is_out });
    }
}

/// See the module's head.
pub struct Subscription {
    rules: Rules,
    // Held for the time it takes to move one event, or to offer what waits; never across an await.
    state: Mutex<State>,
    /// There is something to do.
    work: Notify,
    /// There is room again.
    room: Notify,
    /// Events that were lost because too many waited to become dead letters.
    overrun: AtomicU64,
    /// Why stored events cannot be read, if they cannot.
    failure: Mutex<Option<Error>>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Subscription {
    /// A subscription without events.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
            overrun: AtomicU64::new(0),
            failure: Mutex::default(),
        }
    }

    /// What it is.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What it has done.
    pub fn tally(&self) -> Tally {
        let state = self.state.lock();
        Tally { waiting: state.waiting.len(), unacknowledged: state.flights.len(), ..state.tally }
    }

    /// Events that were lost because too many waited to become dead letters, since this was last asked.
    pub fn take_overrun(&self) -> u64 {
        self.overrun.swap(0, Ordering::Relaxed)
    }

    /// Why stored events cannot be read, if they cannot.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }

    /// Stored events can be read, or cannot.
    pub fn set_failure(&self, failure: Option<Error>) {
        *self.failure.lock() = failure;
    }

    /// Completes when there is something to do.
    pub async fn work(&self) {
        self.work.notified().await;
    }

    /// Whether another event fits.
    pub fn has_room(&self) -> bool {
        self.vacancy() > 0
    }

    /// How many events fit.
    fn vacancy(&self) -> usize {
        let state = self.state.lock();
        if state.ended { usize::MAX } else { state.vacancy(self.rules.room) }
    }

    /// How many stored events to read now.
    pub fn page(&self) -> usize {
        self.vacancy().min(MOST_READ)
    }

    /// Completes when another event fits, or none will ever come. Cancel safe.
    pub async fn room(&self) {
        loop {
            let notified = self.room.notified();
            if self.has_room() {
                return;
            }
            notified.await;
        }
    }

    // ---- what comes in

    /// Takes an event that a run emits. One that there is no room for becomes a dead letter.
    pub fn take(&self, event: &[u8]) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        // Runs that wait for room wait between two events of the model; what comes meanwhile is kept as long as it is little.
        let Room { events, bytes } = self.rules.room;
        let room = match self.rules.overflow {
            WhenFull::Block => Room { events: events.saturating_mul(2), bytes: bytes.saturating_mul(2) },
            WhenFull::Wait | WhenFull::DeadLetter => self.rules.room,
        };
        let parcel = Parcel { event: event.into(), cursor: None, letter: None, attempts: 0 };
        let mut is_news = false;
        if state.vacancy(room) > 0 {
            state.wait_last(parcel);
            is_news = state.waiting.len() == 1;
        } else if state.lost.len() < events.max(MOST_GIVEN_UP) && state.lost_bytes < bytes {
            state.lose(parcel, BUFFER_FULL);
            is_news = state.lost.len() == 1;
        } else {
            state.tally.dead_letters += 1;
            self.overrun.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        if is_news {
            self.work.notify_one();
        }
    }

    /// Takes a stored event. Whoever reads them asks for room first.
    pub fn take_stored(&self, cursor: EventCursor, event: &str) {
        let mut state = self.state.lock();
        if !state.ended {
            let parcel = Parcel { event: event.as_bytes().into(), cursor: Some(cursor), letter: None, attempts: 0 };
            state.wait_last(parcel);
        }
    }

    /// Takes a dead letter once more. False if there is no room, or it is on its way already.
    pub fn take_letter(&self, letter: i64, event: &str) -> bool {
        let mut state = self.state.lock();
        let is_known = |parcel: &Parcel| parcel.letter == Some(letter);
        if state.ended
            || state.vacancy(self.rules.room) == 0
            || state.waiting.iter().any(is_known)
            || state.flights.values().any(|flight| is_known(&flight.parcel))
        {
            return false;
        }
        let parcel = Parcel { event: event.as_bytes().into(), cursor: None, letter: Some(letter), attempts: 0 };
        state.wait_last(parcel);
        drop(state);
        self.work.notify_one();
        true
    }

    // ---- what goes out

    /// Offers what is due. `has_come`: there is room in the queue, so that the first one need not wait for the end of its delay.
    /// Deliveries are numbered by `numbers`.
    pub fn drive(&self, now: Instant, has_come: bool, outlet: &dyn Outlet, numbers: &AtomicU64) -> Driven {
        let mut state = self.state.lock();
        let had_room = state.vacancy(self.rules.room) > 0;
        self.offer_again(&mut state, now, outlet);
        let delivered = state.tally.delivered;
        self.offer_waiting(&mut state, now, has_come, outlet, numbers);
        let has_moved = state.tally.delivered > delivered;
        let is_stalled = state.stalled_until.is_some();
        let due = state.timers.first().map(|(due, _)| *due);
        let more = (!is_stalled && !state.waiting.is_empty()).then_some(now);
        let driven = Driven {
            next: [state.stalled_until, due, more].into_iter().flatten().min(),
            is_stalled,
            has_moved,
            lost: state.take_lost(),
            settled: std::mem::take(&mut state.settled),
        };
        if !had_room && state.vacancy(self.rules.room) > 0 {
            drop(state);
            self.room.notify_waiters();
        }
        driven
    }

    /// Flights whose time is over: the host's, or the delay before the next attempt.
    fn offer_again(&self, state: &mut State, now: Instant, outlet: &dyn Outlet) {
        while let Some((due, delivery)) = state.timers.first().copied().filter(|(due, _)| *due <= now) {
            let Some(mut flight) = state.land(delivery) else {
                state.timers.remove(&(due, delivery));
                continue;
            };
            if flight.is_out {
                let seconds = self.rules.timeout.as_secs_f64();
                let reason = format!("it was not acknowledged within {seconds} seconds");
                self.failed(state, delivery, flight.parcel, now, &reason);
                continue;
            }
            flight.parcel.attempts += 1;
            state.tally.retried += 1;
            if outlet.offer(&self.message(Some(delivery), &flight.parcel)) {
                state.fly(delivery, flight.parcel, now + self.rules.timeout, true);
            } else {
                self.failed(state, delivery, flight.parcel, now, FULL);
            }
        }
    }

    fn offer_waiting(&self, state: &mut State, now: Instant, has_come: bool, outlet: &dyn Outlet, numbers: &AtomicU64) {
        let is_due = state.stalled_until.is_none_or(|until| until <= now);
        if !is_due && !has_come {
            return;
        }
        for _ in 0..MOST_AT_ONCE {
            let Some(mut parcel) = state.next_waiting() else { break };
            let is_again = parcel.attempts > 0;
            parcel.attempts += 1;
            let delivery = self.rules.ack.then(|| numbers.fetch_add(1, Ordering::Relaxed) + 1);
            if outlet.offer(&self.message(delivery, &parcel)) {
                state.tally.delivered += 1;
                state.tally.retried += u64::from(is_again);
                state.stalled_until = None;
                match delivery {
                    Some(delivery) => state.fly(delivery, parcel, now + self.rules.timeout, true),
                    None => state.settle(&parcel),
                }
                continue;
            }
            // Room that was announced and is gone again was no attempt.
            let is_early = state.stalled_until.is_some_and(|until| until > now);
            if is_early {
                parcel.attempts -= 1;
                state.wait_first(parcel);
                return;
            }
            state.tally.retried += u64::from(is_again);
            let is_last = match self.rules.overflow {
                WhenFull::DeadLetter => true,
                WhenFull::Wait => parcel.attempts >= self.rules.max_attempts,
                WhenFull::Block => false,
            };
            if is_last {
                state.stalled_until = None;
                state.lose(parcel, FULL);
                continue;
            }
            state.stalled_until = Some(now + self.rules.delay(parcel.attempts));
            state.wait_first(parcel);
            return;
        }
    }

    /// An attempt failed: another one after a delay, or none.
    fn failed(&self, state: &mut State, delivery: u64, parcel: Parcel, now: Instant, reason: &str) {
        if parcel.attempts >= self.rules.max_attempts {
            state.lose(parcel, reason);
        } else {
            let due = now + self.rules.delay(parcel.attempts);
            state.fly(delivery, parcel, due, false);
        }
    }

    fn message(&self, delivery: Option<u64>, parcel: &Parcel) -> Vec<u8> {
        // Names have nothing in them that JSON would escape.
        let mut message = format!(r#"{{"type":"event","subscription":"{}""#, self.rules.name);
        if let Some(delivery) = delivery {
            message.push_str(&format!(r#","delivery":{delivery}"#));
        }
        message.push_str(&format!(r#","attempt":{}"#, parcel.attempts));
        if let Some(cursor) = parcel.cursor {
            message.push_str(&format!(r#","cursor":"{cursor}""#));
        }
        message.push_str(r#","event":"#);
        let mut message = message.into_bytes();
        message.extend_from_slice(&parcel.event);
        message.push(b'}');
        message
    }

    // ---- what the host says

    /// The host has a delivery.
    pub fn acknowledge(&self, delivery: u64) -> Answered {
        let mut state = self.state.lock();
        let Some(flight) = state.land(delivery) else { return Answered::Unknown };
        state.tally.acknowledged += 1;
        state.settle(&flight.parcel);
        drop(state);
        self.answered()
    }

    /// The host could not do with a delivery what it is for.
    pub fn refuse(&self, delivery: u64, reason: &str, now: Instant) -> Answered {
        let mut state = self.state.lock();
        let Some(flight) = state.land(delivery) else { return Answered::Unknown };
        match flight.is_out {
            true => self.failed(&mut state, delivery, flight.parcel, now, reason),
            // Its time was over before the host said so.
            false => state.fly(delivery, flight.parcel, flight.due, false),
        }
        drop(state);
        self.answered()
    }

    fn answered(&self) -> Answered {
        self.room.notify_waiters();
        self.work.notify_one();
        Answered::Known
    }

    /// Takes no more, and answers what is left and which dead letters were delivered: nothing vanishes. Stored events that were
    /// never offered are not lost: they are behind every cursor that the host was told.
    pub fn end(&self, reason: &str) -> (Vec<Lost>, Vec<i64>) {
        let mut state = self.state.lock();
        state.ended = true;
        let flights = std::mem::take(&mut state.flights).into_values().map(|flight| flight.parcel);
        let parcels: Vec<_> = flights.chain(std::mem::take(&mut state.waiting)).collect();
        state.timers.clear();
        state.bytes = 0;
        state.stalled_until = None;
        for parcel in parcels {
            // A letter that was not delivered stays the letter it is.
            if parcel.letter.is_none() && (parcel.cursor.is_none() || parcel.attempts > 0) {
                state.lose(parcel, reason);
            }
        }
        let left = (state.take_lost(), std::mem::take(&mut state.settled));
        drop(state);
        self.room.notify_waiters();
        self.work.notify_one();
        left
    }
}

#[cfg(test)]
mod tests;
