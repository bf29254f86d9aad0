//! `read_webpage`: what a person would read of a page.

use super::{Builtin, Kit, Reach};
use crate::config::Effect;
use crate::tools::web::{Readable, Web, readable};
use crate::tools::{Helpers, Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See the module's head.
pub struct ReadWebpage {
    web: Arc<Web>,
    helpers: Helpers,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// An http or https URL on the public Internet.
    url: String,
    /// The most characters of the text. Default 10000.
    #[serde(default = "default_length")]
    #[schemars(range(min = 100, max = 500_000))]
    max_length: usize,
}

fn default_length() -> usize {
    10_000
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    /// Where it was found, redirects followed.
    url: String,
    title: String,
    /// Headings with `#`, items with `-`, a blank line between paragraphs.
    text: String,
    /// Its characters.
    text_length: usize,
    /// Whether there is more.
    truncated: bool,
}

impl Builtin for ReadWebpage {
    const NAME: &'static str = "read_webpage";
    const DESCRIPTION: &'static str = "Reads a web page: its title and its text, without markup, scripts, menus and footers. Other texts are answered as they are.";
    const REACH: Reach = Reach::Network;
    const EFFECT: Effect = Effect::Idempotent;
    const TIMEOUT: f64 = 15.0;
    type Input = Input;
    type Output = Output;

    fn new(kit: &Kit) -> Self {
        Self { web: Arc::clone(&kit.web), helpers: kit.helpers.clone() }
    }

    async fn run<'a>(&'a self, Input { url, max_length }: Input, call: Invocation<'a>) -> Result<Output, ToolFailure> {
        let page = self.web.get(&url).await?;
        if !(200..300).contains(&page.status) {
            let failure =
                ToolFailure::new(format!("{} answered HTTP {}", page.url, page.status)).with_code("http_status");
            return Err(if page.status >= 500 || page.status == 429 { failure.retryable() } else { failure });
        }
        let (url, is_cut) = (String::from(page.url.clone()), page.is_cut);
        // A long page is work for a moment; a worker has better to do.
        let work = move |cancel: &_| match page.is_html() {
            true => readable(&page.text(), max_length, cancel)
                .ok_or_else(|| ToolFailure::new("it was cancelled while the page was read")),
            false => {
                let (text, is_cut) = page.text_up_to(max_length);
                Ok(Readable { title: String::new(), text, is_cut })
            }
        };
        let read = self.helpers.run(&call.cancel, work).await?;
        Ok(Output {
            url,
            title: read.title,
            text_length: read.text.chars().count(),
            text: read.text,
            truncated: read.is_cut || is_cut,
        })
    }
}
