//! Reasoning that a model writes between tags in its text, such as `<think>…</think>`, told apart from the answer.
//!
//! Everything after an opening tag is reasoning, up to its closing tag or the end of the text; a tag of another name in
//! between is a part of it. Some servers leave the opening tag out. Of a whole text, what stands before such a closing
//! tag is then reasoning ([`ThinkStrip::split`]); a stream has passed it on by the time it knows, and drops the tag.

use crate::config::ThinkConfig;
use std::sync::Arc;

/// A splitter, ready to use.
#[derive(Clone, Debug)]
pub struct ThinkStrip {
    tags: Arc<[String]>,
}

/// A piece of what a model wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'t> {
    /// A piece of the answer.
    Text(&'t str),
    /// A piece of the reasoning.
    Reasoning(&'t str),
}

impl ThinkStrip {
    /// A splitter of a config that was checked.
    pub fn new(config: &ThinkConfig) -> Self {
        Self { tags: config.tags.iter().map(|tag| tag.to_ascii_lowercase()).collect() }
    }

    /// The answer and the reasoning of a whole text.
    pub fn split(&self, text: &str) -> (String, String) {
        let (mut answer, mut reasoning) = (String::new(), String::new());
        let mut rest = text;
        let mut stream = self.stream();
        if let Some((Tag::Close, range)) = self.first_tag(text) {
            reasoning.push_str(text.get(..range.start).unwrap_or_default());
            rest = text.get(range.end..).unwrap_or_default().trim_start();
        }
        let mut take = |piece: Piece<'_>| match piece {
            Piece::Text(text) => answer.push_str(text),
            Piece::Reasoning(text) => reasoning.push_str(text),
        };
        stream.push(rest, &mut take);
        stream.finish(&mut take);
        (answer, reasoning)
    }

    /// A splitter of streamed text.
    pub fn stream(&self) -> ThinkStream {
        ThinkStream { tags: Arc::clone(&self.tags), within: None, held: String::new(), space: Space::Kept }
    }

    fn first_tag(&self, text: &str) -> Option<(Tag, std::ops::Range<usize>)> {
        text.match_indices('<').find_map(|(at, _)| match read_tag(&self.tags, None, text.get(at..)?) {
            Reading::Tag(tag, length) => Some((tag, at..at + length)),
            Reading::Partial | Reading::Other => None,
        })
    }
}

/// A tag; an opening one by its place among the names.
#[derive(Clone, Copy, Debug)]
enum Tag {
    Open(usize),
    Close,
}

enum Reading {
    /// A tag of this many bytes.
    Tag(Tag, usize),
    /// The beginning of one.
    Partial,
    /// Something else.
    Other,
}

/// Reads what begins with a `<`. Within reasoning only its own closing tag counts.
fn read_tag(tags: &[String], within: Option<usize>, text: &str) -> Reading {
    let mut partial = false;
    for (index, name) in tags.iter().enumerate().filter(|(index, _)| within.is_none_or(|within| within == *index)) {
        for (tag, opening) in [(Tag::Open(index), "<"), (Tag::Close, "</")] {
            if within.is_some() && opening == "<" {
                continue;
            }
            let mut wanted = opening.bytes().chain(name.bytes()).chain(*b">");
            let mut given = text.bytes();
            let mut length = 0;
            loop {
                match (wanted.next(), given.next()) {
                    (None, _) => return Reading::Tag(tag, length),
                    (Some(wanted), Some(given)) if wanted == given.to_ascii_lowercase() => length += 1,
                    (Some(_), Some(_)) => break,
                    (Some(_), None) => {
                        partial = true;
                        break;
                    }
                }
            }
        }
    }
    if partial { Reading::Partial } else { Reading::Other }
}

/// What becomes of white space in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    /// It is kept, and nothing else came so far.
    Kept,
    /// It follows a closing tag before any answer: it only set the reasoning apart.
    Dropped,
    /// The answer has begun: it is a part of it.
    Inside,
}

/// A splitter of text that arrives piece by piece. It holds back what may be a part of a tag, and no more.
#[derive(Debug)]
pub struct ThinkStream {
    tags: Arc<[String]>,
    /// The tag whose reasoning this is.
    within: Option<usize>,
    /// The beginning of a tag, perhaps.
    held: String,
    space: Space,
}

impl ThinkStream {
    /// Takes the next piece and tells what can no longer change.
    pub fn push(&mut self, text: &str, on: &mut dyn FnMut(Piece<'_>)) {
        let joined;
        let mut rest = text;
        if !self.held.is_empty() {
            self.held.push_str(text);
            joined = std::mem::take(&mut self.held);
            rest = &joined;
        }
        let mut at = 0;
        while let Some(found) = rest.get(at..).and_then(|after| after.find('<')) {
            let (before, tag) = rest.split_at_checked(at + found).unwrap_or((rest, ""));
            match read_tag(&self.tags, self.within, tag) {
                Reading::Other => at = before.len() + 1,
                Reading::Partial => {
                    self.tell(before, on);
                    tag.clone_into(&mut self.held);
                    return;
                }
                Reading::Tag(tag, length) => {
                    self.tell(before, on);
                    self.enter(tag);
                    rest = rest.get(before.len() + length..).unwrap_or_default();
                    at = 0;
                }
            }
        }
        self.tell(rest, on);
    }

    /// The text has ended: tells what was held back. The splitter is then as new.
    pub fn finish(&mut self, on: &mut dyn FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        self.tell(&held, on);
        self.within = None;
        self.space = Space::Kept;
    }

    fn enter(&mut self, tag: Tag) {
        match tag {
            Tag::Open(index) => self.within = Some(index),
            Tag::Close => {
                self.within = None;
                if self.space == Space::Kept {
                    self.space = Space::Dropped;
                }
            }
        }
    }

    fn tell(&mut self, text: &str, on: &mut dyn FnMut(Piece<'_>)) {
        if self.within.is_some() {
            if !text.is_empty() {
                on(Piece::Reasoning(text));
            }
            return;
        }
        let kept = if self.space == Space::Dropped { text.trim_start() } else { text };
        if !kept.trim_start().is_empty() {
            self.space = Space::Inside;
        }
        if !kept.is_empty() {
            on(Piece::Text(kept));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    fn strip() -> ThinkStrip {
        ThinkStrip::new(&ThinkConfig::default())
    }

    /// The answer and the reasoning of a text that arrives in these pieces.
    fn streamed<'t>(stream: &mut ThinkStream, pieces: impl IntoIterator<Item = &'t str>) -> (String, String) {
        let mut told = (String::new(), String::new());
        let mut take = |piece: Piece<'_>| match piece {
            Piece::Text(text) => told.0.push_str(text),
            Piece::Reasoning(text) => told.1.push_str(text),
        };
        pieces.into_iter().for_each(|piece| stream.push(piece, &mut take));
        stream.finish(&mut take);
        told
    }

    #[test]
    fn reasoning_is_told_apart() {
        for (text, answer, reasoning) in [
            ("<think>why</think>\n\nBecause.", "Because.", "why"),
            ("<THINK>why</Think> Because. ", "Because. ", "why"),
            ("A <thinking>b</thinking> c", "A  c", "b"),
            ("<think>1</think> <reasoning>2</reasoning>\nx", "x", "12"),
            ("<think>a <thinking> </reasoning> b</think>c", "c", "a <thinking> </reasoning> b"),
            ("<think>never closed", "", "never closed"),
            ("1 < 2 <b>bold</b> <thin> <think", "1 < 2 <b>bold</b> <thin> <think", ""),
            ("<<think>a<</think>b", "<b", "a<"),
            ("", "", ""),
        ] {
            assert_eq!(strip().split(text), (answer.into(), reasoning.into()), "{text:?}");
            assert_eq!(streamed(&mut strip().stream(), [text]), (answer.into(), reasoning.into()), "{text:?}");
        }
    }

    #[test]
    fn a_closing_tag_without_its_opening_one_is_understood_in_a_whole_text() {
        let text = "let me see</think>\nYes.</think>";
        assert_eq!(strip().split(text), ("Yes.".into(), "let me see".into()));
        assert_eq!(streamed(&mut strip().stream(), [text]), ("let me see\nYes.".into(), String::new()));
    }

    #[test]
    fn only_a_possible_tag_is_held_back() {
        let mut pieces = Vec::new();
        let mut stream = strip().stream();
        for piece in ["a <", "b> <thi", "nk>x<", "/think", "> y"] {
            stream.push(piece, &mut |piece| pieces.push(format!("{piece:?}")));
        }
        assert_eq!(pieces, ["Text(\"a \")", "Text(\"<b> \")", "Reasoning(\"x\")", "Text(\" y\")"]);
    }

    proptest! {
        #[test]
        fn a_stream_is_the_same_however_it_is_cut(
            parts in proptest::collection::vec(
                prop_oneof!["</?(think|Thinking|reasoning)>", "[<>/a-z \n]{0,5}", "\\PC{0,3}"], 0..12),
            cuts in proptest::collection::vec(1_usize..6, 1..20),
        ) {
            let text = parts.concat();
            let mut cuts = cuts.iter().cycle();
            let mut pieces = Vec::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.ceil_char_boundary(*cuts.next().unwrap()));
                pieces.push(piece);
                rest = after;
            }
            let mut stream = strip().stream();
            let whole = streamed(&mut stream, [text.as_str()]);
            prop_assert_eq!(&streamed(&mut stream, pieces), &whole);
            if !matches!(strip().first_tag(&text), Some((Tag::Close, _))) {
                prop_assert_eq!(strip().split(&text), whole);
            }
        }
    }
}
