//! OpenAI Chat Completions, and every server that claims to be compatible.
//!
//! [`encode`] and [`decode`] are pure; this file moves the bytes: one POST, the answer read as it comes, deltas told
//! as they are decoded, with backpressure up to the socket. Timeouts: connect, first byte, idle, total.

mod decode;
mod encode;

pub use decode::{Frame, decode};
pub use encode::{Dialect, encode};

use super::classify::Failure;
use super::http::{Connection, connection_error};
use super::{Assembler, DeltaSink, ModelAnswer, ModelRequest, Provider, SseReader};
use crate::config::{ModelProfile, OpenAiConfig, RetryConfig, Secret, StructuredOutput};
use crate::types::{Category, Error, ProviderDetail, Result, Status};
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Map;
use std::borrow::Cow;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A server, as configured.
pub struct OpenAiChat {
    name: String,
    kind: &'static str,
    config: OpenAiConfig,
    headers: HeaderMap,
    endpoint: reqwest::Url,
    is_openai: bool,
}

/// What an error page may have in bytes before it is cut.
const MAX_ERROR_BODY: usize = 64 << 10;
/// What an answer that is not streamed may have in bytes.
const MAX_WHOLE_BODY: usize = 64 << 20;

impl OpenAiChat {
    /// A provider for this configuration, which has been checked.
    pub fn new(name: String, kind: &'static str, config: OpenAiConfig) -> Result<Self> {
        const OPENAI: &str = "https://api.openai.com/v1";
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        if let Some(organization) = &config.organization {
            let value = HeaderValue::try_from(organization).map_err(|_| {
                Error::schema(format!("config.llm_providers.{name}.organization"), "this is not an HTTP header value")
            })?;
            headers.insert(HeaderName::from_static("openai-organization"), value);
        }
        if let Some(Secret::Literal(key)) = &config.api_key {
            headers.insert(AUTHORIZATION, bearer(key, &name)?);
        }
        for (key, value) in &config.headers {
            // Checked when the configuration was parsed.
            if let (Ok(key), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
                headers.insert(key, value);
            }
        }
        let base = config.base_url.as_deref().unwrap_or(OPENAI);
        let endpoint = endpoint(base, &format!("config.llm_providers.{name}.base_url"))?;
        let is_openai = endpoint.host_str() == Some("api.openai.com");
        Ok(Self { name, kind, config, headers, endpoint, is_openai })
    }

    async fn request(&self, request: &ModelRequest<'_>, sink: &mut dyn DeltaSink) -> Result<ModelAnswer> {
        request.requests_made.fetch_add(1, Ordering::Relaxed);
        match self.config.timeouts.total_ms {
            0 => self.attempt(request, sink).await,
            total => timeout(Duration::from_millis(total), self.attempt(request, sink))
                .await
                .unwrap_or_else(|_| Err(self.timed_out("the whole answer", "total_ms", total))),
        }
    }

    async fn attempt(&self, request: &ModelRequest<'_>, sink: &mut dyn DeltaSink) -> Result<ModelAnswer> {
        let dialect = Dialect { stream: self.config.stream.unwrap_or(true), is_openai: self.is_openai };
        let body = encode(request, dialect)?;
        let overridden;
        let endpoint = match &request.model.api_base {
            None => &self.endpoint,
            Some(base) => {
                overridden = endpoint_of_agent(base)?;
                &overridden
            }
        };
        let mut response = self.send(request, endpoint, body).await?;
        self.tell_rate_limit(response.headers(), sink);
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let body = self.read_bounded(response, MAX_ERROR_BODY, sink).await.unwrap_or_default();
            return Err(Failure { provider: &self.name, status: Some(status), headers: Some(&headers), body: &body }
                .into_error());
        }
        // Taken out, since they would keep the buffer they were read into for as long as the stream lasts.
        let headers = std::mem::take(response.headers_mut());
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type.starts_with("application/json") {
            return self.read_whole(request, response, sink).await;
        }
        if content_type.starts_with("text/html") {
            let body = self.read_bounded(response, MAX_ERROR_BODY, sink).await.unwrap_or_default();
            return Err(Failure { provider: &self.name, status: Some(status), headers: None, body: &body }.into_error());
        }
        self.read_stream(request, response, sink).await
    }

    async fn send(
        &self,
        request: &ModelRequest<'_>,
        endpoint: &reqwest::Url,
        body: Vec<u8>,
    ) -> Result<reqwest::Response> {
        let timeouts = &self.config.timeouts;
        let client = request
            .http
            .client(Connection { tls: endpoint.scheme() == "https", connect_timeout: bound(timeouts.connect_ms) })?;
        let mut post = reqwest::Request::new(Method::POST, endpoint.clone());
        *post.headers_mut() = self.headers.clone();
        if let Some(secret) = self.config.api_key.as_ref().filter(|secret| !matches!(secret, Secret::Literal(_))) {
            let key = secret.reveal(&format!("config.llm_providers.{}.api_key", self.name))?;
            post.headers_mut().insert(AUTHORIZATION, bearer(&key, &self.name)?);
        }
        *post.body_mut() = Some(body.into());
        let sent = client.execute(post);
        let sent = match bound(timeouts.first_byte_ms) {
            None => sent.await,
            Some(limit) => timeout(limit, sent)
                .await
                .map_err(|_| self.timed_out("the first byte", "first_byte_ms", timeouts.first_byte_ms))?,
        };
        sent.map_err(|error| connection_error(&self.name, endpoint.as_str(), &error))
    }

    async fn read_stream(
        &self,
        request: &ModelRequest<'_>,
        mut response: reqwest::Response,
        sink: &mut dyn DeltaSink,
    ) -> Result<ModelAnswer> {
        let mut reader = SseReader::new();
        let mut assembler = Assembler::new(request.transcript);
        let mut malformed = 0_u32;
        let idle_ms = self.config.timeouts.idle_ms;
        let mut idle = pin!(sleep(Duration::ZERO));
        loop {
            if idle_ms > 0 {
                idle.as_mut().reset(Instant::now() + Duration::from_millis(idle_ms));
            }
            let read = loop {
                tokio::select! {
                    biased;
                    read = response.chunk() => break read,
                    () = sink.ready(), if sink.is_holding() => {}
                    () = &mut idle, if idle_ms > 0 => return Err(self.timed_out("more of the answer", "idle_ms", idle_ms)),
                }
            };
            let chunk = match read {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => {
                    return match assembler.is_finished() {
                        // Everything was said; only the goodbye is missing.
                        true => Ok(assembler.into_answer(sink)),
                        false => Err(self.broken(&error, sink.has_emitted())),
                    };
                }
            };
            reader.push(&chunk);
            loop {
                let event = match reader.next_event() {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(_) => return Err(self.oversized("one line of the stream")),
                };
                match decode(&event.data, &self.name, &mut assembler, sink) {
                    Frame::Taken => {}
                    Frame::Done => {
                        finish_reading(&mut response).await;
                        return Ok(assembler.into_answer(sink));
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
            Ok(Some(event)) => match decode(&event.data, &self.name, &mut assembler, sink) {
                Frame::Failed(error) => return Err(error),
                Frame::Malformed => tell_malformed(&event.data, malformed + 1, sink),
                Frame::Taken | Frame::Done => {}
            },
            Ok(None) => {}
            Err(_) => return Err(self.oversized("one line of the stream")),
        }
        if !assembler.is_finished() {
            return Err(self.truncated("the stream ended before the model did", sink.has_emitted()));
        }
        Ok(assembler.into_answer(sink))
    }

    async fn read_whole(
        &self,
        request: &ModelRequest<'_>,
        response: reqwest::Response,
        sink: &mut dyn DeltaSink,
    ) -> Result<ModelAnswer> {
        let body = self.read_bounded(response, MAX_WHOLE_BODY, sink).await?;
        // Checked first, which is fast; replaced only where it must be.
        let text = match std::str::from_utf8(&body) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(&body),
        };
        let mut assembler = Assembler::new(request.transcript);
        match decode(&text, &self.name, &mut assembler, sink) {
            Frame::Taken if assembler.is_finished() => Ok(assembler.into_answer(sink)),
            Frame::Taken | Frame::Done | Frame::Malformed => Err(Error::new(
                Status::Provider,
                format!("the provider {:?} answered JSON that is not a chat completion: {:.200}", self.name, text),
            )
            .with_code("bad_answer")
            .with_hint("check base_url: it is used as given and usually ends in /v1")
            .with_provider(self.detail())),
            Frame::Failed(error) => Err(error),
        }
    }

    /// Reads a body that should be small, under the idle timeout. For an error page what was read counts, so being cut
    /// at the bound is no failure there.
    async fn read_bounded(
        &self,
        mut response: reqwest::Response,
        most: usize,
        sink: &mut dyn DeltaSink,
    ) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let idle_ms = self.config.timeouts.idle_ms;
        loop {
            let chunk = response.chunk();
            let read = match bound(idle_ms) {
                None => chunk.await,
                Some(limit) => {
                    timeout(limit, chunk).await.map_err(|_| self.timed_out("more of the answer", "idle_ms", idle_ms))?
                }
            };
            match read {
                Ok(Some(chunk)) if body.len() + chunk.len() <= most => body.extend_from_slice(&chunk),
                Ok(Some(chunk)) if most == MAX_ERROR_BODY => {
                    body.extend_from_slice(chunk.get(..most.saturating_sub(body.len())).unwrap_or_default());
                    return Ok(body);
                }
                Ok(Some(_)) => return Err(self.oversized("the answer")),
                Ok(None) => return Ok(body),
                Err(error) => return Err(self.broken(&error, sink.has_emitted())),
            }
        }
    }

    fn tell_rate_limit(&self, headers: &HeaderMap, sink: &mut dyn DeltaSink) {
        let mut limits = Map::new();
        for (name, value) in headers {
            if (name.as_str().starts_with("x-ratelimit-") || name == RETRY_AFTER)
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

    fn broken(&self, error: &reqwest::Error, has_emitted: bool) -> Error {
        let error = connection_error(&self.name, self.endpoint.as_str(), error);
        self.truncated(&format!("the stream was cut off: {}", error.message()), has_emitted)
    }

    fn oversized(&self, what: &str) -> Error {
        Error::new(Status::Provider, format!("{what} of the provider {:?} exceeds what is accepted", self.name))
            .with_code("oversized_answer")
            .with_hint("this is not what a chat server sends: check base_url")
            .with_provider(self.detail())
    }
}

impl Provider for OpenAiChat {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    /// OpenAI's own server holds models to a schema; of others only the table or the host can say.
    fn profile(&self, _: &str) -> ModelProfile {
        let native = self.is_openai.then_some(StructuredOutput::Native);
        ModelProfile { structured_output: native, ..ModelProfile::default() }
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
}

/// After the last word there is only the end of the body. A connection whose body was read to its end is used again, which
/// saves the next request a handshake; but no server's dawdling is worth more than a moment.
async fn finish_reading(response: &mut reqwest::Response) {
    let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
    let _ = timeout(Duration::from_millis(10), rest).await;
}

/// A stream of nothing but malformed frames must not flood the host: the first few are told.
fn tell_malformed(payload: &str, count: u32, sink: &mut dyn DeltaSink) {
    if count <= 3 {
        sink.warning("malformed_frame", &format!("a frame of the stream is not JSON and was skipped: {payload:.200}"));
    }
}

fn bound(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn bearer(key: &str, provider: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| {
        Error::schema(format!("config.llm_providers.{provider}.api_key"), "the key has characters that no key has")
            .with_hint("check for line breaks and quotes around it")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn endpoint(base: &str, path: &str) -> Result<reqwest::Url> {
    let base = base.trim_end_matches('/');
    // A query, such as Azure's api-version, stays behind the path.
    let (base, query) = base.split_once('?').map_or((base, None), |(base, query)| (base, Some(query)));
    let mut url = reqwest::Url::parse(&format!("{base}/chat/completions"))
        .map_err(|error| Error::schema(path, format!("not a URL: {error}")))?;
    url.set_query(query);
    Ok(url)
}

fn endpoint_of_agent(base: &str) -> Result<reqwest::Url> {
    endpoint(base, "agent.model.api_base")
}
