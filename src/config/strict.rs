//! Strict JSON: every mistake is told with its path, and nothing a user writes is ignored.
//!
//! Two steps. [`parse`] turns text into a value and refuses what a lenient parser lets pass (duplicate keys). [`read`]
//! turns the value into a typed shape by the rules of json.md: unknown keys are errors that name the nearest known key,
//! `null` means absent, `3.0` is a whole number, and a variant is `{"type": …}` or, without fields, its bare name.

use crate::types::{Error, Result, Status};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde_json::{Map, Value};
use std::fmt;

/// Parses JSON text. `name` is what the text is, for messages (`config`, `request`).
pub fn parse(text: &str, name: &str) -> Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // Its own bound is one short of ours.
    deserializer.disable_recursion_limit();
    Strict { depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| syntax_error(text, name, &error))
}

/// Reads a typed shape out of a value. `root` starts every path.
pub fn read<T: DeserializeOwned>(value: &Value, root: &str) -> Result<T> {
    T::deserialize(Node { value, path: &Path::Root(root) }).map_err(|problem| problem.into_error(root))
}

/// [`parse`] and [`read`] in one.
pub fn from_str<T: DeserializeOwned>(text: &str, root: &str) -> Result<T> {
    read(&parse(text, root)?, root)
}

/// As [`from_str`], at a quarter of its cost for text without mistakes and in the plainest form: read without a value in
/// between. Whatever that cannot read is read again, which gives the dialect's other forms, and every error its path.
///
/// The shape must refuse unknown and duplicate keys by itself; a free value in it is read by [`value`].
pub fn from_str_fast<T: DeserializeOwned>(text: &str, root: &str) -> Result<T> {
    serde_json::from_str(text).or_else(|_| from_str(text, root))
}

/// Reads a free value in a shape for [`from_str_fast`]: duplicate keys are refused inside it too.
pub fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Strict { depth: 0 }.deserialize(deserializer).map(|value| Some(value).filter(|value| !value.is_null()))
}

/// The candidate nearest to `word`, if any is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .map(|(_, candidate)| candidate)
}

fn syntax_error(text: &str, name: &str, error: &serde_json::Error) -> Error {
    let offset = byte_offset(text, error.line(), error.column());
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or_default();
    if let Some(key) = said.strip_prefix(DUPLICATE_KEY) {
        return Error::new(
            Status::Json,
            format!("the {name} has the key {key:?} twice, the second near byte {offset}"),
        )
        .with_path(key)
        .with_hint("keep one of the two");
    }
    let hint = if text.trim().is_empty() {
        "the text is empty; an empty object is {}"
    } else if error.is_eof() {
        "the text ends too early: check the length that was passed"
    } else {
        "the text must be one JSON document (RFC 8259)"
    };
    Error::new(Status::Json, format!("the {name} is not valid JSON at byte {offset}: {said}")).with_hint(hint)
}

fn byte_offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

const DUPLICATE_KEY: &str = "duplicate key ";

/// How deep arrays and objects may be nested.
const MAX_DEPTH: usize = 128;

/// Builds a [`Value`] and refuses duplicate keys, at any depth, and too much depth.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format_args!("{DUPLICATE_KEY}{key}")));
            }
            let value = map.next_value_seed(inner)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Where a value stands; a list on the stack, written out only when something is wrong.
enum Path<'p> {
    Root(&'p str),
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(root) => f.write_str(root),
            Self::Key(parent, key) => match parent {
                Self::Root("") => f.write_str(key),
                parent => write!(f, "{parent}.{key}"),
            },
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[derive(Debug)]
struct Problem {
    path: Option<String>,
    message: String,
    hint: Option<String>,
}

impl Problem {
    fn at(mut self, path: &Path<'_>) -> Self {
        self.path.get_or_insert_with(|| path.to_string());
        self
    }

    fn below(mut self, path: &Path<'_>, key: &str) -> Self {
        self.path.get_or_insert_with(|| Path::Key(path, key).to_string());
        self
    }

    fn into_error(self, root: &str) -> Error {
        let error = Error::schema(self.path.unwrap_or_else(|| root.to_owned()), self.message);
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    fn unknown(kind: &str, word: &str, expected: &'static [&'static str]) -> Self {
        let hint = match nearest(word, expected.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None if expected.is_empty() => "no key is allowed here".to_owned(),
            None => format!("known: {}", expected.join(", ")),
        };
        Self { path: None, message: format!("unknown {kind} {word:?}"), hint: Some(hint) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: None, message: message.to_string(), hint: None }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {}, got {}", in_words(expected), unexpected_in_words(unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("key", field, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("value", variant, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: None, message: format!("the key {field:?} is missing"), hint: Some(format!("add {field:?}")) }
    }
}

fn in_words(expected: &dyn Expected) -> String {
    let said = expected.to_string();
    match said.as_str() {
        "f64" | "f32" => "a number".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more, within range".into(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "an array".into(),
        "a map" => "an object".into(),
        other if other.starts_with("struct ") => "an object".into(),
        other => other.into(),
    }
}

fn unexpected_in_words(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Str(text) => format!("the string {text:?}"),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => value.to_string(),
        Unexpected::Unit => "null".into(),
        Unexpected::Seq => "an array".into(),
        Unexpected::Map => "an object".into(),
        other => other.to_string(),
    }
}

#[derive(Clone, Copy)]
struct Node<'de, 'p> {
    value: &'de Value,
    path: &'p Path<'p>,
}

impl<'de> Node<'de, '_> {
    fn unexpected(&self) -> Unexpected<'de> {
        match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(number) => number.as_u64().map(Unexpected::Unsigned).unwrap_or_else(|| {
                number.as_i64().map_or(Unexpected::Float(number.as_f64().unwrap_or(f64::NAN)), Unexpected::Signed)
            }),
            Value::String(text) => Unexpected::Str(text),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        }
    }

    /// `3.0` where a whole number is wanted.
    fn visit_whole<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let whole = match self.value {
            Value::Number(number) => number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from))
                // 2^53: beyond it a float no longer tells whole numbers apart.
                .or_else(|| {
                    number
                        .as_f64()
                        .filter(|f| f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_992.0)
                        .map(|f| f as i128)
                }),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
        };
        match whole {
            Some(whole) => match u64::try_from(whole) {
                Ok(whole) => visitor.visit_u64(whole),
                Err(_) => visitor.visit_i64(i64::try_from(whole).unwrap_or(i64::MIN)),
            },
            None => Err(de::Error::invalid_type(self.unexpected(), &visitor)),
        }
        .map_err(|problem: Problem| problem.at(self.path))
    }

    fn visit_any<V: Visitor<'de>>(self, visitor: V, skip_nulls: bool) -> Result<V::Value, Problem> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (None, Some(value), _) => visitor.visit_i64(value),
                (None, None, value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter().enumerate(), path: self.path }),
            Value::Object(entries) => visitor.visit_map(Entries {
                entries: entries.iter(),
                value: None,
                path: self.path,
                skip_nulls,
                skip: None,
            }),
        }
        .map_err(|problem: Problem| problem.at(self.path))
    }
}

macro_rules! whole_numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            self.visit_whole(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.visit_any(visitor, false)
    }

    whole_numbers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.value {
            Value::Null => visitor.visit_none(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                visitor.visit_some(self)
            }
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self).map_err(|problem| problem.at(self.path))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if let Value::Array(_) = self.value {
            // serde would read fields by their position, which nobody can mean.
            return Err(Problem::custom_type(self.value, "an object").at(self.path));
        }
        self.visit_any(visitor, true)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let wanted = || format!("one of {}", variants.join(", "));
        let (name, name_path) = match self.value {
            Value::String(name) => (name, None),
            Value::Object(entries) => match entries.get("type") {
                Some(Value::String(name)) => (name, Some("type")),
                Some(other) => {
                    return Err(Problem::custom_type(other, &wanted()).below(self.path, "type"));
                }
                None => {
                    return Err(Problem {
                        path: Some(self.path.to_string()),
                        message: "the key \"type\" is missing".into(),
                        hint: Some(format!("\"type\" is {}", wanted())),
                    });
                }
            },
            other => return Err(Problem::custom_type(other, &wanted()).at(self.path)),
        };
        if !variants.contains(&name.as_str()) {
            let problem = Problem::unknown("value", name, variants);
            return Err(match name_path {
                Some(key) => problem.below(self.path, key),
                None => problem.at(self.path),
            });
        }
        visitor.visit_enum(Variant { name, node: self }).map_err(|problem| problem.at(self.path))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier i128 u128
    }
}

impl Problem {
    fn custom_type(value: &Value, wanted: &str) -> Self {
        let node = Node { value, path: &Path::Root("") };
        de::Error::custom(format_args!("expected {wanted}, got {}", unexpected_in_words(node.unexpected())))
    }
}

struct Items<'de, 'p> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    path: &'p Path<'p>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let path = Path::Index(self.path, index);
        seed.deserialize(Node { value, path: &path }).map(Some).map_err(|problem| problem.at(&path))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'de, 'p> {
    entries: serde_json::map::Iter<'de>,
    value: Option<(&'de str, &'de Value)>,
    path: &'p Path<'p>,
    skip_nulls: bool,
    /// A key that belongs to the layer above: the `type` of a variant.
    skip: Option<&'static str>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        let (skip_nulls, skip) = (self.skip_nulls, self.skip);
        let next = self.entries.find(|(key, value)| !(skip_nulls && value.is_null()) && skip != Some(key.as_str()));
        let Some((key, value)) = next else { return Ok(None) };
        self.value = Some((key, value));
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key))
            .map(Some)
            .map_err(|problem: Problem| problem.below(self.path, key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some((key, value)) = self.value.take() else {
            return Err(de::Error::custom("a value was read before its key"));
        };
        let path = Path::Key(self.path, key);
        seed.deserialize(Node { value, path: &path }).map_err(|problem| problem.at(&path))
    }
}

struct Variant<'de, 'p> {
    name: &'de str,
    node: Node<'de, 'p>,
}

impl<'de, 'p> de::EnumAccess<'de> for Variant<'de, 'p> {
    type Error = Problem;
    type Variant = Node<'de, 'p>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Node<'de, 'p>), Problem> {
        let name = seed.deserialize(de::value::BorrowedStrDeserializer::<Problem>::new(self.name))?;
        Ok((name, self.node))
    }
}

impl<'de> Node<'de, '_> {
    /// The variant's own fields: the object without its `type`; nothing for a bare name.
    fn variant_fields<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let (entries, path) = match self.value {
            Value::Object(entries) => (entries.iter(), self.path),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                (NO_ENTRIES.iter(), self.path)
            }
        };
        visitor
            .visit_map(Entries { entries, value: None, path, skip_nulls: true, skip: Some("type") })
            .map_err(|problem: Problem| problem.at(self.path))
    }
}

static NO_ENTRIES: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

impl<'de> de::VariantAccess<'de> for Node<'de, '_> {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        struct NoFields;
        impl<'de> Visitor<'de> for NoFields {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
                match map.next_key::<String>()? {
                    Some(key) => Err(de::Error::unknown_field(&key, &[])),
                    None => Ok(()),
                }
            }
        }
        self.variant_fields(NoFields)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Problem> {
        seed.deserialize(VariantBody(self))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Problem> {
        Err(de::Error::custom("a variant with unnamed fields has no JSON form here"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Problem> {
        self.variant_fields(visitor)
    }
}

/// The struct inside a newtype variant reads the same object, less its `type`.
struct VariantBody<'de, 'p>(Node<'de, 'p>);

impl<'de> Deserializer<'de> for VariantBody<'de, '_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.0.variant_fields(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(default)]
        count: u32,
        ratio: Option<f64>,
        #[serde(default)]
        inner: Vec<Inner>,
        choice: Option<Choice>,
        #[serde(default)]
        free: Value,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        temperature: f64,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case", deny_unknown_fields)]
    enum Choice {
        Plain,
        Window { max_messages: u32 },
        Boxed(Inner),
    }

    fn outer(text: &str) -> Result<Outer> {
        from_str(text, "config")
    }

    fn complaint(text: &str) -> String {
        format!("{:?}", outer(text).unwrap_err())
    }

    #[test]
    fn the_dialect_reads() {
        let read = outer(
            r#"{"count": 3.0, "ratio": 1, "inner": [{"temperature": 0}], "free": {"kept": null},
                "choice": {"type": "window", "max_messages": 5}}"#,
        )
        .unwrap();
        assert_eq!(read.count, 3);
        assert_eq!(read.ratio, Some(1.0));
        assert_eq!(read.inner, [Inner { temperature: 0.0 }]);
        assert_eq!(read.choice, Some(Choice::Window { max_messages: 5 }));
        assert_eq!(read.free, serde_json::json!({"kept": null}));
        assert_eq!(outer(r#"{"choice": "plain", "count": null}"#).unwrap().choice, Some(Choice::Plain));
        assert_eq!(outer(r#"{"choice": {"type": "plain"}}"#).unwrap().choice, Some(Choice::Plain));
        let boxed = outer(r#"{"choice": {"type": "boxed", "temperature": 2}}"#).unwrap().choice;
        assert_eq!(boxed, Some(Choice::Boxed(Inner { temperature: 2.0 })));
    }

    #[test]
    fn every_mistake_has_its_path_and_a_way_out() {
        insta::assert_snapshot!(
            [
                r#"{"cuont": 1}"#,
                r#"{"inner": [{"temperature": 1}, {"temprature": 2}]}"#,
                r#"{"inner": [{}]}"#,
                r#"{"inner": [{"temperature": "hot"}]}"#,
                r#"{"inner": {}}"#,
                r#"{"count": -1}"#,
                r#"{"count": 1.5}"#,
                r#"{"count": 99999999999}"#,
                r#"{"choice": "plian"}"#,
                r#"{"choice": {"max_messages": 1}}"#,
                r#"{"choice": {"type": "window", "max_mesages": 1}}"#,
                r#"{"choice": {"type": "window"}}"#,
                r#"{"choice": {"type": "plain", "extra": 1}}"#,
                r#"{"choice": {"type": "boxed", "temp": 2}}"#,
                r#"{"choice": "window"}"#,
                r#"{"choice": 7}"#,
                r#"[]"#,
                r#"{"count": 1, "count": 2}"#,
                r#"{"count": 1"#,
                r#"{"count": NaN}"#,
                r#"{"free": "\ud800"}"#,
                "",
                "{} x",
            ]
            .map(|text| format!("{text}\n    {}", complaint(text)))
            .join("\n")
        );
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(128), "text").is_ok());
        assert_eq!(parse(&nested(129), "text").unwrap_err().status(), Status::Json);
    }
}
