//! A conversation that is valid by construction.
//!
//! Every provider rejects a history in which a tool call has no result, two results, or a result in the wrong place.
//! Here such a history cannot be built: an assistant message and the results of its calls are one [`Round`], results
//! are slots in call order, and nothing can be appended while a slot is empty. [`Transcript::close_open_calls`] fills
//! the empty slots honestly when a run is cut short.
//!
//! Nothing is ever cut out: [`Transcript::compact`] only says from where on the model sees it. What it sees
//! ([`Transcript::view`]) begins with a user's message and never with half a round.

use super::{Message, Part, ToolCall, ToolCallId, ToolResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A valid conversation. See the module's head for what that means.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<Message>", into = "Vec<Message>")]
#[schemars(with = "Vec<Message>")]
pub struct Transcript {
    /// Shared with the copy that a run works on: a long conversation is not copied for each turn.
    rounds: Vec<Arc<Round>>,
    call_ids: Arc<HashSet<ToolCallId>>,
    /// The calls that wait for a result, by their place among the calls of the last round.
    open: HashMap<ToolCallId, usize>,
    /// How many rounds there were when [`Transcript::take_changes`] was last called.
    told: usize,
    /// How many of them are as they were then.
    unchanged: usize,
}

impl PartialEq for Transcript {
    /// Whether the same was said.
    fn eq(&self, other: &Self) -> bool {
        self.rounds == other.rounds
    }
}

/// What changed in a transcript: everything from one entry on is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The first entry that changed.
    pub from: usize,
    /// The entries from there to the end, each as a JSON array of its messages.
    pub entries: Vec<String>,
}

impl Changes {
    /// How many entries there are now.
    pub fn len(&self) -> usize {
        self.from + self.entries.len()
    }

    /// Whether there is no entry at all any more.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Round {
    User(Vec<Part>),
    /// `results[i]` answers the i-th tool call among `parts`.
    Assistant {
        parts: Vec<Part>,
        results: Vec<Option<ToolResult>>,
    },
    /// The model sees `rounds[from..]`, and `summary` for the rest.
    Compaction {
        from: usize,
        summary: Vec<Part>,
    },
}

/// Why a transcript refused a change. The transcript is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TranscriptError {
    /// A tool call still waits for its result.
    OpenCalls,
    /// The id is already in the transcript.
    DuplicateCall(ToolCallId),
    /// No open call has that id.
    NoSuchCall(ToolCallId),
    /// The message has no parts.
    Empty,
    /// A compaction cannot keep more than there is.
    NoSuchEntry(usize),
}

impl std::fmt::Display for TranscriptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OpenCalls => f.write_str("a tool call still waits for its result"),
            Self::DuplicateCall(id) => write!(f, "tool call id {id:?} is already in the transcript"),
            Self::NoSuchCall(id) => write!(f, "no open tool call has the id {id:?}"),
            Self::Empty => f.write_str("a message needs at least one part"),
            Self::NoSuchEntry(entry) => write!(f, "a compaction cannot begin at entry {entry}, which is not there"),
        }
    }
}

impl std::error::Error for TranscriptError {}

/// A place to go back to with [`Transcript::rewind`].
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Mark {
    /// How many entries are before it.
    pub fn index(self) -> usize {
        self.0
    }
}

impl Transcript {
    /// An empty conversation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what the user said.
    pub fn push_user(&mut self, parts: Vec<Part>) -> Result<(), TranscriptError> {
        self.check_appendable(&parts)?;
        self.rounds.push(Arc::new(Round::User(parts)));
        Ok(())
    }

    /// Appends what the model said. Its tool calls are open until answered.
    pub fn push_assistant(&mut self, parts: Vec<Part>) -> Result<(), TranscriptError> {
        self.check_appendable(&parts)?;
        let mut fresh = HashSet::new();
        for call in tool_calls(&parts) {
            if self.call_ids.contains(&call.id) || !fresh.insert(call.id.clone()) {
                return Err(TranscriptError::DuplicateCall(call.id.clone()));
            }
        }
        let results = vec![None; fresh.len()];
        self.open = tool_calls(&parts).map(|call| call.id.clone()).zip(0..).collect();
        if !fresh.is_empty() {
            Arc::make_mut(&mut self.call_ids).extend(fresh);
        }
        self.rounds.push(Arc::new(Round::Assistant { parts, results }));
        Ok(())
    }

    /// Answers an open tool call, in any order.
    pub fn answer(&mut self, id: &ToolCallId, result: ToolResult) -> Result<(), TranscriptError> {
        let place = self.open.remove(id);
        let slot = match (place, self.rounds.last_mut().map(Arc::make_mut)) {
            (Some(place), Some(Round::Assistant { results, .. })) => results.get_mut(place),
            (Some(_) | None, _) => None,
        };
        let slot = slot.ok_or_else(|| TranscriptError::NoSuchCall(id.clone()))?;
        *slot = Some(result);
        self.last_changed();
        Ok(())
    }

    /// The calls that wait for a result, in call order.
    pub fn open_calls(&self) -> impl Iterator<Item = &ToolCall> {
        let (parts, results): (&[Part], &[_]) = match self.rounds.last().map(Arc::as_ref) {
            Some(Round::Assistant { parts, results }) => (parts, results),
            Some(Round::User(_) | Round::Compaction { .. }) | None => (&[], &[]),
        };
        tool_calls(parts).zip(results).filter(|(_, result)| result.is_none()).map(|(call, _)| call)
    }

    /// Answers every open call with what `result` says of it, so that the next request is valid.
    pub fn close_open_calls(&mut self, mut result: impl FnMut(&ToolCall) -> ToolResult) {
        if let Some(Round::Assistant { parts, results }) = self.rounds.last_mut().map(Arc::make_mut) {
            for (call, slot) in tool_calls(parts).zip(results) {
                slot.get_or_insert_with(|| result(call));
            }
            self.last_changed();
        }
        self.open.clear();
    }

    /// Whether a tool call with this id was ever made here.
    pub fn has_call(&self, id: &ToolCallId) -> bool {
        self.call_ids.contains(id)
    }

    /// The present end.
    pub fn mark(&self) -> Mark {
        Mark(self.rounds.len())
    }

    /// Drops everything after `mark`.
    pub fn rewind(&mut self, mark: Mark) {
        for round in self.rounds.drain(mark.0.min(self.rounds.len())..) {
            if let Round::Assistant { parts, .. } = &*round {
                for call in tool_calls(parts) {
                    Arc::make_mut(&mut self.call_ids).remove(&call.id);
                }
            }
        }
        self.open = match self.rounds.last().map(Arc::as_ref) {
            Some(Round::Assistant { parts, results }) => tool_calls(parts)
                .zip(results)
                .zip(0..)
                .filter(|((_, result), _)| result.is_none())
                .map(|((call, _), place)| (call.id.clone(), place))
                .collect(),
            Some(Round::User(_) | Round::Compaction { .. }) | None => HashMap::new(),
        };
        self.unchanged = self.unchanged.min(self.rounds.len());
    }

    /// What changed since the last call, for whoever keeps the conversation elsewhere, too. None if nothing did.
    pub fn take_changes(&mut self) -> Option<Changes> {
        let from = self.unchanged;
        let changed = self.rounds.get(from..).unwrap_or_default();
        if changed.is_empty() && self.told == from {
            return None;
        }
        // Our own types, without maps whose keys are no strings: this cannot fail.
        let entries = changed.iter().map(|round| serde_json::to_string(&**round).unwrap_or_default()).collect();
        self.forget_changes();
        Some(Changes { from, entries })
    }

    /// Takes everything as told.
    pub fn forget_changes(&mut self) {
        self.told = self.rounds.len();
        self.unchanged = self.told;
    }

    /// Forgets what [`Transcript::take_changes`] has told: the next call tells everything from `from` on.
    pub fn tell_again(&mut self, from: usize) {
        self.unchanged = self.unchanged.min(from);
    }

    /// Rebuilds a conversation from its entries, each a JSON array of its messages. An error names the entry that breaks a
    /// rule, which no entry does that was told by [`Transcript::take_changes`].
    pub fn from_entries<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut transcript = Self::new();
        transcript.extend(entries)?;
        transcript.forget_changes();
        Ok(transcript)
    }

    /// Appends entries, each a JSON array of its messages.
    pub fn extend<'a>(&mut self, entries: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
        for entry in entries {
            let index = self.rounds.len();
            let messages: Vec<Message> =
                serde_json::from_str(entry).map_err(|error| format!("entry {index} cannot be read: {error}"))?;
            for message in messages {
                self.push(message).map_err(|error| format!("entry {index} breaks a rule: {error}"))?;
            }
        }
        Ok(())
    }

    fn last_changed(&mut self) {
        self.unchanged = self.unchanged.min(self.rounds.len().saturating_sub(1));
    }

    fn push(&mut self, message: Message) -> Result<(), TranscriptError> {
        match message {
            Message::User { parts } => self.push_user(parts),
            Message::Assistant { parts } => self.push_assistant(parts),
            Message::Tool { tool_call_id, result } => self.answer(&tool_call_id, result),
            Message::Compaction { kept_from, summary } => self.compact(kept_from, summary),
        }
    }

    /// How many messages the user and the model have sent since `mark`, results of tools not counted.
    pub fn len_since(&self, mark: Mark) -> usize {
        self.rounds.len().saturating_sub(mark.0)
    }

    /// How many messages a provider would see.
    pub fn len(&self) -> usize {
        self.view().count()
    }

    /// Whether nothing was said yet.
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// The place behind everything, for [`Transcript::compact`].
    pub fn end(&self) -> usize {
        self.rounds.len()
    }

    /// Lets the model see only what was said from `kept_from` on ([`Entry::index`]), with `summary` for the rest. The
    /// question that the kept part answers stays visible.
    pub fn compact(&mut self, kept_from: usize, summary: Vec<Part>) -> Result<(), TranscriptError> {
        if !self.open.is_empty() {
            return Err(TranscriptError::OpenCalls);
        }
        if kept_from > self.rounds.len() {
            return Err(TranscriptError::NoSuchEntry(kept_from));
        }
        self.rounds.push(Arc::new(Round::Compaction { from: kept_from, summary }));
        Ok(())
    }

    /// Its first entries, or all; none if it has fewer. Calls left open by the last are closed as not executed.
    pub fn first(&self, entries: Option<usize>) -> Option<Self> {
        let mut first = self.clone();
        let entries = entries.unwrap_or(self.rounds.len());
        if entries > self.rounds.len() {
            return None;
        }
        first.rewind(Mark(entries));
        first.close_open_calls(|_| ToolResult::error("This call was not executed."));
        Some(first)
    }

    /// What stands for the part that the model does not see any more.
    pub fn summary(&self) -> &[Part] {
        self.window().0
    }

    /// The messages in the order a provider wants them, borrowed. Open calls simply have no result yet.
    pub fn view(&self) -> impl Iterator<Item = View<'_>> {
        let (summary, question, from) = self.window();
        let summary = (!summary.is_empty()).then_some(View::User(summary));
        let kept = self.rounds_from(from);
        summary.into_iter().chain(question.into_iter().chain(kept).flat_map(Round::views))
    }

    /// What the model sees, message by message with the results of its calls, each with its place.
    pub fn visible(&self) -> impl Iterator<Item = Entry<'_>> {
        let from = self.window().2;
        self.rounds_from(from)
            .zip(from..)
            .filter(|(round, _)| !matches!(round, Round::Compaction { .. }))
            .map(|(round, index)| Entry { index, is_user: matches!(round, Round::User(_)), round })
    }

    /// Everything said since `mark`, seen by the model or not.
    pub fn since(&self, mark: Mark) -> Vec<Message> {
        self.rounds_from(mark.0).flat_map(Round::messages).collect()
    }

    /// The tool calls since `mark` with their results, in order.
    pub fn calls_since(&self, mark: Mark) -> impl Iterator<Item = (&ToolCall, &ToolResult)> {
        self.rounds_from(mark.0).flat_map(Round::views).filter_map(|view| match view {
            View::Tool(call, result) => Some((call, result)),
            View::User(_) | View::Assistant(_) => None,
        })
    }

    /// Rewrites the plain text of every message and result, where `rewrite` wants it; what carries data of a provider
    /// stays untouched. True if anything changed.
    pub fn rewrite(&mut self, rewrite: &mut dyn FnMut(&str) -> Option<String>) -> bool {
        let mut first_changed = None;
        for (index, round) in self.rounds.iter_mut().enumerate() {
            let mut apply = |text: &mut String| {
                if let Some(new) = rewrite(text) {
                    *text = new;
                    first_changed.get_or_insert(index);
                }
            };
            let (parts, results): (&mut Vec<Part>, &mut [Option<ToolResult>]) = match Arc::make_mut(round) {
                Round::User(parts) | Round::Compaction { summary: parts, .. } => (parts, &mut []),
                Round::Assistant { parts, results } => (parts, results),
            };
            for part in parts {
                match part {
                    Part::Text { text, opaque: None } | Part::Reasoning { text, opaque: None } => apply(text),
                    Part::ToolCall(ToolCall { arguments, opaque: None, .. }) => apply(arguments),
                    Part::Text { .. }
                    | Part::Reasoning { .. }
                    | Part::ToolCall(_)
                    | Part::Image(_)
                    | Part::Document(_)
                    | Part::Audio(_)
                    | Part::Opaque(_)
                    | Part::CachePoint(_) => {}
                }
            }
            results.iter_mut().flatten().for_each(|result| apply(&mut result.content));
        }
        self.unchanged = first_changed.map_or(self.unchanged, |first| self.unchanged.min(first));
        first_changed.is_some()
    }

    fn rounds_from(&self, from: usize) -> impl DoubleEndedIterator<Item = &Round> {
        self.rounds.get(from..).unwrap_or_default().iter().map(Arc::as_ref)
    }

    /// The summary, the question that must stay in sight, and where what is kept begins.
    fn window(&self) -> (&[Part], Option<&Round>, usize) {
        let last = self.rounds_from(0).rev().find_map(|round| match round {
            Round::Compaction { from, summary } => Some((*from, summary.as_slice())),
            Round::User(_) | Round::Assistant { .. } => None,
        });
        let Some((from, summary)) = last else { return (&[], None, 0) };
        let first = self.rounds_from(from).find(|round| !matches!(round, Round::Compaction { .. }));
        let question = match first {
            Some(Round::Assistant { .. }) => {
                self.rounds.iter().take(from).map(Arc::as_ref).rev().find(|round| matches!(round, Round::User(_)))
            }
            Some(Round::User(_) | Round::Compaction { .. }) | None => None,
        };
        (summary, question, from)
    }

    fn check_appendable(&self, parts: &[Part]) -> Result<(), TranscriptError> {
        if parts.is_empty() {
            return Err(TranscriptError::Empty);
        }
        if self.open.is_empty() { Ok(()) } else { Err(TranscriptError::OpenCalls) }
    }
}

impl Round {
    fn views(&self) -> impl Iterator<Item = View<'_>> {
        let (first, parts, results): (_, &[Part], &[Option<ToolResult>]) = match self {
            Self::User(parts) => (Some(View::User(parts)), &[], &[]),
            Self::Assistant { parts, results } => (Some(View::Assistant(parts)), parts, results),
            Self::Compaction { .. } => (None, &[], &[]),
        };
        let answers = tool_calls(parts)
            .zip(results)
            .filter_map(|(call, result)| result.as_ref().map(|result| View::Tool(call, result)));
        first.into_iter().chain(answers)
    }

    fn messages(&self) -> Vec<Message> {
        match self {
            Self::Compaction { from, summary } => {
                vec![Message::Compaction { kept_from: *from, summary: summary.clone() }]
            }
            Self::User(_) | Self::Assistant { .. } => self.views().map(View::to_message).collect(),
        }
    }
}

/// An entry as it is kept: a JSON array of its messages, as [`Message`] writes them.
impl Serialize for Round {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Compaction { from, summary } => {
                serializer.collect_seq([MessageRef::Compaction { kept_from: *from, summary }])
            }
            Self::User(_) | Self::Assistant { .. } => serializer.collect_seq(self.views().map(|view| match view {
                View::User(parts) => MessageRef::User { parts },
                View::Assistant(parts) => MessageRef::Assistant { parts },
                View::Tool(call, result) => MessageRef::Tool { tool_call_id: &call.id, result },
            })),
        }
    }
}

/// A [`Message`], borrowed.
#[derive(Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
enum MessageRef<'a> {
    User {
        parts: &'a [Part],
    },
    Assistant {
        parts: &'a [Part],
    },
    Tool {
        tool_call_id: &'a ToolCallId,
        #[serde(flatten)]
        result: &'a ToolResult,
    },
    Compaction {
        kept_from: usize,
        #[serde(skip_serializing_if = "<[Part]>::is_empty")]
        summary: &'a [Part],
    },
}

/// One message that the model sees, with the results of its calls.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its place, for [`Transcript::compact`].
    pub index: usize,
    /// Whether a user said it.
    pub is_user: bool,
    round: &'a Round,
}

impl<'a> Entry<'a> {
    /// The message, then the results of its calls.
    pub fn views(&self) -> impl Iterator<Item = View<'a>> + use<'a> {
        self.round.views()
    }
}

/// One message, borrowed from a transcript.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum View<'a> {
    /// From the user.
    User(&'a [Part]),
    /// From the model.
    Assistant(&'a [Part]),
    /// The result of a call.
    Tool(&'a ToolCall, &'a ToolResult),
}

impl View<'_> {
    fn to_message(self) -> Message {
        match self {
            Self::User(parts) => Message::User { parts: parts.to_vec() },
            Self::Assistant(parts) => Message::Assistant { parts: parts.to_vec() },
            Self::Tool(call, result) => Message::Tool { tool_call_id: call.id.clone(), result: result.clone() },
        }
    }
}

fn tool_calls(parts: &[Part]) -> impl Iterator<Item = &ToolCall> {
    parts.iter().filter_map(Part::as_tool_call)
}

impl From<Transcript> for Vec<Message> {
    fn from(transcript: Transcript) -> Self {
        transcript.rounds_from(0).flat_map(Round::messages).collect()
    }
}

impl TryFrom<Vec<Message>> for Transcript {
    type Error = TranscriptError;

    /// Rebuilds through the same mutators, so a stored history that breaks a rule is refused. Calls left open by the
    /// last message stay open.
    fn try_from(messages: Vec<Message>) -> Result<Self, TranscriptError> {
        let mut transcript = Self::new();
        messages.into_iter().try_for_each(|message| transcript.push(message))?;
        Ok(transcript)
    }
}

#[cfg(test)]
mod tests;
