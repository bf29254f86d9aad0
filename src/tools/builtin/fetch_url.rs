//! `fetch_url`: what stands at a URL, as it is.

use super::{Builtin, Kit, Reach};
use crate::config::Effect;
use crate::tools::web::Web;
use crate::tools::{Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See the module's head.
pub struct FetchUrl {
    web: Arc<Web>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// An http or https URL on the public Internet.
    url: String,
    /// The most characters of the answer. Default 50000.
    #[serde(default = "default_length")]
    #[schemars(range(min = 100, max = 500_000))]
    max_length: usize,
}

fn default_length() -> usize {
    50_000
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    /// Where it was found, redirects followed.
    url: String,
    /// The HTTP status.
    status: u16,
    content: String,
    /// The bytes that were read.
    content_length: usize,
    /// Whether there is more.
    truncated: bool,
}

impl Builtin for FetchUrl {
    const NAME: &'static str = "fetch_url";
    const DESCRIPTION: &'static str = "Fetches a URL and answers its text as it is: HTML source, JSON, plain text. To read a web page, use read_webpage.";
    const REACH: Reach = Reach::Network;
    const EFFECT: Effect = Effect::Idempotent;
    const TIMEOUT: f64 = 15.0;
    type Input = Input;
    type Output = Output;

    fn new(kit: &Kit) -> Self {
        Self { web: Arc::clone(&kit.web) }
    }

    async fn run<'a>(&'a self, Input { url, max_length }: Input, _: Invocation<'a>) -> Result<Output, ToolFailure> {
        let page = self.web.get(&url).await?;
        let (content, is_cut) = page.text_up_to(max_length);
        Ok(Output {
            status: page.status,
            content,
            content_length: page.body.len(),
            truncated: is_cut || page.is_cut,
            url: page.url.into(),
        })
    }
}
