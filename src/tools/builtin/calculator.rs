//! `calculator`: arithmetic. Whole numbers stay exact as long as they fit 64 bits.

use super::{Builtin, Kit, Reach};
use crate::tools::{Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Number;

/// See the module's head.
pub struct Calculator;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Such as `(2 + 3) * 4^2 / sqrt(2)`: + - * / % ^, parentheses, pi, e, and the functions abs, ceil, cos, exp, floor,
    /// ln, log10, log2, max, min, round, sin, sqrt, tan (angles in radians).
    #[schemars(length(max = 4096))]
    expression: String,
}

impl Builtin for Calculator {
    const NAME: &'static str = "calculator";
    const DESCRIPTION: &'static str = "Evaluates an arithmetic expression.";
    const REACH: Reach = Reach::Nothing;
    type Input = Input;
    type Output = Number;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, Input { expression }: Input, _: Invocation<'a>) -> Result<Number, ToolFailure> {
        evaluate(&expression).map_err(|wrong| ToolFailure::new(wrong).with_code("invalid_expression"))
    }
}

/// How deep an expression may nest.
const MOST_DEPTH: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Whole(i64),
    Real(f64),
}

use Value::{Real, Whole};

impl Value {
    fn real(self) -> f64 {
        match self {
            // Beyond 2^53 the nearest real is meant.
            Whole(value) => value as f64,
            Real(value) => value,
        }
    }

    /// The exact result where both are whole and it fits, else that of reals.
    fn combine(self, other: Self, whole: fn(i64, i64) -> Option<i64>, real: fn(f64, f64) -> f64) -> Self {
        let exact = match (self, other) {
            (Whole(a), Whole(b)) => whole(a, b),
            (Whole(_) | Real(_), Real(_)) | (Real(_), Whole(_)) => None,
        };
        exact.map_or_else(|| Real(real(self.real(), other.real())), Whole)
    }

    /// A real that is whole, as one.
    fn settled(self) -> Self {
        match self {
            Real(value) if value.fract() == 0.0 && value.abs() < 9e15 => Whole(value as i64),
            other => other,
        }
    }
}

fn evaluate(expression: &str) -> Result<Number, String> {
    let mut parser = Parser { rest: expression, all: expression, depth: 0 };
    let value = parser.sum()?;
    parser.skip_space();
    if !parser.rest.is_empty() {
        return Err(parser.unexpected("an operator or the end"));
    }
    match value.settled() {
        Whole(value) => Ok(value.into()),
        Real(value) => {
            // 15 digits are what a double has for sure: 0.1 + 0.2 is 0.3.
            let rounded: f64 = format!("{value:.14e}").parse().unwrap_or(value);
            Number::from_f64(rounded).ok_or_else(|| "the result is no finite number".to_owned())
        }
    }
}

struct Parser<'e> {
    rest: &'e str,
    all: &'e str,
    depth: usize,
}

impl<'e> Parser<'e> {
    fn sum(&mut self) -> Result<Value, String> {
        let mut value = self.product()?;
        loop {
            match self.take(&['+', '-', '−']) {
                Some('+') => value = value.combine(self.product()?, i64::checked_add, |a, b| a + b),
                Some(_) => value = value.combine(self.product()?, i64::checked_sub, |a, b| a - b),
                None => return Ok(value),
            }
        }
    }

    fn product(&mut self) -> Result<Value, String> {
        let mut value = self.signed()?;
        loop {
            match self.take(&['*', '×', '·', '/', '÷', '%']) {
                Some(operator @ ('/' | '÷' | '%')) => {
                    let by = self.signed()?;
                    if by.real() == 0.0 {
                        return Err("this divides by zero".into());
                    }
                    value = match operator {
                        '%' => value.combine(by, i64::checked_rem, |a, b| a % b),
                        _ => value.combine(by, exact_quotient, |a, b| a / b),
                    };
                }
                Some(_) => value = value.combine(self.signed()?, i64::checked_mul, |a, b| a * b),
                None => return Ok(value),
            }
        }
    }

    fn signed(&mut self) -> Result<Value, String> {
        match self.take(&['-', '−', '+']) {
            Some('+') => self.nested(Self::signed),
            Some(_) => {
                let value = self.nested(Self::signed)?;
                Ok(Whole(0).combine(value, i64::checked_sub, |_, b| -b))
            }
            None => self.power(),
        }
    }

    /// Binds to the right: 2^3^2 is 2^9. A minus before it stays outside: -2^2 is -4.
    fn power(&mut self) -> Result<Value, String> {
        let base = self.atom()?;
        self.skip_space();
        if let Some(rest) = self.rest.strip_prefix("**").or_else(|| self.rest.strip_prefix('^')) {
            self.rest = rest;
            let exponent = self.nested(Self::signed)?;
            let whole = |base: i64, exponent: i64| base.checked_pow(u32::try_from(exponent).ok()?);
            return finite(base.combine(exponent, whole, f64::powf));
        }
        Ok(base)
    }

    fn atom(&mut self) -> Result<Value, String> {
        self.skip_space();
        if self.take(&['(']).is_some() {
            let value = self.nested(Self::sum)?;
            return self.expect(')').map(|()| value);
        }
        let length = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        match self.rest.chars().next() {
            Some(first) if first.is_ascii_digit() || first == '.' => self.number(),
            Some(first) if first.is_ascii_alphabetic() => {
                let (name, rest) = self.rest.split_at(length);
                self.rest = rest;
                self.named(name)
            }
            Some(_) | None => Err(self.unexpected("a number, a function or \"(\"")),
        }
    }

    fn number(&mut self) -> Result<Value, String> {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole = digits(self.rest);
        let mut length = whole;
        if let Some(fraction) = self.rest.get(length..).and_then(|rest| rest.strip_prefix('.')) {
            length += 1 + digits(fraction);
        }
        if let Some(exponent) = self.rest.get(length..).and_then(|rest| rest.strip_prefix(['e', 'E'])) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let count = digits(exponent.get(sign..).unwrap_or_default());
            if count > 0 {
                length += 1 + sign + count;
            }
        }
        let (text, rest) = self.rest.split_at(length);
        let value = match text.parse::<i64>() {
            Ok(value) => Whole(value),
            Err(_) => Real(text.parse().map_err(|_| self.unexpected("a number"))?),
        };
        self.rest = rest;
        finite(value)
    }

    fn named(&mut self, name: &str) -> Result<Value, String> {
        match name {
            "pi" => return Ok(Real(std::f64::consts::PI)),
            "e" => return Ok(Real(std::f64::consts::E)),
            _ => {}
        }
        let unknown = || {
            format!(
                "{name:?} is not known; there are pi, e, abs, ceil, cos, exp, floor, ln, log10, log2, max, min, round, sin, sqrt, tan"
            )
        };
        let function: fn(f64) -> f64 = match name {
            "abs" => f64::abs,
            "ceil" => f64::ceil,
            "cos" => f64::cos,
            "exp" => f64::exp,
            "floor" => f64::floor,
            "ln" => f64::ln,
            "log10" => f64::log10,
            "log2" => f64::log2,
            "round" => f64::round,
            "sin" => f64::sin,
            "sqrt" => f64::sqrt,
            "tan" => f64::tan,
            "max" | "min" => |value| value,
            _ => return Err(unknown()),
        };
        self.expect('(')?;
        let mut value = self.nested(Self::sum)?;
        while matches!(name, "max" | "min") && self.take(&[',', ';']).is_some() {
            let other = self.nested(Self::sum)?;
            let takes_other = if name == "max" { other.real() > value.real() } else { other.real() < value.real() };
            if takes_other {
                value = other;
            }
        }
        self.expect(')')?;
        match (name, value) {
            ("abs", Whole(whole)) => Ok(whole.checked_abs().map_or(Real(value.real().abs()), Whole)),
            ("max" | "min" | "ceil" | "floor" | "round", Whole(_)) => Ok(value),
            _ => finite(Real(function(value.real())).settled()),
        }
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Result<Value, String>) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(format!("the expression nests deeper than {MOST_DEPTH}; split it"));
        }
        let value = inner(self);
        self.depth -= 1;
        value
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes one of these operators; `**` is not `*`.
    fn take(&mut self, operators: &[char]) -> Option<char> {
        self.skip_space();
        let operator = self.rest.chars().next().filter(|first| operators.contains(first))?;
        if self.rest.starts_with("**") {
            return None;
        }
        self.rest = self.rest.get(operator.len_utf8()..).unwrap_or_default();
        Some(operator)
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        self.take(&[wanted]).map(drop).ok_or_else(|| self.unexpected(&format!("{wanted:?}")))
    }

    fn unexpected(&self, wanted: &str) -> String {
        let at = self.all.len() - self.rest.len();
        match self.rest.chars().next() {
            Some(found) => format!("{wanted} is wanted at position {at}, and there is {found:?}"),
            None => format!("{wanted} is wanted, and the expression ends"),
        }
    }
}

fn exact_quotient(a: i64, b: i64) -> Option<i64> {
    (a.checked_rem(b)? == 0).then(|| a.checked_div(b)).flatten()
}

fn finite(value: Value) -> Result<Value, String> {
    match value.real().is_finite() {
        true => Ok(value),
        false => Err("the result is no finite number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    #[test]
    fn arithmetic_is_that_of_school() {
        for (expression, result) in [
            ("1 + 2 * 3", "7"),
            ("(1 + 2) * 3", "9"),
            ("-2^2", "-4"),
            ("2^3^2", "512"),
            ("2**10", "1024"),
            ("2^-1", "0.5"),
            ("7 / 2", "3.5"),
            ("6/2", "3"),
            ("7 % 4", "3"),
            ("0.1 + 0.2", "0.3"),
            ("1e3", "1000"),
            (".5 * 4", "2"),
            ("123456789 * 987654321", "121932631112635269"),
            ("9223372036854775807 + 1", "9.22337203685478e+18"),
            ("sqrt(16) + abs(-3)", "7"),
            ("max(1, 5, 3) - min(2, -1)", "6"),
            ("round(2.5) + floor(-0.5) + ceil(0.2)", "3"),
            ("log10(1000) + log2(8) + ln(e)", "7"),
            ("2 × 3 ÷ 4 − 1", "0.5"),
            ("  ( ( 4 ) )  ", "4"),
            ("--1", "1"),
        ] {
            assert_eq!(evaluate(expression).unwrap().to_string(), result, "{expression}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (expression, told) in [
            ("", "the expression ends"),
            ("1 +", "the expression ends"),
            ("1 2", "position 2"),
            ("(1", "')' is wanted"),
            ("1 / 0", "divides by zero"),
            ("5 % 0", "divides by zero"),
            ("sqrt(-1)", "no finite number"),
            ("10^400", "no finite number"),
            ("1e999", "no finite number"),
            ("__import__('os')", "position 0"),
            ("system(1)", "\"system\" is not known"),
            ("2 $ 3", "'$'"),
        ] {
            let wrong = evaluate(expression).unwrap_err();
            assert!(wrong.contains(told), "{expression}: {wrong}");
        }
        assert!(evaluate(&"(".repeat(4096)).unwrap_err().contains("nests deeper"));
        assert!(evaluate(&"-".repeat(4096)).unwrap_err().contains("nests deeper"));
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in "[-0-9a-z+*/%^(). ,e−×]{0,40}") {
            let _ = evaluate(&text);
        }
    }
}
