//! A model server over HTTP: one POST, the answer read as it comes, deltas told as they are decoded, with backpressure up
//! to the socket. Timeouts: connect, first byte, idle, total.
//!
//! What is asked and how the answer reads is the business of a [`Wire`]: one for each wire family. Embeddings take the same
//! way, and come whole.

use super::breaker::Breaker;
use super::classify::Failure;
use super::embed::unsupported;
use super::frame::Frame;
use super::http::{Connection, connection_error};
use super::replay::{Subject, Tape};
use super::reply::{Broken, Reply};
use super::{
    CacheRules, Credentials, DeltaSink, EmbedRequest, EmbedWire, Embeddings, HttpPool, ModelAnswer, ModelRequest,
    Provider, Recorder, SseReader,
};
use crate::config::{ModelProfile, RetryConfig, Secret, ServerConfig};
use crate::types::{Category, Error, ProviderDetail, Result, Status, Transcript};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

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
}

/// What a request goes over.
enum Line {
    Network,
    Recorded(Arc<Recorder>, Value),
    Cassette(Box<Tape>),
}

/// What an exchange needs of whoever asks.
#[derive(Clone, Copy)]
struct Via<'a> {
    http: &'a HttpPool,
    credentials: &'a dyn Credentials,
}

impl<'a> Via<'a> {
    fn of(request: &ModelRequest<'a>) -> Self {
        Self { http: request.http, credentials: request.credentials }
    }
}

/// What an error page may have in bytes before it is cut.
const MAX_ERROR_BODY: usize = 64 << 10;
/// What an answer that is not streamed may have in bytes.
const MAX_WHOLE_BODY: usize = 64 << 20;
/// What a streamed answer may have in bytes: 128 000 tokens, each in a frame of its own, take a third of it.
const MAX_STREAMED_BODY: usize = 128 << 20;

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
        let mut server =
            Self { name, kind, config, headers, endpoint: None, plain, secure, breaker, line: Line::Network, wire };
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
        let answer = self.guarded(pin!(self.attempt(request, sink))).await;
        if let Line::Recorded(recorder, _) = &self.line
            && let Some(problem) = recorder.take_problem()
        {
            sink.warning("record_failed", &problem);
        }
        answer
    }

    /// Holds an exchange to the circuit breaker and to the total timeout.
    async fn guarded<T>(&self, exchange: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(breaker) = &self.breaker else { return self.in_time(exchange).await };
        let attempt = breaker.enter(&self.name)?;
        let answer = self.in_time(exchange).await;
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

    async fn attempt(&self, request: &ModelRequest<'_>, sink: &mut dyn DeltaSink) -> Result<ModelAnswer> {
        let body = self.wire.encode(request)?;
        let model = &request.model.model_name;
        let endpoint = match (&request.model.api_base, &self.endpoint) {
            (None, Some(endpoint)) => endpoint.clone(),
            (None, None) => self.chat_url(&self.config.base_url, model, "config.llm_providers")?,
            (Some(base), _) => self.chat_url(base, model, "agent.model.api_base")?,
        };
        let mut reply = self.send(Via::of(request), &endpoint, self.headers.clone(), body).await?;
        let headers = reply.take_headers();
        self.tell_rate_limit(&headers, sink);
        if let Some(refused) = self.refused(&mut reply, &headers, &endpoint).await {
            return Err(refused);
        }
        // A server of lines calls them plain JSON, too.
        let is_whole = is_of_type(&headers, "application/json") && self.wire.framing() == Framing::Events;
        drop(headers);
        if is_whole && let Some(answer) = self.read_whole(request, &mut reply, sink).await? {
            return Ok(answer);
        }
        self.read_stream(request, &mut reply, sink).await
    }

    async fn embed(&self, wire: &dyn EmbedWire, request: &EmbedRequest<'_>) -> Result<Embeddings> {
        let body = wire.encode(request)?;
        let below = |base: &str| wire.url(base, request.model);
        let endpoint = self.url(&self.config.base_url, below, "config.llm_providers")?;
        let mut headers = self.headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let via = Via { http: request.http, credentials: request.credentials };
        let mut reply = self.send(via, &endpoint, headers, body).await?;
        let headers = reply.take_headers();
        if let Some(refused) = self.refused(&mut reply, &headers, &endpoint).await {
            return Err(refused);
        }
        let body = self.read_bounded(&mut reply, false).await?;
        wire.decode(&body).ok_or_else(|| self.bad_answer(&String::from_utf8_lossy(&body)))
    }

    /// What an answer says that is none, by its status or its kind.
    async fn refused(&self, reply: &mut Reply, headers: &HeaderMap, endpoint: &reqwest::Url) -> Option<Error> {
        let status = reply.status();
        if status.is_success() && !is_of_type(headers, "text/html") {
            return None;
        }
        let body = self.read_page(reply).await;
        // Of a page that was not meant as an answer the headers say nothing.
        let headers = (!status.is_success()).then_some(headers);
        let error = Failure { provider: &self.name, status: Some(status), headers, body: &body }.into_error();
        // What to check is the address that base_url led to, whatever the family puts behind it.
        Some(match (status, error.hint()) {
            (StatusCode::NOT_FOUND, None) => {
                error.with_hint(format!("check model_name and base_url: what was asked is {}", place(endpoint)))
            }
            (StatusCode::METHOD_NOT_ALLOWED, None) => {
                error.with_hint(format!("check base_url: what was asked is {}", place(endpoint)))
            }
            _ => error,
        })
    }

    async fn send(&self, via: Via<'_>, endpoint: &reqwest::Url, headers: HeaderMap, body: Vec<u8>) -> Result<Reply> {
        if let Line::Cassette(tape) = &self.line {
            return tape.play(endpoint, &body).map(Reply::from_cassette);
        }
        let timeouts = &self.config.timeouts;
        let client = via.http.client(if endpoint.scheme() == "https" { &self.secure } else { &self.plain })?;
        let mut post = reqwest::Request::new(Method::POST, endpoint.clone());
        *post.headers_mut() = headers;
        if let Some(secret) = self.config.api_key.as_ref().filter(|secret| !matches!(secret, Secret::Literal(_))) {
            let key = match secret {
                Secret::Host(name) => via.credentials.ask(name, &self.name).await?,
                Secret::Env(_) | Secret::File(_) | Secret::Literal(_) => {
                    secret.reveal(&format!("config.llm_providers.{}.api_key", self.name))?
                }
            };
            let (header, value) = self.key(&key)?;
            post.headers_mut().entry(header).or_insert(value);
        }
        let take = match &self.line {
            Line::Recorded(recorder, settings) => {
                let subject = Subject { provider: &self.name, family: self.wire.family(), settings };
                Some(Box::new(recorder.begin(subject, endpoint.as_str(), post.headers(), &body)))
            }
            Line::Network | Line::Cassette(_) => None,
        };
        *post.body_mut() = Some(body.into());
        let mut sent = pin!(client.execute(post));
        let sent = match bound(timeouts.first_byte_ms) {
            None => sent.await,
            Some(limit) => timeout(limit, sent.as_mut())
                .await
                .map_err(|_| self.timed_out("the first byte", "first_byte_ms", timeouts.first_byte_ms))?,
        };
        let response = sent.map_err(|error| connection_error(&self.name, endpoint.as_str(), &error))?;
        Ok(Reply::from_connection(response, take))
    }

    async fn read_stream(
        &self,
        request: &ModelRequest<'_>,
        reply: &mut Reply,
        sink: &mut dyn DeltaSink,
    ) -> Result<ModelAnswer> {
        let mut reader = match self.wire.framing() {
            Framing::Events => SseReader::new(),
            Framing::Lines => SseReader::lines(),
        };
        let mut decoder = self.wire.decoder(&self.name, request.transcript);
        let mut read_bytes = 0_usize;
        let mut malformed = 0_u32;
        // What came before anything of the answer: a page or a failure, if nothing of it ever comes.
        let mut page = Vec::new();
        let mut is_stream = false;
        let idle_ms = self.config.timeouts.idle_ms;
        let mut idle = pin!(sleep(Duration::ZERO));
        loop {
            if idle_ms > 0 {
                idle.as_mut().reset(Instant::now() + Duration::from_millis(idle_ms));
            }
            let read = loop {
                tokio::select! {
                    biased;
                    read = reply.chunk() => break read,
                    () = sink.ready(), if sink.is_holding() => {}
                    () = &mut idle, if idle_ms > 0 => return Err(self.timed_out("more of the answer", "idle_ms", idle_ms)),
                }
            };
            let chunk = match read {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => {
                    return match decoder.is_finished() {
                        // Everything was said; only the goodbye is missing.
                        true => Ok(decoder.finish(sink)),
                        false => Err(self.broken(&error, sink.has_emitted())),
                    };
                }
            };
            read_bytes += chunk.len();
            if read_bytes > MAX_STREAMED_BODY {
                return Err(self.oversized("the stream"));
            }
            if is_stream {
                // Not to be held for as long as the stream lasts.
                page = Vec::new();
            } else {
                keep(&mut page, &chunk);
            }
            reader.push(&chunk);
            loop {
                let event = match reader.next_event() {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(_) => return Err(self.oversized("one line of the stream")),
                };
                match decoder.event(&event.name, &event.data, sink) {
                    Frame::Taken => is_stream = true,
                    Frame::Done => {
                        finish_reading(reply).await;
                        return Ok(decoder.finish(sink));
                    }
                    Frame::Malformed => {
                        malformed += 1;
                        tell_malformed(&event.data, malformed, sink);
                    }
                    Frame::Failed(error) => return Err(error),
                }
                if !sink.is_ready() {
                    sink.ready().await;
                }
            }
        }
        // The end of the bytes. A last event may lack its blank line.
        match reader.finish() {
            Ok(Some(event)) => match decoder.event(&event.name, &event.data, sink) {
                Frame::Failed(error) => return Err(error),
                Frame::Malformed => tell_malformed(&event.data, malformed + 1, sink),
                Frame::Taken | Frame::Done => is_stream = true,
            },
            Ok(None) => {}
            Err(_) => return Err(self.oversized("one line of the stream")),
        }
        if decoder.is_finished() {
            return Ok(decoder.finish(sink));
        }
        let page = String::from_utf8_lossy(&page);
        let page = page.trim();
        if is_stream || page.is_empty() || is_events(page) || is_cut_json(page) {
            return Err(self.truncated("the stream ended before the model did", sink.has_emitted()));
        }
        self.understand(page, self.wire.decoder(&self.name, request.transcript), sink)
    }

    /// Reads an answer that comes whole; none where it is a stream after all, which is then still to be read.
    async fn read_whole(
        &self,
        request: &ModelRequest<'_>,
        reply: &mut Reply,
        sink: &mut dyn DeltaSink,
    ) -> Result<Option<ModelAnswer>> {
        let body = self.read_bounded(reply, sink.has_emitted()).await?;
        // Checked first, which is fast; replaced only where it must be.
        let text = match std::str::from_utf8(&body) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(&body),
        };
        if is_events(&text) {
            *reply = Reply::from_body(body);
            return Ok(None);
        }
        self.understand(&text, self.wire.decoder(&self.name, request.transcript), sink).map(Some)
    }

    /// What a whole body is: an answer, a failure, a page, or nothing that is known.
    fn understand(
        &self,
        text: &str,
        mut decoder: Box<dyn WireDecoder + '_>,
        sink: &mut dyn DeltaSink,
    ) -> Result<ModelAnswer> {
        match decoder.event("", text, sink) {
            Frame::Taken | Frame::Done if decoder.is_finished() => Ok(decoder.finish(sink)),
            Frame::Failed(error) => Err(error),
            Frame::Taken | Frame::Done | Frame::Malformed if !text.trim_start().starts_with('<') => {
                Err(self.bad_answer(text))
            }
            Frame::Taken | Frame::Done | Frame::Malformed => {
                let status = Some(StatusCode::OK);
                Err(Failure { provider: &self.name, status, headers: None, body: text.as_bytes() }.into_error())
            }
        }
    }

    /// Reads a body that comes whole.
    async fn read_bounded(&self, reply: &mut Reply, has_emitted: bool) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = self.read_more(reply, has_emitted).await? {
            if body.len() + chunk.len() > MAX_WHOLE_BODY {
                return Err(self.oversized("the answer"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Reads an error page: what was read counts, however it ends.
    async fn read_page(&self, reply: &mut Reply) -> Vec<u8> {
        let mut page = Vec::new();
        while let Ok(Some(chunk)) = self.read_more(reply, false).await {
            keep(&mut page, &chunk);
            if page.len() == MAX_ERROR_BODY {
                break;
            }
        }
        page
    }

    /// More of a body, under the idle timeout.
    async fn read_more(&self, reply: &mut Reply, has_emitted: bool) -> Result<Option<Bytes>> {
        let idle_ms = self.config.timeouts.idle_ms;
        let chunk = reply.chunk();
        let read = match bound(idle_ms) {
            None => chunk.await,
            Some(limit) => {
                timeout(limit, chunk).await.map_err(|_| self.timed_out("more of the answer", "idle_ms", idle_ms))?
            }
        };
        read.map_err(|error| self.broken(&error, has_emitted))
    }

    fn tell_rate_limit(&self, headers: &HeaderMap, sink: &mut dyn DeltaSink) {
        let mut limits = Map::new();
        for (name, value) in headers {
            if (name.as_str().contains("ratelimit-") || name == RETRY_AFTER)
                && let Ok(value) = value.to_str()
            {
                limits.insert(name.as_str().to_owned(), value.into());
            }
        }
        if !limits.is_empty() {
            sink.rate_limit(&self.name, limits);
        }
    }

    fn detail(&self) -> ProviderDetail {
        ProviderDetail { provider: self.name.clone(), ..ProviderDetail::default() }
    }

    fn timed_out(&self, what: &str, key: &str, limit_ms: u64) -> Error {
        Error::new(Status::Network, format!("the provider {:?} did not send {what} within {limit_ms} ms", self.name))
            .with_category(Category::Timeout)
            .with_code("timeout")
            .with_hint(format!("raise config.llm_providers.{}.timeouts.{key}, or check the server", self.name))
            .with_provider(self.detail())
    }

    fn truncated(&self, message: &str, has_emitted: bool) -> Error {
        Error::new(Status::Network, format!("the provider {:?}: {message}", self.name))
            .with_category(Category::Truncated)
            .with_code("truncated")
            .with_hint(if has_emitted {
                "what was streamed is incomplete; the call may be repeated"
            } else {
                "the call may be repeated"
            })
            .with_provider(self.detail())
    }

    fn broken(&self, broken: &Broken, has_emitted: bool) -> Error {
        let message = match broken {
            Broken::Connection(error) => {
                let error = connection_error(&self.name, &self.config.base_url, error);
                format!("the stream was cut off: {}", error.message())
            }
            Broken::Recorded => "the stream was cut off when it was recorded".to_owned(),
        };
        self.truncated(&message, has_emitted)
    }

    fn bad_answer(&self, text: &str) -> Error {
        Error::new(
            Status::Provider,
            format!("the provider {:?} answered what is not an answer of its API: {text:.200}", self.name),
        )
        .with_code("bad_answer")
        .with_hint("check base_url, and that the server speaks this API")
        .with_provider(self.detail())
    }

    fn oversized(&self, what: &str) -> Error {
        Error::new(Status::Provider, format!("{what} of the provider {:?} exceeds what is accepted", self.name))
            .with_code("oversized_answer")
            .with_hint("this is not what a chat server sends: check base_url")
            .with_provider(self.detail())
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

/// After the last word there is only the end of the body. A connection whose body was read to its end is used again, which
/// saves the next request a handshake; but no server's dawdling is worth more than a moment.
async fn finish_reading(reply: &mut Reply) {
    let rest = async { while let Ok(Some(_)) = reply.chunk().await {} };
    let _ = timeout(Duration::from_millis(10), rest).await;
}

/// A stream of nothing but malformed frames must not flood the host: the first few are told.
fn tell_malformed(payload: &str, count: u32, sink: &mut dyn DeltaSink) {
    if count <= 3 {
        sink.warning("malformed_frame", &format!("a frame of the stream is not JSON and was skipped: {payload:.200}"));
    }
}

/// An address without what may be secret in it.
fn place(url: &reqwest::Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// Keeps as much of a page as an error needs.
fn keep(page: &mut Vec<u8>, chunk: &[u8]) {
    let room = MAX_ERROR_BODY.saturating_sub(page.len()).min(chunk.len());
    page.extend_from_slice(chunk.get(..room).unwrap_or_default());
}

fn is_of_type(headers: &HeaderMap, kind: &str) -> bool {
    let given = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).and_then(|given| given.get(..kind.len()));
    given.is_some_and(|given| given.eq_ignore_ascii_case(kind.as_bytes()))
}

/// Whether a body is that of a stream, whatever it is called.
fn is_events(body: &str) -> bool {
    let body = body.trim_start_matches('\u{feff}').trim_start();
    ["data:", "event:", "id:", "retry:", ":"].iter().any(|field| body.starts_with(field))
}

/// Whether a text may be the beginning of JSON.
fn is_cut_json(text: &str) -> bool {
    text.starts_with(['{', '[']) && serde_json::from_str::<IgnoredAny>(text).is_err_and(|error| error.is_eof())
}

fn bound(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}
