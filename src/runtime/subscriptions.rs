//! The methods of `par_call` about subscriptions to events.

use super::callbacks::{CallbackSlot, Callbacks};
use super::core::{CALLBACK, Core, INBOX, Runtime};
use super::methods::list;
use super::stored::wrong_cursor;
use super::stored_events::kinds;
use super::stream::Stream;
use crate::config::{DeliverTo, Reach, SubscribeParams};
use crate::events::{Member, Outlet, Room, Rules};
use crate::store::{EventCursor, EventFilter};
use crate::types::{Cancel, Error, EventKind, Result, RunId, Status};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A subscription.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriptionName {
    /// Its name.
    name: String,
}

/// Parameters of `events.ack`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AckParams {
    /// `delivery` of the message.
    delivery: u64,
}

/// Parameters of `events.nack`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NackParams {
    /// `delivery` of the message.
    delivery: u64,
    /// Why the host could not do with it what it is for; kept with the dead letter, if it becomes one.
    #[serde(default = "refused")]
    reason: String,
}

fn refused() -> String {
    "the host refused it".into()
}

/// The event callback, as a queue.
struct CallbackOutlet(Arc<Callbacks>);

impl Outlet for CallbackOutlet {
    fn offer(&self, message: &[u8]) -> bool {
        self.0.deliver_if_room(CallbackSlot::Event, message)
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        self.0.room().boxed()
    }
}

impl Runtime {
    /// Subscribes, as a stream of the messages.
    pub(super) fn subscribe_stream(&self, params: SubscribeParams) -> Result<Stream> {
        if params.deliver.is_some() {
            return Err(Error::schema("params.deliver", "a subscription that is a stream delivers into that")
                .with_hint("leave it out, or subscribe by par_call"));
        }
        let core = Arc::clone(self.core());
        core.handle()?;
        let cancel = core.deliveries.cancel().child();
        let opening = Arc::clone(&core);
        let (params, hand) = (params, cancel.clone());
        let member = core
            .drivers
            .block_on(&core.log, |_| async move { opening.open_subscription(params, hand, "stream").await })?;
        let worker = Arc::clone(&core);
        let started = core.start_task_in(&core.deliveries, cancel, {
            let member = member.clone();
            move |_, emitter, _| async move {
                if let Some(queue) = emitter.queue() {
                    worker.bus.deliver(&member, &**queue).await;
                }
                Ok("{}".into())
            }
        });
        if started.is_err() {
            core.bus.forget(&member);
        }
        started
    }
}

impl Core {
    pub(super) async fn subscribe(self: &Arc<Self>, params: SubscribeParams) -> Result<Value> {
        let handle = self.handle()?;
        let (deliver, outlet): (_, Arc<dyn Outlet>) = match params.deliver.unwrap_or(DeliverTo::Inbox) {
            DeliverTo::Inbox => ("inbox", Arc::clone(&self.inbox) as _),
            DeliverTo::Callback if self.callbacks.has(CallbackSlot::Event) => {
                ("callback", Arc::new(CallbackOutlet(Arc::clone(&self.callbacks))))
            }
            DeliverTo::Callback => {
                return Err(Error::new(Status::NoHandler, "no callback for events is registered")
                    .with_path("params.deliver")
                    .with_hint("register one by par_on_event first"));
            }
        };
        let cancel = self.deliveries.cancel().child();
        let member = self.open_subscription(params, cancel, deliver).await?;
        let mut told = json!({"name": member.subscription.rules().name});
        if let (Some(place), Some(fields)) = (member.place, told.as_object_mut()) {
            fields.insert("cursor".into(), place.to_string().into());
        }
        // The task must not keep the runtime open: it holds the core's bus, not a handle.
        let bus = Arc::clone(&self.bus);
        self.deliveries.spawn(&handle, async move { bus.deliver(&member, &*outlet).await });
        Ok(told)
    }

    async fn open_subscription(
        &self,
        params: SubscribeParams,
        cancel: Cancel,
        deliver: &'static str,
    ) -> Result<Member> {
        params.check("params")?;
        let bus = self.bus.config();
        let timeout = params.timeout(bus);
        let SubscribeParams { name, scope, run_id, session, agent, types, reach, cursor, .. } = params;
        if name.as_deref().is_some_and(|name| [INBOX, CALLBACK].contains(&name)) {
            return Err(Error::schema("params.name", "this name is that of the runtime's own queue")
                .with_hint("choose another one"));
        }
        let filter = EventFilter { scope, run_id, session, agent, types: kinds(&types)?, ..EventFilter::default() };
        let place = match reach {
            Reach::Runtime => None,
            Reach::Store => Some(self.place(cursor.as_deref()).await?),
        };
        let rules = Rules {
            name: name.unwrap_or_else(|| RunId::generate().to_string()),
            filter,
            ack: params.ack,
            overflow: params.overflow,
            max_attempts: params.max_attempts.unwrap_or(bus.max_delivery_attempts),
            timeout,
            delays: [bus.initial_retry_delay, bus.max_retry_delay].map(Duration::from_secs_f64),
            room: Room { events: bus.buffer_capacity, bytes: bus.buffer_bytes },
        };
        self.bus.open(rules, cancel, deliver, place)
    }

    /// Where a subscription to stored events begins.
    async fn place(&self, cursor: Option<&str>) -> Result<EventCursor> {
        let newest = self.store.newest().await?;
        let Some(cursor) = cursor else { return Ok(newest) };
        let place = EventCursor::parse(cursor).ok_or_else(|| wrong_cursor(cursor))?;
        match place <= newest {
            true => Ok(place),
            false => Err(Error::schema("params.cursor", format!("{cursor:?} is behind every event of this database"))
                .with_hint("give a cursor that this database gave, or none to begin with what is said from now on")),
        }
    }

    pub(super) async fn unsubscribe(&self, params: SubscriptionName) -> Result<Value> {
        let dead_letters = self.bus.close(&params.name, "it was unsubscribed").await?;
        Ok(json!({"unsubscribed": true, "dead_letters": dead_letters}))
    }

    pub(super) fn list_subscriptions(&self) -> Value {
        list(self.bus.members().iter().map(subscription_json).collect())
    }

    pub(super) fn acknowledge(&self, params: AckParams) -> Result<Value> {
        self.bus.acknowledge(params.delivery)?;
        Ok(json!({"acknowledged": true}))
    }

    pub(super) fn refuse(&self, params: NackParams) -> Result<Value> {
        self.bus.refuse(params.delivery, &params.reason)?;
        Ok(json!({"refused": true}))
    }
}

fn subscription_json(member: &Member) -> Value {
    let Member { subscription, deliver, place, .. } = member;
    let Rules { name, filter, ack, overflow, max_attempts, timeout, .. } = subscription.rules();
    let kinds = EventKind::ALL.iter().filter(|kind| filter.types & kind.bit() != 0);
    let types: Vec<_> = kinds.map(|kind| kind.name()).collect();
    let mut told = json!({
        "name": name, "deliver": deliver, "reach": if place.is_some() { "store" } else { "runtime" },
        "ack": ack, "overflow": overflow, "max_attempts": max_attempts,
        "scope": filter.scope, "types": types, "counts": subscription.tally(),
    });
    if let Some(fields) = told.as_object_mut() {
        let run_id = filter.run_id.as_ref().map(|run_id| json!(run_id));
        let session = filter.session.as_ref().map(|session| json!(session));
        let agent = filter.agent.as_ref().map(|agent| json!(agent));
        let timeout = ack.then(|| json!(timeout.as_secs_f64()));
        let error = subscription.failure().map(|error| json!(error));
        let known = [
            ("run_id", run_id),
            ("session", session),
            ("agent", agent),
            ("delivery_timeout", timeout),
            ("error", error),
        ];
        fields.extend(known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
    told
}
