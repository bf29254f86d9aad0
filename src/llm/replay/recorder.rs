//! Writes exchanges down as they happen.
//!
//! A cassette that cannot be written is a warning, never a failed run.

use super::cassette::{Bytes, End, Exchange, Piece, Request, Response};
use crate::llm::secrets::{MARK, Secrets, is_secret_name, strike_url};
use crate::types::{Error, Result, Status, millis};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How many bytes of one answer are written down: what follows is left out.
const MAX_BODY: usize = 64 << 20;

/// A cassette that is being recorded.
pub struct Recorder {
    path: String,
    file: Mutex<File>,
    next: AtomicU64,
    secrets: Secrets,
    /// Why a line is missing, until somebody was told.
    problem: Mutex<Option<String>>,
}

/// Who speaks, and how the answer is read.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Key of `llm_providers`.
    pub provider: &'a str,
    /// The wire family.
    pub family: &'static str,
    /// How it is set up.
    pub settings: &'a Value,
}

impl Recorder {
    /// Opens a cassette, a new one for its owner alone. What one has already stays.
    pub fn open(path: &str) -> Result<Arc<Self>> {
        let cannot = |error: std::io::Error| {
            Error::new(Status::Io, format!("the cassette {path:?} cannot be written: {error}"))
                .with_path("config.record.path")
                .with_hint("check that its folder exists and may be written to")
        };
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(cannot)?;
        let mut lines = 0;
        // Only of what can be read from its start: a device has no lines to count.
        if file.metadata().is_ok_and(|about| about.is_file()) {
            let mut reader = BufReader::new(&file);
            while reader.skip_until(b'\n').map_err(cannot)? > 0 {
                lines += 1;
            }
        }
        Ok(Arc::new(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            next: AtomicU64::new(lines),
            secrets: Secrets::default(),
            problem: Mutex::default(),
        }))
    }

    /// Learns a key that must not be written down.
    pub fn learn(&self, secret: &str) {
        self.secrets.learn(secret);
    }

    /// An exchange begins: a request is about to be sent.
    pub fn begin(self: &Arc<Self>, subject: Subject<'_>, url: &str, headers: &HeaderMap, body: &[u8]) -> Take {
        for (name, value) in headers {
            if is_secret_name(name.as_str())
                && let Ok(value) = value.to_str()
            {
                self.secrets.learn_header(value);
            }
        }
        let said = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            let value = match is_secret_name(name.as_str()) {
                true => MARK.to_owned(),
                false => self.secrets.strike(&String::from_utf8_lossy(value.as_bytes())),
            };
            (name.as_str().to_owned(), value)
        };
        let body = self.secrets.strike(&String::from_utf8_lossy(body));
        let request = Request {
            method: "POST".into(),
            url: self.secrets.strike(&strike_url(url)),
            headers: headers.iter().map(said).collect(),
            body: serde_json::from_str(&body).unwrap_or(Value::String(body)),
        };
        let Subject { provider, family, settings } = subject;
        let response = Response { status: 0, headers: BTreeMap::new(), chunks: Vec::new(), end: End::Dropped };
        let exchange = Exchange {
            n: self.next.fetch_add(1, Ordering::Relaxed),
            provider: provider.to_owned(),
            family: family.to_owned(),
            settings: settings.clone(),
            request,
            response,
        };
        Take { recorder: Arc::clone(self), exchange, began: Instant::now(), pieces: Vec::new(), bytes: 0 }
    }

    /// What has gone wrong since this was asked last.
    pub fn take_problem(&self) -> Option<String> {
        self.problem.lock().take()
    }

    fn write(&self, exchange: &Exchange) {
        let written = serde_json::to_string(exchange).map_err(std::io::Error::other).and_then(|mut line| {
            line.push('\n');
            // One write, so that runtimes which share a cassette do not mix their lines.
            self.file.lock().write_all(line.as_bytes())
        });
        if let Err(error) = written {
            let problem = format!("an exchange could not be written to the cassette {:?}: {error}", self.path);
            tracing::warn!("{problem}");
            *self.problem.lock() = Some(problem);
        }
    }
}

/// An exchange under way. It is written down when it is dropped, unless it was never answered.
pub struct Take {
    recorder: Arc<Recorder>,
    exchange: Exchange,
    began: Instant,
    pieces: Vec<(u64, bytes::Bytes)>,
    bytes: usize,
}

impl Take {
    /// The head of the answer.
    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.exchange.response.status = status.as_u16();
        self.exchange.response.headers = headers
            .iter()
            .filter(|(name, _)| is_kept(name.as_str()))
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                (name.as_str().to_owned(), self.recorder.secrets.strike(&value))
            })
            .collect();
    }

    /// More of its body.
    pub fn piece(&mut self, piece: &bytes::Bytes) {
        self.bytes += piece.len();
        if self.bytes <= MAX_BODY {
            let at_ms = millis(self.began.elapsed());
            self.pieces.push((at_ms, piece.clone()));
        }
    }

    /// How it ended.
    pub fn end(&mut self, is_whole: bool) {
        self.exchange.response.end = if is_whole { End::Complete } else { End::Broken };
    }
}

impl Drop for Take {
    /// Not handed to another thread: what was told to be recorded is there when the run has ended.
    fn drop(&mut self) {
        if self.exchange.response.status == 0 {
            return;
        }
        let (times, pieces): (Vec<u64>, Vec<bytes::Bytes>) = std::mem::take(&mut self.pieces).into_iter().unzip();
        let struck = self.recorder.secrets.strike_pieces(&pieces);
        let chunks = times.into_iter().zip(struck).map(|(at_ms, bytes)| Piece { at_ms, bytes: Bytes::from(bytes) });
        self.exchange.response.chunks = chunks.collect();
        self.recorder.write(&self.exchange);
    }
}

/// The headers of an answer that somebody reads.
fn is_kept(name: &str) -> bool {
    matches!(name, "content-type" | "x-request-id" | "request-id" | "retry-after" | "retry-after-ms" | "x-should-retry")
        || name.contains("ratelimit-")
}
