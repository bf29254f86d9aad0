//! A scripted answer: a head, then steps. What a step says is what goes over the wire, in that order and no sooner.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;

/// One thing the server does while it answers.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Send(Bytes),
    Pause(Duration),
    /// The same bytes again and again; `None` is for as long as the client listens.
    Repeat(Bytes, Option<u64>),
    /// The connection ends here, before the body does: with FIN, or with RST.
    Cut {
        reset: bool,
    },
    /// Silence, until the client hangs up.
    Stall,
}

/// How the client learns where the body ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Framing {
    /// `transfer-encoding: chunked`, one HTTP chunk per `Send`: the client sees exactly those pieces, however TCP joins them.
    Chunked,
    /// `content-length`, the sum of what is sent unless a header says otherwise.
    Length,
    /// Nothing tells: the body ends where the connection does, so a cut looks like an end.
    Close,
}

/// What happens to the connection when the reply is complete.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum After {
    KeepAlive,
    /// `connection: close` is announced and kept.
    Close,
    /// It closes unannounced: a client that pools it finds it dead.
    HangUp,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) steps: Vec<Step>,
    pub(super) framing: Framing,
    pub(super) after: After,
    pub(super) head_pauses: (Duration, Duration),
    pub(super) refuses: bool,
    pub(super) raw: bool,
}

/// The ways to begin a reply.
impl Reply {
    /// An empty body under this status; `.body(…)` and the rest fill it.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            steps: Vec::new(),
            framing: Framing::Length,
            after: After::KeepAlive,
            head_pauses: (Duration::ZERO, Duration::ZERO),
            refuses: false,
            raw: false,
        }
    }

    /// 200 and this JSON.
    pub fn json(body: &Value) -> Self {
        Self::status(200).json_body(body)
    }

    /// 200 and one server-sent event for each payload, each in an HTTP chunk of its own.
    pub fn sse<S: AsRef<str>>(payloads: impl IntoIterator<Item = S>) -> Self {
        payloads.into_iter().fold(Self::event_stream(), |reply, payload| reply.event(payload))
    }

    /// 200 and an event stream yet without events: for `.event(…)`, `.chunk(…)` and `.pause(…)` in any order.
    pub fn event_stream() -> Self {
        Self { framing: Framing::Chunked, ..Self::status(200).content_type("text/event-stream; charset=utf-8") }
    }

    /// The page of a gateway that knows nothing of JSON.
    pub fn html(status: u16, title: &str) -> Self {
        let page =
            format!("<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>");
        Self::status(status).content_type("text/html").body(page)
    }

    /// A status line and headers as no server should write them, then what steps follow.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self { raw: true, framing: Framing::Close, ..Self::status(0) }.chunk(bytes)
    }

    /// Closes right after accept, when it is the next scripted reply and a new connection arrives; on a connection that is
    /// already open, closes after the request without a byte. Only for `FakeServer::start`.
    pub fn refuse() -> Self {
        Self { refuses: true, ..Self::raw("").cut() }
    }
}

/// The head.
impl Reply {
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn content_type(mut self, value: &str) -> Self {
        self.headers.retain(|(name, _)| name != "content-type");
        self.header("content-type", value)
    }

    pub fn retry_after_seconds(self, seconds: u64) -> Self {
        self.header("retry-after", seconds)
    }

    pub fn retry_after_ms(self, ms: u64) -> Self {
        self.header("retry-after-ms", ms)
    }

    /// Whole seconds on the wire, rounded down by the format: never later than asked.
    pub fn retry_after_date(self, from_now: Duration) -> Self {
        self.header("retry-after", httpdate::fmt_http_date(SystemTime::now() + from_now))
    }

    /// Silence before the status line.
    pub fn pause_before_head(mut self, pause: Duration) -> Self {
        self.head_pauses.0 = pause;
        self
    }

    /// A head that comes line by line, with a pause after each.
    pub fn slow_head(mut self, per_line: Duration) -> Self {
        self.head_pauses.1 = per_line;
        self
    }
}

/// The body, step by step.
impl Reply {
    pub fn chunk(mut self, bytes: impl Into<Bytes>) -> Self {
        self.steps.push(Step::Send(bytes.into()));
        self
    }

    pub fn body(self, bytes: impl Into<Bytes>) -> Self {
        self.chunk(bytes)
    }

    pub fn json_body(self, body: &Value) -> Self {
        self.content_type("application/json").chunk(body.to_string())
    }

    /// `data: PAYLOAD` and a blank line.
    pub fn event(self, payload: impl AsRef<str>) -> Self {
        self.chunk(format!("data: {}\n\n", payload.as_ref()))
    }

    pub fn pause(mut self, pause: Duration) -> Self {
        self.steps.push(Step::Pause(pause));
        self
    }

    /// The same pause before every chunk there is so far.
    pub fn paced(mut self, pause: Duration) -> Self {
        let sent = |step: &Step| matches!(step, Step::Send(_));
        self.steps = self
            .steps
            .into_iter()
            .flat_map(|step| sent(&step).then_some(Step::Pause(pause)).into_iter().chain([step]))
            .collect();
        self
    }

    /// `times` × these bytes: a huge body without a huge test.
    pub fn repeat(mut self, bytes: impl Into<Bytes>, times: u64) -> Self {
        self.steps.push(Step::Repeat(bytes.into(), Some(times)));
        self
    }

    /// These bytes until the client hangs up: `endless("x")` after `event_stream()` is a line that never ends.
    pub fn endless(mut self, bytes: impl Into<Bytes>) -> Self {
        self.steps.push(Step::Repeat(bytes.into(), None));
        self.chunked()
    }

    /// Nothing more, and the connection stays open.
    pub fn stall(mut self) -> Self {
        self.steps.push(Step::Stall);
        self.chunked()
    }

    /// The connection closes (FIN) before the body's end; give a `content-length` header to promise more than was sent.
    pub fn cut(mut self) -> Self {
        self.steps.push(Step::Cut { reset: false });
        self
    }

    /// The same with RST.
    pub fn reset(mut self) -> Self {
        self.steps.push(Step::Cut { reset: true });
        self
    }

    /// Every chunk so far in pieces of `n` bytes, across characters, lines and line ends.
    pub fn split_every(self, n: usize) -> Self {
        self.split(|bytes| (n..bytes.len()).step_by(n.max(1)).collect())
    }

    /// The body so far as one run of bytes, divided at these offsets.
    pub fn split_at(mut self, offsets: &[usize]) -> Self {
        let whole: Vec<u8> = self
            .steps
            .iter()
            .filter_map(|step| if let Step::Send(bytes) = step { Some(&bytes[..]) } else { None })
            .flatten()
            .copied()
            .collect();
        self.steps.retain(|step| !matches!(step, Step::Send(_)));
        self.steps.insert(0, Step::Send(whole.into()));
        self.split(|bytes| offsets.iter().copied().filter(|&at| 0 < at && at < bytes.len()).collect())
    }

    fn split(mut self, cuts: impl Fn(&Bytes) -> Vec<usize>) -> Self {
        let pieces = |step| match step {
            Step::Send(bytes) => {
                let bounds = [vec![0], cuts(&bytes), vec![bytes.len()]].concat();
                bounds.windows(2).map(|pair| Step::Send(bytes.slice(pair[0]..pair[1]))).collect()
            }
            other => vec![other],
        };
        self.steps = self.steps.into_iter().flat_map(pieces).collect();
        self.chunked()
    }
}

/// The end.
impl Reply {
    /// No length and no chunks: the body ends where the connection does.
    pub fn until_close(self) -> Self {
        Self { framing: Framing::Close, ..self }
    }

    /// HTTP chunks instead of a length, unless a header already promises one.
    pub fn chunked(mut self) -> Self {
        let promised = self.headers.iter().any(|(name, _)| name == "content-length");
        if self.framing == Framing::Length && !promised {
            self.framing = Framing::Chunked;
        }
        self
    }

    /// `connection: close`.
    pub fn close(self) -> Self {
        Self { after: After::Close, ..self }
    }

    /// Complete, then closed without a word: the next request on a pooled connection fails.
    pub fn hang_up(self) -> Self {
        Self { after: After::HangUp, ..self }
    }
}
