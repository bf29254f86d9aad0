//! What the tests of the wire families share: a sink that remembers, and a request to encode.

use super::{DeltaSink, HttpPool, ModelRequest, OutputSchema, ToolChoice};
use crate::config::{CacheStrategy, ModelConfig};
use crate::types::{Error, Media, MediaSource, Part, ToolCall, ToolCallId, ToolSpec, Transcript};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// What a decoder told while it read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub text: String,
    pub reasoning: String,
    /// Id, name, arguments.
    pub calls: Vec<(String, String, String)>,
    pub warnings: Vec<String>,
}

impl DeltaSink for Told {
    fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn reasoning(&mut self, text: &str) {
        self.reasoning.push_str(text);
    }

    fn tool_call_start(&mut self, id: &ToolCallId, name: &str) {
        self.calls.push((id.to_string(), name.to_owned(), String::new()));
    }

    fn tool_call_delta(&mut self, id: &ToolCallId, args_json: &str) {
        let call = self.calls.iter_mut().find(|(other, _, _)| other == id.as_str()).expect("a started call");
        call.2.push_str(args_json);
    }

    fn warning(&mut self, code: &str, _: &str) {
        self.warnings.push(code.to_owned());
    }

    fn rate_limit(&mut self, _: &str, _: Map<String, Value>) {}

    fn retrying(&mut self, _: u32, _: u64, _: &Error) {}

    fn has_emitted(&self) -> bool {
        false
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn is_holding(&self) -> bool {
        false
    }

    fn ready(&mut self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// What is asked, owned.
pub struct Asked {
    pub model: ModelConfig,
    pub profile: crate::config::ModelProfile,
    pub system: Option<&'static str>,
    pub transcript: Transcript,
    pub tools: Vec<ToolSpec>,
    pub tool_choice: ToolChoice<'static>,
    pub output: Option<OutputSchema>,
    pub max_tokens: Option<u32>,
    pub cache_key: Option<&'static str>,
    pub cache: CacheStrategy,
    http: HttpPool,
    requests_made: AtomicU32,
}

impl Asked {
    pub fn of(model_name: &str) -> Self {
        Self {
            profile: crate::config::ModelProfile::default(),
            model: ModelConfig {
                provider: "p".into(),
                model_name: model_name.into(),
                api_base: None,
                temperature: None,
                max_tokens: None,
                top_p: None,
                stop_sequences: Vec::new(),
                reasoning: None,
            },
            system: None,
            transcript: Transcript::new(),
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            output: None,
            max_tokens: None,
            cache_key: None,
            cache: CacheStrategy::None,
            http: HttpPool::default(),
            requests_made: AtomicU32::new(0),
        }
    }

    pub fn request(&self) -> ModelRequest<'_> {
        ModelRequest {
            model: &self.model,
            system: self.system,
            transcript: &self.transcript,
            tools: &self.tools,
            tool_choice: self.tool_choice,
            output: self.output.as_ref(),
            max_tokens: self.max_tokens,
            cache: self.cache,
            profile: &self.profile,
            cache_key: self.cache_key,
            credentials: &super::NoCredentials,
            http: &self.http,
            requests_made: &self.requests_made,
        }
    }
}

pub fn raw(json: &str) -> Arc<RawValue> {
    RawValue::from_string(json.into()).unwrap().into()
}

pub fn tool(name: &str) -> ToolSpec {
    ToolSpec { name: name.into(), description: format!("Does {name}."), input_schema: raw(r#"{"type":"object"}"#) }
}

pub fn call(id: &str, name: &str, arguments: &str) -> Part {
    Part::ToolCall(ToolCall { id: id.into(), name: name.into(), arguments: arguments.into(), opaque: None })
}

pub fn data(media_type: &str) -> Media {
    Media { source: MediaSource::Data { media_type: media_type.into(), data: "aGk=".into() }, name: None }
}

pub fn url(url: &str) -> Media {
    Media { source: MediaSource::Url { url: url.into(), media_type: None }, name: None }
}
