//! What must not be shown or stored: the values of headers that authenticate, and every key that is known, wherever it is.
//!
//! All that a provider says when it fails passes [`Secrets::strike_error`], [`Secrets::strike`] or [`Striking`] before anything
//! else sees it, since a server may echo the key that it was sent. So does what is recorded.

use super::DeltaSink;
use crate::types::{Error, ToolCallId};
use futures_util::future::BoxFuture;
use memchr::memmem;
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

/// What stands where a secret stood.
pub const MARK: &str = "[SECRET]";

/// Shorter texts are words, not keys: striking them out everywhere would only spoil the recording.
const SHORTEST: usize = 8;

/// How many texts are known at most; a key that changes all the time makes no more.
const MOST: usize = 256;

/// Configured headers that carry no credentials. The value of every other header is treated as a secret.
const PUBLIC_HEADERS: &[&str] = &[
    "accept",
    "accept-language",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "http-referer",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "referer",
    "user-agent",
    "x-title",
];

/// Parameters of an address that carry no credentials.
const PUBLIC_PARAMETERS: &[&str] = &["alt", "api-version", "model", "region", "stream", "version"];

/// The keys that are known.
#[derive(Default)]
pub struct Secrets(Mutex<Vec<String>>);

impl Secrets {
    /// Learns a key, and how it is written in an address and in JSON.
    pub fn learn(&self, secret: &str) {
        if secret.len() < SHORTEST {
            return;
        }
        let mut known = self.0.lock();
        let encoded = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
        for text in [secret.to_owned(), secret.replace('/', "\\/"), encoded] {
            if !known.contains(&text) && known.len() < MOST {
                known.push(text);
            }
        }
        // The longest first: one may contain another.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }

    /// Learns the secrets of an address: its password, and the values of its parameters.
    pub fn learn_url(&self, url: &str) {
        let Ok(url) = url::Url::parse(url) else { return };
        self.learn(url.password().unwrap_or_default());
        for (name, value) in url.query_pairs() {
            if !PUBLIC_PARAMETERS.contains(&name.to_ascii_lowercase().as_str()) {
                self.learn(&value);
            }
        }
        // As it is written there, too.
        for pair in url.query().unwrap_or_default().split('&') {
            if let Some((name, value)) = pair.split_once('=')
                && !PUBLIC_PARAMETERS.contains(&name.to_ascii_lowercase().as_str())
            {
                self.learn(value);
            }
        }
    }

    /// Learns what a configured header says, unless that is public.
    pub fn learn_configured(&self, name: &str, value: &str) {
        if !PUBLIC_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            self.learn_header(value);
        }
    }

    /// The error without secrets in any of its texts.
    pub fn strike_error(&self, error: Error) -> Error {
        error.map_texts(|text| match self.find(text.as_bytes()).is_empty() {
            true => None,
            false => Some(self.strike(text)),
        })
    }

    /// Learns what a header says that authenticates, with and without its scheme.
    pub fn learn_header(&self, value: &str) {
        self.learn(value);
        if let Some((_, credentials)) = value.split_once(' ') {
            self.learn(credentials.trim());
        }
    }

    /// The text without secrets.
    pub fn strike(&self, text: &str) -> String {
        let struck = self.strike_pieces(&[text.as_bytes()]);
        String::from_utf8_lossy(&struck.concat()).into_owned()
    }

    /// A body without secrets, also where one stands across pieces.
    pub fn strike_pieces<B: AsRef<[u8]>>(&self, pieces: &[B]) -> Vec<Vec<u8>> {
        let whole = pieces.iter().map(AsRef::as_ref).collect::<Vec<_>>().concat();
        let found = self.find(&whole);
        let mut found = found.iter().peekable();
        let mut struck = Vec::with_capacity(pieces.len());
        let mut at = 0;
        for piece in pieces {
            let end = at + piece.as_ref().len();
            let mut kept = Vec::with_capacity(end - at);
            while at < end {
                match found.peek() {
                    Some((start, until)) if *start <= at => {
                        // Only where it begins, so that it is marked once.
                        if *start == at {
                            kept.extend_from_slice(MARK.as_bytes());
                        }
                        at = (*until).min(end);
                        if at == *until {
                            found.next();
                        }
                    }
                    next => {
                        let until = next.map_or(end, |(start, _)| (*start).min(end));
                        kept.extend_from_slice(whole.get(at..until).unwrap_or_default());
                        at = until;
                    }
                }
            }
            struck.push(kept);
        }
        struck
    }

    /// Where secrets stand: in order, apart from each other.
    fn find(&self, whole: &[u8]) -> Vec<(usize, usize)> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for secret in self.0.lock().iter() {
            for start in memmem::find_iter(whole, secret.as_bytes()) {
                let end = start + secret.len();
                if !found.iter().any(|(other, until)| start < *until && *other < end) {
                    found.push((start, end));
                }
            }
        }
        // A text that was cut may end with the beginning of one.
        for secret in self.0.lock().iter() {
            let secret = secret.as_bytes();
            let longest = secret.len().saturating_sub(1).min(whole.len());
            let cut = (SHORTEST..=longest)
                .rev()
                .find(|length| secret.get(..*length).is_some_and(|beginning| whole.ends_with(beginning)));
            if let Some(length) = cut {
                let (start, end) = (whole.len() - length, whole.len());
                if !found.iter().any(|(other, until)| start < *until && *other < end) {
                    found.push((start, end));
                }
            }
        }
        found.sort_unstable();
        found
    }
}

/// A sink whose warnings and limits have no secret. What the model answers passes as it is.
pub struct Striking<'s> {
    sink: &'s mut dyn DeltaSink,
    secrets: &'s Secrets,
}

impl<'s> Striking<'s> {
    /// Strikes out these secrets on the way to this sink.
    pub fn new(sink: &'s mut dyn DeltaSink, secrets: &'s Secrets) -> Self {
        Self { sink, secrets }
    }
}

impl DeltaSink for Striking<'_> {
    fn text(&mut self, text: &str) {
        self.sink.text(text);
    }

    fn reasoning(&mut self, text: &str) {
        self.sink.reasoning(text);
    }

    fn tool_call_start(&mut self, id: &ToolCallId, name: &str) {
        self.sink.tool_call_start(id, name);
    }

    fn tool_call_delta(&mut self, id: &ToolCallId, args_json: &str) {
        self.sink.tool_call_delta(id, args_json);
    }

    fn warning(&mut self, code: &str, message: &str) {
        self.sink.warning(code, &self.secrets.strike(message));
    }

    fn rate_limit(&mut self, provider: &str, mut limits: Map<String, Value>) {
        for value in limits.values_mut() {
            if let Value::String(text) = value {
                *text = self.secrets.strike(text);
            }
        }
        self.sink.rate_limit(provider, limits);
    }

    fn retrying(&mut self, attempt: u32, delay_ms: u64, error: &Error) {
        self.sink.retrying(attempt, delay_ms, error);
    }

    fn has_emitted(&self) -> bool {
        self.sink.has_emitted()
    }

    fn is_ready(&self) -> bool {
        self.sink.is_ready()
    }

    fn is_holding(&self) -> bool {
        self.sink.is_holding()
    }

    fn ready(&mut self) -> BoxFuture<'_, ()> {
        self.sink.ready()
    }
}

/// Whether a header, or a parameter of a URL, authenticates.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "key", "token", "secret", "cookie", "password", "credential", "signature"]
        .iter()
        .any(|word| name.contains(word))
}

/// The URL without parameters that authenticate.
pub fn strike_url(url: &str) -> String {
    let Some((path, query)) = url.split_once('?') else { return url.to_owned() };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret_name(name) => format!("{name}={MARK}"),
            Some(_) | None => pair.to_owned(),
        })
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_struck_out_once_also_across_pieces() {
        let secrets = Secrets::default();
        secrets.learn_header("Bearer sk-12345678");
        secrets.learn("sk-12345678-long");
        secrets.learn("short");
        let struck = |pieces: &[&str]| -> Vec<String> {
            secrets.strike_pieces(pieces).into_iter().map(|piece| String::from_utf8(piece).unwrap()).collect()
        };
        assert_eq!(struck(&["a sk-1234", "5", "678 b short"]), ["a [SECRET]", "", " b short"]);
        assert_eq!(struck(&["sk-12345678-longsk-12345678"]), ["[SECRET][SECRET]"]);
        assert_eq!(secrets.strike("x=Bearer sk-12345678!"), "x=[SECRET]!");
        assert_eq!(struck(&["", "nothing"]), ["", "nothing"]);
        let url = "https://h/v1?api-version=2&api-key=x&b";
        assert_eq!(strike_url(url), "https://h/v1?api-version=2&api-key=[SECRET]&b");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "(a|b|-key-12345|12345678){0,20}", cuts in prop::collection::vec(0_usize..200, 0..5)) {
            let secrets = Secrets::default();
            secrets.learn("-key-12345");
            secrets.learn("12345678");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let struck = secrets.strike_pieces(&pieces);
            prop_assert_eq!(struck.len(), pieces.len());
            let whole = String::from_utf8(struck.concat()).unwrap();
            prop_assert_eq!(&whole, &secrets.strike(&text));
            prop_assert!(!whole.contains("-key-12345"), "{}", whole);
        }
    }
}
