//! One classification of provider failures, for HTTP errors and for errors inside a stream alike.
//!
//! Retry rules (OpenAI and Anthropic client behaviour): 408, 409, 429 and 5xx may be retried, `x-should-retry` decides
//! over them, an exhausted quota never. The wait comes from `retry-after-ms`, `retry-after` (seconds or HTTP date,
//! RFC 9110 section 10.2.3), or the message.

use crate::types::{Category, Error, ProviderDetail, Status};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use std::time::SystemTime;

/// The most of a provider's message that an error carries.
const MAX_MESSAGE: usize = 2_000;

/// What a provider said when it failed.
#[derive(Debug, Default)]
pub struct Failure<'a> {
    /// Key of `llm_providers`.
    pub provider: &'a str,
    /// The HTTP status, unless the failure came inside a stream.
    pub status: Option<StatusCode>,
    /// The answer's headers.
    pub headers: Option<&'a HeaderMap>,
    /// The body, or the error object of the stream.
    pub body: &'a [u8],
}

impl Failure<'_> {
    /// The error a host gets.
    pub fn into_error(self) -> Error {
        let said = Said::read(self.body);
        let header = |name: &str| self.headers.and_then(|headers| headers.get(name)?.to_str().ok());
        let code = said.code.clone().unwrap_or_default();
        let number = self.status.map(|status| status.as_u16()).or(said.number);
        let (status, category, retryable) = match said.is_daily_quota {
            true => (Status::RateLimited, Category::BudgetExceeded, false),
            false => verdict(number, &code.to_ascii_lowercase(), &said.message),
        };
        let retryable = match header("x-should-retry") {
            Some("true") => true,
            Some("false") => false,
            Some(_) | None => retryable,
        };
        let wait = self.headers.and_then(retry_after_ms).or(said.wait).or_else(|| wait_in_words(&said.message));
        let place = match self.status {
            Some(status) => format!("answered HTTP {}", status.as_u16()),
            None => "failed inside the stream".to_owned(),
        };
        let message = match said.message.is_empty() {
            true => format!("the provider {:?} {place}", self.provider),
            false => format!("the provider {:?} {place}: {}", self.provider, said.message),
        };
        let mut error = Error::new(status, message)
            .with_category(category)
            .with_retryable(retryable)
            .with_retry_after_ms(wait.filter(|_| retryable))
            .with_provider(ProviderDetail {
                provider: self.provider.to_owned(),
                http_status: self.status.map(|status| status.as_u16()),
                code: said.code,
                message: Some(said.message).filter(|message| !message.is_empty()),
                request_id: header("x-request-id").or_else(|| header("request-id")).map(str::to_owned),
            });
        if let Some(word) = word_of(status, retryable) {
            error = error.with_code(word);
        }
        match hint_of(status, number, said.is_html) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// What a conversation that is too long is answered with, where no code says it.
const TOO_LONG: &[&str] = &[
    "maximum context length",
    "prompt is too long",
    "exceed context limit",
    "exceeds the maximum number of tokens",
    "exceeds the available context size",
];

/// What a wrong key is answered with where the status is that of a wrong request (Gemini, xAI).
const WRONG_KEY: &[&str] = &["API key not valid", "API key expired", "Incorrect API key"];

/// `code` in lower case: OpenAI's codes and types, Anthropic's error types, and the status words of Google's RPCs.
fn verdict(number: Option<u16>, code: &str, message: &str) -> (Status, Category, bool) {
    use Category as C;
    use Status as S;
    let says = |words: &[&str]| words.iter().any(|word| code.contains(word));
    if says(&["insufficient_quota", "billing"]) || number == Some(402) {
        return (S::RateLimited, C::BudgetExceeded, false);
    }
    if says(&["context_length_exceeded", "exceed_context_size"]) || TOO_LONG.iter().any(|words| message.contains(words))
    {
        return (S::ContextLength, C::InvalidInput, false);
    }
    if says(&["content_filter", "content_policy"]) {
        return (S::ContentFilter, C::ContentFilter, false);
    }
    if says(&["invalid_api_key"]) || WRONG_KEY.iter().any(|words| message.contains(words)) {
        return (S::Auth, C::PermissionDenied, false);
    }
    match number {
        Some(429) => (S::RateLimited, C::RateLimited, true),
        Some(401 | 403) => (S::Auth, C::PermissionDenied, false),
        Some(408 | 409) => (S::Provider, C::ExternalFailure, true),
        Some(404) => (S::Provider, C::NotFound, false),
        Some(413) => (S::ContextLength, C::InvalidInput, false),
        Some(529 | 503) => (S::Provider, C::Unavailable, true),
        Some(500..) => (S::Provider, C::ExternalFailure, true),
        Some(300..) => (S::Provider, C::InvalidInput, false),
        Some(_) | None => {
            if says(&["rate_limit", "resource_exhausted", "slow_down"]) {
                (S::RateLimited, C::RateLimited, true)
            } else if says(&["overloaded", "server_error", "unavailable", "timeout", "deadline_exceeded"]) {
                (S::Provider, C::Unavailable, true)
            } else if says(&["authentication", "unauthenticated", "permission"]) {
                (S::Auth, C::PermissionDenied, false)
            } else if says(&["request_too_large"]) {
                (S::ContextLength, C::InvalidInput, false)
            } else if says(&["not_found"]) {
                (S::Provider, C::NotFound, false)
            } else if says(&["invalid_request", "invalid_argument", "invalid_prompt", "failed_precondition"]) {
                (S::Provider, C::InvalidInput, false)
            } else {
                (S::Provider, C::ExternalFailure, says(&["api_error", "internal"]))
            }
        }
    }
}

fn word_of(status: Status, retryable: bool) -> Option<&'static str> {
    match (status, retryable) {
        (Status::RateLimited, false) => Some("quota_exhausted"),
        (Status::RateLimited, true) => Some("rate_limited"),
        (Status::Auth, _) => Some("auth"),
        (Status::ContextLength, _) => Some("context_length"),
        (Status::Provider, _) => Some("provider_error"),
        _ => None,
    }
}

fn hint_of(status: Status, number: Option<u16>, is_html: bool) -> Option<&'static str> {
    match (status, number) {
        _ if is_html => Some("the answer is an HTML page: check base_url, and what proxy or gateway stands between"),
        (Status::Auth, _) => Some("check api_key, and that it may use this model"),
        (Status::RateLimited, Some(402)) => Some("check the provider account's billing"),
        (Status::ContextLength, _) => Some("shorten the conversation, or use a model with a larger window"),
        (Status::Provider, Some(300..=399)) => Some("redirects are not followed: use the URL it leads to as base_url"),
        _ => None,
    }
}

/// The wait that the headers ask for.
pub fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(ms) = text("retry-after-ms").and_then(|ms| ms.parse::<f64>().ok()) {
        return whole_ms(ms);
    }
    let after = text("retry-after")?;
    if let Ok(seconds) = after.parse::<f64>() {
        return whole_ms(seconds * 1000.0);
    }
    let at = httpdate::parse_http_date(after).ok()?;
    let wait = at.duration_since(SystemTime::now()).unwrap_or_default();
    u64::try_from(wait.as_millis()).ok()
}

fn whole_ms(ms: f64) -> Option<u64> {
    // A cast from a float saturates, so no figure of a server can overflow.
    (ms.is_finite() && ms >= 0.0).then_some(ms.ceil() as u64)
}

/// "Please try again in 1.898s" and the like: some servers say it nowhere else.
fn wait_in_words(message: &str) -> Option<u64> {
    let (_, after) = message.split_once("try again in ").or_else(|| message.split_once("retry in "))?;
    duration_ms(after)
}

/// `17s`, `1.5s`, `250ms`, `2m`; what follows does not matter.
fn duration_ms(after: &str) -> Option<u64> {
    let digits = after.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = after.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim_start();
    let factor = if unit.starts_with("ms") {
        1.0
    } else if unit.starts_with('s') {
        1_000.0
    } else if unit.starts_with('m') {
        60_000.0
    } else {
        return None;
    };
    whole_ms(number * factor)
}

/// What the body says, in whichever of the usual shapes.
#[derive(Default)]
struct Said {
    message: String,
    code: Option<String>,
    /// The HTTP status that the body itself names.
    number: Option<u16>,
    /// The wait that the body asks for.
    wait: Option<u64>,
    /// A quota that no wait of a request outlasts.
    is_daily_quota: bool,
    is_html: bool,
}

impl Said {
    fn read(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        if let Ok(mut value) = serde_json::from_str::<Value>(text) {
            // Gemini's compatible endpoint wraps it in an array of one.
            if let Value::Array(items) = &mut value
                && !items.is_empty()
            {
                value = items.swap_remove(0);
            }
            let error = match value.get("error") {
                Some(error) if !error.is_null() => error,
                Some(_) | None => &value,
            };
            let word = |value: &Value| match value {
                Value::String(text) if !text.is_empty() => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            };
            let field = |name: &str| error.get(name).and_then(word);
            let message =
                word(error).or_else(|| field("message")).or_else(|| field("detail")).unwrap_or_else(|| text.to_owned());
            let code = field("code")
                .filter(|code| code.parse::<u16>().is_err())
                .or_else(|| field("type"))
                .or_else(|| field("status"))
                .or_else(|| field("code"));
            let number = field("code").and_then(|code| code.parse().ok()).filter(|number| (400..600).contains(number));
            let (wait, is_daily_quota) = details(error);
            return Self { message: bounded(&message), code, number, wait, is_daily_quota, is_html: false };
        }
        let is_html = text.get(..1) == Some("<");
        let message = bounded(&if is_html { without_tags(text) } else { text.to_owned() });
        Self { message, is_html, ..Self::default() }
    }
}

/// Google's `details`: `RetryInfo` says how long to wait, `QuotaFailure` which quota it was.
fn details(error: &Value) -> (Option<u64>, bool) {
    let details = || error.get("details").and_then(Value::as_array).into_iter().flatten();
    let wait = details().find_map(|detail| duration_ms(detail.get("retryDelay")?.as_str()?));
    let mut violated = details().filter_map(|detail| detail.get("violations")?.as_array()).flatten();
    let of_day = |quota: &Value| quota.get("quotaId").and_then(Value::as_str).is_some_and(|id| id.contains("PerDay"));
    (wait, violated.any(of_day))
}

fn bounded(text: &str) -> String {
    if text.len() <= MAX_MESSAGE {
        return text.to_owned();
    }
    let end = (0..=MAX_MESSAGE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// The words of an HTML page, for a message; not a parser.
fn without_tags(html: &str) -> String {
    let mut words = String::new();
    for piece in html.split('<') {
        let text = piece.split_once('>').map_or(piece, |(_, text)| text).trim();
        if !text.is_empty() && words.len() < 200 {
            if !words.is_empty() {
                words.push(' ');
            }
            words.extend(text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn classify(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Error {
        let headers = headers
            .iter()
            .map(|(k, v)| (http::HeaderName::from_static(k), http::HeaderValue::from_static(v)))
            .collect();
        Failure {
            provider: "p",
            status: Some(StatusCode::from_u16(status).unwrap()),
            headers: Some(&headers),
            body: body.as_bytes(),
        }
        .into_error()
    }

    #[test]
    fn what_may_be_retried_and_when() {
        let told = |error: Error| (error.status(), error.is_retryable(), error.retry_after_ms());
        assert_eq!(told(classify(429, &[("retry-after", "2")], "{}")), (Status::RateLimited, true, Some(2_000)));
        assert_eq!(told(classify(429, &[("retry-after-ms", "12.5")], "{}")), (Status::RateLimited, true, Some(13)));
        let words = r#"{"error":{"message":"Rate limit. Please try again in 1.898s.","code":"rate_limit_exceeded"}}"#;
        assert_eq!(told(classify(429, &[], words)), (Status::RateLimited, true, Some(1_898)));
        let quota = r#"{"error":{"message":"no money","type":"insufficient_quota","code":"insufficient_quota"}}"#;
        assert_eq!(told(classify(429, &[("retry-after", "2")], quota)), (Status::RateLimited, false, None));
        assert_eq!(told(classify(500, &[("x-should-retry", "false")], "")), (Status::Provider, false, None));
        assert_eq!(told(classify(400, &[("x-should-retry", "true")], "")), (Status::Provider, true, None));
        assert_eq!(told(classify(529, &[], "")), (Status::Provider, true, None));
        assert_eq!(told(classify(401, &[], "")), (Status::Auth, false, None));
        let key = r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}"#;
        assert_eq!(told(classify(400, &[], key)), (Status::Auth, false, None));
    }

    #[test]
    fn a_date_is_a_wait() {
        let at = httpdate::fmt_http_date(SystemTime::now() + std::time::Duration::from_secs(30));
        let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, http::HeaderValue::from_str(&at).unwrap())]);
        let wait = retry_after_ms(&headers).unwrap();
        assert!((28_000..=30_000).contains(&wait), "{wait}");
    }

    #[test]
    fn bodies_of_every_usual_shape_are_read() {
        let message = |body: &str| {
            let error = classify(400, &[], body);
            (error.provider().unwrap().message.clone().unwrap_or_default(), error.provider().unwrap().code.clone())
        };
        assert_eq!(
            message(r#"[{"error":{"code":400,"message":"bad","status":"INVALID"}}]"#),
            ("bad".into(), Some("INVALID".into()))
        );
        assert_eq!(message(r#"{"error":"plain"}"#), ("plain".into(), None));
        assert_eq!(message(r#"{"message":"flat","code":"x"}"#), ("flat".into(), Some("x".into())));
        assert_eq!(message(r#"{"error":{"message":"m","code":null,"type":"t"}}"#), ("m".into(), Some("t".into())));
        assert_eq!(message("<html><h1>502 Bad Gateway</h1></html>").0, "502 Bad Gateway");
        assert_eq!(message("").0, "");
    }

    #[test]
    fn errors_without_a_status_are_told_by_their_words() {
        let told = |body: &str| {
            let error = Failure { provider: "p", status: None, headers: None, body: body.as_bytes() }.into_error();
            (error.status(), error.category(), error.is_retryable(), error.retry_after_ms())
        };
        let google = |status: &str, details: &str| {
            told(&format!(r#"{{"error":{{"message":"m","status":"{status}","details":[{details}]}}}}"#))
        };
        let wait = r#"{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"17s"}"#;
        let day = r#"{"@type":"…QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProject"}]}"#;
        let limited = (Status::RateLimited, Category::RateLimited, true);
        assert_eq!(google("RESOURCE_EXHAUSTED", wait), (limited.0, limited.1, limited.2, Some(17_000)));
        assert_eq!(google("RESOURCE_EXHAUSTED", day), (Status::RateLimited, Category::BudgetExceeded, false, None));
        assert_eq!(google("UNAVAILABLE", ""), (Status::Provider, Category::Unavailable, true, None));
        assert_eq!(google("INTERNAL", ""), (Status::Provider, Category::ExternalFailure, true, None));
        assert_eq!(google("INVALID_ARGUMENT", ""), (Status::Provider, Category::InvalidInput, false, None));
        assert_eq!(google("UNAUTHENTICATED", ""), (Status::Auth, Category::PermissionDenied, false, None));
        let numbered = r#"{"error":{"code":503,"message":"Please retry in 2.5s.","status":"UNAVAILABLE"}}"#;
        assert_eq!(told(numbered), (Status::Provider, Category::Unavailable, true, Some(2_500)));
    }

    #[test]
    fn a_html_page_is_called_one() {
        assert!(classify(502, &[], "<html></html>").hint().unwrap().contains("HTML"));
    }
}
