//! Joining a text that was cut off with its continuation. A model asked to go on likes to repeat its last words, or to
//! announce that it goes on; neither belongs into the text.
//!
//! A repetition is the end of what was written, at the beginning of what follows, of some length: a single `the ` is
//! none. The longest one counts.

/// How far back a repetition is looked for, in characters.
const LOOK_BACK: usize = 2_000;

/// A repetition has this many bytes …
const MIN_BYTES: usize = 12;

/// … or this many whole words.
const MIN_WORDS: usize = 3;

/// Lines by which a model announces that it goes on, without their punctuation.
const FILLERS: &[&str] = &[
    "continuing",
    "continued",
    "continuation",
    "continuing from where i left off",
    "continuing where i left off",
    "continuing from where we left off",
    "continuing from the previous response",
    "here is the continuation",
    "here's the continuation",
    "here is the rest",
    "here's the rest",
    "sure, here is the continuation",
    "sure, here's the continuation",
];

/// How many bytes at the start of `continuation` do not belong behind `before`: a filler line, and what repeats the end
/// of `before`.
#[cfg(test)]
fn overlap(before: &str, continuation: &str) -> usize {
    let (mut seam, mut joined) = (Seam::new(before), String::new());
    seam.push(continuation, &mut joined);
    seam.finish(&mut joined);
    continuation.len() - joined.len()
}

/// Joins a continuation that arrives piece by piece. It is held back until it is known what of it repeats, and then
/// passed through.
#[derive(Debug)]
pub struct Seam {
    /// The end of what was written.
    tail: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The first line may announce something.
    FirstLine(String),
    /// The beginning may repeat something.
    Comparing(Comparing),
    /// What comes is passed through.
    Through,
}

#[derive(Debug)]
struct Comparing {
    /// What came, without a filler.
    held: String,
    /// How much of it was compared; it begins with white space that is not.
    compared: usize,
    /// Where in the tail what was compared stands, with more behind it.
    open: Vec<usize>,
    /// How much of the held text repeats, as far as is known.
    repeated: usize,
}

impl Seam {
    /// Behind `before`, a continuation is to come.
    pub fn new(before: &str) -> Self {
        let start = before.char_indices().rev().take(LOOK_BACK).last().map_or(before.len(), |(at, _)| at);
        let tail = before.get(start..).unwrap_or_default().to_owned();
        Self { tail, state: State::FirstLine(String::new()) }
    }

    /// Takes the next piece and appends to `out` what belongs behind `before`.
    pub fn push(&mut self, text: &str, out: &mut String) {
        match &mut self.state {
            State::FirstLine(held) => {
                held.push_str(text);
                if let Some(filler) = filler(held, false) {
                    let held = held.get(filler..).unwrap_or_default().to_owned();
                    self.compare(held, out);
                }
            }
            State::Comparing(comparing) => {
                comparing.held.push_str(text);
                comparing.go_on(&self.tail);
                self.pass_if_decided(out);
            }
            State::Through => out.push_str(text),
        }
    }

    /// The continuation has ended: appends what was held back.
    pub fn finish(&mut self, out: &mut String) {
        if let State::FirstLine(held) = &mut self.state {
            let held = held.get(filler(held, true).unwrap_or(0)..).unwrap_or_default().to_owned();
            self.compare(held, out);
        }
        if let State::Comparing(comparing) = std::mem::replace(&mut self.state, State::Through) {
            out.push_str(comparing.rest());
        }
    }

    fn compare(&mut self, held: String, out: &mut String) {
        let open = starts(&self.tail);
        let mut comparing = Comparing { held, compared: 0, open, repeated: 0 };
        comparing.go_on(&self.tail);
        self.state = State::Comparing(comparing);
        self.pass_if_decided(out);
    }

    fn pass_if_decided(&mut self, out: &mut String) {
        if let State::Comparing(comparing) = &self.state
            && comparing.open.is_empty()
        {
            out.push_str(comparing.rest());
            self.state = State::Through;
        }
    }
}

impl Comparing {
    /// Compares what came since the last time.
    fn go_on(&mut self, tail: &str) {
        let space = self.held.len() - self.held.trim_start().len();
        if space == self.held.len() {
            // A page of white space is no way to begin a repetition.
            if space > LOOK_BACK {
                self.open.clear();
            }
            return;
        }
        let compared = self.compared.max(space);
        let new = self.held.get(compared..).unwrap_or_default();
        let (held, repeated) = (self.held.len(), &mut self.repeated);
        self.open.retain(|start| {
            let rest = tail.get(start + (compared - space)..).unwrap_or_default();
            if new.starts_with(rest) {
                *repeated = (*repeated).max(compared + rest.len());
            }
            rest.len() > new.len() && rest.starts_with(new)
        });
        self.compared = held;
    }

    fn rest(&self) -> &str {
        self.held.get(self.repeated..).unwrap_or_default()
    }
}

/// Where in the tail a repetition that is long enough may start.
fn starts(tail: &str) -> Vec<usize> {
    let is_long_enough = |at: usize| {
        let (before, repetition) = tail.split_at_checked(at).unwrap_or_default();
        repetition.len() >= MIN_BYTES
            || (!before.ends_with(char::is_alphanumeric) && repetition.split_whitespace().count() >= MIN_WORDS)
    };
    tail.char_indices().filter(|(at, c)| !c.is_whitespace() && is_long_enough(*at)).map(|(at, _)| at).collect()
}

/// How much of a text its first line takes, with the line breaks behind it, if that is a filler; 0 if it is none; `None`
/// while that is not known. Nothing follows a text that is `finished`.
fn filler(text: &str, finished: bool) -> Option<usize> {
    let trimmed = text.trim_start();
    let (line, rest) = match trimmed.split_once('\n') {
        Some((line, rest)) => (line, Some(rest.trim_start_matches(['\n', '\r']))),
        None => (trimmed, None),
    };
    // The longest filler is far shorter than this.
    if line.len() > 100 || text.len() - trimmed.len() > LOOK_BACK {
        return Some(0);
    }
    let words = line.trim_end().trim_end_matches(['.', ':', '…']).to_lowercase().replace('’', "'");
    match rest {
        Some(rest) if FILLERS.contains(&words.as_str()) => {
            // Line breaks may still come, and are part of it.
            if rest.is_empty() && !finished { None } else { Some(text.len() - rest.len()) }
        }
        Some(_) => Some(0),
        None if !finished && FILLERS.iter().any(|filler| filler.starts_with(&words)) => None,
        None => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    #[test]
    fn what_repeats_is_found() {
        for (before, continuation, rest) in [
            ("The quick brown fox", "quick brown fox jumps", " jumps"),
            ("The quick brown fox", " jumps over", " jumps over"),
            ("over to be or ", "to be or not", "not"),
            ("into be or ", "o be or not", "o be or not"),
            ("and then the ", "the end", "the end"),
            ("a b a b a b a b", "a b a b a b a b c", " c"),
            ("The quick brown fox", "\n\nquick brown fox jumps", " jumps"),
            ("The quick brown fox", "\n\nSo it goes", "\n\nSo it goes"),
            ("The quick brown fox", "quick brown", "quick brown"),
            ("The quick brown fox", "Here is the continuation:\n\nquick brown fox jumps", " jumps"),
            ("The quick ", "Continuing from where I left off:\nbrown fox", "brown fox"),
            ("The quick ", "Continuing: brown fox", "Continuing: brown fox"),
            ("The quick ", "Continuing", "Continuing"),
            ("The quick ", "Continuing:\n", ""),
            ("", "", ""),
            ("", "text", "text"),
            ("", "Here’s the rest…\r\n\r\ntext", "text"),
            ("日本語の文章が続いています", "文章が続いています。終わり", "。終わり"),
        ] {
            assert_eq!(&continuation[overlap(before, continuation)..], rest, "{before:?} + {continuation:?}");
        }
    }

    #[test]
    fn a_text_that_repeats_nothing_is_passed_on_at_once() {
        let (mut seam, mut out) = (Seam::new("The quick brown fox"), String::new());
        seam.push(" ju", &mut out);
        assert_eq!(out, " ju");
        let (mut seam, mut out) = (Seam::new("The quick brown fox"), String::new());
        seam.push("quick", &mut out);
        assert_eq!(out, "");
        seam.push(" and", &mut out);
        assert_eq!(out, "quick and");
    }

    #[test]
    fn the_worst_case_is_bounded() {
        let text = "a".repeat(100_000);
        let (mut seam, mut out) = (Seam::new(&text), String::new());
        for at in 0..5_000 {
            seam.push(&text[at..=at], &mut out);
        }
        seam.finish(&mut out);
        assert_eq!(out.len(), 3_000);
    }

    proptest! {
        #[test]
        fn nothing_is_repeated_and_nothing_lost(
            words in proptest::collection::vec("[a-zé]{1,8}[ ,.]{0,1}[ \n]{1,2}", 1..400),
            cut in 0.0..1.0_f64,
            repeated in prop_oneof![Just(0_usize), 20_usize..1_500],
            filler: bool,
            sizes in proptest::collection::vec(1_usize..50, 1..20),
        ) {
            // Numbered, so that no two places are alike.
            let text: String = words.iter().enumerate().map(|(n, word)| format!("{n}{word}")).collect();
            let cut = text.floor_char_boundary((text.len() as f64 * cut) as usize);
            let start = text.floor_char_boundary(cut.saturating_sub(repeated));
            let start = if cut - start < 20 { cut } else { start };
            let mut continuation = text[start..].to_owned();
            if filler && !continuation.starts_with(['\n']) {
                continuation.insert_str(0, "Continuing:\n");
            }
            let (mut seam, mut joined) = (Seam::new(&text[..cut]), text[..cut].to_owned());
            let (mut rest, mut sizes) = (continuation.as_str(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.ceil_char_boundary(*sizes.next().unwrap()));
                seam.push(piece, &mut joined);
                rest = after;
            }
            seam.finish(&mut joined);
            prop_assert_eq!(&joined, &text);
            prop_assert_eq!(continuation.len() - overlap(&text[..cut], &continuation), text.len() - cut);
        }
    }
}
