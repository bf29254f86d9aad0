//! What can be wrong with a server, in words.

use super::{Server, Wire};
use crate::llm::http::connection_error;
use crate::llm::reply::Broken;
use crate::types::{Category, Error, ProviderDetail, Status};

impl<W: Wire> Server<W> {
    fn detail(&self) -> ProviderDetail {
        ProviderDetail { provider: self.name.clone(), ..ProviderDetail::default() }
    }

    /// Something did not come in the time that `timeouts.key` gives it.
    pub(super) fn timed_out(&self, what: &str, key: &str, limit_ms: u64) -> Error {
        Error::new(Status::Network, format!("the provider {:?} did not send {what} within {limit_ms} ms", self.name))
            .with_category(Category::Timeout)
            .with_code("timeout")
            .with_hint(format!("raise config.llm_providers.{}.timeouts.{key}, or check the server", self.name))
            .with_provider(self.detail())
    }

    /// The end came too early.
    pub(super) fn truncated(&self, message: &str, has_emitted: bool) -> Error {
        Error::new(Status::Network, format!("the provider {:?}: {message}", self.name))
            .with_category(Category::Truncated)
            .with_code("truncated")
            .with_hint(if has_emitted {
                "what was streamed is incomplete; the call may be repeated"
            } else {
                "the call may be repeated"
            })
            .with_provider(self.detail())
    }

    /// The connection broke.
    pub(super) fn broken(&self, broken: &Broken, has_emitted: bool) -> Error {
        let message = match broken {
            Broken::Connection(error) => {
                let address = self.config.base_url.split('?').next().unwrap_or_default();
                let error = connection_error(&self.name, address, error);
                format!("the stream was cut off: {}", error.message())
            }
            Broken::Recorded => "the stream was cut off when it was recorded".to_owned(),
        };
        self.truncated(&message, has_emitted)
    }

    /// What came is nothing of the API.
    pub(super) fn bad_answer(&self, text: &str) -> Error {
        let text = self.secrets.strike(text);
        Error::new(
            Status::Provider,
            format!("the provider {:?} answered what is not an answer of its API: {text:.200}", self.name),
        )
        .with_code("bad_answer")
        .with_hint("check base_url, and that the server speaks this API")
        .with_provider(self.detail())
    }

    /// More came than is ever read.
    pub(super) fn oversized(&self, what: &str) -> Error {
        Error::new(Status::Provider, format!("{what} of the provider {:?} exceeds what is accepted", self.name))
            .with_code("oversized_answer")
            .with_hint("this is not what a chat server sends: check base_url")
            .with_provider(self.detail())
    }
}
