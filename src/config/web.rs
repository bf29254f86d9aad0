//! What the web tools may reach: `web` of the runtime.

use super::Secret;
use super::provider::check_url;
use crate::types::{Error, Result};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::borrow::Cow;
use std::net::IpAddr;

/// The web as the tools see it. Without a word of it they reach every public address, and no other.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct WebConfig {
    /// Hosts and addresses that are reached although they are not public: `"localhost:8080"`, `"10.1.0.0/16"`,
    /// `"wiki.example"`. A name stands for every address that it has.
    pub allow: Vec<Place>,
    /// The most bytes of one page that are read. Default 5 MiB.
    pub max_bytes: usize,
    /// How often a page may lead to another one. Default 5.
    pub max_redirects: u32,
    /// How the tools introduce themselves. Default: `libpar/` and the version.
    pub user_agent: Option<String>,
    /// Who is asked by `web_search`.
    pub search: Option<SearchConfig>,
}

impl Default for WebConfig {
    fn default() -> Self {
        Self { allow: Vec::new(), max_bytes: 5 << 20, max_redirects: 5, user_agent: None, search: None }
    }
}

/// Who is asked by `web_search`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
pub enum SearchConfig {
    /// A SearxNG server, or one that answers like it. Its `search.formats` must have `json`.
    Searxng {
        /// Its address; it need not be public.
        url: String,
    },
    /// Brave Search.
    Brave {
        /// The key.
        api_key: Secret,
        /// Another address than Brave's own.
        #[serde(default)]
        url: Option<String>,
    },
    /// Tavily.
    Tavily {
        /// The key.
        api_key: Secret,
        /// Another address than Tavily's own.
        #[serde(default)]
        url: Option<String>,
    },
}

/// A host or some addresses, and perhaps one port of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    Net(IpNet),
}

impl Place {
    /// Reads a place as it is written.
    pub fn parse(text: &str) -> Option<Self> {
        let net = |text: &str| {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            bare.parse::<IpNet>().ok().or_else(|| bare.parse::<IpAddr>().ok().map(IpNet::from))
        };
        if let Some(net) = net(text) {
            return Some(Self { host: Host::Net(net), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        if let Some(net) = net(host) {
            return Some(Self { host: Host::Net(net), port });
        }
        let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_name = !host.is_empty() && host.chars().all(is_legal) && !host.ends_with(|c: char| c.is_ascii_digit());
        is_name.then(|| Self { host: Host::Name(named(host)), port })
    }

    /// Whether a host of this name is meant, at this port.
    pub fn has_host(&self, host: &str, port: u16) -> bool {
        matches!(&self.host, Host::Name(name) if *name == named(host)) && self.has_port(port)
    }

    /// Whether this address is meant, at this port.
    pub fn has_address(&self, address: IpAddr, port: u16) -> bool {
        matches!(&self.host, Host::Net(net) if net.contains(&address.to_canonical())) && self.has_port(port)
    }

    fn has_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }
}

/// A host's name, of all that name the same one.
fn named(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format_args!(
                "{text:?} is neither a host nor an address; write it like \"host\", \"host:8080\", \"10.0.0.0/8\" or \"[::1]:80\""
            ))
        })
    }
}

impl JsonSchema for Place {
    fn schema_name() -> Cow<'static, str> {
        "Place".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "minLength": 1, "description": "A host, an address, or a range of them."})
    }
}

impl WebConfig {
    /// Checks the values.
    pub fn check(&self, path: &str) -> Result<()> {
        if !(1_024..=1 << 30).contains(&self.max_bytes) {
            return Err(Error::schema(format!("{path}.max_bytes"), "1024 bytes to 1 GiB are possible"));
        }
        if self.max_redirects > 20 {
            return Err(Error::schema(format!("{path}.max_redirects"), "0 to 20 redirects are possible"));
        }
        if self.user_agent.as_ref().is_some_and(|agent| http::HeaderValue::try_from(agent).is_err()) {
            return Err(Error::schema(format!("{path}.user_agent"), "this is not an HTTP header value")
                .with_hint("visible ASCII only"));
        }
        let (key, url) = match &self.search {
            None => return Ok(()),
            Some(SearchConfig::Searxng { url }) => (None, Some(url)),
            Some(SearchConfig::Brave { api_key, url } | SearchConfig::Tavily { api_key, url }) => {
                (Some(api_key), url.as_ref())
            }
        };
        if matches!(key, Some(Secret::Host(_))) {
            return Err(Error::schema(
                format!("{path}.search.api_key"),
                "the host is not asked for the key of a search",
            )
            .with_hint("give it by env or file"));
        }
        url.map_or(Ok(()), |url| check_url(url, &format!("{path}.search.url")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::strict;
    use pretty_assertions::assert_eq;

    fn place(text: &str) -> Place {
        Place::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_is_a_name_an_address_or_a_range() {
        assert!(place("Wiki.Example").has_host("wiki.example.", 80));
        assert!(!place("wiki.example").has_host("evil-wiki.example", 80));
        assert!(place("localhost:8080").has_host("localhost", 8080));
        assert!(!place("localhost:8080").has_host("localhost", 80));
        assert!(place("10.0.0.0/8").has_address(ip("10.255.1.1"), 1));
        assert!(place("127.0.0.1").has_address(ip("::ffff:127.0.0.1"), 80));
        assert!(!place("127.0.0.1:81").has_address(ip("127.0.0.1"), 80));
        assert!(place("[::1]:80").has_address(ip("::1"), 80));
        assert!(place("fd00::/8").has_address(ip("fd12::1"), 443));
        for wrong in ["", "http://h", "h/x", "10.0.0.0/33", "a b", "h:99999", "256.1.1.1", "*"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_path() {
        for (text, path) in [
            (r#"{"allow": ["localhost", "http://h"]}"#, "web.allow[1]"),
            (r#"{"max_bytes": 1}"#, "web.max_bytes"),
            (r#"{"max_redirects": 21}"#, "web.max_redirects"),
            (r#"{"search": {"type": "gogle"}}"#, "web.search.type"),
            (r#"{"search": {"type": "searxng", "url": "ftp://h"}}"#, "web.search.url"),
            (r#"{"search": {"type": "brave"}}"#, "web.search"),
            (r#"{"search": {"type": "brave", "api_key": {"host": "k"}}}"#, "web.search.api_key"),
            (r#"{"user_agent": "a\nb"}"#, "web.user_agent"),
        ] {
            let read = strict::from_str::<WebConfig>(text, "web").and_then(|web| web.check("web"));
            assert_eq!(read.unwrap_err().path(), Some(path), "{text}");
        }
    }
}
