//! `generate_password`: from the operating system's random source, without bias, with at least one character of each kind.

use super::{Builtin, Kit, Reach};
use crate::tools::{Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module's head.
pub struct GeneratePassword;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Characters, 4 to 128. Default 16.
    #[serde(default = "sixteen")]
    #[schemars(range(min = 4, max = 128))]
    length: usize,
    /// Whether it has symbols besides letters and digits. Default true.
    #[serde(default = "yes")]
    include_symbols: bool,
}

fn sixteen() -> usize {
    16
}

fn yes() -> bool {
    true
}

const LETTERS_AND_DIGITS: [&[u8]; 3] = [b"abcdefghijklmnopqrstuvwxyz", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"0123456789"];
/// None that a shell, a URL or a quoted text gives a meaning to in the middle of a word.
const SYMBOLS: &[u8] = b"!#%*+-.:=?@^_~";

impl Builtin for GeneratePassword {
    const NAME: &'static str = "generate_password";
    const DESCRIPTION: &'static str = "A random password of cryptographic quality.";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 1.0;
    type Input = Input;
    type Output = String;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, input: Input, _: Invocation<'a>) -> Result<String, ToolFailure> {
        let mut kinds = LETTERS_AND_DIGITS.to_vec();
        if input.include_symbols {
            kinds.push(SYMBOLS);
        }
        password(input.length, &kinds)
            .map_err(|error| ToolFailure::new(format!("the system has no random bytes: {error}")).retryable())
    }
}

/// A password that has every kind: drawn again until it has, so that each such password is equally likely.
fn password(length: usize, kinds: &[&[u8]]) -> Result<String, getrandom::Error> {
    let alphabet = kinds.concat();
    loop {
        let drawn = (0..length).map(|_| draw(&alphabet)).collect::<Result<Vec<u8>, _>>()?;
        if length < kinds.len() || kinds.iter().all(|kind| drawn.iter().any(|character| kind.contains(character))) {
            return Ok(drawn.into_iter().map(char::from).collect());
        }
    }
}

/// One character, each equally likely: bytes in the last, incomplete round through the alphabet are thrown away.
fn draw(alphabet: &[u8]) -> Result<u8, getrandom::Error> {
    let rounds = 256 / alphabet.len();
    loop {
        let mut byte = [0];
        getrandom::fill(&mut byte)?;
        let [byte] = byte.map(usize::from);
        if byte < rounds * alphabet.len()
            && let Some(character) = alphabet.get(byte % alphabet.len())
        {
            return Ok(*character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use std::collections::HashSet;

    #[test]
    fn passwords_have_their_length_every_kind_and_no_twin() {
        let kinds = [&LETTERS_AND_DIGITS[..], &[SYMBOLS]].concat();
        let mut seen = HashSet::new();
        for length in [4, 5, 16, 128] {
            for _ in 0..50 {
                let password = password(length, &kinds).unwrap();
                assert_eq!(password.len(), length);
                assert!(kinds.iter().all(|kind| password.bytes().any(|byte| kind.contains(&byte))), "{password}");
                assert!(length < 16 || seen.insert(password), "twice the same");
            }
        }
        assert!(password(64, &LETTERS_AND_DIGITS).unwrap().bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
