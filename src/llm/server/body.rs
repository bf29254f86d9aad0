//! Reading an answer: as a stream, whole, or as the page of somebody who has none. Every way has its bounds of bytes and of
//! time, and whoever keeps a connection open without saying anything is left.

use super::{Framing, Server, Wire, WireDecoder, bound};
use crate::config::TimeoutConfig;
use crate::llm::classify::Failure;
use crate::llm::frame::Frame;
use crate::llm::reply::Reply;
use crate::llm::{DeltaSink, ModelAnswer, ModelRequest, SseReader};
use crate::types::{Error, Result};
use http::StatusCode;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// What an error page may have in bytes before it is cut.
const MAX_ERROR_BODY: usize = 64 << 10;
/// What an answer that is not streamed may have in bytes.
const MAX_WHOLE_BODY: usize = 64 << 20;
/// What a streamed answer may have in bytes: 128 000 tokens, each in a frame of its own, take a third of it.
const MAX_STREAMED_BODY: usize = 128 << 20;

impl<W: Wire> Server<W> {
    /// Reads an answer as it comes.
    pub(super) async fn read_stream(
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
        // Whether any of it was another API's.
        let mut is_foreign = false;
        let mut patience = Patience::new(&self.config.timeouts);
        let mut timer = pin!(sleep(Duration::ZERO));
        loop {
            let deadline = patience.deadline();
            if let Some(deadline) = &deadline {
                timer.as_mut().reset(deadline.at);
            }
            let read = loop {
                tokio::select! {
                    biased;
                    read = reply.chunk() => break read,
                    () = sink.ready(), if sink.is_holding() => {}
                    () = &mut timer, if deadline.is_some() => return Err(self.overdue(deadline)),
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
            let mut has_said = false;
            loop {
                let event = match reader.next_event() {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(_) => return Err(self.oversized("one line of the stream")),
                };
                match decoder.event(&event.name, &event.data, sink) {
                    Frame::Taken => (is_stream, has_said) = (true, true),
                    Frame::Alive => is_stream = true,
                    Frame::Foreign => is_foreign = true,
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
                    // It was the host that took its time.
                    has_said = true;
                }
            }
            patience.heard(has_said);
        }
        // The end of the bytes. A last event may lack its blank line.
        match reader.finish() {
            Ok(Some(event)) => match decoder.event(&event.name, &event.data, sink) {
                Frame::Failed(error) => return Err(error),
                Frame::Malformed => tell_malformed(&event.data, malformed + 1, sink),
                Frame::Taken | Frame::Alive | Frame::Done => is_stream = true,
                Frame::Foreign => is_foreign = true,
            },
            Ok(None) => {}
            Err(_) => return Err(self.oversized("one line of the stream")),
        }
        if decoder.is_finished() {
            return Ok(decoder.finish(sink));
        }
        let page = String::from_utf8_lossy(&page);
        let page = page.trim();
        if is_foreign && !is_stream {
            return Err(self.bad_answer(page));
        }
        if is_stream || page.is_empty() || is_events(page) || is_cut_json(page) {
            return Err(self.truncated("the stream ended before the model did", sink.has_emitted()));
        }
        self.understand(page, self.wire.decoder(&self.name, request.transcript), sink)
    }

    /// Reads an answer that comes whole; none where it is a stream after all, which is then still to be read.
    pub(super) async fn read_whole(
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
            Frame::Taken | Frame::Alive | Frame::Foreign | Frame::Done | Frame::Malformed
                if !text.trim_start().starts_with('<') =>
            {
                Err(self.bad_answer(text))
            }
            Frame::Taken | Frame::Alive | Frame::Foreign | Frame::Done | Frame::Malformed => {
                let status = Some(StatusCode::OK);
                Err(Failure { provider: &self.name, status, headers: None, body: text.as_bytes() }.into_error())
            }
        }
    }

    /// Reads a body that comes whole.
    pub(super) async fn read_bounded(&self, reply: &mut Reply, has_emitted: bool) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut patience = Patience::new(&self.config.timeouts);
        loop {
            let deadline = patience.deadline();
            let read = match &deadline {
                None => reply.chunk().await,
                Some(Deadline { at, .. }) => {
                    timeout_at(*at, reply.chunk()).await.map_err(|_| self.overdue(deadline))?
                }
            };
            let Some(chunk) = read.map_err(|error| self.broken(&error, has_emitted))? else { return Ok(body) };
            if body.len() + chunk.len() > MAX_WHOLE_BODY {
                return Err(self.oversized("the answer"));
            }
            body.extend_from_slice(&chunk);
            // It says nothing before it is whole.
            patience.heard(false);
        }
    }

    /// Reads an error page: what was read counts, however it ends.
    pub(super) async fn read_page(&self, reply: &mut Reply) -> Vec<u8> {
        let mut page = Vec::new();
        let read = async {
            while let Ok(Some(chunk)) = reply.chunk().await {
                keep(&mut page, &chunk);
                if page.len() == MAX_ERROR_BODY {
                    break;
                }
            }
        };
        match bound(self.config.timeouts.idle_ms) {
            None => read.await,
            Some(limit) => _ = timeout(limit, read).await,
        }
        page
    }

    fn overdue(&self, deadline: Option<Deadline>) -> Error {
        match deadline {
            Some(Deadline { what: What::Bytes, limit_ms, .. }) => {
                self.timed_out("more of the answer", "idle_ms", limit_ms)
            }
            Some(Deadline { what: What::Progress, limit_ms, .. }) => {
                self.timed_out("anything that says something", "stall_ms", limit_ms)
            }
            None => Error::internal("nothing was waited for"),
        }
    }
}

/// How long a server is still waited for: for the next bytes, and for bytes that say something.
struct Patience {
    idle_ms: u64,
    stall_ms: u64,
    heard_at: Instant,
    said_at: Instant,
}

/// When it is over.
struct Deadline {
    at: Instant,
    what: What,
    limit_ms: u64,
}

enum What {
    Bytes,
    Progress,
}

impl Patience {
    fn new(timeouts: &TimeoutConfig) -> Self {
        let now = Instant::now();
        Self { idle_ms: timeouts.idle_ms, stall_ms: timeouts.stall_ms, heard_at: now, said_at: now }
    }

    fn heard(&mut self, has_said: bool) {
        self.heard_at = Instant::now();
        if has_said {
            self.said_at = self.heard_at;
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let after = |since: Instant, limit_ms: u64, what| {
            let at = bound(limit_ms).and_then(|limit| since.checked_add(limit))?;
            Some(Deadline { at, what, limit_ms })
        };
        let bytes = after(self.heard_at, self.idle_ms, What::Bytes);
        let progress = after(self.said_at, self.stall_ms, What::Progress);
        bytes.into_iter().chain(progress).min_by_key(|deadline| deadline.at)
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

/// Keeps as much of a page as an error needs.
fn keep(page: &mut Vec<u8>, chunk: &[u8]) {
    let room = MAX_ERROR_BODY.saturating_sub(page.len()).min(chunk.len());
    page.extend_from_slice(chunk.get(..room).unwrap_or_default());
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
