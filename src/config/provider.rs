//! Model providers: `llm_providers.<name>`.

use super::{MockConfig, QuirksConfig, ReplayConfig, Secret, check_name, strict};
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
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
    /// Anthropic.
    Anthropic(AnthropicConfig),
    /// Google Gemini, by its native API.
    Gemini(GeminiConfig),
    /// Ollama, by its native API; by the compatible one where `base_url` ends in `/v1`.
    Ollama(OllamaConfig),
    /// Any compatible server.
    Custom(CustomConfig),
    /// Scripted answers, for tests and demonstrations.
    Mock(MockConfig),
    /// What another provider answered when it was recorded.
    Replay(ReplayConfig),
}

impl ProviderConfig {
    /// Parses a provider with its `name`.
    pub fn from_json(text: &str) -> Result<(String, Self)> {
        let mut value = strict::parse(text, "provider")?;
        let name = value.as_object_mut().and_then(|fields| fields.remove("name"));
        let Some(Value::String(name)) = name else {
            return Err(Error::schema("provider.name", "a provider needs a name").with_hint("add \"name\": \"…\""));
        };
        check_name(&name, "provider.name", "a provider")?;
        let config: Self = strict::read(&value, "provider")?;
        config.check("provider")?;
        Ok((name, config))
    }

    pub(super) fn check(&self, path: &str) -> Result<()> {
        match self {
            Self::OpenAi(config) => config.server(OPENAI_URL).check(path),
            Self::Anthropic(config) => config.server(ANTHROPIC_URL).check(path),
            Self::Gemini(config) => config.server(GEMINI_URL).check(path),
            Self::Ollama(config) => {
                let server = config.server(OLLAMA_URL);
                if config.num_ctx == Some(0) {
                    return Err(Error::schema(format!("{path}.num_ctx"), "a context has at least 1 token"));
                }
                if config.num_ctx.is_some() && server.base_url.trim_end_matches('/').ends_with("/v1") {
                    return Err(Error::schema(format!("{path}.num_ctx"), "the compatible API of Ollama cannot set it")
                        .with_hint("leave \"/v1\" off the base_url: the native API can"));
                }
                server.check(path)
            }
            Self::Custom(config) => {
                if config.base_url.is_none() && config.quirks.base_url().is_none() {
                    return Err(Error::schema(path, "the key \"base_url\" is missing")
                        .with_hint("add \"base_url\": \"http://host/v1\""));
                }
                config.quirks.check(&format!("{path}.quirks"))?;
                if config.request_format == RequestFormat::AnthropicCompatible
                    && config.quirks != QuirksConfig::default()
                {
                    return Err(Error::schema(
                        format!("{path}.quirks"),
                        "these are quirks of openai_compatible servers",
                    ));
                }
                config.server(config.quirks.base_url().unwrap_or_default()).check(path)
            }
            Self::Mock(config) => config.check(path),
            Self::Replay(config) => config.check(path),
        }
    }
}

/// OpenAI's own server.
pub const OPENAI_URL: &str = "https://api.openai.com/v1";
/// Anthropic's own server.
pub const ANTHROPIC_URL: &str = "https://api.anthropic.com";
/// Google's own server.
pub const GEMINI_URL: &str = "https://generativelanguage.googleapis.com";
/// Ollama on this machine.
pub const OLLAMA_URL: &str = "http://127.0.0.1:11434";

/// What every server has, whatever wire it speaks.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// The key.
    pub api_key: Option<Secret>,
    /// The address, used as given.
    pub base_url: String,
    /// Headers of every request.
    pub headers: BTreeMap<String, String>,
    /// Whether to ask for a stream.
    pub stream: bool,
    /// What embeds where nobody names a model.
    pub embedding_model: Option<String>,
    /// How long things may take.
    pub timeouts: TimeoutConfig,
    /// How failed requests are tried again.
    pub retry: RetryConfig,
    /// When a failing server is left alone.
    pub circuit_breaker: Option<BreakerConfig>,
    /// A proxy for its connections.
    pub proxy: Option<String>,
    /// Certificates to trust besides the system's.
    pub ca_file: Option<String>,
}

impl ServerConfig {
    /// One that waits as long as it takes.
    pub fn unbounded() -> Self {
        let timeouts = TimeoutConfig { connect_ms: 0, first_byte_ms: 0, idle_ms: 0, stall_ms: 0, total_ms: 0 };
        Self { timeouts, stream: true, ..Self::default() }
    }

    fn check(&self, path: &str) -> Result<()> {
        check_url(&self.base_url, &format!("{path}.base_url"))?;
        for (name, value) in &self.headers {
            let at = || format!("{path}.headers.{name}");
            http::HeaderName::try_from(name).map_err(|_| Error::schema(at(), "this is not an HTTP header name"))?;
            http::HeaderValue::try_from(value)
                .map_err(|_| Error::schema(at(), "this is not an HTTP header value").with_hint("visible ASCII only"))?;
        }
        if let Some(proxy) = &self.proxy {
            check_proxy(proxy, &format!("{path}.proxy"))?;
        }
        if let Some(BreakerConfig { failures, open_seconds }) = self.circuit_breaker {
            if failures == 0 {
                return Err(Error::schema(format!("{path}.circuit_breaker.failures"), "at least 1 failure is needed"));
            }
            if !(open_seconds > 0.0 && open_seconds <= 86_400.0) {
                let message = "a number of seconds above 0, at most 86400, is needed";
                return Err(Error::schema(format!("{path}.circuit_breaker.open_seconds"), message));
            }
        }
        self.retry.check(path)
    }
}

/// A configuration with what every server has, and its own.
macro_rules! server_config {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        #[schemars(default)]
        pub struct $name {
            /// The key, sent as the API wants it.
            pub api_key: Option<Secret>,
            /// Used as given: `…/v1` for OpenAI shapes, the bare host for the others.
            pub base_url: Option<String>,
            /// Headers of every request; they go before those that the API wants.
            pub headers: BTreeMap<String, String>,
            /// Whether to ask for a stream. Default true; false for servers that cannot.
            pub stream: Option<bool>,
            /// How long things may take.
            pub timeouts: TimeoutConfig,
            /// How failed requests are tried again.
            pub retry: RetryConfig,
            /// When a failing server is left alone. Default: never.
            pub circuit_breaker: Option<BreakerConfig>,
            /// A proxy: `http://host:port`, also with `user:password@`, `https://` or `socks5://`. Default: what the environment
            /// says (`HTTPS_PROXY`, `NO_PROXY`, …).
            pub proxy: Option<String>,
            /// A PEM file with certificates to trust besides the system's.
            pub ca_file: Option<String>,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            /// What every server has; at `url` unless something else is configured.
            pub fn server(&self, url: &str) -> ServerConfig {
                ServerConfig {
                    api_key: self.api_key.clone(),
                    base_url: self.base_url.clone().unwrap_or_else(|| url.to_owned()),
                    headers: self.headers.clone(),
                    stream: self.stream.unwrap_or(true),
                    embedding_model: None,
                    timeouts: self.timeouts,
                    retry: self.retry,
                    circuit_breaker: self.circuit_breaker,
                    proxy: self.proxy.clone(),
                    ca_file: self.ca_file.clone(),
                }
            }
        }
    };
}

server_config! {
    /// A server with the OpenAI API.
    OpenAiConfig {
        /// Sent as `OpenAI-Organization`.
        organization: Option<String>,
        /// Which API.
        api: ApiKind,
        /// What embeds where neither `embeddings` nor a call names a model of this provider.
        embedding_model: Option<String>,
    }
}

server_config! {
    /// A server with the Anthropic API.
    AnthropicConfig {}
}

server_config! {
    /// A server with the native Gemini API.
    GeminiConfig {}
}

server_config! {
    /// A server with the native Ollama API.
    OllamaConfig {
        /// The context length in tokens. Without it the server's own applies, which is small, and what is longer is cut
        /// silently.
        num_ctx: Option<u32>,
        /// How long the model stays loaded: a duration such as `10m`, or a number of seconds, -1 for ever.
        keep_alive: Option<String>,
    }
}

server_config! {
    /// A server that speaks somebody else's API.
    CustomConfig {
        /// Which.
        request_format: RequestFormat,
        /// Where the server differs from the API it speaks: the name of a known one (`mistral`, `azure`, …), or quirks one by
        /// one. For `openai_compatible`. The address of a known one need not be given, but for Azure's.
        quirks: QuirksConfig,
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

/// Which OpenAI API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApiKind {
    /// Chat Completions.
    #[default]
    Chat,
    /// Responses, without the server's memory.
    Responses,
}

/// Which wire a custom provider speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestFormat {
    /// OpenAI's Chat Completions.
    #[default]
    OpenaiCompatible,
    /// Anthropic's Messages.
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
    /// Between two events of a stream that say something, and for an answer that comes whole: a server may not keep one waiting
    /// with pings, comments, or a byte now and then. Default 600,000.
    pub stall_ms: u64,
    /// The whole request. Default 0: as long as it goes on.
    pub total_ms: u64,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self { connect_ms: 10_000, first_byte_ms: 300_000, idle_ms: 60_000, stall_ms: 600_000, total_ms: 0 }
    }
}

/// When a failing server is left alone.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct BreakerConfig {
    /// Failures in a row: no connection, no answer in time, or 500 and above. Default 5.
    pub failures: u32,
    /// Seconds; then one request may try. Default 30.
    pub open_seconds: f64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 5, open_seconds: 30.0 }
    }
}

/// A proxy may have credentials in its URL: there is no other place for them.
fn check_proxy(proxy: &str, path: &str) -> Result<()> {
    match proxy.parse::<http::Uri>() {
        Ok(uri)
            if matches!(uri.scheme_str(), Some("http" | "https" | "socks5" | "socks5h")) && uri.host().is_some() =>
        {
            Ok(())
        }
        Ok(_) | Err(_) => {
            Err(Error::schema(path, "not the URL of a proxy").with_hint("write it like http://proxy:3128"))
        }
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
    pub(super) fn check(&self, path: &str) -> Result<()> {
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
    let key = |name: &str| set(name).map(|_| Some(Secret::Env(name.to_owned())));
    if let Some(api_key) = key("OPENAI_API_KEY") {
        let base_url = set("OPENAI_BASE_URL");
        found.insert(
            "openai".into(),
            ProviderConfig::OpenAi(OpenAiConfig { api_key, base_url, ..OpenAiConfig::default() }),
        );
    }
    if let Some(api_key) = key("ANTHROPIC_API_KEY") {
        let config = AnthropicConfig { api_key, base_url: set("ANTHROPIC_BASE_URL"), ..AnthropicConfig::default() };
        found.insert("anthropic".into(), ProviderConfig::Anthropic(config));
    }
    if let Some(api_key) = key("GEMINI_API_KEY") {
        found.insert("gemini".into(), ProviderConfig::Gemini(GeminiConfig { api_key, ..GeminiConfig::default() }));
    }
    if let Some(host) = set("OLLAMA_HOST") {
        // As Ollama itself reads it: a host and a port will do.
        let url = if host.contains("://") { host } else { format!("http://{host}") };
        found.insert(
            "ollama".into(),
            ProviderConfig::Ollama(OllamaConfig { base_url: Some(url), ..OllamaConfig::default() }),
        );
    }
    found
}
