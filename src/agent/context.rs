//! Keeps a conversation inside its model's window.
//!
//! What is dropped from sight is dropped by whole rounds, a message with the results of its calls, and only when it must
//! be: then a quarter more than needed, so that the next requests begin with the same bytes and the provider's cache
//! keeps its worth.

use super::credentials::HostCredentials;
use super::work::Work;
use crate::config::{CacheStrategy, ContextStrategy};
use crate::llm::{DeltaSink, ModelRequest, ToolChoice, generate};
use crate::types::{Entry, Error, EventBody, Part, Result, Status, ToolCallId, Transcript, View};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// What a character is in tokens before a provider has told: four characters a token.
const CHARACTERS_PER_TOKEN: f64 = 4.0;

/// What an image, a document or a recording is taken for, in tokens.
const MEDIA_TOKENS: u64 = 1_500;

/// Makes the conversation fit before a model request, if it must be. `forced`: the provider has just said that it does not
/// fit. Answers whether the model sees less than before.
pub async fn fit(work: &mut Work<'_>, system: Option<&str>, forced: bool) -> Result<bool> {
    let config = &work.setup.config;
    let window = config.context_window_override.or(work.setup.profile.context_window);
    let threshold = window.map(|window| (window as f64 * config.context_compression_threshold) as u64);
    let strategy = config.context_strategy.clone();
    let overhead = work.overhead(system);
    let size = measure(work, overhead);
    let automatic = threshold.is_some_and(|most| size.tokens > most) && cooled_down(work, size.messages);
    let trigger = match &strategy {
        ContextStrategy::None => None,
        _ if forced => Some("context_length"),
        ContextStrategy::SlidingWindow { max_messages, .. } if size.messages > *max_messages => Some("max_messages"),
        ContextStrategy::SlidingWindow { max_tokens, .. } if size.tokens > *max_tokens => Some("max_tokens"),
        ContextStrategy::TruncateOldest { max_tokens: Some(most), .. } if size.tokens > *most => Some("max_tokens"),
        ContextStrategy::SlidingWindow { .. }
        | ContextStrategy::TruncateOldest { .. }
        | ContextStrategy::Summarize { .. } => automatic.then_some("threshold"),
    };
    let Some(trigger) = trigger else { return Ok(false) };
    // Forced without knowing the window: half of what was refused.
    let most = if forced { size.tokens / 2 } else { threshold.unwrap_or(u64::MAX) };
    let (name, kept_from, summary) = match &strategy {
        ContextStrategy::None => return Ok(false),
        ContextStrategy::SlidingWindow { max_messages, max_tokens } => {
            let bounds =
                Bounds { messages: three_quarters(*max_messages), tokens: most.min(*max_tokens) * 3 / 4, least: 1 };
            ("sliding_window", keep_from(work, overhead, bounds), work.transcript().summary().to_vec())
        }
        ContextStrategy::TruncateOldest { min_messages, max_tokens, .. } => {
            let most = max_tokens.map_or(most, |own| own.min(most));
            let bounds = Bounds { messages: usize::MAX, tokens: most / 4 * 3, least: *min_messages };
            let kept_from = keep_from(work, overhead, bounds);
            let left = size_from(work, overhead, kept_from);
            if left > most && !forced {
                return Err(too_long(*min_messages, left, most));
            }
            ("truncate_oldest", kept_from, work.transcript().summary().to_vec())
        }
        ContextStrategy::Summarize { keep_messages, .. } => {
            let bounds = Bounds { messages: *keep_messages, tokens: most / 2, least: 1 };
            let kept_from = keep_from(work, overhead, bounds);
            match Box::pin(summarize(work, kept_from)).await {
                Ok(summary) => ("summarize", kept_from, vec![Part::text(summary)]),
                Err(error) => {
                    let message =
                        format!("no summary could be made, so the oldest messages were dropped: {}", error.message());
                    work.emitter.emit(&EventBody::Warning { code: "summary_failed", message: message.into() });
                    let bounds = Bounds { messages: usize::MAX, tokens: most / 4 * 3, least: *keep_messages };
                    ("truncate_oldest", keep_from(work, overhead, bounds), work.transcript().summary().to_vec())
                }
            }
        }
    };
    let first_visible = work.transcript().visible().next().map(|entry| entry.index);
    if first_visible.is_none_or(|first| kept_from <= first) {
        // There is nothing that could be dropped.
        return Ok(false);
    }
    work.transcript_mut().compact(kept_from, summary).map_err(|error| Error::internal(error.to_string()))?;
    let after = measure(work, overhead);
    work.compacted(after.messages);
    work.emitter.emit(&EventBody::Compaction {
        trigger,
        strategy: name,
        messages_before: size.messages,
        messages_after: after.messages,
        tokens_before: size.tokens,
        tokens_after: after.tokens,
    });
    Ok(true)
}

/// Tokens of the next request, as far as that can be known before.
pub fn estimate(work: &Work<'_>, system: Option<&str>) -> u64 {
    measure(work, work.overhead(system)).tokens
}

/// Characters of what the model sees of the conversation, for calibration.
pub fn characters(transcript: &Transcript) -> usize {
    transcript.view().map(|view| weigh(view).0).sum()
}

struct Size {
    messages: usize,
    tokens: u64,
}

struct Bounds {
    messages: usize,
    tokens: u64,
    least: usize,
}

fn measure(work: &Work<'_>, overhead: usize) -> Size {
    let (mut messages, mut characters, mut tokens) = (0, overhead, 0);
    for view in work.transcript().view() {
        let (more, media) = weigh(view);
        messages += 1;
        characters += more;
        tokens += media;
    }
    Size { messages, tokens: tokens + to_tokens(work, characters) }
}

fn size_from(work: &Work<'_>, overhead: usize, from: usize) -> u64 {
    let entries: Vec<Entry<'_>> = work.transcript().visible().collect();
    let kept = entries.iter().filter(|entry| entry.index >= from);
    let question = entries.iter().position(|entry| entry.index >= from).and_then(|at| question_of(&entries, at));
    let (mut characters, mut tokens) = (overhead, 0);
    for view in kept.chain(question).flat_map(|entry| entry.views()) {
        let (more, media) = weigh(view);
        characters += more;
        tokens += media;
    }
    tokens + to_tokens(work, characters)
}

/// The question that stays in sight though what is kept begins behind it.
fn question_of<'e, 't>(entries: &'e [Entry<'t>], at: usize) -> Option<&'e Entry<'t>> {
    let (before, kept) = entries.split_at_checked(at)?;
    kept.first().filter(|first| !first.is_user)?;
    before.iter().rev().find(|entry| entry.is_user)
}

/// From where on the newest messages stay inside the bounds; the newest one always stays.
fn keep_from(work: &Work<'_>, overhead: usize, bounds: Bounds) -> usize {
    let entries: Vec<Entry<'_>> = work.transcript().visible().collect();
    let (mut messages, mut characters, mut tokens) = (0, overhead, 0);
    let mut kept_at = entries.len().saturating_sub(1);
    for (at, entry) in entries.iter().enumerate().rev() {
        let before = messages;
        for view in entry.views() {
            let (more, media) = weigh(view);
            messages += 1;
            characters += more;
            tokens += media;
        }
        let question = question_of(&entries, at).into_iter().flat_map(|question| question.views()).map(weigh);
        let (questions, more, media) = question
            .fold((0, 0, 0), |(n, characters, tokens), (more, media)| (n + 1, characters + more, tokens + media));
        let size = tokens + media + to_tokens(work, characters + more);
        let fits = messages + questions <= bounds.messages && size <= bounds.tokens;
        if before > 0 && before >= bounds.least && !fits {
            break;
        }
        kept_at = at;
    }
    // Right behind its question: then it begins with the question.
    if question_of(&entries, kept_at).is_some_and(|question| {
        Some(question.index) == kept_at.checked_sub(1).and_then(|at| entries.get(at)).map(|entry| entry.index)
    }) {
        kept_at -= 1;
    }
    entries.get(kept_at).map_or(0, |entry| entry.index)
}

/// Characters, and tokens of what has none.
fn weigh(view: View<'_>) -> (usize, u64) {
    let of_parts = |parts: &[Part]| {
        parts.iter().fold((0, 0), |(characters, media), part| match part {
            Part::Text { text, .. } | Part::Reasoning { text, .. } => (characters + text.len(), media),
            Part::ToolCall(call) => (characters + call.name.len() + call.arguments.len() + 16, media),
            Part::Opaque(opaque) => (characters + opaque.data.len(), media),
            Part::Image(_) | Part::Document(_) | Part::Audio(_) => (characters, media + MEDIA_TOKENS),
            Part::CachePoint(_) => (characters, media),
        })
    };
    match view {
        View::User(parts) | View::Assistant(parts) => of_parts(parts),
        View::Tool(_, result) => {
            let (characters, media) = of_parts(&result.parts);
            (characters + result.content.len() + 16, media)
        }
    }
}

fn to_tokens(work: &Work<'_>, characters: usize) -> u64 {
    let told = work.characters_per_token();
    (characters as f64 / if told > 0.0 { told } else { CHARACTERS_PER_TOKEN }) as u64
}

fn cooled_down(work: &Work<'_>, messages: usize) -> bool {
    let cooldown = work.setup.config.compression_cooldown_messages;
    work.messages_at_compaction().is_none_or(|then| messages >= then + cooldown)
}

fn three_quarters(messages: usize) -> usize {
    (messages * 3).div_ceil(4)
}

fn too_long(least: usize, tokens: u64, most: u64) -> Error {
    Error::new(
        Status::ContextLength,
        format!("the last {least} messages alone are about {tokens} tokens, more than the {most} that fit"),
    )
    .with_code("context_length")
    .with_hint("send less at once, keep fewer messages (min_messages), or use a model with a larger window")
}

/// Asks a model for a summary of what comes before `kept_from`.
async fn summarize(work: &mut Work<'_>, kept_from: usize) -> Result<String> {
    let ContextStrategy::Summarize { max_tokens, summary_model, .. } = &work.setup.config.context_strategy else {
        return Err(Error::internal("no summary was asked for"));
    };
    let max_tokens = *max_tokens;
    let model = summary_model.clone().unwrap_or_else(|| work.setup.config.model.clone());
    let (provider, profile) = work.spec.agents.model(&model)?;
    let mut said = String::new();
    for part in work.transcript().summary() {
        let _ = writeln!(said, "Summary of what was before: {}", part.as_text().unwrap_or_default());
    }
    let old = work.transcript().visible().filter(|entry| entry.index < kept_from);
    for view in old.flat_map(|entry| entry.views()) {
        write_down(view, &mut said);
    }
    let mut transcript = Transcript::new();
    let task = format!(
        "Summarize the conversation below for somebody who has to continue it: facts, decisions, names, numbers, results of \
         tools, and what is still open. Answer with the summary alone.\n\n{said}"
    );
    transcript.push_user(vec![Part::text(task)]).map_err(|error| Error::internal(error.to_string()))?;
    let estimated = (said.len() as f64 / CHARACTERS_PER_TOKEN) as u64;
    let reservation = work.reserve(&model, &profile, estimated, Some(max_tokens))?;
    let requests_made = work.requests_to(provider.name());
    let credentials = HostCredentials { emitter: work.emitter, desk: &work.spec.desk };
    let request = ModelRequest {
        model: &model,
        system: None,
        transcript: &transcript,
        tools: &[],
        tool_choice: ToolChoice::Auto,
        output: None,
        cache: CacheStrategy::None,
        profile: &profile,
        max_tokens: reservation.output_limit(),
        cache_key: None,
        credentials: &credentials,
        http: work.http,
        requests_made: &requests_made,
    };
    let policy = work.setup.chain.policy(work.scene(), work.setup.retry.as_ref());
    let answer = generate(&*provider, &request, &policy, &mut Silent).await?;
    work.book(reservation, &answer.usage, &profile);
    let text = crate::types::text_of(&answer.parts);
    if text.trim().is_empty() {
        return Err(Error::new(Status::Provider, "the model answered no summary"));
    }
    Ok(format!("Summary of the conversation so far:\n{}", text.trim()))
}

fn write_down(view: View<'_>, out: &mut String) {
    let (who, parts): (&str, &[Part]) = match view {
        View::User(parts) => ("User", parts),
        View::Assistant(parts) => ("Assistant", parts),
        View::Tool(call, result) => {
            let _ = writeln!(out, "Result of {}: {}", call.name, result.content);
            return;
        }
    };
    for part in parts {
        let _ = match part {
            Part::Text { text, .. } => writeln!(out, "{who}: {text}"),
            Part::ToolCall(call) => writeln!(out, "{who} calls {}: {}", call.name, call.arguments),
            Part::Image(_) => writeln!(out, "{who}: [an image]"),
            Part::Document(_) => writeln!(out, "{who}: [a document]"),
            Part::Audio(_) => writeln!(out, "{who}: [a recording]"),
            Part::Reasoning { .. } | Part::Opaque(_) | Part::CachePoint(_) => Ok(()),
        };
    }
}

/// Hears an answer that nobody is told.
struct Silent;

impl DeltaSink for Silent {
    fn text(&mut self, _: &str) {}

    fn reasoning(&mut self, _: &str) {}

    fn tool_call_start(&mut self, _: &ToolCallId, _: &str) {}

    fn tool_call_delta(&mut self, _: &ToolCallId, _: &str) {}

    fn warning(&mut self, code: &str, message: &str) {
        tracing::warn!(code, "{message}");
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
        Box::pin(std::future::ready(()))
    }
}
