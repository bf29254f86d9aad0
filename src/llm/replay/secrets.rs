//! What must not be written down: the values of headers that authenticate, and every key that is known, wherever it stands.

use memchr::memmem;
use parking_lot::Mutex;

/// What stands where a secret stood.
pub const MARK: &str = "[SECRET]";

/// Shorter texts are words, not keys: striking them out everywhere would only spoil the recording.
const SHORTEST: usize = 8;

/// The keys that are known.
#[derive(Default)]
pub struct Secrets(Mutex<Vec<String>>);

impl Secrets {
    /// Learns a key.
    pub fn learn(&self, secret: &str) {
        let mut known = self.0.lock();
        if secret.len() >= SHORTEST && !known.iter().any(|other| other == secret) {
            known.push(secret.to_owned());
            // The longest first: one may contain another.
            known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
    }

    /// Learns what a header says that authenticates, with and without its scheme.
    pub fn learn_header(&self, value: &str) {
        self.learn(value);
        if let Some((_, credentials)) = value.split_once(' ') {
            self.learn(credentials.trim());
        }
    }

    /// The text without secrets.
    pub fn strike(&self, text: &str) -> String {
        let struck = self.strike_pieces(&[text.as_bytes()]);
        String::from_utf8_lossy(&struck.concat()).into_owned()
    }

    /// A body without secrets, also where one stands across pieces.
    pub fn strike_pieces<B: AsRef<[u8]>>(&self, pieces: &[B]) -> Vec<Vec<u8>> {
        let whole = pieces.iter().map(AsRef::as_ref).collect::<Vec<_>>().concat();
        let found = self.find(&whole);
        let mut found = found.iter().peekable();
        let mut struck = Vec::with_capacity(pieces.len());
        let mut at = 0;
        for piece in pieces {
            let end = at + piece.as_ref().len();
            let mut kept = Vec::with_capacity(end - at);
            while at < end {
                match found.peek() {
                    Some((start, until)) if *start <= at => {
                        // Only where it begins, so that it is marked once.
                        if *start == at {
                            kept.extend_from_slice(MARK.as_bytes());
                        }
                        at = (*until).min(end);
                        if at == *until {
                            found.next();
                        }
                    }
                    next => {
                        let until = next.map_or(end, |(start, _)| (*start).min(end));
                        kept.extend_from_slice(whole.get(at..until).unwrap_or_default());
                        at = until;
                    }
                }
            }
            struck.push(kept);
        }
        struck
    }

    /// Where secrets stand: in order, apart from each other.
    fn find(&self, whole: &[u8]) -> Vec<(usize, usize)> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for secret in self.0.lock().iter() {
            for start in memmem::find_iter(whole, secret.as_bytes()) {
                let end = start + secret.len();
                if !found.iter().any(|(other, until)| start < *until && *other < end) {
                    found.push((start, end));
                }
            }
        }
        found.sort_unstable();
        found
    }
}

/// Whether a header, or a parameter of a URL, authenticates.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "key", "token", "secret", "cookie", "password", "credential", "signature"]
        .iter()
        .any(|word| name.contains(word))
}

/// The URL without parameters that authenticate.
pub fn strike_url(url: &str) -> String {
    let Some((path, query)) = url.split_once('?') else { return url.to_owned() };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret_name(name) => format!("{name}={MARK}"),
            Some(_) | None => pair.to_owned(),
        })
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_struck_out_once_also_across_pieces() {
        let secrets = Secrets::default();
        secrets.learn_header("Bearer sk-12345678");
        secrets.learn("sk-12345678-long");
        secrets.learn("short");
        let struck = |pieces: &[&str]| -> Vec<String> {
            secrets.strike_pieces(pieces).into_iter().map(|piece| String::from_utf8(piece).unwrap()).collect()
        };
        assert_eq!(struck(&["a sk-1234", "5", "678 b short"]), ["a [SECRET]", "", " b short"]);
        assert_eq!(struck(&["sk-12345678-longsk-12345678"]), ["[SECRET][SECRET]"]);
        assert_eq!(secrets.strike("x=Bearer sk-12345678!"), "x=[SECRET]!");
        assert_eq!(struck(&["", "nothing"]), ["", "nothing"]);
        let url = "https://h/v1?api-version=2&api-key=x&b";
        assert_eq!(strike_url(url), "https://h/v1?api-version=2&api-key=[SECRET]&b");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "(a|b|-key-12345|12345678){0,20}", cuts in prop::collection::vec(0_usize..200, 0..5)) {
            let secrets = Secrets::default();
            secrets.learn("-key-12345");
            secrets.learn("12345678");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let struck = secrets.strike_pieces(&pieces);
            prop_assert_eq!(struck.len(), pieces.len());
            let whole = String::from_utf8(struck.concat()).unwrap();
            prop_assert_eq!(&whole, &secrets.strike(&text));
            prop_assert!(!whole.contains("-key-12345"), "{}", whole);
        }
    }
}
