//! One exchange: the request sent, the answer's head judged, its body handed to whoever reads it.

use super::{Framing, Line, Server, Wire, bound};
use crate::config::Secret;
use crate::llm::classify::Failure;
use crate::llm::http::connection_error;
use crate::llm::replay::Subject;
use crate::llm::reply::Reply;
use crate::llm::{Credentials, DeltaSink, EmbedRequest, EmbedWire, Embeddings, HttpPool, ModelAnswer, ModelRequest};
use crate::types::{Error, Result};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Map;
use std::pin::pin;
use tokio::time::timeout;

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

impl<W: Wire> Server<W> {
    /// Asks a model.
    pub(super) async fn attempt(&self, request: &ModelRequest<'_>, sink: &mut dyn DeltaSink) -> Result<ModelAnswer> {
        let body = self.wire.encode(request)?;
        let model = &request.model.model_name;
        let endpoint = match (&request.model.api_base, &self.endpoint) {
            (None, Some(endpoint)) => endpoint.clone(),
            (None, None) => self.chat_url(&self.config.base_url, model, "config.llm_providers")?,
            (Some(base), _) => {
                self.secrets.learn_url(base);
                self.chat_url(base, model, "agent.model.api_base")?
            }
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

    /// Embeds texts.
    pub(super) async fn embed(&self, wire: &dyn EmbedWire, request: &EmbedRequest<'_>) -> Result<Embeddings> {
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
        // Struck out before it is cut: half a key is too much.
        let body = self.secrets.strike_pieces(&[self.read_page(reply).await]).concat();
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
        let response = sent.map_err(|error| connection_error(&self.name, &place(endpoint), &error))?;
        Ok(Reply::from_connection(response, take))
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
}

/// An address without what may be secret in it.
pub(super) fn place(url: &reqwest::Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn is_of_type(headers: &HeaderMap, kind: &str) -> bool {
    let given = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).and_then(|given| given.get(..kind.len()));
    given.is_some_and(|given| given.eq_ignore_ascii_case(kind.as_bytes()))
}
