//! Who knows what is where: search engines behind one question. Their addresses are the host's, so they may be anywhere.

use super::{Ask, Web, chunk, failure, plain};
use crate::config::{SearchConfig, Secret};
use crate::tools::ToolFailure;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::json;
use url::Url;

/// The most bytes of an answer.
const MAX_ANSWER: usize = 4 << 20;
/// The most characters of a snippet.
const MAX_SNIPPET: usize = 500;

const BRAVE_URL: &str = "https://api.search.brave.com/res/v1/web/search";
const TAVILY_URL: &str = "https://api.tavily.com/search";

/// One result.
#[derive(Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its title.
    pub title: String,
    /// Where it is.
    pub url: String,
    /// What it says about the question.
    pub snippet: String,
}

/// A result as any of them writes it.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default, alias = "description")]
    content: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Found>,
}

#[derive(Deserialize)]
struct BraveAnswer {
    #[serde(default)]
    web: Option<Answer>,
}

impl Web {
    /// The best results for a query, `most` at most. Cancel safe.
    pub async fn search(&self, query: &str, most: usize) -> Result<Vec<Hit>, ToolFailure> {
        let Some(search) = &self.config.search else {
            return Err(failure(
                "search_not_configured",
                "no search engine is configured; the host can set web.search of the runtime to {\"type\": \"searxng\", \"url\": …}, \
                 {\"type\": \"brave\", \"api_key\": …} or {\"type\": \"tavily\", \"api_key\": …}"
                    .into(),
            ));
        };
        let found = match search {
            SearchConfig::Searxng { url } => {
                let mut url = address(&format!("{}/search", url.trim_end_matches('/')))?;
                url.query_pairs_mut().append_pair("q", query).append_pair("format", "json");
                let body = self.ask(Method::GET, &url, HeaderMap::new(), None).await?;
                read::<Answer>(&body)?.results
            }
            SearchConfig::Brave { api_key, url } => {
                let mut url = address(url.as_deref().unwrap_or(BRAVE_URL))?;
                url.query_pairs_mut().append_pair("q", query).append_pair("count", &most.to_string());
                let name = HeaderName::from_static("x-subscription-token");
                let headers = HeaderMap::from_iter([(name, key(api_key, "")?)]);
                let body = self.ask(Method::GET, &url, headers, None).await?;
                read::<BraveAnswer>(&body)?.web.map(|web| web.results).unwrap_or_default()
            }
            SearchConfig::Tavily { api_key, url } => {
                let url = address(url.as_deref().unwrap_or(TAVILY_URL))?;
                let mut headers = HeaderMap::from_iter([(AUTHORIZATION, key(api_key, "Bearer ")?)]);
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                let body = json!({"query": query, "max_results": most}).to_string().into_bytes();
                let body = self.ask(Method::POST, &url, headers, Some(body)).await?;
                read::<Answer>(&body)?.results
            }
        };
        let hits = found.into_iter().filter_map(|Found { title, url, content }| {
            let url = url.filter(|url| url.starts_with("http://") || url.starts_with("https://"))?;
            let snippet: String = plain(&content.unwrap_or_default()).chars().take(MAX_SNIPPET).collect();
            Some(Hit { title: plain(&title.unwrap_or_default()), url, snippet })
        });
        Ok(hits.take(most).collect())
    }

    async fn ask(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, ToolFailure> {
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let mut response = self.send(Ask { method, url, headers, body, is_trusted: true }).await?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = chunk(&mut response).await? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return Err(failure("search_failed", "the search engine answered more than is ever read".into()));
            }
        }
        if status.is_success() {
            return Ok(body);
        }
        let said: String = plain(&String::from_utf8_lossy(&body)).chars().take(300).collect();
        let hint = match status.as_u16() {
            401 | 403 => "; the host should check the key, and for SearxNG that search.formats has json",
            404 => "; the host should check the url of web.search",
            _ => "",
        };
        let error =
            failure("search_failed", format!("the search engine answered HTTP {}{hint}: {said}", status.as_u16()));
        let may_help = status.is_server_error() || status.as_u16() == 429;
        Err(if may_help { error.retryable() } else { error })
    }
}

fn address(url: &str) -> Result<Url, ToolFailure> {
    Url::parse(url).map_err(|error| failure("search_failed", format!("the url of web.search is wrong: {error}")))
}

fn key(secret: &Secret, before: &str) -> Result<HeaderValue, ToolFailure> {
    let wrong = |message: &str| failure("search_failed", format!("the key of the search cannot be used: {message}"));
    let key = secret.reveal("config.web.search.api_key").map_err(|error| wrong(error.message()))?;
    let mut value =
        HeaderValue::try_from(format!("{before}{key}")).map_err(|_| wrong("it has characters that no key has"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ToolFailure> {
    serde_json::from_slice(body).map_err(|error| {
        failure("search_failed", format!("the search engine did not answer with results as JSON ({error})"))
    })
}
