//! From the configuration of a provider to the provider: which wire, at which address.

use crate::config::{
    ANTHROPIC_URL, ApiKind, GEMINI_URL, OLLAMA_URL, OPENAI_URL, ProviderConfig, Quirks, ReplayConfig, RequestFormat,
};
use crate::llm::anthropic::{self, Anthropic};
use crate::llm::gemini::{self, Gemini};
use crate::llm::mock::Mock;
use crate::llm::ollama::{self, Ollama};
use crate::llm::openai_chat::{self, OpenAiChat};
use crate::llm::openai_responses::{self, OpenAiResponses};
use crate::llm::{Provider, Recorder, Server, Tape};
use crate::types::Result;
use std::sync::Arc;

/// What a configuration comes to. `recorder`: where its exchanges are written down.
pub(super) fn build_provider(
    name: String,
    config: ProviderConfig,
    recorder: Option<&Arc<Recorder>>,
) -> Result<Arc<dyn Provider>> {
    let chat = |stream: bool, is_openai: bool, quirks: Quirks| {
        OpenAiChat::new(openai_chat::Dialect { stream, is_openai, quirks })
    };
    let plain = Quirks::default();
    Ok(match config {
        ProviderConfig::OpenAi(config) => {
            let mut server = config.server(OPENAI_URL);
            server.embedding_model = config.embedding_model;
            if let Some(organization) = config.organization {
                server.headers.entry("OpenAI-Organization".into()).or_insert(organization);
            }
            let is_openai = server.base_url.starts_with(OPENAI_URL);
            let stream = server.stream;
            match config.api {
                ApiKind::Chat => {
                    Arc::new(Server::new(name, "openai", server, chat(stream, is_openai, plain))?.recorded(recorder))
                }
                ApiKind::Responses => Arc::new(
                    Server::new(name, "openai", server, OpenAiResponses { stream, is_openai })?.recorded(recorder),
                ),
            }
        }
        ProviderConfig::Anthropic(config) => {
            let server = config.server(ANTHROPIC_URL);
            let wire = Anthropic { stream: server.stream };
            Arc::new(Server::new(name, "anthropic", server, wire)?.recorded(recorder))
        }
        ProviderConfig::Gemini(config) => {
            let server = config.server(GEMINI_URL);
            let wire = Gemini { stream: server.stream };
            Arc::new(Server::new(name, "gemini", server, wire)?.recorded(recorder))
        }
        ProviderConfig::Ollama(config) => {
            let server = config.server(OLLAMA_URL);
            let stream = server.stream;
            if server.base_url.trim_end_matches('/').ends_with("/v1") {
                return Ok(Arc::new(
                    Server::new(name, "ollama", server, chat(stream, false, plain))?.recorded(recorder),
                ));
            }
            let wire = Ollama { stream, num_ctx: config.num_ctx, keep_alive: config.keep_alive };
            Arc::new(Server::new(name, "ollama", server, wire)?.recorded(recorder))
        }
        ProviderConfig::Custom(config) => {
            let server = config.server(config.quirks.base_url().unwrap_or_default());
            let stream = server.stream;
            match config.request_format {
                RequestFormat::OpenaiCompatible => Arc::new(
                    Server::new(name, "custom", server, chat(stream, false, config.quirks.resolve()))?
                        .recorded(recorder),
                ),
                RequestFormat::AnthropicCompatible => {
                    Arc::new(Server::new(name, "custom", server, Anthropic { stream })?.recorded(recorder))
                }
            }
        }
        ProviderConfig::Mock(config) => Arc::new(Mock::new(name, config)),
        ProviderConfig::Replay(config) => replay(name, &config)?,
    })
}

/// The wire that was recorded, over the cassette.
fn replay(name: String, config: &ReplayConfig) -> Result<Arc<dyn Provider>> {
    let retry = config.retry;
    let tape = Tape::load(&name, config, &format!("config.llm_providers.{name}"))?;
    Ok(match tape.family() {
        openai_chat::FAMILY => {
            let wire: OpenAiChat = tape.wire()?;
            Arc::new(Server::replaying(name, retry, tape, wire)?)
        }
        openai_responses::FAMILY => {
            let wire: OpenAiResponses = tape.wire()?;
            Arc::new(Server::replaying(name, retry, tape, wire)?)
        }
        anthropic::FAMILY => {
            let wire: Anthropic = tape.wire()?;
            Arc::new(Server::replaying(name, retry, tape, wire)?)
        }
        gemini::FAMILY => {
            let wire: Gemini = tape.wire()?;
            Arc::new(Server::replaying(name, retry, tape, wire)?)
        }
        ollama::FAMILY => {
            let wire: Ollama = tape.wire()?;
            Arc::new(Server::replaying(name, retry, tape, wire)?)
        }
        other => return Err(tape.unreadable(&format!("it has a family {other:?} that is not known"))),
    })
}
