//! The web for tools: pages by their URLs, within bounds of place ([`guard`]), size, time and kind.
//!
//! Each request has a client of its own: no proxy of the environment stands between, which could reach what the guard
//! refuses, and no connection is used twice. Redirects are followed here, each judged like the first URL.

mod guard;
mod readable;
mod search;
#[cfg(test)]
mod tests;

pub use guard::{Resolve, System};
pub use readable::{Readable, plain, readable};
pub use search::Hit;

use super::ToolFailure;
use crate::config::WebConfig;
use crate::types::Result as LibraryResult;
use bytes::Bytes;
use encoding_rs::{Encoding, UTF_8};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method};
use reqwest::dns::{Name, Resolving};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use url::{Host, Url};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How a TLS client is set up.
pub type Tls = fn() -> LibraryResult<rustls::ClientConfig>;

/// See the module's head.
pub struct Web {
    config: WebConfig,
    tls: Tls,
    resolver: Arc<dyn Resolve>,
}

/// What a URL led to.
pub struct Page {
    /// Where it was found, redirects followed.
    pub url: Url,
    /// The HTTP status.
    pub status: u16,
    /// Its media type in lower case, without parameters; empty where the server does not tell.
    pub media_type: String,
    /// As much of it as may be read.
    pub body: Vec<u8>,
    /// Whether there is more.
    pub is_cut: bool,
    charset: Option<String>,
}

/// One request.
struct Ask<'a> {
    method: Method,
    url: &'a Url,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    /// Whether it is the host that named the URL: then it may be anywhere.
    is_trusted: bool,
}

impl Web {
    /// The web of this configuration, which has been checked.
    pub fn new(config: WebConfig, tls: Tls, resolver: Arc<dyn Resolve>) -> Self {
        Self { config, tls, resolver }
    }

    /// The page at a URL, wherever that leads. Cancel safe.
    pub async fn get(&self, url: &str) -> Result<Page, ToolFailure> {
        let mut url = parse(url)?;
        let mut redirects = 0;
        loop {
            let mut headers = HeaderMap::new();
            headers
                .insert(ACCEPT, HeaderValue::from_static("text/html, text/*;q=0.9, application/json;q=0.9, */*;q=0.1"));
            let ask = Ask { method: Method::GET, url: &url, headers, body: None, is_trusted: false };
            let response = self.send(ask).await?;
            let Some(next) = redirect(&response) else { return self.page(url, response).await };
            redirects += 1;
            if redirects > self.config.max_redirects {
                let most = self.config.max_redirects;
                return Err(failure("too_many_redirects", format!("the page leads on and on, more than {most} times")));
            }
            let target = url
                .join(next)
                .map_err(|error| failure("invalid_url", format!("the page leads to what is no URL ({error})")))?;
            url = checked(target)?;
        }
    }

    async fn page(&self, url: Url, mut response: reqwest::Response) -> Result<Page, ToolFailure> {
        let given = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (media_type, parameters) = given.split_once(';').unwrap_or((given, ""));
        let media_type = media_type.trim().to_ascii_lowercase();
        let charset = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_owned())
        });
        if !is_text(&media_type) {
            return Err(failure(
                "unsupported_content_type",
                format!("{url} is {media_type:?}, and only texts are read: HTML, JSON, XML and the like"),
            ));
        }
        if let Some(encoding) = response.headers().get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(failure(
                "unsupported_content_encoding",
                format!("the server compressed the page ({encoding:?}) although it was asked not to"),
            ));
        }
        let status = response.status().as_u16();
        let (mut body, mut is_cut) = (Vec::new(), false);
        while let Some(chunk) = chunk(&mut response).await? {
            let room = self.config.max_bytes - body.len();
            body.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
            if chunk.len() > room {
                is_cut = true;
                break;
            }
        }
        if media_type.is_empty() && body.contains(&0) {
            return Err(failure("unsupported_content_type", format!("{url} is not a text")));
        }
        Ok(Page { url, status, media_type, body, is_cut, charset })
    }

    async fn send(&self, ask: Ask<'_>) -> Result<reqwest::Response, ToolFailure> {
        let Ask { method, url, headers, body, is_trusted } = ask;
        let addresses = self.addresses(url, is_trusted).await?;
        let client = self.client(url, &addresses)?;
        let mut request = client.request(method, url.clone()).headers(headers).header(ACCEPT_ENCODING, "identity");
        if let Some(body) = body {
            request = request.body(body);
        }
        request.send().await.map_err(|error| unreachable_page(url, &error))
    }

    /// The addresses of a URL's host, all of which may be reached.
    async fn addresses(&self, url: &Url, is_trusted: bool) -> Result<Vec<SocketAddr>, ToolFailure> {
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(failure("invalid_url", "the URL has no host".into()));
        };
        let (name, addresses) = match host {
            Host::Ipv4(address) => (address.to_string(), vec![SocketAddr::new(address.into(), port)]),
            Host::Ipv6(address) => (address.to_string(), vec![SocketAddr::new(address.into(), port)]),
            Host::Domain(name) => {
                let found = self.resolver.resolve(name, port).await.map_err(|error| {
                    failure("dns", format!("the host {name:?} cannot be resolved: {error}")).retryable()
                })?;
                (name.to_owned(), found)
            }
        };
        if addresses.is_empty() {
            return Err(failure("dns", format!("the host {name:?} has no address")));
        }
        let is_open = |address: &SocketAddr| guard::is_open(&self.config.allow, &name, *address);
        if !is_trusted && !addresses.iter().all(is_open) {
            return Err(failure(
                "address_refused",
                format!(
                    "{name:?} is not on the public Internet, and nothing else is reached unless the host allows it (web.allow)"
                ),
            ));
        }
        Ok(addresses)
    }

    /// A client that goes to these addresses and nowhere else.
    fn client(&self, url: &Url, addresses: &[SocketAddr]) -> Result<reqwest::Client, ToolFailure> {
        struct Nothing;
        impl reqwest::dns::Resolve for Nothing {
            fn resolve(&self, name: Name) -> Resolving {
                let error = format!("{:?} was not resolved beforehand", name.as_str());
                Box::pin(std::future::ready(Err(error.into())))
            }
        }
        let tls = (self.tls)().map_err(|error| ToolFailure::new(error.message()))?;
        let agent = self.config.user_agent.as_deref().unwrap_or(concat!("libpar/", env!("CARGO_PKG_VERSION")));
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(agent)
            .dns_resolver(Arc::new(Nothing));
        if let Some(Host::Domain(name)) = url.host() {
            builder = builder.resolve_to_addrs(name, addresses);
        }
        builder.build().map_err(|error| ToolFailure::new(format!("the HTTP client cannot be built: {error}")))
    }
}

impl Page {
    /// Its text, in whatever encoding it came.
    pub fn text(&self) -> String {
        let told = || self.charset.clone().or_else(|| self.is_html().then(|| meta_charset(&self.body)).flatten());
        let encoding = Encoding::for_bom(&self.body)
            .map(|(encoding, _)| encoding)
            .or_else(|| Encoding::for_label(told()?.as_bytes()))
            .unwrap_or(UTF_8);
        encoding.decode(&self.body).0.into_owned()
    }

    /// The first characters of its text, and whether there are more.
    pub fn text_up_to(&self, characters: usize) -> (String, bool) {
        let mut text = self.text();
        let end = text.char_indices().nth(characters).map(|(at, _)| at);
        if let Some(end) = end {
            text.truncate(end);
        }
        (text, end.is_some())
    }

    /// Whether it is a page of the web in the narrow sense.
    pub fn is_html(&self) -> bool {
        match self.media_type.as_str() {
            "text/html" | "application/xhtml+xml" => true,
            "" => self.body.trim_ascii_start().starts_with(b"<"),
            _ => false,
        }
    }
}

fn failure(code: &str, message: String) -> ToolFailure {
    ToolFailure::new(message).with_code(code)
}

fn parse(text: &str) -> Result<Url, ToolFailure> {
    let url = Url::parse(text.trim()).map_err(|error| {
        failure("invalid_url", format!("this is no URL ({error}); write it whole, like https://example.org/page"))
    })?;
    checked(url)
}

fn checked(mut url: Url) -> Result<Url, ToolFailure> {
    if !matches!(url.scheme(), "http" | "https") {
        let message = format!("{:?} is not fetched: only http and https are", url.scheme());
        return Err(failure("invalid_url", message));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(failure(
            "invalid_url",
            "a URL with a user or a password in it is not fetched; leave them out".into(),
        ));
    }
    url.set_fragment(None);
    Ok(url)
}

/// Where an answer leads, if it does.
fn redirect(response: &reqwest::Response) -> Option<&str> {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
        .then(|| response.headers().get(LOCATION)?.to_str().ok())
        .flatten()
}

fn is_text(media_type: &str) -> bool {
    let (kind, subtype) = media_type.split_once('/').unwrap_or((media_type, ""));
    let is_known = matches!(
        subtype,
        "json" | "xml" | "javascript" | "ecmascript" | "yaml" | "x-yaml" | "toml" | "x-ndjson" | "sql" | "graphql"
    );
    kind.is_empty()
        || kind == "text"
        || (kind == "application" && (is_known || subtype.ends_with("+json") || subtype.ends_with("+xml")))
        || media_type == "image/svg+xml"
}

/// The charset that a page names near its beginning.
fn meta_charset(body: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(body.get(..body.len().min(1024)).unwrap_or_default()).to_ascii_lowercase();
    let (_, rest) = head.split_once("charset")?;
    let value = rest.trim_start().strip_prefix('=')?.trim_start().trim_start_matches(['"', '\'']);
    let end = value.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':'))).unwrap_or(value.len());
    value.get(..end).map(str::to_owned)
}

async fn chunk(response: &mut reqwest::Response) -> Result<Option<Bytes>, ToolFailure> {
    response.chunk().await.map_err(|error| failure("connection_broke", chain(&error)).retryable())
}

fn unreachable_page(url: &Url, error: &reqwest::Error) -> ToolFailure {
    let host = url.host_str().unwrap_or_default();
    failure("unreachable", format!("{host} cannot be reached: {}", chain(error))).retryable()
}

/// An error with its causes, without the URL.
fn chain(error: &reqwest::Error) -> String {
    let mut said = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said.push(error.to_string());
        cause = error.source();
    }
    said.dedup();
    if said.is_empty() { error.to_string() } else { said.join(": ") }
}
