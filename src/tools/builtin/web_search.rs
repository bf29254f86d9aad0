//! `web_search`: pages about something.

use super::{Builtin, Kit, Reach};
use crate::config::Effect;
use crate::tools::web::{Hit, Web};
use crate::tools::{Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See the module's head.
pub struct WebSearch {
    web: Arc<Web>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What is looked for.
    #[schemars(length(min = 1, max = 1_000))]
    query: String,
    /// Results at most. Default 5.
    #[serde(default = "default_results")]
    #[schemars(range(min = 1, max = 20))]
    max_results: usize,
}

fn default_results() -> usize {
    5
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    query: String,
    results: Vec<Found>,
    result_count: usize,
}

#[derive(Serialize, JsonSchema)]
pub struct Found {
    title: String,
    url: String,
    snippet: String,
}

impl Builtin for WebSearch {
    const NAME: &'static str = "web_search";
    const DESCRIPTION: &'static str =
        "Searches the web: titles, URLs and snippets of the best results. Read a result with read_webpage.";
    const REACH: Reach = Reach::Network;
    const EFFECT: Effect = Effect::Idempotent;
    const TIMEOUT: f64 = 15.0;
    type Input = Input;
    type Output = Output;

    fn new(kit: &Kit) -> Self {
        Self { web: Arc::clone(&kit.web) }
    }

    async fn run<'a>(&'a self, Input { query, max_results }: Input, _: Invocation<'a>) -> Result<Output, ToolFailure> {
        let hits = self.web.search(&query, max_results).await?;
        let found = |Hit { title, url, snippet }| Found { title, url, snippet };
        let results: Vec<_> = hits.into_iter().map(found).collect();
        Ok(Output { query, result_count: results.len(), results })
    }
}
