//! The readable text of an HTML page: what a person would read of it, without scripts, menus and footers.
//!
//! Only the tokenizer of html5ever is used, which has no tree and so no depth: a page can nest what it likes. What is kept
//! of a page is bounded; the rest is read and let go.

use crate::types::Cancel;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, CharacterTokens, StartTag, Tag, TagToken, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use std::cell::RefCell;

/// How much is tokenized between two looks at the clock.
const PIECE: usize = 8 << 10;
/// How many characters make a `main` or an `article` the page's text.
const ENOUGH: usize = 200;
/// A title may have this many characters.
const MAX_TITLE: usize = 300;

/// What a page says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Readable {
    /// Its title.
    pub title: String,
    /// Its text: headings with `#`, items with `-`, a blank line between paragraphs.
    pub text: String,
    /// Whether there is more.
    pub is_cut: bool,
}

/// Reads a page up to `most` characters of each part of it. None: `cancel` fired.
pub fn readable(html: &str, most: usize, cancel: &Cancel) -> Option<Readable> {
    let reader = Reader(RefCell::new(State::new(most)));
    let tokenizer = Tokenizer::new(reader, TokenizerOpts::default());
    let queue = BufferQueue::default();
    let mut rest = html;
    while !rest.is_empty() {
        if cancel.is_cancelled() {
            return None;
        }
        let (piece, after) = rest.split_at_checked(rest.floor_char_boundary(PIECE.min(rest.len())))?;
        queue.push_back(StrTendril::from_slice(piece));
        // It stops at scripts that are to be run, which none is, and at encodings, which are known.
        while !queue.is_empty() {
            let _ = tokenizer.feed(&queue);
        }
        rest = after;
    }
    tokenizer.end();
    Some(tokenizer.sink.0.into_inner().into_readable())
}

/// A piece of HTML as one line of plain text.
pub fn plain(html: &str) -> String {
    let text = readable(html, 2_000, &Cancel::default()).unwrap_or_default().text;
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Reader(RefCell<State>);

impl TokenSink for Reader {
    type Handle = ();

    fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
        let mut state = self.0.borrow_mut();
        match token {
            TagToken(tag) => state.tag(&tag),
            CharacterTokens(text) => {
                state.text(&text);
                TokenSinkResult::Continue
            }
            _ => TokenSinkResult::Continue,
        }
    }
}

struct State {
    title: String,
    in_title: bool,
    /// The element whose content nobody reads, and how deep it is nested in itself.
    skipped: Option<(String, usize)>,
    /// Open menus, footers and asides.
    asides: usize,
    /// Open `main` and `article` elements.
    mains: usize,
    preformatted: usize,
    everything: Flow,
    body: Flow,
    main: Flow,
}

impl State {
    fn new(most: usize) -> Self {
        Self {
            title: String::new(),
            in_title: false,
            skipped: None,
            asides: 0,
            mains: 0,
            preformatted: 0,
            everything: Flow::new(most),
            body: Flow::new(most),
            main: Flow::new(most),
        }
    }

    fn into_readable(self) -> Readable {
        let has = |flow: &Flow, most: usize| flow.characters >= most;
        let flow = match () {
            () if has(&self.main, ENOUGH) => self.main,
            () if has(&self.body, 1) => self.body,
            () => self.everything,
        };
        let title = self.title.split_whitespace().collect::<Vec<_>>().join(" ");
        Readable { title, text: flow.text, is_cut: flow.is_cut }
    }

    /// The places that a text goes to here.
    fn each(&mut self, mut work: impl FnMut(&mut Flow)) {
        work(&mut self.everything);
        if self.asides == 0 {
            work(&mut self.body);
            if self.mains > 0 {
                work(&mut self.main);
            }
        }
    }

    fn text(&mut self, text: &str) {
        if self.in_title {
            let room = MAX_TITLE.saturating_sub(self.title.len());
            self.title.push_str(text.get(..text.floor_char_boundary(room.min(text.len()))).unwrap_or_default());
        } else if self.skipped.is_none() {
            let is_preformatted = self.preformatted > 0;
            self.each(|flow| flow.push(text, is_preformatted));
        }
    }

    fn tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name: &str = &tag.name;
        let is_start = tag.kind == StartTag;
        if let Some((skipped, depth)) = &mut self.skipped {
            if name == skipped {
                *depth = if is_start && !tag.self_closing {
                    *depth + 1
                } else {
                    depth.saturating_sub(usize::from(!is_start))
                };
                if *depth == 0 {
                    self.skipped = None;
                }
            }
            return TokenSinkResult::Continue;
        }
        let step = |open: &mut usize| *open = if is_start { *open + 1 } else { open.saturating_sub(1) };
        match name {
            "title" if is_start && self.title.is_empty() => {
                self.in_title = true;
                return TokenSinkResult::RawData(RawKind::Rcdata);
            }
            "title" => self.in_title = false,
            "script" | "style" | "noscript" | "template" | "svg" | "math" | "iframe" | "object" | "textarea"
            | "select" | "button"
                if is_start && !tag.self_closing =>
            {
                self.skipped = Some((name.to_owned(), 1));
                return match name {
                    "script" => TokenSinkResult::RawData(RawKind::ScriptData),
                    "style" | "iframe" => TokenSinkResult::RawData(RawKind::Rawtext),
                    "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
                    _ => TokenSinkResult::Continue,
                };
            }
            "nav" | "footer" | "aside" => {
                self.each(|flow| flow.end_paragraph());
                step(&mut self.asides);
            }
            "main" | "article" => {
                self.each(|flow| flow.end_paragraph());
                step(&mut self.mains);
                self.each(|flow| flow.end_paragraph());
            }
            "pre" => {
                self.each(|flow| flow.end_paragraph());
                step(&mut self.preformatted);
            }
            "br" => self.each(Flow::end_line),
            "li" if is_start => self.each(|flow| flow.begin_line("- ")),
            "td" | "th" if is_start => self.each(Flow::next_cell),
            "li" | "tr" | "dt" | "dd" | "option" | "caption" => self.each(Flow::end_line),
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.each(Flow::end_paragraph);
                if is_start {
                    let level = name.bytes().last().map_or(1, |digit| usize::from(digit.saturating_sub(b'0')));
                    self.each(|flow| flow.begin_line(&format!("{} ", "#".repeat(level))));
                }
            }
            "p" | "div" | "section" | "header" | "ul" | "ol" | "dl" | "table" | "blockquote" | "figure" | "form"
            | "hr" | "address" | "details" | "fieldset" => self.each(Flow::end_paragraph),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

/// A text as it grows, within its bound.
struct Flow {
    text: String,
    characters: usize,
    most: usize,
    is_cut: bool,
    /// Line ends that come before the next word.
    breaks: usize,
    has_space: bool,
    /// What the next line begins with.
    mark: String,
}

impl Flow {
    fn new(most: usize) -> Self {
        Self {
            text: String::new(),
            characters: 0,
            most,
            is_cut: false,
            breaks: 0,
            has_space: false,
            mark: String::new(),
        }
    }

    fn push(&mut self, text: &str, is_preformatted: bool) {
        for c in text.chars() {
            match c {
                '\n' if is_preformatted => {
                    self.settle();
                    self.put('\n');
                }
                c if is_preformatted => {
                    self.settle();
                    self.put(c);
                }
                c if c.is_whitespace() => self.has_space = true,
                c => {
                    self.settle();
                    self.put(c);
                }
            }
        }
    }

    fn end_line(&mut self) {
        self.breaks = self.breaks.max(1);
        self.mark.clear();
    }

    fn end_paragraph(&mut self) {
        self.breaks = self.breaks.max(2);
        self.mark.clear();
    }

    fn begin_line(&mut self, mark: &str) {
        self.end_line();
        self.mark.push_str(mark);
    }

    /// A cell of a row, behind the others of it.
    fn next_cell(&mut self) {
        if self.breaks == 0 && !self.text.is_empty() && !self.text.ends_with('\n') {
            self.has_space = false;
            self.mark = " | ".into();
        }
    }

    /// What stands between the last word and the next one.
    fn settle(&mut self) {
        let mark = std::mem::take(&mut self.mark);
        let (breaks, has_space) = (std::mem::take(&mut self.breaks), std::mem::take(&mut self.has_space));
        if !self.text.is_empty() {
            (0..breaks).for_each(|_| self.put('\n'));
            if breaks == 0 && has_space && mark.is_empty() && !self.text.ends_with(char::is_whitespace) {
                self.put(' ');
            }
        }
        mark.chars().for_each(|c| self.put(c));
    }

    fn put(&mut self, c: char) {
        if self.characters == self.most {
            self.is_cut = true;
            return;
        }
        self.text.push(c);
        self.characters += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn read(html: &str) -> Readable {
        readable(html, 10_000, &Cancel::default()).unwrap()
    }

    #[test]
    fn a_page_is_what_a_person_reads_of_it() {
        let page = read(
            "<!DOCTYPE html><html><head><title> A &amp; B\n page</title><style>p { color: red }</style>
             <script>if (1 < 2) document.write('<p>no</p>')</script></head>
             <body><nav><a href=/>Home</a></nav><h1>Caf&eacute;</h1><p>One   two<br>three &lt;tag&gt;
             <b>bold</b><i>ly</i>.<ul><li>first<li>second <ol><li>inner</ol></ul>
             <table><tr><th>a<th>b<tr><td>1<td>2</table><pre>  x\n    y</pre>
             <svg><text>no</text></svg><noscript>no</noscript><footer>imprint</footer></body></html>",
        );
        assert_eq!(page.title, "A & B page");
        assert_eq!(
            page.text,
            "# Café\n\nOne two\nthree <tag> boldly.\n\n- first\n- second\n\n- inner\n\na | b\n1 | 2\n\n  x\n    y"
        );
        assert!(!page.is_cut);
    }

    #[test]
    fn the_main_part_counts_if_it_says_enough_and_menus_only_where_there_is_nothing_else() {
        let long = "word ".repeat(60);
        assert_eq!(read(&format!("<p>before<main><p>{long}</main><p>after")).text, long.trim());
        assert_eq!(read("<p>before<main>short</main><p>after").text, "before\n\nshort\n\nafter");
        assert_eq!(read("<nav>menu</nav>").text, "menu");
        // Never closed, it would swallow the page.
        assert_eq!(read("<nav>menu<p>text").text, "menu\n\ntext");
    }

    #[test]
    fn a_text_has_its_bound_in_characters() {
        let page = readable("<p>éééé", 3, &Cancel::default()).unwrap();
        assert_eq!((page.text.as_str(), page.is_cut), ("ééé", true));
        let whole = readable("<p>ééé", 3, &Cancel::default()).unwrap();
        assert_eq!((whole.text.as_str(), whole.is_cut), ("ééé", false));
    }

    #[test]
    fn nothing_a_page_does_breaks_it() {
        for html in [
            "",
            "<",
            "<!--",
            "<script>",
            "<title>",
            "</p></nav></main></pre>",
            "<p",
            "&#0;&#xD800;&#99999999;",
            "\0",
            "<![CDATA[x]]>",
            "<svg/>x",
            "<template>",
        ] {
            readable(html, 100, &Cancel::default()).unwrap();
        }
        let deep = "<ul><li>".repeat(100_000);
        assert_eq!(read(&format!("{deep}x")).text, "- x");
        let cancel = Cancel::default();
        cancel.cancel("enough");
        assert_eq!(readable("<p>x", 10, &cancel), None);
    }

    #[test]
    fn snippets_lose_their_tags() {
        assert_eq!(plain("a <strong>b</strong>&#x27;s\n c<script>d</script>"), "a b's c");
    }
}
