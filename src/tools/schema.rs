//! JSON Schema checks. The only file that knows the validator: its versions change their interface often.
//!
//! Schemas come from hosts and servers, so nothing is fetched: a `$ref` outside of the schema does not compile.
//! Patterns run on a linear-time engine. What a check takes is counted before it runs ([`super::schema_cost`]).

use super::Helpers;
use super::schema_cost::{Counter, Uncounted, schemas_without_references, size};
use crate::types::{Cancel, Error, Result};
use jsonschema::{PatternOptions, Retrieve, Uri, Validator};
use serde_json::Value;
use std::fmt::{self, Write};
use std::sync::Arc;

/// A compiled schema. Cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<Compiled>);

struct Compiled {
    validator: Validator,
    source: Value,
    /// How many schemas there are, if none is evaluated more than once for the same value.
    schemas: Option<u64>,
    most: u64,
}

/// How many violations are told at once: enough to mend a call, not enough to drown it.
const MOST_VIOLATIONS: usize = 5;
/// How many bytes a violation may have: it repeats the value that does not fit.
const MOST_TOLD: usize = 400;
/// A check of more steps runs on a helper thread.
const MOST_AT_ONCE: u64 = 50_000;

impl Schema {
    /// Compiles a schema. `path` is where it was given; a check may take `most` steps.
    pub fn compile(schema: &Value, path: &str, most: usize) -> Result<Self> {
        let most = most as u64;
        let counted = Counter::new(schema, most).count_schemas();
        if let Err(why) = &counted
            && !matches!(why, Uncounted::Reference(_))
        {
            return Err(Error::schema(path, too_costly(why, most)).with_hint(COSTLY_HINT));
        }
        let validator = jsonschema::options()
            .with_retriever(Refuse)
            .with_pattern_options(PatternOptions::regex())
            .build(schema)
            .map_err(|error| {
                let message = format!("this is not a JSON Schema{}: {}", place(error.instance_path()), cut(&error));
                Error::schema(path, message).with_hint("JSON Schema 2020-12; references must stay inside the schema")
            })?;
        if let Err(why) = counted {
            return Err(Error::schema(path, too_costly(&why, most))
                .with_hint("write references as \"#/$defs/name\", and give no \"$id\" to schemas inside of a schema"));
        }
        let schemas = schemas_without_references(schema);
        Ok(Self(Arc::new(Compiled { validator, source: schema.clone(), schemas, most })))
    }

    /// Checks a value. The error says every violation, up to a few, with its place.
    pub fn check(&self, value: &Value) -> std::result::Result<(), String> {
        self.steps(value)?;
        self.run(value)
    }

    /// The same; what takes long runs on a helper thread, so that a deadline interrupts the wait for it.
    pub async fn check_within(
        &self,
        value: &Value,
        helpers: &Helpers,
        cancel: &Cancel,
    ) -> std::result::Result<(), String> {
        if self.steps(value)? <= MOST_AT_ONCE {
            return self.run(value);
        }
        let (schema, value) = (self.clone(), value.clone());
        let checked = helpers.run(cancel, move |_| Ok(schema.run(&value))).await;
        checked.unwrap_or_else(|failure| Err(failure.message))
    }

    /// How many steps a check takes at most; an error if those are too many.
    fn steps(&self, value: &Value) -> std::result::Result<u64, String> {
        let Compiled { source, schemas, most, .. } = &*self.0;
        let simple = schemas.map(|schemas| schemas.saturating_mul(size(value)));
        match simple.filter(|steps| steps <= most) {
            Some(steps) => Ok(steps),
            None => Counter::new(source, *most).count_value(value).map_err(|why| too_costly(&why, *most)),
        }
    }

    fn run(&self, value: &Value) -> std::result::Result<(), String> {
        let mut violations = self.0.validator.iter_errors(value);
        let told: Vec<String> = violations
            .by_ref()
            .take(MOST_VIOLATIONS)
            .map(|error| format!("{}{}", cut(&error), place(error.instance_path())))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        let more = match violations.count() {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Err(format!("{}{more}", told.join("; ")))
    }
}

const COSTLY_HINT: &str = "definitions that refer to others several times multiply; simplify the schema, or raise \
                           limits.max_schema_steps";

fn too_costly(why: &Uncounted, most: u64) -> String {
    match why {
        Uncounted::TooMany => format!("a check against the schema takes more than {most} steps"),
        Uncounted::Endless => "the schema refers to itself for the same value, without end".into(),
        Uncounted::Reference(reference) => {
            format!("where the reference {} leads is not known", cut(&format_args!("{reference:?}")))
        }
    }
}

fn place(pointer: &impl fmt::Display) -> String {
    let pointer = cut(pointer);
    if pointer.is_empty() { String::new() } else { format!(" (at {pointer})") }
}

/// What is said, up to [`MOST_TOLD`] bytes.
fn cut(said: &impl fmt::Display) -> String {
    struct Bounded(String);
    impl Write for Bounded {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = MOST_TOLD - self.0.len();
            if text.len() <= room {
                self.0.push_str(text);
                return Ok(());
            }
            self.0.push_str(text.get(..text.floor_char_boundary(room)).unwrap_or_default());
            Err(fmt::Error)
        }
    }
    let mut bounded = Bounded(String::new());
    match write!(bounded, "{said}") {
        Ok(()) => bounded.0,
        Err(fmt::Error) => bounded.0 + "…",
    }
}

struct Refuse;

impl Retrieve for Refuse {
    fn retrieve(&self, uri: &Uri<String>) -> std::result::Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("the reference {uri} leads outside of the schema, and nothing is fetched").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    #[test]
    fn violations_are_told_with_their_place() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a", "b"]});
        let schema = Schema::compile(&schema, "tool.input_schema", 1_000_000).unwrap();
        assert_eq!(schema.check(&json!({"a": 1, "b": 2})), Ok(()));
        let told = schema.check(&json!({"a": "x"})).unwrap_err();
        assert!(told.contains("\"b\" is a required property") && told.contains("(at /a)"), "{told}");
    }

    #[test]
    fn a_schema_that_is_none_or_leads_outside_is_refused() {
        for schema in [
            json!({"type": "objekt"}),
            json!({"type": "object", "properties": []}),
            json!({"$ref": "http://127.0.0.1:1/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"pattern": "("}),
        ] {
            let error =
                Schema::compile(&schema, "tool.input_schema", 1_000_000).err().unwrap_or_else(|| panic!("{schema}"));
            assert_eq!(error.path(), Some("tool.input_schema"));
        }
    }

    #[test]
    fn what_the_model_is_told_is_bounded() {
        let schema = json!({"type": "object", "additionalProperties": {"type": "integer"}});
        let schema = Schema::compile(&schema, "tool.input_schema", 1_000_000).unwrap();
        let long = "é".repeat(100_000);
        let value: Value = (0..100).map(|number| (format!("{number}{long}"), json!(long))).collect();
        let told = schema.check(&value).unwrap_err();
        assert!(told.len() < 2 * MOST_VIOLATIONS * (MOST_TOLD + 50) && told.contains("and 95 more"), "{}", told.len());
    }

    #[tokio::test]
    async fn a_check_that_takes_long_is_refused_or_runs_aside() {
        let items = json!({"items": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}, "$defs": {"a": {"type": "integer"}}});
        let schema = Schema::compile(&items, "tool.input_schema", 1_000_000).unwrap();
        let (helpers, cancel) = (Helpers::default(), Cancel::new());
        let large = Value::Array(vec![json!("x"); 20_000]);
        assert!(schema.steps(&large).unwrap() > MOST_AT_ONCE);
        let mut check = Box::pin(schema.check_within(&large, &helpers, &cancel));
        assert!(futures_util::poll!(&mut check).is_pending(), "a deadline interrupts the wait");
        assert!(check.await.unwrap_err().contains("and 19995 more"));
        let huge = Value::Array(vec![json!("x"); 200_000]);
        let refused = schema.check_within(&huge, &helpers, &cancel).await.unwrap_err();
        assert_eq!(refused, "a check against the schema takes more than 1000000 steps");
    }

    #[test]
    fn a_schema_that_multiplies_is_refused_when_it_is_given() {
        let mut defs = serde_json::Map::new();
        for link in 0..29 {
            let next = json!({"$ref": format!("#/$defs/d{}", link + 1)});
            defs.insert(format!("d{link}"), json!({"allOf": [next, next]}));
        }
        defs.insert("d29".into(), json!({"type": "object"}));
        let schema = json!({"type": "object", "allOf": [{"$ref": "#/$defs/d0"}], "$defs": defs});
        let error = Schema::compile(&schema, "tool.input_schema", 1_000_000).err().unwrap();
        assert!(error.message().contains("more than 1000000 steps"), "{error}");
        assert!(error.hint().unwrap().contains("limits.max_schema_steps"));
    }
}
