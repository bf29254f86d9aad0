//! Where two JSON values differ, shortly.

use serde_json::Value;

/// How many differences are told.
const TOLD: usize = 4;
/// How long a value is told.
const LENGTH: usize = 80;

/// What differs: JSON pointer, what was recorded, what is now. Empty if nothing does; the order of keys does not count.
pub fn differences(recorded: &Value, present: &Value) -> String {
    let mut found = Vec::new();
    compare(Some(recorded), Some(present), &mut String::new(), &mut found);
    let more = found.len().saturating_sub(TOLD);
    found.truncate(TOLD);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found.join("; ")
}

fn compare(recorded: Option<&Value>, present: Option<&Value>, pointer: &mut String, found: &mut Vec<String>) {
    let within = |key: &str, then: &mut dyn FnMut(&mut String), pointer: &mut String| {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
        then(pointer);
        pointer.truncate(length);
    };
    match (recorded, present) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let added = other.keys().filter(|key| !one.contains_key(*key));
            for key in one.keys().chain(added) {
                within(key, &mut |pointer| compare(one.get(key), other.get(key), pointer, found), pointer);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            for at in 0..one.len().max(other.len()) {
                within(&at.to_string(), &mut |pointer| compare(one.get(at), other.get(at), pointer, found), pointer);
            }
        }
        (one, other) if one == other => {}
        (one, other) => {
            let (one, other) = told(one, other);
            let place = if pointer.is_empty() { "the body" } else { pointer.as_str() };
            found.push(format!("{place}: recorded {one}, now {other}"));
        }
    }
}

/// Both values as far as they must be shown: of long texts the part that differs.
fn told(one: Option<&Value>, other: Option<&Value>) -> (String, String) {
    if let (Some(Value::String(one)), Some(Value::String(other))) = (one, other) {
        let same = one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
        let from = if same > LENGTH / 2 { same - 10 } else { 0 };
        let show = |text: &str| {
            let shown: String = text.chars().skip(from).take(LENGTH).collect();
            let before = if from > 0 { "…" } else { "" };
            let after = if text.chars().count() > from + LENGTH { "…" } else { "" };
            format!("{before}{}{after}", Value::String(shown))
        };
        return (show(one), show(other));
    }
    let show = |value: Option<&Value>| match value {
        None => "nothing".to_owned(),
        Some(value) => {
            let text = value.to_string();
            let shown: String = text.chars().take(LENGTH).collect();
            if shown.len() < text.len() { shown + "…" } else { shown }
        }
    };
    (show(one), show(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    #[test]
    fn differences_are_told_with_their_pointer() {
        let recorded = json!({"a": 1, "m": [{"role": "user", "x/y": "hi"}], "gone": true});
        let same = json!({"gone": true, "m": [{"x/y": "hi", "role": "user"}], "a": 1});
        assert_eq!(differences(&recorded, &same), "");
        let present = json!({"a": 1.5, "m": [{"role": "user", "x/y": "ho"}, 7], "new": null});
        assert_eq!(
            differences(&recorded, &present),
            r#"/a: recorded 1, now 1.5; /m/0/x~1y: recorded "hi", now "ho"; /m/1: recorded nothing, now 7; /gone: recorded true, now nothing; and 1 more"#
        );
        assert_eq!(differences(&json!(1), &json!("1")), r#"the body: recorded 1, now "1""#);
    }

    #[test]
    fn of_long_texts_the_part_that_differs_is_told() {
        let long = |end: &str| json!("x".repeat(1_000) + end);
        assert_eq!(
            differences(&long("one"), &long("two")),
            r#"the body: recorded …"xxxxxxxxxxone", now …"xxxxxxxxxxtwo""#
        );
    }
}
