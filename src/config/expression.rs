//! Conditions over JSON: a pure language without loops, calls or side effects, so every evaluation ends, and ends soon.
//!
//! What cannot be told apart from a slip is checked before anything runs ([`Expression::check`]); what depends on data
//! never fails: a missing variable is null, and values that do not compare are neither greater nor less.

use super::pattern::Pattern;
use super::strict;
use crate::types::{Error, Result, Status};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::cmp::Ordering;

/// A condition, or a value in one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
#[non_exhaustive]
pub enum Expression {
    /// A fixed value.
    Literal {
        /// Any JSON; absent is null.
        #[serde(default, deserialize_with = "strict::free")]
        value: Value,
    },
    /// A value out of the variables; null where there is none.
    Variable {
        /// Keys joined by dots; a number indexes a list: `order.items.0.price`.
        path: String,
    },
    /// Whether two values are the same JSON; 1 is 1.0.
    Equals {
        /// One value.
        left: Box<Expression>,
        /// The other.
        right: Box<Expression>,
    },
    /// Whether they are not.
    NotEquals {
        /// One value.
        left: Box<Expression>,
        /// The other.
        right: Box<Expression>,
    },
    /// Whether the left number is greater. False unless both are numbers: a string is none, whatever is in it.
    GreaterThan {
        /// A number.
        left: Box<Expression>,
        /// What it is measured by.
        right: Box<Expression>,
    },
    /// Whether the left number is less. False unless both are numbers.
    LessThan {
        /// A number.
        left: Box<Expression>,
        /// What it is measured by.
        right: Box<Expression>,
    },
    /// Whether all are true; the first that is not ends it. True for none.
    And {
        /// The conditions.
        operands: Vec<Expression>,
    },
    /// Whether one is true; the first that is ends it. False for none.
    Or {
        /// The conditions.
        operands: Vec<Expression>,
    },
    /// The opposite.
    Not {
        /// The condition.
        operand: Box<Expression>,
    },
    /// Whether a string has a substring, a list an element, or an object a key.
    Contains {
        /// The string, list or object.
        left: Box<Expression>,
        /// What it may contain.
        right: Box<Expression>,
    },
    /// Whether a value is an object with a key.
    HasKey {
        /// The object.
        left: Box<Expression>,
        /// The key.
        key: String,
    },
    /// Whether a value is null, `""`, `[]` or `{}`.
    IsEmpty {
        /// The value.
        operand: Box<Expression>,
    },
    /// Whether a string has a match of a regular expression anywhere.
    Matches {
        /// The string.
        operand: Box<Expression>,
        /// The expression; `^` and `$` anchor it.
        pattern: Pattern,
    },
}

/// How much one evaluation may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct EvalLimits {
    /// How deep expressions may be nested. Default 10.
    pub max_depth: usize,
    /// How many expressions one evaluation may visit. Default 1,000.
    pub max_node_visits: usize,
}

impl Default for EvalLimits {
    fn default() -> Self {
        Self { max_depth: 10, max_node_visits: 1_000 }
    }
}

impl Expression {
    /// Refuses what could never be evaluated: too much nesting, or a path that names nothing. `path` is where the
    /// expression was given.
    pub fn check(&self, path: &str, limits: EvalLimits) -> Result<()> {
        self.check_below(path, limits.max_depth, limits.max_depth)
    }

    fn check_below(&self, at: &str, levels: usize, max_depth: usize) -> Result<()> {
        let Some(levels) = levels.checked_sub(1) else { return Err(too_deep(max_depth).with_path(at)) };
        let one = |name: &str, child: &Self| child.check_below(&format!("{at}.{name}"), levels, max_depth);
        match self {
            Self::Literal { .. } => Ok(()),
            Self::Variable { path } if path.split('.').any(str::is_empty) => {
                Err(Error::schema(format!("{at}.path"), format!("{path:?} is not the path of a variable"))
                    .with_hint("join keys and list indexes by dots, like order.items.0.price"))
            }
            Self::Variable { .. } => Ok(()),
            Self::Equals { left, right }
            | Self::NotEquals { left, right }
            | Self::GreaterThan { left, right }
            | Self::LessThan { left, right }
            | Self::Contains { left, right } => one("left", left).and_then(|()| one("right", right)),
            Self::And { operands } | Self::Or { operands } => {
                operands.iter().enumerate().try_for_each(|(index, operand)| one(&format!("operands[{index}]"), operand))
            }
            Self::Not { operand } | Self::IsEmpty { operand } | Self::Matches { operand, .. } => {
                one("operand", operand)
            }
            Self::HasKey { left, .. } => one("left", left),
        }
    }

    /// The value of the expression under these variables. Fails only at a limit.
    pub fn evaluate(&self, variables: &Value, limits: EvalLimits) -> Result<Value> {
        Evaluation { variables, limits, visits: 0 }.value(self, 1).map(Cow::into_owned)
    }
}

/// Whether a value counts as true: all do but `false`, 0, `""`, `[]` and null. An empty object is true.
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(_) => true,
    }
}

struct Evaluation<'v> {
    variables: &'v Value,
    limits: EvalLimits,
    visits: usize,
}

impl<'v> Evaluation<'v> {
    fn value(&mut self, expression: &'v Expression, depth: usize) -> Result<Cow<'v, Value>> {
        self.visits = self.visits.saturating_add(1);
        if self.visits > self.limits.max_node_visits {
            let most = self.limits.max_node_visits;
            return Err(Error::new(Status::Limit, format!("a condition visits more than {most} expressions"))
                .with_hint("simplify it, or raise max_node_visits"));
        }
        if depth > self.limits.max_depth {
            return Err(too_deep(self.limits.max_depth));
        }
        let below = depth.saturating_add(1);
        let truth = match expression {
            Expression::Literal { value } => return Ok(Cow::Borrowed(value)),
            Expression::Variable { path } => {
                return Ok(look_up(self.variables, path).map_or(Cow::Owned(Value::Null), Cow::Borrowed));
            }
            Expression::Equals { left, right } => equal(&*self.value(left, below)?, &*self.value(right, below)?),
            Expression::NotEquals { left, right } => !equal(&*self.value(left, below)?, &*self.value(right, below)?),
            Expression::GreaterThan { left, right } => {
                compare(&*self.value(left, below)?, &*self.value(right, below)?) == Some(Ordering::Greater)
            }
            Expression::LessThan { left, right } => {
                compare(&*self.value(left, below)?, &*self.value(right, below)?) == Some(Ordering::Less)
            }
            Expression::And { operands } => self.find(operands, below, false)?.is_none(),
            Expression::Or { operands } => self.find(operands, below, true)?.is_some(),
            Expression::Not { operand } => !is_true(&*self.value(operand, below)?),
            Expression::Contains { left, right } => contains(&*self.value(left, below)?, &*self.value(right, below)?),
            Expression::HasKey { left, key } => {
                self.value(left, below)?.as_object().is_some_and(|object| object.contains_key(key))
            }
            Expression::IsEmpty { operand } => is_empty(&*self.value(operand, below)?),
            Expression::Matches { operand, pattern } => {
                self.value(operand, below)?.as_str().is_some_and(|text| pattern.regex().is_match(text))
            }
        };
        Ok(Cow::Owned(Value::Bool(truth)))
    }

    /// The first operand with this truth; those after it are not visited.
    fn find(&mut self, operands: &'v [Expression], depth: usize, truth: bool) -> Result<Option<&'v Expression>> {
        for operand in operands {
            if is_true(&*self.value(operand, depth)?) == truth {
                return Ok(Some(operand));
            }
        }
        Ok(None)
    }
}

fn too_deep(max_depth: usize) -> Error {
    Error::new(Status::Limit, format!("a condition is nested deeper than {max_depth}"))
        .with_hint("flatten it with \"and\" and \"or\", or raise max_depth")
}

fn look_up<'v>(variables: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(variables, |value, segment| match value {
        Value::Object(object) => object.get(segment),
        Value::Array(items) => segment.parse::<usize>().ok().and_then(|index| items.get(index)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare_numbers(left, right) == Some(Ordering::Equal),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| equal(left, right)))
        }
        (left, right) => left == right,
    }
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare_numbers(left, right),
        _ => None,
    }
}

/// Whole numbers exactly: a float does not tell large ones apart.
fn compare_numbers(left: &Number, right: &Number) -> Option<Ordering> {
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

fn contains(left: &Value, right: &Value) -> bool {
    match left {
        Value::String(text) => right.as_str().is_some_and(|part| text.contains(part)),
        Value::Array(items) => items.iter().any(|item| equal(item, right)),
        Value::Object(object) => right.as_str().is_some_and(|key| object.contains_key(key)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::strict;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    fn read(expression: Value) -> Result<Expression> {
        strict::from_str(&expression.to_string(), "when")
    }

    fn evaluate(expression: Value, variables: &Value) -> Result<Value> {
        let expression = read(expression)?;
        expression.check("when", EvalLimits::default())?;
        expression.evaluate(variables, EvalLimits::default())
    }

    fn two(kind: &str, left: Value, right: Value) -> Value {
        let literal = |value| json!({"type": "literal", "value": value});
        json!({"type": kind, "left": literal(left), "right": literal(right)})
    }

    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!({"type": "literal", "value": true}), |inner, _| json!({"type": "not", "operand": inner}))
    }

    #[test]
    fn variables_are_found_by_path_and_missing_ones_are_null() {
        let variables = json!({"order": {"items": [{"price": 7}], "0": "key"}, "list": [[1, 2]]});
        for (path, found) in [
            ("order.items.0.price", json!(7)),
            ("order.0", json!("key")),
            ("list.0.1", json!(2)),
            ("order.items.1", Value::Null),
            ("order.items.x", Value::Null),
            ("order.items.0.price.x", Value::Null),
            ("nowhere", Value::Null),
        ] {
            assert_eq!(evaluate(json!({"type": "variable", "path": path}), &variables).unwrap(), found, "{path}");
        }
        assert_eq!(evaluate(json!({"type": "literal", "value": null}), &variables).unwrap(), Value::Null);
    }

    #[test]
    fn two_values_are_compared() {
        let large = 9_007_199_254_740_993_u64;
        for (kind, left, right, truth) in [
            ("equals", json!(1), json!(1.0), true),
            ("equals", json!({"a": [1], "b": 2}), json!({"b": 2.0, "a": [1.0]}), true),
            ("equals", json!("1"), json!(1), false),
            ("equals", json!(null), json!(false), false),
            ("equals", json!(large), json!(large - 1), false),
            ("not_equals", json!([1, 2]), json!([1]), true),
            ("greater_than", json!("10"), json!(9.5), false),
            ("less_than", json!("49"), json!(50), false),
            ("less_than", json!(49), json!("50"), false),
            ("less_than", json!("1"), json!("2"), false),
            ("less_than", json!(true), json!(2), false),
            ("greater_than", json!(large), json!(large - 1), true),
            ("greater_than", json!("ten"), json!(9), false),
            ("less_than", json!("ten"), json!(9), false),
            ("less_than", json!(" -1 "), json!(0), false),
            ("less_than", json!(false), json!(1), false),
            ("less_than", json!("-inf"), json!(0), false),
            ("contains", json!("haystack"), json!("st"), true),
            ("contains", json!("h4"), json!(4), false),
            ("contains", json!([1, {"a": 1}]), json!({"a": 1.0}), true),
            ("contains", json!({"a": null}), json!("a"), true),
            ("contains", json!(null), json!("a"), false),
        ] {
            let expression = two(kind, left, right);
            assert_eq!(evaluate(expression.clone(), &json!({})).unwrap(), json!(truth), "{expression}");
        }
    }

    #[test]
    fn one_value_is_tested() {
        let variables = json!({"object": {}, "text": "par-42", "zero": 0});
        let variable = |path: &str| json!({"type": "variable", "path": path});
        for (expression, truth) in [
            (json!({"type": "not", "operand": variable("object")}), false),
            (json!({"type": "not", "operand": variable("zero")}), true),
            (json!({"type": "is_empty", "operand": variable("object")}), true),
            (json!({"type": "is_empty", "operand": variable("zero")}), false),
            (json!({"type": "is_empty", "operand": variable("missing")}), true),
            (json!({"type": "has_key", "left": variable(""), "key": "x"}), false),
            (json!({"type": "matches", "operand": variable("text"), "pattern": "\\d+$"}), true),
            (json!({"type": "matches", "operand": variable("zero"), "pattern": "0"}), false),
            (json!({"type": "and", "operands": []}), true),
            (json!({"type": "or", "operands": []}), false),
        ] {
            let value = read(expression.clone()).unwrap().evaluate(&variables, EvalLimits::default()).unwrap();
            assert_eq!(value, json!(truth), "{expression}");
        }
        assert!([json!(0.0), json!(-0.0), json!(""), json!([]), json!(null)].iter().all(|value| !is_true(value)));
        assert!([json!({}), json!("0"), json!(-1), json!([0])].iter().all(is_true));
    }

    #[test]
    fn limits_end_an_evaluation_and_short_circuits_save_visits() {
        let error = evaluate(nested(11), &json!({})).unwrap_err();
        assert_eq!(error.path(), Some(format!("when{}", ".operand".repeat(10)).as_str()));
        assert_eq!((error.status(), error.hint().is_some()), (Status::Limit, true));
        let unchecked = read(nested(11)).unwrap().evaluate(&json!({}), EvalLimits::default()).unwrap_err();
        assert_eq!(unchecked.status(), Status::Limit);
        assert_eq!(evaluate(nested(10), &json!({})).unwrap(), json!(false));

        let many = |kind: &str, value: bool| json!({"type": kind, "operands": vec![json!({"type": "literal", "value": value}); 2_000]});
        assert_eq!(evaluate(many("and", true), &json!({})).unwrap_err().status(), Status::Limit);
        assert_eq!(evaluate(many("and", false), &json!({})).unwrap(), json!(false));
        assert_eq!(evaluate(many("or", true), &json!({})).unwrap(), json!(true));
    }

    #[test]
    fn mistakes_are_told_with_their_path() {
        for (expression, path) in [
            (json!({"type": "matches", "operand": {"type": "literal"}, "pattern": "("}), "when.pattern"),
            (json!({"type": "not", "operand": {"type": "variable", "path": "a..b"}}), "when.operand.path"),
            (json!({"type": "and", "operands": [{"type": "literal"}, {"type": "xor"}]}), "when.operands[1].type"),
            (json!({"type": "literal", "valu": 1}), "when.valu"),
        ] {
            assert_eq!(evaluate(expression, &json!({})).unwrap_err().path(), Some(path));
        }
    }
}
