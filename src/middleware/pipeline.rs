//! What streamed text passes on its way to the host: first the tags are taken out, then personal data is masked.
//!
//! What the host reads piece by piece is what it reads in the result. Text that may be the beginning of something to be
//! masked waits until that is known.

use super::pii::PiiMask;
use super::stream_filter::StreamFilter;
use super::think::{Piece, ThinkStream, ThinkStrip};
use std::sync::Arc;

/// See the module's head. One per model request.
pub struct TextPipeline {
    think: Option<ThinkStream>,
    text: Vec<Box<dyn StreamFilter>>,
    reasoning: Vec<Box<dyn StreamFilter>>,
}

impl TextPipeline {
    /// Takes tags out with `think`, and masks with each of `masks`, outermost last.
    pub fn new(think: Option<&Arc<ThinkStrip>>, masks: &[Arc<PiiMask>]) -> Self {
        let filters = || masks.iter().rev().map(PiiMask::stream).collect();
        Self { think: think.map(|strip| strip.stream()), text: filters(), reasoning: filters() }
    }

    /// More text. `tell` gets what may be told, and whether it is reasoning.
    pub fn text(&mut self, text: &str, tell: &mut dyn FnMut(&str, bool)) {
        let Self { think, text: texts, reasoning } = self;
        match think {
            None => pass(texts, text, &mut |text| tell(text, false)),
            Some(think) => think.push(text, &mut |piece| match piece {
                Piece::Text(text) => pass(texts, text, &mut |text| tell(text, false)),
                Piece::Reasoning(text) => pass(reasoning, text, &mut |text| tell(text, true)),
            }),
        }
    }

    /// More reasoning, told as such by the provider.
    pub fn reasoning(&mut self, text: &str, tell: &mut dyn FnMut(&str, bool)) {
        pass(&mut self.reasoning, text, &mut |text| tell(text, true));
    }

    /// Nothing more of this piece of the answer: what waited is told.
    pub fn finish(&mut self, tell: &mut dyn FnMut(&str, bool)) {
        let Self { think, text: texts, reasoning } = self;
        if let Some(think) = think {
            think.finish(&mut |piece| match piece {
                Piece::Text(text) => pass(texts, text, &mut |text| tell(text, false)),
                Piece::Reasoning(text) => pass(reasoning, text, &mut |text| tell(text, true)),
            });
        }
        end(reasoning, &mut |text| tell(text, true));
        end(texts, &mut |text| tell(text, false));
    }
}

fn pass(filters: &mut [Box<dyn StreamFilter>], text: &str, tell: &mut dyn FnMut(&str)) {
    match filters {
        [] => tell(text),
        [first, rest @ ..] => {
            let mut out = String::new();
            first.push(text, &mut out);
            if !out.is_empty() {
                pass(rest, &out, tell);
            }
        }
    }
}

fn end(filters: &mut [Box<dyn StreamFilter>], tell: &mut dyn FnMut(&str)) {
    if let [first, rest @ ..] = filters {
        let mut out = String::new();
        first.finish(&mut out);
        if !out.is_empty() {
            pass(rest, &out, tell);
        }
        end(rest, tell);
    }
}
