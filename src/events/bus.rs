//! The subscriptions of a runtime, and the one engine that delivers to each of them.
//!
//! Each subscription is driven by a task of its own ([`Bus::deliver`]), so that a slow reader holds up nobody else. It sleeps
//! until there is an event, room, or a time that is over.

use super::dead_letters::DeadLetters;
use super::hub::Hub;
use super::outlet::Outlet;
use super::subscription::{Answered, Lost, Rules, Subscription};
use crate::config::EventBusConfig;
use crate::store::{DeadLetter, EventCursor, Store};
use crate::types::{Cancel, Error, Result, Status, now_ms};
use parking_lot::RwLock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How long whoever missed room waits before it looks for room again, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// How long dead letters wait together for room in the writer's queue before they are lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module's head.
pub struct Bus {
    config: EventBusConfig,
    most: usize,
    store: Arc<Store>,
    hub: Arc<Hub>,
    letters: DeadLetters,
    /// The number of the last delivery.
    numbers: AtomicU64,
    members: RwLock<BTreeMap<String, Member>>,
}

/// A subscription, and the host's hand on it.
#[derive(Clone)]
pub struct Member {
    /// Itself.
    pub subscription: Arc<Subscription>,
    /// Ends it.
    pub cancel: Cancel,
    /// Where its messages go, as it is told.
    pub deliver: &'static str,
    /// Behind which stored event it begins; none if it has those of this runtime, as they happen.
    pub place: Option<EventCursor>,
}

impl Bus {
    /// A bus without subscriptions, of which there may be `most`.
    pub fn new(config: EventBusConfig, most: usize, store: Arc<Store>, hub: Arc<Hub>) -> Self {
        let letters = DeadLetters::new(Arc::clone(&store), &config);
        Self { config, most, store, hub, letters, numbers: AtomicU64::new(0), members: RwLock::default() }
    }

    /// How it was configured.
    pub fn config(&self) -> &EventBusConfig {
        &self.config
    }

    /// Where what nobody took goes.
    pub fn letters(&self) -> &DeadLetters {
        &self.letters
    }

    /// Makes a subscription, which takes events from now on. Nothing is delivered before [`Bus::deliver`].
    pub fn open(
        &self,
        rules: Rules,
        cancel: Cancel,
        deliver: &'static str,
        place: Option<EventCursor>,
    ) -> Result<Member> {
        let name = rules.name.clone();
        let mut members = self.members.write();
        if members.contains_key(&name) {
            return Err(Error::new(Status::Exists, format!("there is a subscription {name:?} already"))
                .with_path("params.name")
                .with_hint("choose another name, or end it by events.unsubscribe"));
        }
        if members.len() >= self.most {
            return Err(Error::new(
                Status::Limit,
                format!("there are {} subscriptions already, as many as limits.max_subscriptions", self.most),
            )
            .with_hint("end some by events.unsubscribe, or raise the limit in the runtime config"));
        }
        let member = Member { subscription: Arc::new(Subscription::new(rules)), cancel, deliver, place };
        members.insert(name, member.clone());
        drop(members);
        if place.is_none() {
            self.hub.join(Arc::clone(&member.subscription));
        }
        Ok(member)
    }

    /// Delivers to a subscription until it is cancelled, and gives up what is left then.
    pub async fn deliver(&self, member: &Member, outlet: &dyn Outlet) {
        let Member { subscription, cancel, place, .. } = member;
        let mut follower = place.map(|place| Follower { store: &self.store, place, to: place, paused_until: None });
        let (mut has_come, mut misses) = (false, 0);
        while !cancel.is_cancelled() {
            let driven = subscription.drive(Instant::now(), has_come, outlet, &self.numbers);
            misses = if has_come && !driven.has_moved { misses + 1 } else { 0 };
            has_come = false;
            let is_stalled = driven.is_stalled;
            let next = driven.next;
            self.give_up(subscription, driven.lost, driven.settled).await;
            let follows = follower.is_some() && subscription.has_room();
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = subscription.work() => {}
                () = room(outlet, misses), if is_stalled => has_come = true,
                () = until(next) => {}
                () = read(&mut follower, subscription), if follows => {}
            }
        }
        // Nothing more comes; what came last was not offered yet.
        self.hub.leave(subscription);
        loop {
            let driven = subscription.drive(Instant::now(), true, outlet, &self.numbers);
            self.give_up(subscription, driven.lost, driven.settled).await;
            if !driven.has_moved {
                break;
            }
        }
        let left = subscription.end(&ended(&cancel.reason()));
        self.finish(member, left).await;
    }

    /// Ends a subscription and answers how many events of it became dead letters by that.
    pub async fn close(&self, name: &str, reason: &str) -> Result<usize> {
        let member = self.member(name)?;
        // Before its task does the same: what is left is counted here.
        let left = member.subscription.end(&ended(reason));
        member.cancel.cancel(reason);
        Ok(self.finish(&member, left).await)
    }

    async fn finish(&self, member: &Member, (lost, settled): (Vec<Lost>, Vec<i64>)) -> usize {
        let count = lost.len();
        self.give_up(&member.subscription, lost, settled).await;
        self.forget(member);
        count
    }

    /// Removes a subscription that nothing is delivered to any more.
    pub fn forget(&self, member: &Member) {
        self.hub.leave(&member.subscription);
        let mut members = self.members.write();
        let name = &member.subscription.rules().name;
        // Somebody may have taken the name since.
        if members.get(name).is_some_and(|other| Arc::ptr_eq(&other.subscription, &member.subscription)) {
            members.remove(name);
        }
    }

    async fn give_up(&self, subscription: &Subscription, lost: Vec<Lost>, mut settled: Vec<i64>) {
        self.letters.count_lost(subscription.take_overrun());
        let has_lost = !lost.is_empty();
        // A store that cannot be written to must hold up neither the deliveries nor the end of the runtime.
        let until = Instant::now() + PATIENCE;
        for Lost { event, reason, attempts, letter } in lost {
            let event = serde_json::from_slice(&event).unwrap_or_default();
            let subscription = subscription.rules().name.clone();
            let new = DeadLetter { id: 0, subscription, reason, attempts, at_ms: now_ms(), event };
            if self.letters.keep(new, until).await {
                settled.extend(letter);
            }
        }
        if has_lost {
            self.letters.trim().await;
        }
        if !settled.is_empty()
            && let Err(error) = self.letters.remove(settled).await
        {
            tracing::warn!("dead letters that were delivered could not be removed: {error}");
        }
    }

    // ---- what the host says

    /// The subscription of this name.
    pub fn member(&self, name: &str) -> Result<Member> {
        let member = self.members.read().get(name).cloned();
        member.ok_or_else(|| {
            Error::new(Status::NotFound, format!("there is no subscription {name:?}"))
                .with_hint("events.subscriptions lists those there are")
        })
    }

    /// All of them, by name.
    pub fn members(&self) -> Vec<Member> {
        self.members.read().values().cloned().collect()
    }

    /// The host has a delivery.
    pub fn acknowledge(&self, delivery: u64) -> Result<()> {
        self.answer(delivery, |subscription| subscription.acknowledge(delivery))
    }

    /// The host could not do with a delivery what it is for.
    pub fn refuse(&self, delivery: u64, reason: &str) -> Result<()> {
        let now = Instant::now();
        self.answer(delivery, |subscription| subscription.refuse(delivery, reason, now))
    }

    fn answer(&self, delivery: u64, answer: impl Fn(&Subscription) -> Answered) -> Result<()> {
        let members = self.members.read();
        let mut subscriptions = members.values().map(|member| &member.subscription);
        match subscriptions.any(|subscription| answer(subscription) == Answered::Known) {
            true => Ok(()),
            false => Err(Error::new(Status::StaleToken, format!("no delivery {delivery} waits for an answer"))
                .with_path("params.delivery")
                .with_hint("it was answered before, or given up: events.dead_letters lists those that were")),
        }
    }

    /// Delivers a dead letter once more. It is forgotten when that is done.
    pub fn replay(&self, letter: &DeadLetter) -> Result<()> {
        let subscription = self
            .member(&letter.subscription)
            .map_err(|error| error.with_hint("events.subscribe by that name again, then replay"))?
            .subscription;
        match subscription.take_letter(letter.id, &letter.event.to_string()) {
            true => Ok(()),
            false => Err(Error::new(Status::Busy, "the subscription has no room, or the letter is on its way already")
                .with_retryable(true)),
        }
    }

    /// How it is doing; part of `par_runtime_info`.
    pub fn info(&self) -> Value {
        json!({"subscriptions": self.members.read().len(), "dead_letters": self.letters.info()})
    }
}

fn ended(reason: &str) -> String {
    format!("the subscription ended: {reason}")
}

/// Waits for room; a while longer each time that it was gone when it was to be used, since others want it, too.
async fn room(outlet: &dyn Outlet, misses: u32) {
    if misses > 0 {
        sleep(FIRST_PAUSE.saturating_mul(1 << misses.min(7))).await;
    }
    outlet.room().await;
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Reads stored events for a subscription.
struct Follower<'a> {
    store: &'a Store,
    /// Behind the last event that was taken.
    place: EventCursor,
    /// Up to where there are events.
    to: EventCursor,
    /// The database could not be read: not before this.
    paused_until: Option<Instant>,
}

/// Reads as much as there is room for. Cancel safe.
async fn read(follower: &mut Option<Follower<'_>>, subscription: &Subscription) {
    let Some(follower) = follower else { return pending().await };
    if let Some(paused_until) = follower.paused_until {
        sleep_until(paused_until).await;
        follower.paused_until = None;
    }
    match follower.read(subscription).await {
        Ok(()) => subscription.set_failure(None),
        Err(error) => {
            if subscription.failure().is_none() {
                tracing::warn!("stored events cannot be read: {error}");
            }
            subscription.set_failure(Some(error));
            follower.paused_until = Some(Instant::now() + subscription.rules().delays[0]);
        }
    }
}

impl Follower<'_> {
    async fn read(&mut self, subscription: &Subscription) -> Result<()> {
        if self.place == self.to {
            self.to = self.store.committed_behind(self.place).await?;
        }
        let filter = &subscription.rules().filter;
        let (events, place) = self.store.committed(filter, self.place, self.to, subscription.page()).await?;
        for (cursor, event) in events {
            subscription.take_stored(cursor, event.get());
        }
        self.place = place;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, WhenFull};
    use crate::events::Room;
    use crate::store::EventFilter;
    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;
    use pretty_assertions::assert_eq;

    /// Takes as many messages as it has places for.
    struct Places(usize, Mutex<Vec<Value>>);

    impl Outlet for Places {
        fn offer(&self, message: &[u8]) -> bool {
            let mut taken = self.1.lock();
            let takes = taken.len() < self.0;
            if takes {
                taken.push(serde_json::from_slice(message).unwrap());
            }
            takes
        }

        fn room(&self) -> BoxFuture<'_, ()> {
            Box::pin(pending())
        }
    }

    #[tokio::test]
    async fn what_came_last_is_offered_before_the_end() {
        let store = Arc::new(Store::in_memory(&Limits::default()));
        let bus = Bus::new(EventBusConfig::default(), 1, store, Arc::default());
        let rules = Rules {
            name: "s".into(),
            filter: EventFilter::default(),
            ack: false,
            overflow: WhenFull::Block,
            max_attempts: 1,
            timeout: Duration::from_secs(1),
            delays: [Duration::from_secs(1); 2],
            room: Room { events: 1_000, bytes: 1_000 },
        };
        let member = bus.open(rules, Cancel::new(), "inbox", None).unwrap();
        for number in 0..400 {
            member.subscription.take(number.to_string().as_bytes());
        }
        member.cancel.cancel("it is over");
        let places = Places(300, Mutex::default());
        bus.deliver(&member, &places).await;
        let taken: Vec<_> = places.1.lock().iter().map(|message| message["event"].as_u64().unwrap()).collect();
        assert_eq!(taken, (0..300).collect::<Vec<_>>());
        let tally = member.subscription.tally();
        assert_eq!((tally.delivered, tally.dead_letters), (300, 100));
    }
}
