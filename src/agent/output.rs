//! What a tool gave back, as the model reads it.
//!
//! A string is its text, `{"content_parts": […]}` is text and media, anything else is its JSON. A result too large to be
//! shown is kept whole as a blob: the model sees its head and tail, and a handle for `read_blob`.

use crate::config::{Input, strict};
use crate::store::Store;
use crate::types::{Error, Part, Result, Scope, ToolResult};
use serde_json::Value;
use serde_json::value::RawValue;

/// A tool's result, before it is made readable.
pub enum Output {
    /// As the host wrote it.
    Raw(Box<RawValue>),
    /// As a tool of the library made it.
    Value(Value),
}

impl Output {
    /// The result as a value.
    pub fn value(&self) -> std::result::Result<Value, serde_json::Error> {
        match self {
            Self::Raw(raw) => serde_json::from_str(raw.get()),
            Self::Value(value) => Ok(value.clone()),
        }
    }

    /// The result as a model reads it; an error says what is wrong with its content parts.
    pub fn into_result(self) -> std::result::Result<ToolResult, String> {
        match self {
            Self::Raw(raw) => {
                let text = raw.get().trim_start();
                if text.starts_with('"') {
                    return Ok(ToolResult::ok(
                        serde_json::from_str::<String>(text).map_err(|error| error.to_string())?,
                    ));
                }
                // Looked for in the text first: most results are not parsed at all.
                match text.starts_with('{') && text.contains("\"content_parts\"") {
                    true => of_value(serde_json::from_str(text).map_err(|error| error.to_string())?),
                    false => Ok(ToolResult::ok(raw.get())),
                }
            }
            Self::Value(value) => of_value(value),
        }
    }
}

fn of_value(value: Value) -> std::result::Result<ToolResult, String> {
    match value {
        Value::String(text) => Ok(ToolResult::ok(text)),
        Value::Object(mut fields) if fields.len() == 1 && fields.contains_key("content_parts") => {
            let parts = fields.remove("content_parts").unwrap_or_default();
            content_parts(&parts).map_err(|error| format!("The tool's content parts are wrong: {error}"))
        }
        other => Ok(ToolResult::ok(other.to_string())),
    }
}

/// Refuses a result whose content parts no model could be shown. `path` is where the result was given.
pub fn check_result(result: &Value, path: &str) -> Result<()> {
    let Some(parts) = result.get("content_parts") else { return Ok(()) };
    let path = format!("{path}.content_parts");
    if result.as_object().is_some_and(|fields| fields.len() > 1) {
        // Of other JSON it may be the name of a key.
        if !parts.is_array() {
            return Ok(());
        }
        return Err(Error::schema(path, "content parts stand alone in a result")
            .with_hint("leave out the other keys, or put them into a part: {\"type\": \"text\", \"text\": \"…\"}"));
    }
    read_parts(parts, &path).map(drop)
}

fn read_parts(parts: &Value, path: &str) -> Result<Vec<Part>> {
    let Input(parts) = strict::read(parts, path)?;
    for (index, part) in parts.iter().enumerate() {
        crate::config::check_media(part, &format!("{path}[{index}]"))?;
    }
    Ok(parts)
}

/// Reads content parts: the same shape as a request's input.
fn content_parts(parts: &Value) -> Result<ToolResult> {
    let parts = read_parts(parts, "content_parts")?;
    let (texts, media): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(|part| part.as_text().is_some());
    let content: Vec<&str> = texts.iter().filter_map(Part::as_text).collect();
    Ok(ToolResult { content: content.join("\n"), parts: media, is_error: false })
}

/// Cuts a result to what the model is shown, and keeps the whole for runs of the same scope.
pub fn shorten(result: &mut ToolResult, most: usize, store: &Store, scope: &Scope, can_read: bool) {
    if result.content.len() <= most {
        return;
    }
    let whole = std::mem::take(&mut result.content);
    let head_end = whole.floor_char_boundary(most / 3 * 2);
    let tail_start = whole.ceil_char_boundary(whole.len() - most / 3);
    let (head, tail) = (whole.get(..head_end).unwrap_or_default(), whole.get(tail_start..).unwrap_or_default());
    let (total, left_out) = (whole.len(), tail_start - head_end);
    let shown = format!("{head}\n[… {left_out} of {total} bytes are left out here …]\n{tail}");
    let id = store.put_blob(scope, whole.into_bytes());
    let how = match can_read {
        true => format!("The whole result is kept as {id}; read_blob reads ranges of it or searches it."),
        false => format!("The whole result is kept as {id}. Ask for less if the missing part matters."),
    };
    result.content = format!("{shown}\n[{how}]");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::store::BlobId;
    use pretty_assertions::assert_eq;

    fn read(json: &str) -> std::result::Result<ToolResult, String> {
        Output::Raw(RawValue::from_string(json.into()).unwrap()).into_result()
    }

    #[test]
    fn text_is_text_and_everything_else_its_json() {
        assert_eq!(read("\"a\\nb\""), Ok(ToolResult::ok("a\nb")));
        assert_eq!(read("{\"a\": 1}"), Ok(ToolResult::ok("{\"a\": 1}")));
        let parts = r#"{"content_parts": [{"type": "text", "text": "see"}, {"type": "image", "media_type": "image/png", "data": "AAAA"}]}"#;
        let result = read(parts).unwrap();
        assert_eq!((result.content.as_str(), result.parts.len()), ("see", 1));
        assert!(read(r#"{"content_parts": [{"type": "image"}]}"#).unwrap_err().contains("content_parts[0]"));
        assert_eq!(read(r#"{"content_parts": 1, "b": 2}"#).unwrap().parts, []);
    }

    #[tokio::test]
    async fn what_is_left_out_is_kept() {
        let store = Store::in_memory(&Limits::default());
        let whole: String = (0..1000).map(|n| format!("{n}é\n")).collect();
        let mut result = ToolResult::ok(whole.clone());
        shorten(&mut result, 300, &store, &"tenant".into(), true);
        assert!(result.content.starts_with("0é\n") && result.content.contains("999é"), "{}", result.content);
        let handle = result.content.split_whitespace().find(|word| word.starts_with("par://")).unwrap();
        let id = BlobId::from_handle(handle.trim_end_matches(';')).unwrap();
        assert_eq!(*store.blob(&"tenant".into(), &id).await.unwrap().unwrap(), *whole.as_bytes());
        assert_eq!(store.blob(&Scope::default(), &id).await.unwrap(), None, "it is of another scope");
    }
}
