//! `reasoning_details`: reasoning as OpenRouter hands it on, with whatever its maker signed. It goes back as it came, but for
//! text that came in pieces, which is one text again.

use crate::llm::lenient::{Fields, Text};
use indexmap::IndexMap;
use serde_json::value::RawValue;

/// The details of one answer.
#[derive(Debug, Default)]
pub struct Details(Vec<Detail>);

#[derive(Debug)]
struct Detail {
    /// Its fields, as JSON, but for the one that grows.
    fields: IndexMap<String, String>,
    text: Option<(&'static str, String)>,
}

impl Details {
    /// More of them: an array, or nothing that is known.
    pub fn push(&mut self, json: &RawValue) {
        let details: Vec<Fields<'_>> = serde_json::from_str(json.get()).unwrap_or_default();
        for detail in &details {
            let piece = Detail::of(detail);
            match self.0.last_mut().filter(|last| last.continues(&piece)) {
                Some(last) => last.extend(piece),
                None => self.0.push(piece),
            }
        }
    }

    /// What goes back, as a field; none if there is nothing.
    pub fn to_json(&self) -> Option<String> {
        let details: Vec<_> = self.0.iter().map(Detail::to_json).collect();
        (!details.is_empty()).then(|| format!("{{\"reasoning_details\":[{}]}}", details.join(",")))
    }
}

impl Detail {
    fn of(fields: &Fields<'_>) -> Self {
        let read = |json: &RawValue| serde_json::from_str::<Text<'_>>(json.get()).unwrap_or_default().0.into_owned();
        let growing = match fields.get("type").map(RawValue::get) {
            Some("\"reasoning.text\"") => Some("text"),
            Some("\"reasoning.summary\"") => Some("summary"),
            Some(_) | None => None,
        };
        let text = growing.map(|key| (key, fields.get(key).map(read).unwrap_or_default()));
        let others = fields.0.iter().filter(|(key, _)| Some(&**key) != growing);
        Self { fields: others.map(|(key, json)| (key.clone().into_owned(), json.get().to_owned())).collect(), text }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// Whether the next one is more of this one's text. Behind its signature a text has ended.
    fn continues(&self, next: &Self) -> bool {
        let is_signed = self.field("signature").is_some_and(|json| json != "null");
        self.text.is_some() && !is_signed && ["type", "index"].iter().all(|name| self.field(name) == next.field(name))
    }

    fn extend(&mut self, next: Self) {
        if let (Some((_, text)), Some((_, more))) = (&mut self.text, next.text) {
            text.push_str(&more);
        }
        self.fields.extend(next.fields.into_iter().filter(|(_, json)| json != "null"));
    }

    fn to_json(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let text = self.text.iter().map(|(key, text)| format!("{}:{}", quoted(key), quoted(text)));
        let fields = self.fields.iter().map(|(key, json)| format!("{}:{json}", quoted(key)));
        format!("{{{}}}", fields.chain(text).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn read(pieces: &[&str]) -> Option<String> {
        let mut details = Details::default();
        for piece in pieces {
            details.push(serde_json::from_str(piece).unwrap());
        }
        details.to_json()
    }

    #[test]
    fn pieces_of_a_text_are_one_and_the_rest_is_as_it_came() {
        assert_eq!(
            read(&[
                r#"[{"type":"reasoning.text","text":"Let ","format":"anthropic-claude-v1","index":0}]"#,
                r#"[{"type":"reasoning.text","text":"me \"see\"","index":0,"signature":null}]"#,
                r#"[{"type":"reasoning.text","text":"","index":0,"signature":"s=="}]"#,
                r#"[{"type":"reasoning.encrypted","data":"x/+\u00e9","id":"r1","index":1}]"#,
                r#"[{"type":"reasoning.text","text":"more","index":0}, {"type":"reasoning.summary","summary":"a","index":2}]"#,
                r#"[{"type":"reasoning.summary","summary":"b","index":2}]"#,
            ])
            .unwrap(),
            concat!(
                r#"{"reasoning_details":["#,
                r#"{"type":"reasoning.text","format":"anthropic-claude-v1","index":0,"signature":"s==","text":"Let me \"see\""},"#,
                r#"{"type":"reasoning.encrypted","data":"x/+\u00e9","id":"r1","index":1},"#,
                r#"{"type":"reasoning.text","index":0,"text":"more"},"#,
                r#"{"type":"reasoning.summary","index":2,"summary":"ab"}]}"#
            )
        );
    }

    #[test]
    fn what_is_no_list_of_objects_says_nothing() {
        assert_eq!(read(&["[]", "7", "null", "[1]", "{}"]), None);
    }
}
