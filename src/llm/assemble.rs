//! Puts a streamed answer together.
//!
//! Tool calls arrive in pieces, and servers disagree on how the pieces belong together. The rules that survive all of
//! them: a piece with an index belongs to that index, unless it brings another non-empty id; a piece without an index
//! belongs to the open call, unless it brings another id or name; names are set once; arguments concatenate.

use super::call_ids::CallIds;
use super::openai_chat::{Details, FAMILY};
use super::whole::WholeJson;
use super::{DeltaSink, ModelAnswer};
use crate::types::{FinishReason, Opaque, Part, ToolCall, ToolCallId, Transcript, Usage};
use serde_json::value::RawValue;
use std::collections::HashMap;

/// One piece of a tool call, as a decoder found it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallPiece<'a> {
    /// The server's index, if it sent one.
    pub index: Option<u32>,
    /// The server's id; empty or `"null"` is none.
    pub id: Option<&'a str>,
    /// The tool's name.
    pub name: Option<&'a str>,
    /// More of the arguments.
    pub arguments: Option<&'a str>,
    /// The fields that the server wants back with the call, as an object of JSON; the last ones count.
    pub extra: Option<&'a str>,
}

/// See the module's head.
pub struct Assembler<'a> {
    ids: CallIds<'a>,
    text: String,
    reasoning: String,
    calls: Vec<Slot>,
    /// The newest call of each index.
    by_index: HashMap<u32, usize>,
    /// The newest call of each id of the server.
    by_wire_id: HashMap<String, usize>,
    finish_reason: Option<FinishReason>,
    usage: Usage,
    model: String,
    details: Details,
}

struct Slot {
    /// The server's own id, by which later pieces are recognized.
    wire_id: String,
    id: ToolCallId,
    name: String,
    arguments: String,
    whole: WholeJson,
    extra: Option<String>,
    announced: bool,
}

impl<'a> Assembler<'a> {
    /// An empty answer that will be appended to `transcript`.
    pub fn new(transcript: &'a Transcript) -> Self {
        Self {
            ids: CallIds::new(transcript),
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            by_index: HashMap::new(),
            by_wire_id: HashMap::new(),
            finish_reason: None,
            usage: Usage::default(),
            model: String::new(),
            details: Details::default(),
        }
    }

    /// More text.
    pub fn text(&mut self, text: &str, sink: &mut dyn DeltaSink) {
        if !text.is_empty() {
            self.text.push_str(text);
            sink.text(text);
        }
    }

    /// More reasoning.
    pub fn reasoning(&mut self, text: &str, sink: &mut dyn DeltaSink) {
        if !text.is_empty() {
            self.reasoning.push_str(text);
            sink.reasoning(text);
        }
    }

    /// More of a tool call.
    pub fn call(&mut self, piece: CallPiece<'_>, sink: &mut dyn DeltaSink) {
        let wire_id = piece.id.filter(|id| !id.is_empty() && *id != "null").unwrap_or_default();
        let name = piece.name.unwrap_or_default();
        let at = match self.slot_of(piece.index, wire_id, name) {
            Some(at) => at,
            None => {
                let at = self.calls.len();
                self.calls.push(Slot {
                    wire_id: wire_id.to_owned(),
                    id: self.ids.mint(wire_id, at + 1),
                    name: String::new(),
                    arguments: String::new(),
                    whole: WholeJson::default(),
                    extra: None,
                    announced: false,
                });
                if let Some(index) = piece.index {
                    self.by_index.insert(index, at);
                }
                if !wire_id.is_empty() {
                    self.by_wire_id.insert(wire_id.to_owned(), at);
                }
                at
            }
        };
        let Some(slot) = self.calls.get_mut(at) else { return };
        if slot.name.is_empty() {
            slot.name.push_str(name);
        }
        if slot.wire_id.is_empty() && !wire_id.is_empty() {
            // The id came late; the call keeps the one it was announced by.
            slot.wire_id.push_str(wire_id);
            let newest = self.by_wire_id.entry(wire_id.to_owned()).or_insert(at);
            *newest = at.max(*newest);
        }
        if !slot.announced && !slot.name.is_empty() {
            slot.announced = true;
            sink.tool_call_start(&slot.id, &slot.name);
            if !slot.arguments.is_empty() {
                sink.tool_call_delta(&slot.id, &slot.arguments);
            }
        }
        if let Some(extra) = piece.extra {
            slot.extra = Some(extra.to_owned());
        }
        if let Some(arguments) = piece.arguments.filter(|arguments| !arguments.is_empty()) {
            slot.arguments.push_str(arguments);
            if slot.announced {
                sink.tool_call_delta(&slot.id, arguments);
            }
        }
    }

    /// Why the model stopped, as far as it was told. The last word counts, but a refusal stays one: its stream ends with
    /// an ordinary stop.
    pub fn finish(&mut self, reason: FinishReason) {
        if self.finish_reason != Some(FinishReason::Refusal) {
            self.finish_reason = Some(reason);
        }
    }

    /// Whether the model said that it stopped.
    pub fn is_finished(&self) -> bool {
        self.finish_reason.is_some()
    }

    /// What was consumed: a figure of the whole request, so the last one replaces.
    pub fn usage(&mut self, usage: Usage) {
        self.usage = usage;
    }

    /// The model's name; the first one counts.
    pub fn model(&mut self, model: &str) {
        if self.model.is_empty() {
            self.model.push_str(model);
        }
    }

    /// More of what the server wants back with the reasoning.
    pub fn reasoning_details(&mut self, json: &RawValue) {
        self.details.push(json);
    }

    /// The whole answer. Calls that never got a name are told as a warning and dropped: nothing could run them.
    pub fn into_answer(self, sink: &mut dyn DeltaSink) -> ModelAnswer {
        let mut parts = Vec::new();
        let opaque = |data: String| Box::new(Opaque { family: FAMILY.to_owned(), data });
        let details = self.details.to_json();
        if !self.reasoning.is_empty() || details.is_some() {
            parts.push(Part::Reasoning { text: self.reasoning, opaque: details.map(opaque) });
        }
        if !self.text.is_empty() {
            parts.push(Part::text(self.text));
        }
        let mut has_calls = false;
        for slot in self.calls {
            if slot.name.is_empty() {
                sink.warning("nameless_tool_call", "the model called a tool without naming it; the call was dropped");
                continue;
            }
            has_calls = true;
            let arguments = if slot.arguments.trim().is_empty() { "{}".to_owned() } else { slot.arguments };
            let opaque = slot.extra.map(opaque);
            parts.push(Part::ToolCall(ToolCall { id: slot.id, name: slot.name, arguments, opaque }));
        }
        // Servers say `stop` although there are calls, and the reverse: what is there decides.
        let finish_reason = match self.finish_reason {
            Some(FinishReason::Stop) | None if has_calls => FinishReason::ToolCalls,
            Some(FinishReason::ToolCalls) | None if !has_calls => FinishReason::Stop,
            Some(reason) => reason,
            None => FinishReason::Stop,
        };
        ModelAnswer { parts, finish_reason, usage: self.usage, model: self.model }
    }

    fn slot_of(&mut self, index: Option<u32>, wire_id: &str, name: &str) -> Option<usize> {
        let differs = |slot: &Slot| !wire_id.is_empty() && !slot.wire_id.is_empty() && slot.wire_id != wire_id;
        match index {
            Some(index) => {
                // The newest call of that index: an older one was closed by another id.
                let at = *self.by_index.get(&index)?;
                self.calls.get(at).filter(|slot| !differs(slot)).map(|_| at)
            }
            None => {
                if let Some(at) = self.by_wire_id.get(wire_id) {
                    return Some(*at);
                }
                let last = self.calls.len().checked_sub(1)?;
                let open = self.calls.last_mut()?;
                let names_another = !name.is_empty() && !open.name.is_empty() && open.name != name;
                // Without an index or id, a second mention of the name with whole arguments before it is a new call.
                let is_whole = !name.is_empty() && wire_id.is_empty() && open.whole.is_whole(&open.arguments);
                (!differs(open) && !names_another && !is_whole).then_some(last)
            }
        }
    }
}
