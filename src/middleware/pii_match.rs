//! Where personal data begins and ends: one matcher for each kind, tried at one place of a text.
//!
//! A matcher reads through a [`Cursor`], which notes when the end of the text was looked at. A match that never looked
//! there is the same whatever text follows; this is what lets a stream decide, exactly and early.

use crate::config::PiiPattern;

/// What a matcher found at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing of this kind begins here.
    Nothing,
    /// A match of this many bytes.
    Match(usize),
    /// More text could change the answer.
    Undecided,
}

/// The most bytes a matcher looks at: an email address has at most 254.
const MAX_LOOK: usize = 256;

/// Tries one kind at a char boundary of a text, of which more may follow unless it is `finished`.
pub(super) fn match_at(pattern: PiiPattern, text: &str, at: usize, finished: bool) -> Found {
    let (before, rest) = text.split_at_checked(at).unwrap_or((text, ""));
    let mut cursor = Cursor { bytes: rest.as_bytes(), at: 0, starved: false };
    let begins = match pattern {
        PiiPattern::Email => !before.ends_with(is_local_char),
        PiiPattern::Phone | PiiPattern::Card | PiiPattern::Ssn | PiiPattern::Iban => number_may_begin_after(before),
    };
    let matcher = match pattern {
        PiiPattern::Email => email,
        PiiPattern::Phone => phone,
        PiiPattern::Card => card,
        PiiPattern::Ssn => ssn,
        PiiPattern::Iban => iban,
    };
    match begins.then(|| matcher(&mut cursor)).flatten() {
        _ if cursor.starved && !finished => Found::Undecided,
        // A label is cut at a number of bytes, which may be inside a letter: that letter is not part of the match.
        Some(length) => match rest.floor_char_boundary(length) {
            0 => Found::Nothing,
            length => Found::Match(length),
        },
        None => Found::Nothing,
    }
}

struct Cursor<'t> {
    bytes: &'t [u8],
    at: usize,
    /// Whether the end of the text was looked at.
    starved: bool,
}

impl Cursor<'_> {
    fn peek_at(&mut self, at: usize) -> Option<u8> {
        let byte = self.bytes.get(at).copied().filter(|_| at < MAX_LOOK);
        self.starved |= byte.is_none() && at < MAX_LOOK;
        byte
    }

    fn eat(&mut self, wanted: impl Fn(u8) -> bool) -> Option<u8> {
        let byte = self.peek_at(self.at).filter(|byte| wanted(*byte))?;
        self.at += 1;
        Some(byte)
    }

    /// Eats up to `most` bytes.
    fn run(&mut self, most: usize, wanted: impl Fn(u8) -> bool) -> &[u8] {
        let start = self.at;
        while self.at - start < most && self.eat(&wanted).is_some() {}
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// Exactly this many digits, with whatever after them.
    fn digits(&mut self, count: usize) -> Option<&[u8]> {
        Some(self.run(count, |byte| byte.is_ascii_digit())).filter(|digits| digits.len() == count)
    }

    /// Whether a number that ends here is not a part of a word, a decimal or a longer number.
    fn number_may_end_at(&mut self, at: usize) -> bool {
        match self.peek_at(at) {
            Some(b'.' | b'-') => !self.peek_at(at + 1).is_some_and(|byte| byte.is_ascii_digit()),
            next => !next.is_some_and(is_word),
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn number_may_begin_after(before: &str) -> bool {
    let mut before = before.bytes().rev();
    match before.next() {
        Some(b'.' | b'-') => !before.next().is_some_and(|byte| byte.is_ascii_digit()),
        previous => !previous.is_some_and(|byte| is_word(byte) || byte == b'+'),
    }
}

/// Letters of the Latin script, digits and `._%+-`. Other scripts stand beside an address without a space.
fn is_local_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-' | '\u{c0}'..='\u{24f}')
}

fn is_label(byte: u8) -> bool {
    // The Latin letters beyond ASCII: a first byte up to 0xC9, and what continues it.
    byte.is_ascii_alphanumeric() || byte == b'-' || (0x80..=0xc9).contains(&byte)
}

fn email(cursor: &mut Cursor<'_>) -> Option<usize> {
    cursor.run(64, |byte| is_label(byte) || matches!(byte, b'.' | b'_' | b'%' | b'+')).first()?;
    cursor.eat(|byte| byte == b'@')?;
    cursor.run(63, is_label).first()?;
    let mut end = None;
    // The address ends with the last label that can be a top-level domain.
    while cursor.eat(|byte| byte == b'.').is_some() {
        let start = cursor.at;
        let label = cursor.run(63, is_label);
        let letters = label.iter().take_while(|byte| byte.is_ascii_alphabetic() || **byte >= 0x80).count();
        match letters {
            _ if label.starts_with(b"xn--") => end = Some(start + label.len()),
            0 | 1 => {}
            letters => end = Some(start + letters),
        }
    }
    end
}

/// A number in groups, as far as it was read.
#[derive(Default)]
struct Groups {
    digits: Vec<u8>,
    /// For each group how many digits it has, how many the number has with it, and where it ends.
    groups: Vec<(usize, usize, usize)>,
}

impl Groups {
    fn push(&mut self, digits: &[u8], end: usize) {
        self.digits.extend(digits);
        self.groups.push((digits.len(), self.digits.len(), end));
    }

    /// Where the longest acceptable number of whole groups ends.
    fn longest(&self, mut accept: impl FnMut(&[usize], &[u8], usize) -> bool) -> Option<usize> {
        let sizes: Vec<usize> = self.groups.iter().map(|group| group.0).collect();
        self.groups.iter().enumerate().rev().find_map(|(last, (_, count, end))| {
            accept(sizes.get(..=last)?, self.digits.get(..*count)?, *end).then_some(*end)
        })
    }
}

fn card(cursor: &mut Cursor<'_>) -> Option<usize> {
    let mut number = Groups::default();
    while number.digits.len() <= 19 {
        let digits = cursor.run(MAX_LOOK, |byte| byte.is_ascii_digit()).to_vec();
        if digits.is_empty() || (number.groups.is_empty() && !matches!(digits.first(), Some(b'2'..=b'6' | b'8'))) {
            break;
        }
        number.push(&digits, cursor.at);
        if cursor.eat(|byte| matches!(byte, b' ' | b'-')).is_none() {
            break;
        }
    }
    number.longest(|sizes, digits, end| {
        let grouped = sizes.first().is_some_and(|size| *size >= 4) && sizes.iter().rev().skip(1).all(|size| *size >= 3);
        grouped && (13..=19).contains(&digits.len()) && luhn(digits) && cursor.number_may_end_at(end)
    })
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| match u32::from(digit - b'0') {
            digit if index % 2 == 0 => digit,
            digit if digit > 4 => digit * 2 - 9,
            digit => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

fn ssn(cursor: &mut Cursor<'_>) -> Option<usize> {
    let area = cursor.digits(3)?;
    if matches!(area, b"000" | b"666" | [b'9', ..]) {
        return None;
    }
    let separator = cursor.eat(|byte| matches!(byte, b'-' | b' '))?;
    cursor.digits(2).filter(|group| *group != b"00")?;
    cursor.eat(|byte| byte == separator)?;
    cursor.digits(4).filter(|serial| *serial != b"0000")?;
    cursor.number_may_end_at(cursor.at).then_some(cursor.at)
}

fn iban(cursor: &mut Cursor<'_>) -> Option<usize> {
    let is_part = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    if cursor.run(2, |byte| byte.is_ascii_uppercase()).len() < 2 || cursor.digits(2).is_none() {
        return None;
    }
    cursor.at = 0;
    let mut account = Groups::default();
    while account.digits.len() <= 34 {
        let part = cursor.run(MAX_LOOK, is_part).to_vec();
        if part.is_empty() {
            break;
        }
        account.push(&part, cursor.at);
        if cursor.eat(|byte| byte == b' ').is_none() {
            break;
        }
    }
    account.longest(|_, account, end| {
        (15..=34).contains(&account.len()) && is_iban(account) && cursor.number_may_end_at(end)
    })
}

/// ISO 7064: with the first four at the end and letters as 10 to 35, the number is 1 modulo 97.
fn is_iban(account: &[u8]) -> bool {
    let (head, tail) = account.split_at_checked(4).unwrap_or_default();
    let remainder = tail.iter().chain(head).fold(0, |remainder: u32, byte| match byte {
        b'A'..=b'Z' => (remainder * 100 + u32::from(byte - b'A') + 10) % 97,
        byte => (remainder * 10 + u32::from(byte.saturating_sub(b'0'))) % 97,
    });
    remainder == 1
}

fn phone(cursor: &mut Cursor<'_>) -> Option<usize> {
    let is_separator = |byte: u8| matches!(byte, b' ' | b'-' | b'.' | b'/');
    let international = cursor.eat(|byte| byte == b'+').is_some();
    let mut open = cursor.eat(|byte| byte == b'(').is_some();
    let mut only_dots = true;
    let mut number = Groups::default();
    while number.digits.len() <= 15 {
        let digits = cursor.run(MAX_LOOK, |byte| byte.is_ascii_digit()).to_vec();
        if digits.is_empty() {
            break;
        }
        let closed = open && cursor.eat(|byte| byte == b')').is_some();
        open &= !closed;
        if open {
            break;
        }
        number.push(&digits, cursor.at);
        let separator = cursor.eat(is_separator);
        open = cursor.eat(|byte| byte == b'(').is_some();
        if separator.is_none() && !open && !closed {
            break;
        }
        only_dots &= separator == Some(b'.') && !open && !closed;
    }
    number.longest(|sizes, digits, end| {
        let shape = match (international, digits.first()) {
            (true, first) => first != Some(&b'0'),
            (false, Some(b'0')) => is_trunk_call(sizes) && !(only_dots && is_ip(sizes)),
            (false, Some(b'1')) if sizes == [1, 3, 3, 4] => true,
            (false, _) => sizes == [3, 3, 4],
        };
        shape
            && (7..=15).contains(&digits.len())
            && (cursor.peek_at(end) == Some(b'x') || cursor.number_may_end_at(end))
    })
}

/// An area code with its 0 and then the number, unless it is a date or of the shape of a social security number.
fn is_trunk_call(sizes: &[usize]) -> bool {
    match sizes {
        [1 | 2, 1 | 2, 4, ..] | [4, 1 | 2, 1 | 2, ..] | [3, 2, 4] => false,
        [area, _, ..] => (2..=5).contains(area),
        [_] | [] => false,
    }
}

fn is_ip(sizes: &[usize]) -> bool {
    sizes.len() == 4 && sizes.iter().all(|size| *size <= 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    /// The first match in a text, as the text it covers.
    fn find(pattern: PiiPattern, text: &str) -> Option<&str> {
        text.char_indices().find_map(|(at, _)| match match_at(pattern, text, at, true) {
            Found::Match(length) => text.get(at..at + length),
            Found::Nothing | Found::Undecided => None,
        })
    }

    #[track_caller]
    fn check(pattern: PiiPattern, matches: &[&str], others: &[&str]) {
        for text in matches {
            for (before, after) in [("", ""), ("call ", ", now"), ("(", ")"), ("是", "是"), ("\"", ".\""), ("a:", "\n")]
            {
                assert_eq!(find(pattern, &format!("{before}{text}{after}")), Some(*text), "in {before}…{after}");
            }
        }
        for text in others {
            assert_eq!(find(pattern, text), None, "in {text:?}");
        }
    }

    #[test]
    fn emails() {
        check(
            PiiPattern::Email,
            &["a@b.io", "Jane.Doe+tag@mail.example.co.uk", "müller@bücher.de", "x@sub-1.example.xn--p1ai", "_a@1.de"],
            &["@b.io", "a@b", "a@", "react@18.2.0", "a@192.168.0.1", "a @b.io", "a@.io", "a@b.i"],
        );
        assert_eq!(find(PiiPattern::Email, "mail to joe@example.com--now"), Some("joe@example.com"));
        assert_eq!(find(PiiPattern::Email, "a@b@c.com"), Some("b@c.com"));
    }

    #[test]
    fn phones() {
        check(
            PiiPattern::Phone,
            &["+49 30 1234567", "+15551234567", "+1 (555) 123-4567", "+49 (0)30/123456", "030 1234567", "0171-1234567"],
            &["2024-05-01", "2024-05-01 10:30", "01.02.2024 12:30", "05-06-2024", "192.168.100.200", "010.020.030.040"],
        );
        check(
            PiiPattern::Phone,
            &[
                "555-123-4567",
                "(555) 123-4567",
                "1-800-555-1234",
                "01 23 45 67 89",
                "020 7946 0958",
                "+33.1.23.45.67.89",
            ],
            &[
                "5551234567",
                "0301234567",
                "1234567890123456789",
                "3.14159265",
                "12-555-123-4567",
                "000-12-3456",
                "+0123456789",
            ],
        );
        check(
            PiiPattern::Phone,
            &[],
            &["a+15551234567", "+123456", "+1234567890123456", "0.1234567", "555 123 45678", "v555-123-4567"],
        );
        assert_eq!(find(PiiPattern::Phone, "555-123-4567x89"), Some("555-123-4567"));
        assert_eq!(find(PiiPattern::Phone, "555-123-4567 100 times"), Some("555-123-4567"));
    }

    #[test]
    fn cards() {
        check(
            PiiPattern::Card,
            &[
                "4111111111111111",
                "4111 1111 1111 1111",
                "5500-0000-0000-0004",
                "3782 822463 10005",
                "6011000990139424",
            ],
            &[
                "4111111111111112",
                "0.4111111111111111",
                "4111111111111111.5",
                "411111111111",
                "41111111111111110000",
                "x4111111111111111",
            ],
        );
        assert_eq!(find(PiiPattern::Card, "12 4111 1111 1111 1111 123"), Some("4111 1111 1111 1111"));
    }

    #[test]
    fn social_security_numbers() {
        check(
            PiiPattern::Ssn,
            &["123-45-6789", "078 05 1120"],
            &[
                "000-12-3456",
                "666-12-3456",
                "900-12-3456",
                "123-00-4567",
                "123-45-0000",
                "123-45 6789",
                "123-45-67890",
                "1-123-45-6789",
            ],
        );
    }

    #[test]
    fn ibans() {
        check(
            PiiPattern::Iban,
            &[
                "DE89370400440532013000",
                "GB29 NWBK 6016 1331 9268 19",
                "NO9386011117947",
                "MT84MALT011000012345MTLCAST001S",
            ],
            &["DE89370400440532013001", "DE8937040044", "XDE89370400440532013000", "GB29 nwbk 6016 1331 9268 19"],
        );
        assert_eq!(
            find(PiiPattern::Iban, "DE89 3704 0044 0532 0130 00 IN BERLIN"),
            Some("DE89 3704 0044 0532 0130 00")
        );
    }

    #[test]
    fn a_place_is_undecided_only_while_more_text_could_matter() {
        use PiiPattern::{Card, Email, Phone};
        for (pattern, text, found) in [
            (Email, "joe", Found::Undecided),
            (Email, "joe ", Found::Nothing),
            (Email, "joe@example.com", Found::Undecided),
            (Email, "joe@example.com.", Found::Undecided),
            (Email, "joe@example.com. ", Found::Match(15)),
            (Phone, "+49 30 123456 ", Found::Undecided),
            (Phone, "+49 30 123456 a", Found::Match(13)),
            (Card, "4111", Found::Undecided),
            (Card, "word", Found::Nothing),
        ] {
            assert_eq!(match_at(pattern, text, 0, false), found, "{text:?}");
        }
        let long = "9".repeat(300);
        assert!(PiiPattern::ALL.iter().all(|pattern| match_at(*pattern, &long, 0, false) == Found::Nothing));
    }

    /// A number of so many digits with the right check digit.
    fn with_check_digit(length: usize) -> String {
        let mut digits: Vec<u8> = (0..length - 1).map(|at| b'0' + [4, 1, 7, 3, 9][at % 5]).collect();
        let check = (b'0'..=b'9').find(|check| luhn(&[digits.as_slice(), &[*check]].concat())).unwrap();
        digits.push(check);
        String::from_utf8(digits).unwrap()
    }

    #[test]
    fn cards_have_13_to_19_digits() {
        for length in 13..=19 {
            let number = with_check_digit(length);
            assert_eq!(find(PiiPattern::Card, &number), Some(number.as_str()));
            let grouped = format!("{} {}", &number[..4], &number[4..]);
            assert_eq!(find(PiiPattern::Card, &grouped), Some(grouped.as_str()));
        }
        for length in [11, 12, 20, 21] {
            assert_eq!(find(PiiPattern::Card, &with_check_digit(length)), None, "{length} digits");
        }
    }
}
