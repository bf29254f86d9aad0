//! A subscription as a machine: time is given, and the queue takes what it is told to.

use super::*;
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use serde_json::Value;
use std::sync::atomic::AtomicUsize;

/// A queue with so many places, and what it took.
#[derive(Default)]
struct Places {
    free: AtomicUsize,
    taken: Mutex<Vec<Value>>,
}

impl Outlet for Places {
    fn offer(&self, message: &[u8]) -> bool {
        let takes = self.free.load(Ordering::SeqCst) > 0;
        if takes {
            self.free.fetch_sub(1, Ordering::SeqCst);
            self.taken.lock().push(serde_json::from_slice(message).unwrap());
        }
        takes
    }

    fn room(&self) -> futures_util::future::BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

struct Machine {
    subscription: Subscription,
    places: Places,
    numbers: AtomicU64,
    began: Instant,
}

impl Machine {
    fn new(ack: bool, overflow: WhenFull, events: usize) -> Self {
        Self::with_room(ack, overflow, Room { events, bytes: 1_000 })
    }

    fn with_room(ack: bool, overflow: WhenFull, room: Room) -> Self {
        let rules = Rules {
            name: "s".into(),
            filter: EventFilter::default(),
            ack,
            overflow,
            max_attempts: 3,
            timeout: Duration::from_secs(100),
            delays: [Duration::from_secs(1), Duration::from_secs(3)],
            room,
        };
        let numbers = AtomicU64::new(0);
        Self { subscription: Subscription::new(rules), places: Places::default(), numbers, began: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.began + Duration::from_secs(seconds)
    }

    fn drive(&self, seconds: u64) -> Driven {
        self.subscription.drive(self.at(seconds), false, &self.places, &self.numbers)
    }

    fn free(&self, places: usize) {
        self.places.free.store(places, Ordering::SeqCst);
    }

    fn take(&self, number: usize) {
        self.subscription.take(number.to_string().as_bytes());
    }

    /// The events that the queue took since this was last asked.
    fn taken(&self) -> Vec<i64> {
        self.places.taken.lock().drain(..).map(|message| message["event"].as_i64().unwrap()).collect()
    }
}

fn given_up(driven: &Driven) -> Vec<(String, u32)> {
    driven.lost.iter().map(|lost| (String::from_utf8(lost.event.to_vec()).unwrap(), lost.attempts)).collect()
}

#[test]
fn a_full_queue_is_offered_the_oldest_again_until_its_attempts_are_used_up() {
    let machine = Machine::new(false, WhenFull::Wait, 10);
    machine.take(1);
    machine.take(2);
    let driven = machine.drive(0);
    assert_eq!((driven.next, driven.is_stalled), (Some(machine.at(1)), true));
    assert_eq!(machine.drive(1).next, Some(machine.at(3)), "the delay is doubled");
    // The third attempt was the last of the first event; the second event has its first.
    let driven = machine.drive(3);
    assert_eq!(given_up(&driven), [("1".to_owned(), 3)]);
    assert_eq!(driven.next, Some(machine.at(4)));
    machine.free(5);
    assert_eq!(machine.drive(4).next, None);
    assert_eq!(machine.taken(), [2]);
    let tally = machine.subscription.tally();
    assert_eq!((tally.delivered, tally.dead_letters, tally.waiting, tally.retried), (1, 1, 0, 3));
}

#[test]
fn room_that_came_early_is_used_and_its_absence_is_no_attempt() {
    let machine = Machine::new(false, WhenFull::Wait, 10);
    machine.take(1);
    machine.drive(0);
    for _ in 0..10 {
        let driven = machine.subscription.drive(machine.at(0), true, &machine.places, &machine.numbers);
        assert_eq!((driven.next, driven.lost.len()), (Some(machine.at(1)), 0));
    }
    machine.free(1);
    machine.subscription.drive(machine.at(0), true, &machine.places, &machine.numbers);
    assert_eq!(machine.taken(), [1]);
}

#[test]
fn what_a_policy_says_about_a_full_queue_is_done() {
    let machine = Machine::new(false, WhenFull::DeadLetter, 10);
    machine.take(1);
    machine.take(2);
    assert_eq!(given_up(&machine.drive(0)), [("1".to_owned(), 1), ("2".to_owned(), 1)]);

    let machine = Machine::new(false, WhenFull::Block, 2);
    machine.take(1);
    for seconds in 0..100 {
        assert_eq!(machine.drive(seconds).lost.len(), 0);
    }
    assert!(machine.subscription.has_room());
    machine.take(2);
    assert!(!machine.subscription.has_room());
    // What comes before the runs wait has as much room again.
    for number in 3..=5 {
        machine.take(number);
    }
    assert_eq!(given_up(&machine.drive(100)), [("5".to_owned(), 0)]);
    machine.free(9);
    machine.drive(200);
    assert_eq!(machine.taken(), [1, 2, 3, 4]);
}

#[test]
fn a_few_large_events_fill_the_buffer_like_many_small_ones() {
    let machine = Machine::with_room(false, WhenFull::Wait, Room { events: 10, bytes: 5 });
    for number in [100, 200, 3] {
        machine.take(number);
    }
    assert!(!machine.subscription.take_letter(7, "4"));
    let driven = machine.drive(0);
    assert_eq!(given_up(&driven), [("3".to_owned(), 0)]);
    machine.free(9);
    machine.drive(1);
    machine.take(5);
    machine.drive(2);
    assert_eq!(machine.taken(), [100, 200, 5]);
}

#[test]
fn a_delivery_is_tried_again_until_it_is_acknowledged() {
    let machine = Machine::new(true, WhenFull::Wait, 10);
    machine.free(9);
    machine.take(1);
    assert_eq!(machine.drive(0).next, Some(machine.at(100)), "the host's time");
    assert_eq!(machine.drive(100).next, Some(machine.at(101)), "the delay");
    assert_eq!(machine.subscription.tally().unacknowledged, 1);
    assert_eq!(machine.drive(101).next, Some(machine.at(201)));
    let messages: Vec<_> = machine.places.taken.lock().drain(..).collect();
    assert_eq!((&messages[0]["delivery"], &messages[0]["attempt"]), (&1.into(), &1.into()));
    assert_eq!((&messages[1]["delivery"], &messages[1]["attempt"]), (&1.into(), &2.into()));
    assert_eq!(machine.subscription.acknowledge(1), Answered::Known);
    assert_eq!(machine.subscription.acknowledge(1), Answered::Unknown);
    assert_eq!(machine.drive(1_000).next, None);
    let tally = machine.subscription.tally();
    assert_eq!((tally.delivered, tally.acknowledged, tally.retried, tally.unacknowledged), (1, 1, 1, 0));
}

#[test]
fn a_delivery_that_is_refused_each_time_is_given_up_with_the_last_reason() {
    let machine = Machine::new(true, WhenFull::Wait, 10);
    machine.free(9);
    machine.take(1);
    for (seconds, reason) in [(0, "a"), (1, "b"), (3, "c")] {
        machine.drive(seconds);
        assert_eq!(machine.subscription.refuse(1, reason, machine.at(seconds)), Answered::Known);
    }
    let driven = machine.drive(3);
    assert_eq!(given_up(&driven), [("1".to_owned(), 3)]);
    assert_eq!(driven.lost[0].reason, "c");
    assert_eq!(machine.subscription.refuse(1, "d", machine.at(3)), Answered::Unknown);
}

#[test]
fn a_dead_letter_is_on_its_way_once_and_settled_when_it_is_delivered() {
    let machine = Machine::new(true, WhenFull::Wait, 10);
    machine.free(9);
    assert!(machine.subscription.take_letter(7, "1"));
    assert!(!machine.subscription.take_letter(7, "1"));
    assert!(machine.drive(0).settled.is_empty());
    assert!(!machine.subscription.take_letter(7, "1"));
    machine.subscription.acknowledge(1);
    assert_eq!(machine.drive(1).settled, [7]);
    assert!(machine.subscription.take_letter(8, "1"));
    assert!(machine.subscription.end("over").0.is_empty(), "it is the letter it was");
}

#[test]
fn what_is_left_at_the_end_is_given_up() {
    let machine = Machine::new(true, WhenFull::Wait, 3);
    machine.free(1);
    for number in 1..=5 {
        machine.take(number);
    }
    // The buffer has three; the rest is given up already.
    machine.drive(0);
    let cursor = EventCursor::parse("4.2").unwrap();
    machine.subscription.take_stored(cursor, "6");
    let (left, _) = machine.subscription.end("over");
    let left: Vec<_> = left.iter().map(|lost| (&*lost.event, lost.attempts, lost.reason.as_str())).collect();
    // The stored one was never offered: whoever begins behind the last cursor gets it.
    assert_eq!(left, [(&b"1"[..], 1, "over"), (b"2", 1, "over"), (b"3", 0, "over")]);
    machine.take(7);
    assert_eq!((machine.subscription.tally().waiting, machine.subscription.tally().dead_letters), (0, 5));
}

#[derive(Clone, Debug)]
enum Op {
    Take,
    Free(usize),
    Pass(u64),
    Ack(usize),
    Nack(usize),
}

proptest! {
    /// Whatever happens, each event is delivered, given up, or there.
    #[test]
    fn nothing_vanishes(ack: bool, policy in 0..3, bytes in 1_usize..12, ops in proptest::collection::vec(prop_oneof![
        3 => Just(Op::Take), 1 => (0usize..4).prop_map(Op::Free), 2 => (0u64..120).prop_map(Op::Pass),
        2 => (0usize..8).prop_map(Op::Ack), 1 => (0usize..8).prop_map(Op::Nack),
    ], 0..80)) {
        let policy = [WhenFull::Wait, WhenFull::DeadLetter, WhenFull::Block][policy as usize];
        let machine = Machine::with_room(ack, policy, Room { events: 4, bytes });
        let (mut now, mut made, mut lost, mut overrun) = (0, 0_u64, 0, 0);
        let mut open: Vec<u64> = Vec::new();
        for op in ops {
            match op {
                Op::Take => {
                    made += 1;
                    machine.take(made as usize);
                }
                Op::Free(places) => machine.free(places),
                Op::Pass(seconds) => now += seconds,
                Op::Ack(index) if index < open.len() => {
                    machine.subscription.acknowledge(open.remove(index));
                }
                Op::Nack(index) if index < open.len() => {
                    machine.subscription.refuse(open[index], "no", machine.at(now));
                }
                Op::Ack(_) | Op::Nack(_) => {}
            }
            let driven = machine.drive(now);
            lost += driven.lost.len() as u64;
            overrun += machine.subscription.take_overrun();
            for message in machine.places.taken.lock().drain(..) {
                if let Some(delivery) = message["delivery"].as_u64().filter(|delivery| !open.contains(delivery)) {
                    open.push(delivery);
                }
            }
            let tally = machine.subscription.tally();
            let done = if ack { tally.acknowledged } else { tally.delivered };
            prop_assert_eq!(tally.dead_letters, lost + overrun);
            prop_assert_eq!(done + lost + overrun + (tally.waiting + tally.unacknowledged) as u64, made);
            let state = machine.subscription.state.lock();
            let parcels = state.waiting.iter().chain(state.flights.values().map(|flight| &flight.parcel));
            prop_assert_eq!(state.bytes, parcels.map(|parcel| parcel.event.len()).sum::<usize>());
            drop(state);
            // Whoever drives it is told when to come again.
            prop_assert!(tally.unacknowledged == 0 || driven.next.is_some());
            prop_assert!(tally.waiting == 0 || driven.is_stalled);
        }
    }
}
