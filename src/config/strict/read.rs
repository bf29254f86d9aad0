//! Value → typed shape: a serde deserializer that knows where it stands, and the rules of json.md.

use super::problem::{Path, Problem, unexpected};
use crate::types::Result;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Reads a typed shape out of a value. `root` starts every path.
pub fn read<T: DeserializeOwned>(value: &Value, root: &str) -> Result<T> {
    T::deserialize(Node { value, path: &Path::Root(root) }).map_err(|problem| problem.into_error(root))
}
#[derive(Clone, Copy)]
struct Node<'de, 'p> {
    value: &'de Value,
    path: &'p Path<'p>,
}

impl<'de> Node<'de, '_> {
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
            None => Err(de::Error::invalid_type(unexpected(self.value), &visitor)),
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
            return Err(Problem::wrong_type(self.value, "an object").at(self.path));
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
                    return Err(Problem::wrong_type(other, &wanted()).below(self.path, "type"));
                }
                None => {
                    return Err(Problem {
                        path: Some(self.path.to_string()),
                        message: "the key \"type\" is missing".into(),
                        hint: Some(format!("\"type\" is {}", wanted())),
                    });
                }
            },
            other => return Err(Problem::wrong_type(other, &wanted()).at(self.path)),
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
