//! Puts an answer together block by block, in the order of the wire.
//!
//! For APIs whose answers are ordered blocks: where text, reasoning, tool calls and blocks that only the provider
//! understands stand relative to each other is part of what must be sent back. A decoder opens a block, adds to it,
//! and attaches what its provider wants back with it; adding to a block tells the sink what the block's kind says.

use super::call_ids::CallIds;
use super::{DeltaSink, ModelAnswer};
use crate::types::{FinishReason, Opaque, Part, ToolCall, ToolCallId, Transcript, Usage};

/// A block of an answer under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockId(usize);

/// See the module's head.
pub struct Parts<'a> {
    family: &'static str,
    ids: CallIds<'a>,
    blocks: Vec<Block>,
    /// The last block of text that was added to.
    last_told: Option<usize>,
    /// Whether anything was said: text, a call, or what only the provider understands.
    has_content: bool,
    finish_reason: Option<FinishReason>,
    usage: Usage,
    model: String,
    /// That texts came by turns was told.
    has_told_order: bool,
}

struct Block {
    kind: Kind,
    /// The text, or the arguments.
    text: String,
    /// What the provider wants back with it.
    data: Option<String>,
}

enum Kind {
    Text,
    Reasoning,
    Call {
        id: ToolCallId,
        name: String,
    },
    /// Only the provider understands it; its text is JSON.
    Opaque,
    Whole(Part),
}

impl<'a> Parts<'a> {
    /// An empty answer that will be appended to `transcript`; data of the provider is marked with `family`.
    pub fn new(family: &'static str, transcript: &'a Transcript) -> Self {
        Self {
            family,
            ids: CallIds::new(transcript),
            blocks: Vec::new(),
            last_told: None,
            has_content: false,
            finish_reason: None,
            usage: Usage::default(),
            model: String::new(),
            has_told_order: false,
        }
    }

    /// Opens a block of text.
    pub fn open_text(&mut self) -> BlockId {
        self.open(Kind::Text)
    }

    /// Opens a block of reasoning.
    pub fn open_reasoning(&mut self) -> BlockId {
        self.open(Kind::Reasoning)
    }

    /// Opens a tool call. Its id is the server's if that is new here, else one that is.
    pub fn open_call(&mut self, wire_id: &str, name: &str, sink: &mut dyn DeltaSink) -> BlockId {
        let id = self.ids.mint(wire_id, self.blocks.len() + 1);
        if !name.is_empty() {
            sink.tool_call_start(&id, name);
        }
        self.open(Kind::Call { id, name: name.to_owned() })
    }

    /// Adds a block as it is.
    pub fn push(&mut self, part: Part) -> BlockId {
        self.open(Kind::Whole(part))
    }

    /// Adds a block that only the provider understands, as its JSON text.
    pub fn push_opaque(&mut self, data: impl Into<String>) -> BlockId {
        let block = self.open(Kind::Opaque);
        if let Some(opened) = self.blocks.get_mut(block.0) {
            opened.text = data.into();
        }
        block
    }

    /// Adds to a block: text, reasoning, or arguments, as the block says.
    pub fn append(&mut self, block: BlockId, piece: &str, sink: &mut dyn DeltaSink) {
        let BlockId(at) = block;
        let Some(block) = self.blocks.get_mut(at).filter(|_| !piece.is_empty()) else { return };
        if matches!(block.kind, Kind::Text) {
            if self.last_told.is_some_and(|last| last > at) && !self.has_told_order {
                self.has_told_order = true;
                sink.warning(
                    "stream_differs",
                    "texts of the answer came by turns; in the whole they stand one after the other",
                );
            }
            self.last_told = self.last_told.max(Some(at));
            self.has_content = true;
        }
        block.text.push_str(piece);
        match &block.kind {
            Kind::Text => sink.text(piece),
            Kind::Reasoning => sink.reasoning(piece),
            Kind::Call { id, name } if !name.is_empty() => sink.tool_call_delta(id, piece),
            Kind::Call { .. } | Kind::Opaque | Kind::Whole(_) => {}
        }
    }

    /// Says what a block is as a whole: what was missing is added, and where the pieces were something else the whole
    /// counts.
    pub fn complete(&mut self, block: BlockId, whole: &str, sink: &mut dyn DeltaSink) {
        let Some(old) = self.blocks.get_mut(block.0) else { return };
        match whole.strip_prefix(old.text.as_str()) {
            Some(rest) => self.append(block, rest, sink),
            None => {
                old.text.clear();
                old.text.push_str(whole);
                if matches!(old.kind, Kind::Text | Kind::Call { .. }) {
                    sink.warning(
                        "stream_differs",
                        "the provider's last word differs from what it streamed, and counts",
                    );
                }
            }
        }
    }

    /// Whether nothing was added to a block yet.
    pub fn is_blank(&self, block: BlockId) -> bool {
        self.blocks.get(block.0).is_none_or(|block| block.text.is_empty())
    }

    /// Attaches what the provider wants back with a block, as JSON text. The last word counts.
    pub fn attach(&mut self, block: BlockId, data: Option<String>) {
        if let Some(block) = self.blocks.get_mut(block.0) {
            block.data = data;
        }
    }

    /// Puts the blocks into this order; those not named are dropped. No block is to be touched any more.
    pub fn arrange(&mut self, order: impl IntoIterator<Item = BlockId>) {
        let mut blocks: Vec<_> = std::mem::take(&mut self.blocks).into_iter().map(Some).collect();
        self.blocks = order.into_iter().filter_map(|id| blocks.get_mut(id.0)?.take()).collect();
    }

    /// Forgets everything: the server began its answer anew.
    pub fn restart(&mut self) {
        self.blocks.clear();
        self.ids.restart();
        self.last_told = None;
        self.has_content = false;
        self.finish_reason = None;
        self.usage = Usage::default();
    }

    /// Whether there is no block.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether anything was said: text, a call, or what only the provider understands.
    pub fn has_content(&self) -> bool {
        self.has_content
    }

    /// Why the model stopped, as far as it was told. The last word counts.
    pub fn finish(&mut self, reason: FinishReason) {
        self.finish_reason = Some(reason);
    }

    /// Whether the model said why it stopped.
    pub fn has_finish_reason(&self) -> bool {
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

    /// The whole answer. Blocks that say nothing are left out; calls that never got a name are told as a warning and
    /// dropped: nothing could run them.
    pub fn into_answer(self, sink: &mut dyn DeltaSink) -> ModelAnswer {
        let family = self.family;
        let mut has_calls = false;
        let mut parts = Vec::with_capacity(self.blocks.len());
        for Block { kind, text, data } in self.blocks {
            let opaque = data.map(|data| Box::new(Opaque { family: family.to_owned(), data }));
            let says_nothing = text.is_empty() && opaque.is_none();
            match kind {
                Kind::Text | Kind::Reasoning if says_nothing => {}
                Kind::Text => parts.push(Part::Text { text, opaque }),
                Kind::Reasoning => parts.push(Part::Reasoning { text, opaque }),
                Kind::Opaque => parts.push(Part::Opaque(Opaque { family: family.to_owned(), data: text })),
                Kind::Whole(part) => parts.push(part),
                Kind::Call { name, .. } if name.is_empty() => {
                    sink.warning(
                        "nameless_tool_call",
                        "the model called a tool without naming it; the call was dropped",
                    );
                }
                Kind::Call { id, name } => {
                    has_calls = true;
                    let arguments = if text.trim().is_empty() { "{}".to_owned() } else { text };
                    parts.push(Part::ToolCall(ToolCall { id, name, arguments, opaque }));
                }
            }
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

    fn open(&mut self, kind: Kind) -> BlockId {
        self.has_content |= matches!(kind, Kind::Call { .. } | Kind::Opaque | Kind::Whole(_));
        self.blocks.push(Block { kind, text: String::new(), data: None });
        BlockId(self.blocks.len() - 1)
    }
}
