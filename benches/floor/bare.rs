//! Bare reqwest on a current-thread tokio runtime: POST and typed decode, connections kept.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, LocalSet};

use crate::measure::{self, Added, Figures, Watch};
use crate::wire::{Events, Reply, Request};
use crate::{IN_FLIGHT, LATE_MS, Scenario};

type Failure = reqwest::Error;

#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    url: String,
}

pub fn run(scenario: &Scenario) -> Figures {
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client {
        http: reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().expect("a client"),
        url: format!("http://127.0.0.1:{}/v1/chat/completions", scenario.port),
    };
    runtime.block_on(LocalSet::new().run_until(async {
        match &*scenario.name {
            "invoke" => sequential(client, scenario, 200).await,
            "tools" => sequential(client, scenario, 50).await,
            "burst" => sequential(client, scenario, 5).await,
            "flight" => flight(client, scenario).await,
            "spaced" => spaced(client, scenario).await,
            "crowd" => crowd(client, scenario).await,
            "idle" => idle(client, scenario).await,
            other => panic!("no scenario {other}"),
        }
    }))
}

impl Client {
    async fn exchange(&self, body: Vec<u8>, sse: bool, mut on_text: impl FnMut(&str)) -> Result<Reply, Failure> {
        let request =
            self.http.post(&self.url).header("content-type", "application/json").header("authorization", "Bearer k");
        let mut response = request.body(body).send().await?.error_for_status()?;
        if !sse {
            return Ok(Reply::whole(&response.bytes().await?));
        }
        let (mut events, mut reply) = (Events::default(), Reply::default());
        while let Some(bytes) = response.chunk().await? {
            events.feed(&bytes, |payload| reply.payload(payload, &mut on_text));
        }
        Ok(reply)
    }

    /// A run to its end: one exchange, or as many as the model asks tools for.
    async fn complete(
        &self,
        scenario: &Scenario,
        model: &str,
        mut on_text: impl FnMut(&str),
    ) -> Result<Reply, Failure> {
        let mut request = Request::first(scenario, model);
        loop {
            let reply = self.exchange(request.encoded(), scenario.sse, &mut on_text).await?;
            if reply.calls.is_empty() {
                return Ok(reply);
            }
            request.continue_with(reply);
        }
    }
}

async fn sequential(client: Client, scenario: &Scenario, warm_up: usize) -> Figures {
    let model = scenario.model();
    let mut watch = Watch::start();
    let mut chunks = 0;
    for n in 0..scenario.count + warm_up {
        if n == warm_up {
            (watch, chunks) = (Watch::start(), 0);
        }
        let reply = client.complete(scenario, &model, |_| ()).await.expect("a reply");
        assert!(reply.done && reply.usage.is_some() && reply.finish_reason.is_some() && !reply.text.is_empty());
        chunks += reply.chunks;
    }
    let mut figures = watch.each(scenario.count);
    figures.insert("chunks_per_second", chunks as f64 * 1e6 / watch.wall_us());
    figures
}

async fn flight(client: Client, scenario: &Scenario) -> Figures {
    let rush = async |count: usize| {
        let left = Rc::new(RefCell::new(count));
        let mut tasks = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (client, left, model) = (client.clone(), left.clone(), scenario.model());
            let scenario = Scenario { name: scenario.name.clone(), ..*scenario };
            tasks.spawn_local(async move {
                while *left.borrow() > 0 {
                    *left.borrow_mut() -= 1;
                    client.complete(&scenario, &model, |_| ()).await.expect("a reply");
                }
            });
        }
        tasks.join_all().await;
    };
    rush(2000).await;
    let watch = Watch::start();
    rush(scenario.count).await;
    watch.each(scenario.count)
}

async fn spaced(client: Client, scenario: &Scenario) -> Figures {
    let mut added = Added::with_room_for(scenario.count * scenario.size);
    for _ in 0..scenario.count {
        client.complete(scenario, &scenario.model(), |text| added.token(text)).await.expect("a reply");
    }
    added.percentiles()
}

/// Starts `count` streams at once; each reports the texts it sees, and how it ended: in time, late or not at all.
async fn streams(
    client: &Client,
    scenario: &Scenario,
    on_text: impl Fn(&str) + Clone + 'static,
) -> JoinSet<Option<Duration>> {
    let mut tasks = JoinSet::new();
    for _ in 0..scenario.count {
        let (client, model, on_text) = (client.clone(), scenario.model(), on_text.clone());
        let scenario = Scenario { name: scenario.name.clone(), ..*scenario };
        tasks.spawn_local(async move {
            let started = Instant::now();
            let reply = client.complete(&scenario, &model, on_text).await.ok()?;
            (reply.done && reply.chunks >= scenario.size.min(1)).then(|| started.elapsed())
        });
    }
    tasks
}

async fn crowd(client: Client, scenario: &Scenario) -> Figures {
    let added = Rc::new(RefCell::new(Added::with_room_for(scenario.count * scenario.size)));
    let warm = Scenario { name: "invoke".into(), ..*scenario };
    client.complete(&warm, "text", |_| ()).await.expect("a reply");
    let (before_kb, watch) = (measure::memory_kb("VmRSS"), Watch::start());
    let sink = added.clone();
    let mut tasks = streams(&client, scenario, move |text| sink.borrow_mut().token(text)).await;
    let limit = Duration::from_millis(50 * (scenario.size as u64 + 1) + LATE_MS);
    let (mut late, mut failed) = (0, 0);
    while let Some(outcome) = tasks.join_next().await {
        match outcome.expect("no panic") {
            Some(took) => late += usize::from(took > limit),
            None => failed += 1,
        }
    }
    let mut figures = measure::crowd(&watch, before_kb, scenario.count, late, failed);
    drop(tasks);
    figures.append(&mut Rc::into_inner(added).expect("all streams ended").into_inner().percentiles());
    figures
}

/// The processor time of streams that wait, over half of their silence.
async fn idle(client: Client, scenario: &Scenario) -> Figures {
    let started = Rc::new(RefCell::new(0));
    let counter = started.clone();
    let mut tasks = streams(&client, scenario, move |_| *counter.borrow_mut() += 1).await;
    while *started.borrow() < scenario.count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let watch = Watch::start();
    tokio::time::sleep(Duration::from_millis(scenario.size as u64 / 2)).await;
    let cpu = watch.cpu_us() / watch.wall_us();
    let mut failed = 0;
    while let Some(outcome) = tasks.join_next().await {
        failed += usize::from(outcome.expect("no panic").is_none());
    }
    Figures::from([("idle_cpu_ms_per_second", cpu * 1e3), ("failed", failed as f64)])
}
