//! Money, exactly: prices of tokens are tiny and sums of them long, so amounts are whole numbers of pico-dollars.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::ops::AddAssign;
use std::str::FromStr;

/// Pico-dollars in a dollar.
const PER_USD: u128 = 1_000_000_000_000;

/// How many decimals a dollar has here.
const DECIMALS: usize = 12;

/// An amount in 10⁻¹² US dollars. In JSON and as text it is a decimal number of dollars: `"0.00123"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PicoUsd(u128);

impl PicoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount of so many pico-dollars.
    pub const fn new(pico: u128) -> Self {
        Self(pico)
    }

    /// The amount in pico-dollars.
    pub const fn pico(self) -> u128 {
        self.0
    }

    /// The sum, or the most there is.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Saturates, like [`PicoUsd::saturating_add`].
impl AddAssign for PicoUsd {
    fn add_assign(&mut self, other: Self) {
        *self = self.saturating_add(other);
    }
}

impl fmt::Display for PicoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, fraction) = (self.0 / PER_USD, self.0 % PER_USD);
        if fraction == 0 {
            return write!(f, "{dollars}");
        }
        let fraction = format!("{fraction:0DECIMALS$}");
        write!(f, "{dollars}.{}", fraction.trim_end_matches('0'))
    }
}

/// Reads a plain decimal number; the error says what is wrong with it.
impl FromStr for PicoUsd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{text:?} is not an amount of dollars: {why}"));
        if text.starts_with('-') {
            return wrong("it is negative");
        }
        let (dollars, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(dollars) || !is_digits(fraction) {
            return wrong("write it like \"0.15\"");
        }
        if fraction.len() > DECIMALS {
            return wrong("it has more than 12 decimals");
        }
        let pico = || {
            let dollars: u128 = dollars.parse().ok()?;
            let fraction: u128 = format!("{fraction:0<DECIMALS$}").parse().ok()?;
            dollars.checked_mul(PER_USD)?.checked_add(fraction)
        };
        pico().map_or_else(|| wrong("it is too large"), |pico| Ok(Self(pico)))
    }
}

impl TryFrom<String> for PicoUsd {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PicoUsd> for String {
    fn from(amount: PicoUsd) -> Self {
        amount.to_string()
    }
}

impl JsonSchema for PicoUsd {
    fn schema_name() -> Cow<'static, str> {
        "PicoUsd".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^\d+(\.\d{1,12})?$",
            "description": "An amount of US dollars, as a decimal number: \"0.00123\"."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_and_written_plainly() {
        for (text, pico, written) in [
            ("0", 0, "0"),
            ("0.00123", 1_230_000_000, "0.00123"),
            ("12.50", 12_500_000_000_000, "12.5"),
            ("007", 7_000_000_000_000, "7"),
            ("0.000000000001", 1, "0.000000000001"),
        ] {
            let amount: PicoUsd = text.parse().unwrap();
            assert_eq!((amount.pico(), amount.to_string().as_str()), (pico, written));
        }
    }

    #[test]
    fn what_is_wrong_with_an_amount_is_told() {
        for (text, why) in [
            ("", "write it like"),
            ("1.", "write it like"),
            (".5", "write it like"),
            ("1e-6", "write it like"),
            ("$1", "write it like"),
            ("1,5", "write it like"),
            ("-1", "negative"),
            ("0.0000000000001", "more than 12 decimals"),
            ("9999999999999999999999999999999999999999", "too large"),
        ] {
            let told = text.parse::<PicoUsd>().unwrap_err();
            assert!(told.contains(why) && told.contains(&format!("{text:?}")), "{told}");
        }
        assert!(serde_json::from_str::<PicoUsd>("0.5").is_err(), "a float is not exact");
    }

    #[test]
    fn sums_saturate() {
        let mut sum = PicoUsd::new(u128::MAX - 1);
        sum += PicoUsd::new(5);
        assert_eq!(sum, PicoUsd::new(u128::MAX));
    }

    proptest! {
        #[test]
        fn every_amount_survives_its_text(pico: u128) {
            let amount = PicoUsd::new(pico);
            let json = serde_json::to_string(&amount).unwrap();
            prop_assert_eq!(serde_json::from_str::<PicoUsd>(&json).unwrap(), amount);
        }
    }
}
