//! A model server over HTTP: one POST, the answer read as it comes, deltas told as they are decoded, with backpressure up
//! to the socket. Timeouts: connect, first byte, idle, stall, total.
//!
//! What is asked and how the answer reads is the business of a [`Wire`]: one for each wire family. Embeddings take the same
//! way, and come whole.

mod body;
mod exchange;
mod problems;

use super::breaker::Breaker;
use super::embed::unsupported;
use super::frame::Frame;
use super::http::Connection;
use super::replay::Tape;
use super::secrets::{Secrets, Striking};
use super::{
    CacheRules, DeltaSink, EmbedRequest, EmbedWire, Embeddings, ModelAnswer, ModelRequest, Provider, Recorder,
};
use crate::config::{ModelProfile, RetryConfig, Secret, ServerConfig};
use crate::types::{Error, Result, Transcript};
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// How one wire family asks and reads.
pub trait Wire: Send + Sync {
    /// The family's name.
    fn family(&self) -> &'static str;

    /// How it is set up, so that a recorded answer is read by a wire like this one.
    fn settings(&self) -> Value;

    /// Where a model of the server at `base` is asked.
    fn url(&self, base: &str, model: &str) -> String;

    /// Whether that depends on the model.
    fn names_model_in_url(&self) -> bool {
        false
    }

    /// The header that carries the key.
    fn key_header(&self, key: &str) -> (HeaderName, String);

    /// Headers of every request, besides the key's and the configured ones.
    fn headers(&self) -> &[(&'static str, &str)] {
        &[]
    }

    /// The body of a request.
    fn encode(&self, request: &ModelRequest<'_>) -> Result<Vec<u8>>;

    /// Reads one answer.
    fn decoder<'a>(&self, provider: &'a str, transcript: &'a Transcript) -> Box<dyn WireDecoder + 'a>;

    /// How the pieces of an answer are told apart.
    fn framing(&self) -> Framing {
        Framing::Events
    }

    /// What a model can do, where that depends on the server.
    fn profile(&self, model: &str) -> ModelProfile {
        let _ = model;
        ModelProfile::default()
    }

    /// What a model can be told to cache, if anything.
    fn cache_rules(&self, profile: &ModelProfile) -> Option<CacheRules> {
        let _ = profile;
        None
    }

    /// How this family embeds; none where its API has no embeddings.
    fn embeddings(&self) -> Option<&dyn EmbedWire> {
        None
    }
}

/// Reads one answer, piece by piece. Pure.
pub trait WireDecoder: Send {
    /// One event, or one line.
    fn event(&mut self, name: &str, data: &str, sink: &mut dyn DeltaSink) -> Frame;

    /// Whether the model has said that it stopped.
    fn is_finished(&self) -> bool;

    /// The whole answer.
    fn finish(self: Box<Self>, sink: &mut dyn DeltaSink) -> ModelAnswer;
}

/// How the pieces of a streamed answer are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events.
    Events,
    /// A JSON object a line.
    Lines,
}

/// A server, as configured.
pub struct Server<W> {
    name: String,
    kind: &'static str,
    config: ServerConfig,
    headers: HeaderMap,
    /// Where every model is asked, unless its name is part of the address.
    endpoint: Option<reqwest::Url>,
    plain: Connection,
    secure: Connection,
    breaker: Option<Breaker>,
    line: Line,
    wire: W,
    /// What a server may echo and must not be shown.
    secrets: Secrets,
}

/// What a request goes over.
enum Line {
    Network,
    Recorded(Arc<Recorder>, Value),
    Cassette(Box<Tape>),
}

impl<W: Wire> Server<W> {
    /// A provider for this configuration, which has been checked.
    pub fn new(name: String, kind: &'static str, config: ServerConfig, wire: W) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let accepted = match wire.framing() {
            Framing::Events => "text/event-stream, application/json",
            Framing::Lines => "application/x-ndjson, application/json",
        };
        headers.insert(ACCEPT, HeaderValue::from_static(accepted));
        let given = config.headers.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in wire.headers().iter().map(|(key, value)| (*key, *value)).chain(given) {
            let at = || format!("config.llm_providers.{name}.headers.{key}");
            let key = HeaderName::try_from(key).map_err(|_| Error::schema(at(), "this is not an HTTP header name"))?;
            let value = HeaderValue::try_from(value)
                .map_err(|_| Error::schema(at(), "this is not an HTTP header value").with_hint("visible ASCII only"))?;
            headers.insert(key, value);
        }
        let connection = |tls: bool| Connection {
            tls,
            connect_timeout: bound(config.timeouts.connect_ms),
            proxy: config.proxy.clone(),
            ca_file: config.ca_file.clone().filter(|_| tls),
        };
        let (plain, secure) = (connection(false), connection(true));
        let breaker = config.circuit_breaker.map(Breaker::new);
        let secrets = Secrets::default();
        secrets.learn_url(&config.base_url);
        config.proxy.iter().for_each(|proxy| secrets.learn_url(proxy));
        config.headers.iter().for_each(|(name, value)| secrets.learn_configured(name, value));
        let line = Line::Network;
        let mut server =
            Self { name, kind, config, headers, endpoint: None, plain, secure, breaker, line, wire, secrets };
        let endpoint = server.chat_url(
            &server.config.base_url,
            "model",
            &format!("config.llm_providers.{}.base_url", server.name),
        )?;
        server.endpoint = Some(endpoint).filter(|_| !server.wire.names_model_in_url());
        if let Some(Secret::Literal(key)) = &server.config.api_key {
            let (header, value) = server.key(key)?;
            // What the host gives as a header goes before the key.
            server.headers.entry(header).or_insert(value);
        }
        Ok(server)
    }

    /// A provider that answers as this cassette says.
    pub fn replaying(name: String, retry: RetryConfig, tape: Tape, wire: W) -> Result<Self> {
        // Where it was is not known; only what stands behind that is compared.
        let config = ServerConfig { base_url: "http://replay".into(), retry, ..ServerConfig::unbounded() };
        let mut server = Self::new(name, "replay", config, wire)?;
        server.line = Line::Cassette(Box::new(tape));
        Ok(server)
    }

    /// The same, with every exchange written down.
    #[must_use]
    pub fn recorded(mut self, recorder: Option<&Arc<Recorder>>) -> Self {
        if let Some(recorder) = recorder {
            // Its key must not be written down even where another provider is told of it.
            let key = self.config.api_key.as_ref().and_then(|secret| secret.reveal("api_key").ok());
            key.iter().for_each(|key| recorder.learn(key));
            self.line = Line::Recorded(Arc::clone(recorder), self.wire.settings());
        }
        self
    }

    fn key(&self, key: &str) -> Result<(HeaderName, HeaderValue)> {
        self.secrets.learn(key);
        let (name, value) = self.wire.key_header(key);
        let mut value = HeaderValue::try_from(value).map_err(|_| {
            let path = format!("config.llm_providers.{}.api_key", self.name);
            Error::schema(path, "the key has characters that no key has")
                .with_hint("check for line breaks and quotes around it")
        })?;
        value.set_sensitive(true);
        Ok((name, value))
    }

    fn chat_url(&self, base: &str, model: &str, path: &str) -> Result<reqwest::Url> {
        self.url(base, |base| self.wire.url(base, model), path)
    }

    /// A query, such as Azure's `api-version`, stays behind the path.
    fn url(&self, base: &str, below: impl FnOnce(&str) -> String, path: &str) -> Result<reqwest::Url> {
        let (base, query) = base.split_once('?').map_or((base, None), |(base, query)| (base, Some(query)));
        let mut url = reqwest::Url::parse(&below(base.trim_end_matches('/')))
            .map_err(|error| Error::schema(path, format!("not a URL: {error}")))?;
        if let Some(query) = query {
            let own = url.query().map(|own| format!("{own}&")).unwrap_or_default();
            url.set_query(Some(&format!("{own}{query}")));
        }
        Ok(url)
    }

    async fn request(&self, request: &ModelRequest<'_>, sink: &mut dyn DeltaSink) -> Result<ModelAnswer> {
        request.requests_made.fetch_add(1, Ordering::Relaxed);
        // Pinned here: a future that is handed on by value is there once for each that has it.
        let mut striking = Striking::new(sink, &self.secrets);
        let answer = self.guarded(pin!(self.attempt(request, &mut striking))).await;
        if let Line::Recorded(recorder, _) = &self.line
            && let Some(problem) = recorder.take_problem()
        {
            sink.warning("record_failed", &problem);
        }
        answer
    }

    /// Holds an exchange to the circuit breaker and to the total timeout. Its error has no secret.
    async fn guarded<T>(&self, exchange: impl Future<Output = Result<T>>) -> Result<T> {
        let exchange = async {
            let answer = self.in_time(exchange).await;
            answer.map_err(|error| self.secrets.strike_error(error))
        };
        let Some(breaker) = &self.breaker else { return exchange.await };
        let attempt = breaker.enter(&self.name)?;
        let answer = exchange.await;
        attempt.ended(&answer);
        answer
    }

    async fn in_time<T>(&self, exchange: impl Future<Output = Result<T>>) -> Result<T> {
        match self.config.timeouts.total_ms {
            0 => exchange.await,
            total => timeout(Duration::from_millis(total), exchange)
                .await
                .unwrap_or_else(|_| Err(self.timed_out("the whole answer", "total_ms", total))),
        }
    }
}

impl<W: Wire> Provider for Server<W> {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn profile(&self, model: &str) -> ModelProfile {
        self.wire.profile(model)
    }

    fn cache_rules(&self, profile: &ModelProfile) -> Option<CacheRules> {
        self.wire.cache_rules(profile)
    }

    fn retry(&self) -> RetryConfig {
        self.config.retry
    }

    fn request<'a>(
        &'a self,
        request: &'a ModelRequest<'a>,
        sink: &'a mut dyn DeltaSink,
    ) -> BoxFuture<'a, Result<ModelAnswer>> {
        Box::pin(self.request(request, sink))
    }

    fn can_embed(&self) -> bool {
        self.wire.embeddings().is_some()
    }

    fn embedding_model(&self) -> Option<&str> {
        self.config.embedding_model.as_deref()
    }

    fn embed<'a>(&'a self, request: &'a EmbedRequest<'a>) -> BoxFuture<'a, Result<Embeddings>> {
        Box::pin(async move {
            match self.wire.embeddings() {
                Some(wire) => self.guarded(pin!(self.embed(wire, request))).await,
                None => Err(unsupported(&self.name, self.kind)),
            }
        })
    }
}

fn bound(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}
