//! Whether a JSON text that grows is one whole document, at a constant cost for each byte.

use serde::de::IgnoredAny;

/// Numbers and literals that are longer are not looked at.
const MAX_SCALAR: usize = 32;

/// What is known of a text so far.
#[derive(Debug, Default)]
pub struct WholeJson {
    /// How many bytes were read.
    read: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Only white space so far.
    #[default]
    Nothing,
    /// Inside of brackets or of a string.
    Inside { depth: usize, in_string: bool, escaped: bool },
    /// A number or a literal, from this byte on.
    Scalar(usize),
    /// A document ended, and whether it was valid.
    Ended(bool),
    /// Something follows the document.
    Broken,
}

impl WholeJson {
    /// Whether `text` is whole. It must begin with the text of the last call.
    pub fn is_whole(&mut self, text: &str) -> bool {
        for (at, byte) in text.bytes().enumerate().skip(self.read) {
            self.state = self.state.after(text, at, byte);
        }
        self.read = text.len();
        match self.state {
            State::Ended(is_valid) => is_valid,
            State::Scalar(start) => {
                let scalar = text.get(start..).unwrap_or_default();
                scalar.len() <= MAX_SCALAR && is_json(scalar)
            }
            State::Nothing | State::Inside { .. } | State::Broken => false,
        }
    }
}

impl State {
    fn after(self, text: &str, at: usize, byte: u8) -> Self {
        let is_space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self {
            Self::Nothing if is_space => Self::Nothing,
            Self::Nothing => match byte {
                b'{' | b'[' => Self::Inside { depth: 1, in_string: false, escaped: false },
                b'"' => Self::Inside { depth: 0, in_string: true, escaped: false },
                _ => Self::Scalar(at),
            },
            Self::Inside { depth, in_string: true, escaped } => match byte {
                b'"' if !escaped && depth == 0 => Self::Ended(is_json(text.get(..=at).unwrap_or_default())),
                b'"' if !escaped => Self::Inside { depth, in_string: false, escaped: false },
                _ => Self::Inside { depth, in_string: true, escaped: byte == b'\\' && !escaped },
            },
            Self::Inside { depth, .. } => match byte {
                b'"' => Self::Inside { depth, in_string: true, escaped: false },
                b'{' | b'[' => Self::Inside { depth: depth + 1, in_string: false, escaped: false },
                b'}' | b']' if depth == 1 => Self::Ended(is_json(text.get(..=at).unwrap_or_default())),
                b'}' | b']' => Self::Inside { depth: depth - 1, in_string: false, escaped: false },
                _ => self,
            },
            Self::Ended(_) if is_space => self,
            Self::Ended(_) | Self::Broken => Self::Broken,
            Self::Scalar(_) => self,
        }
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_whole_when_a_parser_takes_it(pieces in proptest::collection::vec("[{}\\[\\]\",:\\\\ a0-9]|true|null", 0..20)) {
            let (mut text, mut json) = (String::new(), WholeJson::default());
            for piece in pieces {
                text.push_str(&piece);
                prop_assert_eq!(json.is_whole(&text), is_json(&text), "{}", text);
            }
        }
    }
}
