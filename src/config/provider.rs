//! Model providers: `llm_providers.<name>`.

use super::{MockConfig, Secret};
use crate::types::{Error, Result, Status};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One provider.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(tag = "type")]
#[non_exhaustive]
pub enum ProviderConfig {
    /// OpenAI, or a server that speaks its API at `base_url`.
    #[serde(rename = "openai")]
    OpenAi(OpenAiConfig),
    /// Any compatible server.
    Custom(OpenAiConfig),
    /// Scripted answers, for tests and demonstrations.
    Mock(MockConfig),
}

impl ProviderConfig {
    pub(super) fn check(&self, path: &str) -> Result<()> {
        match self {
            Self::OpenAi(config) => config.check(path, false),
            Self::Custom(config) => config.check(path, true),
            Self::Mock(config) => config.check(path),
        }
    }
}

/// A server with the OpenAI API.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct OpenAiConfig {
    /// The key, sent as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// Used as given: `…/v1`. Default for `openai`: `https://api.openai.com/v1`.
    pub base_url: Option<String>,
    /// Sent as `OpenAI-Organization`.
    pub organization: Option<String>,
    /// Which API: `chat` in this version.
    pub api: ApiKind,
    /// For `custom`: `openai_compatible` in this version.
    pub request_format: RequestFormat,
    /// Headers of every request.
    pub headers: BTreeMap<String, String>,
    /// Whether to ask for a stream. Default true; false for servers that cannot.
    pub stream: Option<bool>,
    /// How long things may take.
    pub timeouts: TimeoutConfig,
    /// How failed requests are tried again.
    pub retry: RetryConfig,
}

impl OpenAiConfig {
    fn check(&self, path: &str, needs_url: bool) -> Result<()> {
        if needs_url && self.base_url.is_none() {
            return Err(Error::schema(path, "the key \"base_url\" is missing")
                .with_hint("add \"base_url\": \"http://host/v1\""));
        }
        if let Some(url) = &self.base_url {
            check_url(url, &format!("{path}.base_url"))?;
        }
        if self.api == ApiKind::Responses {
            return Err(unsupported(format!("{path}.api"), "the responses API", "use \"chat\""));
        }
        if self.request_format == RequestFormat::AnthropicCompatible {
            return Err(unsupported(
                format!("{path}.request_format"),
                "anthropic_compatible",
                "use \"openai_compatible\"",
            ));
        }
        for (name, value) in &self.headers {
            let at = || format!("{path}.headers.{name}");
            http::HeaderName::try_from(name).map_err(|_| Error::schema(at(), "this is not an HTTP header name"))?;
            http::HeaderValue::try_from(value)
                .map_err(|_| Error::schema(at(), "this is not an HTTP header value").with_hint("visible ASCII only"))?;
        }
        self.retry.check(path)
    }
}

/// An endpoint must be an absolute http or https URL with a host and without credentials.
pub(super) fn check_url(url: &str, path: &str) -> Result<()> {
    let wrong =
        |why: &str| Err(Error::schema(path, format!("{why}: {url:?}")).with_hint("write it like https://host/v1"));
    match url.parse::<http::Uri>() {
        Err(error) => wrong(&format!("not a URL ({error})")),
        Ok(uri) if !matches!(uri.scheme_str(), Some("http" | "https")) => wrong("not an http or https URL"),
        Ok(uri) if uri.host().is_none_or(str::is_empty) => wrong("a URL without a host"),
        Ok(uri) if uri.authority().is_some_and(|a| a.as_str().contains('@')) => {
            Err(Error::schema(path, "a URL with credentials in it").with_hint("give the key as \"api_key\""))
        }
        Ok(_) => Ok(()),
    }
}

fn unsupported(path: String, what: &str, hint: &str) -> Error {
    Error::new(Status::Unsupported, format!("{what} is not part of this version")).with_path(path).with_hint(hint)
}

/// Which OpenAI API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApiKind {
    /// Chat Completions.
    #[default]
    Chat,
    /// Responses; not part of this version.
    Responses,
}

/// Which wire a custom provider speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestFormat {
    /// Chat Completions.
    #[default]
    OpenaiCompatible,
    /// Anthropic Messages; not part of this version.
    AnthropicCompatible,
}

/// How long a request may take, in milliseconds. 0 switches a timeout off.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct TimeoutConfig {
    /// Until the connection stands, TLS included. Default 10,000.
    pub connect_ms: u64,
    /// Until the first byte of the answer: a local server may load a model first. Default 300,000.
    pub first_byte_ms: u64,
    /// Between two reads of a stream. Default 60,000.
    pub idle_ms: u64,
    /// The whole request. Default 0: as long as it keeps sending.
    pub total_ms: u64,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self { connect_ms: 10_000, first_byte_ms: 300_000, idle_ms: 60_000, total_ms: 0 }
    }
}

/// How failed requests are tried again: never after anything of the answer was emitted.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct RetryConfig {
    /// Attempts, the first included, 1 to 20. Default 3.
    pub max_attempts: u32,
    /// The first wait; it doubles from attempt to attempt. Default 500.
    pub initial_delay_ms: u64,
    /// The longest wait of the doubling. Default 8,000.
    pub max_delay_ms: u64,
    /// The longest wait that a provider's `Retry-After` may ask for; beyond it the error is returned. Default 60,000.
    pub max_retry_after_ms: u64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { max_attempts: 3, initial_delay_ms: 500, max_delay_ms: 8_000, max_retry_after_ms: 60_000 }
    }
}

impl RetryConfig {
    fn check(&self, path: &str) -> Result<()> {
        if !(1..=20).contains(&self.max_attempts) {
            return Err(Error::schema(format!("{path}.retry.max_attempts"), "1 to 20 attempts are possible"));
        }
        Ok(())
    }
}

/// The providers that the environment names, as `{}` finds them.
pub fn providers_from_environment() -> BTreeMap<String, ProviderConfig> {
    let mut found = BTreeMap::new();
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if set("OPENAI_API_KEY").is_some() {
        let config = OpenAiConfig {
            api_key: Some(Secret::Env("OPENAI_API_KEY".into())),
            base_url: set("OPENAI_BASE_URL"),
            ..OpenAiConfig::default()
        };
        found.insert("openai".into(), ProviderConfig::OpenAi(config));
    }
    found
}
