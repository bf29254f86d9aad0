//! A sink that remembers what a decoder told.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use par::llm::DeltaSink;
use par::types::{Error, ToolCallId};
use serde_json::{Map, Value};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub text: String,
    pub reasoning: String,
    /// Id, name and arguments.
    pub calls: Vec<(String, String, String)>,
    pub warnings: Vec<String>,
    pub malformed: usize,
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
