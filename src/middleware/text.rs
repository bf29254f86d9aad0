//! The layers that look at text: masking, sanitizing, stripping.

use super::pii::PiiMask;
use super::sanitize::{Sanitized, Sanitizer};
use super::think::ThinkStrip;
use super::{Middleware, Scene};
use crate::llm::ModelAnswer;
use crate::types::{Part, Result, ToolCall, ToolResult};
use futures_util::future::{BoxFuture, ready};
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// Masks personal data in answers, arguments and results.
pub struct Masking(pub Arc<PiiMask>);

impl Masking {
    fn apply(&self, text: &mut String) -> bool {
        match self.0.mask(text) {
            Cow::Borrowed(_) => false,
            Cow::Owned(masked) => {
                *text = masked;
                true
            }
        }
    }

    /// Arguments stay JSON: only strings in them are masked.
    fn apply_to_arguments(&self, arguments: &mut String) -> bool {
        let Ok(value) = serde_json::from_str::<Value>(arguments) else { return self.apply(arguments) };
        match self.0.mask_json(&value) {
            Some(masked) => {
                *arguments = masked.to_string();
                true
            }
            None => false,
        }
    }
}

impl Middleware for Masking {
    fn name(&self) -> &str {
        "pii_mask"
    }

    fn after_llm<'a>(&'a self, _: Scene<'a>, answer: &'a mut ModelAnswer) -> BoxFuture<'a, Result<()>> {
        for part in &mut answer.parts {
            // What was changed is no longer what its provider signed.
            match part {
                Part::Text { text, opaque } | Part::Reasoning { text, opaque } => {
                    if self.apply(text) {
                        *opaque = None;
                    }
                }
                Part::ToolCall(call) => {
                    if self.apply_to_arguments(&mut call.arguments) {
                        call.opaque = None;
                    }
                }
                Part::Image(_) | Part::Document(_) | Part::Audio(_) | Part::Opaque(_) | Part::CachePoint(_) => {}
            }
        }
        Box::pin(ready(Ok(())))
    }

    fn after_tool<'a>(
        &'a self,
        _: Scene<'a>,
        _: &'a ToolCall,
        result: &'a mut ToolResult,
    ) -> BoxFuture<'a, Result<()>> {
        self.apply(&mut result.content);
        Box::pin(ready(Ok(())))
    }
}

/// Looks for instructions in tool results.
pub struct Sanitizing(pub Sanitizer);

impl Middleware for Sanitizing {
    fn name(&self) -> &str {
        "sanitize_tool_output"
    }

    fn after_tool<'a>(
        &'a self,
        scene: Scene<'a>,
        call: &'a ToolCall,
        result: &'a mut ToolResult,
    ) -> BoxFuture<'a, Result<()>> {
        match self.0.apply(&result.content) {
            Sanitized::Clean => {}
            Sanitized::Changed(text) => {
                tracing::warn!(run_id = scene.run_id.as_str(), tool = call.name, "the tool's result was sanitized");
                result.content = text;
            }
            Sanitized::Blocked { phrase } => {
                tracing::warn!(run_id = scene.run_id.as_str(), tool = call.name, "the tool's result was blocked");
                *result = ToolResult::error(format!(
                    "The result was withheld: it contains what looks like instructions to you ({phrase:?})."
                ));
            }
        }
        Box::pin(ready(Ok(())))
    }
}

/// Makes reasoning of what stands in tags.
pub struct Stripping(pub Arc<ThinkStrip>);

impl Middleware for Stripping {
    fn name(&self) -> &str {
        "think_tag_strip"
    }

    fn after_llm<'a>(&'a self, _: Scene<'a>, answer: &'a mut ModelAnswer) -> BoxFuture<'a, Result<()>> {
        let mut parts = Vec::with_capacity(answer.parts.len());
        for part in answer.parts.drain(..) {
            match part {
                Part::Text { text, opaque: None } => {
                    let (text, reasoning) = self.0.split(&text);
                    if !reasoning.is_empty() {
                        parts.push(Part::reasoning(reasoning));
                    }
                    if !text.is_empty() {
                        parts.push(Part::text(text));
                    }
                }
                other => parts.push(other),
            }
        }
        answer.parts = parts;
        Box::pin(ready(Ok(())))
    }
}
