//! Plays what was recorded: the nth request gets the nth answer, if it is the nth request.

use super::cassette::{End, Exchange};
use super::diff::differences;
use crate::config::ReplayConfig;
use crate::types::{Error, ProviderDetail, Result, Status};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The exchanges of one provider.
pub struct Tape {
    name: String,
    path: String,
    family: String,
    settings: Value,
    keep_timing: bool,
    exchanges: Mutex<VecDeque<Exchange>>,
    /// How many there were.
    recorded: usize,
}

impl Tape {
    /// Reads the cassette for the provider `name`; `at` is where that is configured.
    pub fn load(name: &str, config: &ReplayConfig, at: &str) -> Result<Self> {
        let file = &config.path;
        let wrong = |message: String| Error::schema(format!("{at}.path"), message);
        let text = std::fs::read_to_string(file)
            .map_err(|error| wrong(format!("the cassette {file:?} cannot be read: {error}")))?;
        let mut exchanges = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let exchange: Exchange = serde_json::from_str(line).map_err(|error| {
                wrong(format!("line {} of the cassette {file:?} is not an exchange: {error}", index + 1))
                    .with_hint("cassettes are written by \"record\" in the runtime config")
            })?;
            exchanges.push(exchange);
        }
        let names: BTreeSet<String> = exchanges.iter().map(|exchange| exchange.provider.clone()).collect();
        let all = names.iter().cloned().collect::<Vec<_>>().join(", ");
        let chosen = match (&config.provider, names.first()) {
            (Some(wanted), _) if names.contains(wanted) => wanted.clone(),
            (Some(wanted), _) => {
                return Err(Error::schema(
                    format!("{at}.provider"),
                    format!("the cassette {file:?} has nothing of the provider {wanted:?}"),
                )
                .with_hint(format!("it has: {all}")));
            }
            (None, Some(only)) if names.len() == 1 => only.clone(),
            (None, Some(_)) => {
                return Err(Error::schema(format!("{at}.provider"), "the cassette has more than one provider")
                    .with_hint(format!("name one of: {all}")));
            }
            (None, None) => return Err(wrong(format!("the cassette {file:?} is empty"))),
        };
        exchanges.retain(|exchange| exchange.provider == chosen);
        exchanges.sort_by_key(|exchange| exchange.n);
        let (family, settings) = match exchanges.first() {
            Some(first) => (first.family.clone(), first.settings.clone()),
            None => return Err(wrong(format!("the cassette {file:?} is empty"))),
        };
        if exchanges.iter().any(|exchange| exchange.family != family || exchange.settings != settings) {
            return Err(wrong(format!("the provider {chosen:?} was configured differently while it was recorded"))
                .with_hint("record to an empty file"));
        }
        Ok(Self {
            name: name.to_owned(),
            path: file.clone(),
            family,
            settings,
            keep_timing: config.keep_timing,
            recorded: exchanges.len(),
            exchanges: Mutex::new(exchanges.into()),
        })
    }

    /// The wire family that reads the answers.
    pub fn family(&self) -> &str {
        &self.family
    }

    /// The wire as it was set up.
    pub fn wire<W: DeserializeOwned>(&self) -> Result<W> {
        serde_json::from_value(self.settings.clone())
            .map_err(|error| self.unreadable(&format!("its settings: {error}")))
    }

    /// That a cassette is not of this version.
    pub fn unreadable(&self, why: &str) -> Error {
        Error::schema(
            format!("config.llm_providers.{}.path", self.name),
            format!("the cassette {:?} cannot be played: {why}", self.path),
        )
        .with_hint("record it again with this version")
    }

    /// The answer to the next request, if that is what was recorded.
    pub fn play(&self, url: &reqwest::Url, body: &[u8]) -> Result<Played> {
        let mut exchanges = self.exchanges.lock();
        let number = self.recorded - exchanges.len() + 1;
        let Some(next) = exchanges.front() else {
            let message = format!("the cassette {:?} has {} requests, and this is one more", self.path, self.recorded);
            return Err(self.failed(message, "replay_exhausted").with_hint("record it again"));
        };
        let path_of = |url: &str| reqwest::Url::parse(url).map(|url| url.path().to_owned()).unwrap_or_default();
        let then = path_of(&next.request.url);
        let difference = match then.ends_with(url.path()) {
            true => {
                let body: Value = serde_json::from_slice(body)
                    .map_err(|error| Error::internal(format!("a request that is not JSON: {error}")))?;
                differences(&next.request.body, &body)
            }
            false => format!("the path of the URL: recorded {then:?}, now {:?}", url.path()),
        };
        if !difference.is_empty() {
            let message = format!("request {number} is not the one in the cassette {:?}: {difference}", self.path);
            return Err(self
                .failed(message, "replay_mismatch")
                .with_hint("undo what changed the request, or record the cassette again"));
        }
        match exchanges.pop_front() {
            Some(exchange) => self.played(exchange),
            None => Err(Error::internal("an exchange vanished")),
        }
    }

    fn played(&self, exchange: Exchange) -> Result<Played> {
        let response = exchange.response;
        let damaged = || self.unreadable("an answer in it is damaged");
        let mut headers = HeaderMap::new();
        for (name, value) in &response.headers {
            let name = HeaderName::try_from(name).map_err(|_| damaged())?;
            headers.insert(name, HeaderValue::try_from(value).map_err(|_| damaged())?);
        }
        let mut pieces = VecDeque::with_capacity(response.chunks.len());
        for piece in response.chunks {
            pieces.push_back((piece.at_ms, piece.bytes.into_bytes().ok_or_else(damaged)?.into()));
        }
        Ok(Played {
            status: StatusCode::from_u16(response.status).map_err(|_| damaged())?,
            headers,
            pieces,
            is_whole: response.end != End::Broken,
            began: self.keep_timing.then(Instant::now),
        })
    }

    fn failed(&self, message: String, code: &'static str) -> Error {
        Error::new(Status::Provider, format!("the provider {:?}: {message}", self.name))
            .with_code(code)
            .with_provider(ProviderDetail { provider: self.name.clone(), ..ProviderDetail::default() })
    }
}

/// An answer that is being played.
pub struct Played {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    pieces: VecDeque<(u64, bytes::Bytes)>,
    is_whole: bool,
    /// When it began, if it shall come as slowly as it came.
    began: Option<Instant>,
}

impl Played {
    /// The next piece of the body; an error where the connection broke. Cancel safe.
    pub async fn piece(&mut self) -> Result<Option<bytes::Bytes>, ()> {
        match (self.began, self.pieces.front()) {
            (Some(began), Some((at_ms, _))) => sleep_until(began + Duration::from_millis(*at_ms)).await,
            // Others have their turn as they do beside a real connection.
            (None, _) | (_, None) => tokio::task::yield_now().await,
        }
        match self.pieces.pop_front() {
            Some((_, piece)) => Ok(Some(piece)),
            None if self.is_whole => Ok(None),
            None => Err(()),
        }
    }
}
