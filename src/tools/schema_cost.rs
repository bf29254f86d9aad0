//! How many steps a check against a JSON Schema takes, counted before it runs.
//!
//! A validator evaluates a schema again for every reference to it, so that a check against a schema of 2 KB can take hours.
//! Here each pair of a schema and a value is looked at once and its steps are added up, so the count is cheap however
//! large its result is. It is an upper bound: whether a branch applies is not looked at.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// How deep schemas and values together may lead: a validator needs stack for it.
const MAX_DEPTH: usize = 512;

/// Steps for each node of a value that is checked against a schema of schemas.
const META_STEPS: u64 = 200;

/// Stands for the name of a property, and for a value of which nothing is known.
static ANY: Value = Value::Null;

/// Why there is no count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uncounted {
    /// It is more than is allowed.
    TooMany,
    /// A schema refers to itself for the same value.
    Endless,
    /// Where a reference leads is not known.
    Reference(String),
}

/// What the references of a schema mean.
#[derive(Debug, Default)]
struct References<'s> {
    /// The root's `$id`.
    id: Option<&'s str>,
    anchors: HashMap<&'s str, Vec<&'s Value>>,
    /// Whether a schema inside has a base of its own.
    has_bases: bool,
}

/// Counts the steps of checks against one schema.
pub struct Counter<'a> {
    root: &'a Value,
    references: References<'a>,
    most: u64,
    /// The steps of each pair of a schema and a value; none while they are counted.
    known: HashMap<(*const Value, *const Value), Option<u64>>,
}

/// Which part of a value a schema inside of another one is for.
enum Part<'s> {
    /// All of it.
    Same,
    /// All of it, if it has this property.
    SameWith(&'s str),
    Property(&'s str),
    /// Each property but those that `properties` names.
    Others,
    Properties,
    Names,
    Item(usize),
    Items,
    /// None by itself.
    Nothing,
}

/// The bound of one check whatever the schema says, if nothing in it leads to a schema twice: schemas in it.
pub fn schemas_without_references(root: &Value) -> Option<u64> {
    let (mut count, mut waiting) = (0, vec![root]);
    while let Some(value) = waiting.pop() {
        count += 1;
        match value {
            Value::Object(fields) => {
                let repeats = ["$ref", "$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems"];
                if repeats.iter().any(|key| fields.contains_key(*key)) {
                    return None;
                }
                waiting.extend(fields.values());
            }
            Value::Array(items) => waiting.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    Some(count)
}

/// How much there is to look at in a value: its nodes, and its text by the 64 bytes.
pub fn size(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(text) => text_size(text),
        Value::Array(items) => 1 + items.iter().map(size).sum::<u64>(),
        Value::Object(fields) => 1 + fields.iter().map(|(key, value)| text_size(key) + size(value)).sum::<u64>(),
    }
}

fn text_size(text: &str) -> u64 {
    1 + text.len() as u64 / 64
}

impl<'a> Counter<'a> {
    /// A counter that gives up at `most` steps.
    pub fn new(root: &'a Value, most: u64) -> Self {
        let mut references = References {
            id: root.get("$id").and_then(Value::as_str).map(|id| id.trim_end_matches('#')),
            ..References::default()
        };
        let mut waiting = vec![root];
        while let Some(schema) = waiting.pop() {
            let Value::Object(fields) = schema else { continue };
            for name in ["$anchor", "$dynamicAnchor"] {
                if let Some(Value::String(anchor)) = fields.get(name) {
                    references.anchors.entry(anchor).or_default().push(schema);
                }
            }
            references.has_bases |= !std::ptr::eq(schema, root) && fields.get("$id").is_some_and(Value::is_string);
            each_inside(fields, &mut |_, inside| waiting.push(inside));
        }
        Self { root, references, most, known: HashMap::new() }
    }

    /// Counts what every schema takes for a value of which nothing is known: what is refused here no value fits.
    pub fn count_schemas(&mut self) -> Result<(), Uncounted> {
        let mut waiting = vec![self.root];
        while let Some(schema) = waiting.pop() {
            self.count(schema, &ANY, 0)?;
            if let Value::Object(fields) = schema {
                each_inside(fields, &mut |_, inside| waiting.push(inside));
            }
        }
        Ok(())
    }

    /// Counts the steps for a value.
    pub fn count_value(&mut self, value: &'a Value) -> Result<u64, Uncounted> {
        self.count(self.root, value, 0)
    }

    fn count(&mut self, schema: &'a Value, value: &'a Value, depth: usize) -> Result<u64, Uncounted> {
        let Value::Object(fields) = schema else { return Ok(1) };
        let pair = (std::ptr::from_ref(schema), std::ptr::from_ref(value));
        match self.known.get(&pair) {
            Some(Some(steps)) => return Ok(*steps),
            Some(None) => return Err(Uncounted::Endless),
            None if depth == MAX_DEPTH => return Err(Uncounted::TooMany),
            None => self.known.insert(pair, None),
        };
        let mut inside = Vec::new();
        each_inside(fields, &mut |part, schema| inside.push((part, schema)));
        let (mut same, mut parts) = (0_u64, 0_u64);
        for (part, schema) in inside {
            match (part, value) {
                (Part::Same, _) => same = self.add(same, schema, value, depth)?,
                (Part::SameWith(name), Value::Object(members)) if members.contains_key(name) => {
                    same = self.add(same, schema, value, depth)?;
                }
                (Part::Property(name), Value::Object(members)) => {
                    if let Some(member) = members.get(name) {
                        parts = self.add(parts, schema, member, depth)?;
                    }
                }
                (Part::Others, Value::Object(members)) => {
                    let named = fields.get("properties").and_then(Value::as_object);
                    for (_, member) in members.iter().filter(|(name, _)| !named.is_some_and(|n| n.contains_key(*name)))
                    {
                        parts = self.add(parts, schema, member, depth)?;
                    }
                }
                (Part::Properties, Value::Object(members)) => {
                    for (name, member) in members {
                        parts = self.add(parts, schema, member, depth)?.saturating_add(text_size(name));
                    }
                }
                (Part::Names, Value::Object(members)) => {
                    let names: u64 = members.keys().map(|name| text_size(name)).sum();
                    let each = self.count(schema, &ANY, depth + 1)?;
                    parts = self.within(parts.saturating_add(each.saturating_mul(names)))?;
                }
                (Part::Item(index), Value::Array(items)) => {
                    if let Some(item) = items.get(index) {
                        parts = self.add(parts, schema, item, depth)?;
                    }
                }
                (Part::Items, Value::Array(items)) => {
                    for item in items {
                        parts = self.add(parts, schema, item, depth)?;
                    }
                }
                (
                    Part::SameWith(_)
                    | Part::Property(_)
                    | Part::Others
                    | Part::Properties
                    | Part::Names
                    | Part::Item(_)
                    | Part::Items
                    | Part::Nothing,
                    _,
                ) => {}
            }
        }
        for key in ["$ref", "$dynamicRef", "$recursiveRef"] {
            let Some(Value::String(reference)) = fields.get(key) else { continue };
            match self.resolve(reference)? {
                Some(targets) => {
                    for target in targets {
                        same = self.add(same, target, value, depth)?;
                    }
                }
                None => same = self.within(same.saturating_add(size(value).saturating_mul(META_STEPS)))?,
            }
        }
        if fields.contains_key("unevaluatedProperties") || fields.contains_key("unevaluatedItems") {
            // What was evaluated is found out for each member anew.
            let members = match value {
                Value::Object(members) => members.len(),
                Value::Array(items) => items.len(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
            };
            same = same.saturating_mul(2 + members as u64);
        }
        let steps = self.within(own_steps(fields, value).saturating_add(same).saturating_add(parts))?;
        self.known.insert(pair, Some(steps));
        Ok(steps)
    }

    fn add(&mut self, steps: u64, schema: &'a Value, value: &'a Value, depth: usize) -> Result<u64, Uncounted> {
        let more = self.count(schema, value, depth + 1)?;
        self.within(steps.saturating_add(more))
    }

    fn within(&self, steps: u64) -> Result<u64, Uncounted> {
        let counted = self.known.len() as u64;
        if steps.max(counted) > self.most { Err(Uncounted::TooMany) } else { Ok(steps) }
    }

    /// Where a reference leads; none: to a schema of schemas, which the validator brings along.
    fn resolve(&self, reference: &str) -> Result<Option<Vec<&'a Value>>, Uncounted> {
        let unknown = || Uncounted::Reference(reference.to_owned());
        if ["https://json-schema.org/draft", "http://json-schema.org/draft"].iter().any(|id| reference.starts_with(id))
        {
            return Ok(None);
        }
        if self.references.has_bases {
            return Err(unknown());
        }
        let local = self.references.id.and_then(|id| reference.strip_prefix(id)).unwrap_or(reference);
        if local.is_empty() {
            return Ok(Some(vec![self.root]));
        }
        let fragment = percent_decode_str(local.strip_prefix('#').ok_or_else(unknown)?).decode_utf8_lossy();
        match self.references.anchors.get(&*fragment) {
            Some(schemas) => Ok(Some(schemas.clone())),
            None => self.root.pointer(&fragment).map(|schema| Some(vec![schema])).ok_or_else(unknown),
        }
    }
}

/// What the keywords of a schema take that have no schema inside.
fn own_steps(fields: &Map<String, Value>, value: &Value) -> u64 {
    let mut steps = 1 + fields.len() as u64;
    for (key, argument) in fields {
        steps += match (key.as_str(), argument, value) {
            ("enum" | "required", Value::Array(items), _) => items.len() as u64,
            ("properties" | "patternProperties", Value::Object(members), _) => members.len() as u64,
            ("const", argument, _) => size(argument).min(size(value)),
            ("uniqueItems", Value::Bool(true), Value::Array(items)) => 16 * items.iter().map(size).sum::<u64>(),
            ("pattern", Value::String(pattern), Value::String(text)) => text_size(text) * text_size(pattern),
            ("minLength" | "maxLength" | "format", _, Value::String(text)) => text_size(text),
            _ => 0,
        };
    }
    steps
}

/// Tells every schema that stands in a schema.
fn each_inside<'s>(fields: &'s Map<String, Value>, tell: &mut dyn FnMut(Part<'s>, &'s Value)) {
    for (key, inside) in fields {
        match (key.as_str(), inside) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                schemas.iter().for_each(|schema| tell(Part::Same, schema));
            }
            ("not" | "if" | "then" | "else", schema) => tell(Part::Same, schema),
            ("dependentSchemas" | "dependencies", Value::Object(schemas)) => {
                schemas.iter().for_each(|(name, schema)| tell(Part::SameWith(name), schema));
            }
            ("properties", Value::Object(schemas)) => {
                schemas.iter().for_each(|(name, schema)| tell(Part::Property(name), schema));
            }
            ("patternProperties", Value::Object(schemas)) => {
                schemas.values().for_each(|schema| tell(Part::Properties, schema));
            }
            ("additionalProperties", schema) => tell(Part::Others, schema),
            ("unevaluatedProperties", schema) => tell(Part::Properties, schema),
            ("propertyNames", schema) => tell(Part::Names, schema),
            ("items" | "prefixItems", Value::Array(schemas)) => {
                schemas.iter().enumerate().for_each(|(index, schema)| tell(Part::Item(index), schema));
            }
            ("items" | "additionalItems" | "contains" | "unevaluatedItems", schema) => tell(Part::Items, schema),
            ("$defs" | "definitions", Value::Object(schemas)) => {
                schemas.values().for_each(|schema| tell(Part::Nothing, schema));
            }
            ("contentSchema", schema) => tell(Part::Nothing, schema),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    fn count(schema: &Value, value: &Value, most: u64) -> Result<u64, Uncounted> {
        let mut counter = Counter::new(schema, most);
        counter.count_schemas()?;
        counter.count_value(value)
    }

    /// A chain of definitions, each of which refers to the next one twice.
    fn doubling(links: usize) -> Value {
        let mut defs = Map::new();
        for link in 0..links {
            let next = json!({"$ref": format!("#/$defs/d{}", link + 1)});
            defs.insert(format!("d{link}"), json!({"allOf": [next, next]}));
        }
        defs.insert(format!("d{links}"), json!({"type": "integer"}));
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    }

    #[test]
    fn what_is_evaluated_again_is_counted_again() {
        assert_eq!(count(&doubling(29), &json!(1), 1_000_000), Err(Uncounted::TooMany));
        let steps = count(&doubling(10), &json!(1), 1_000_000).unwrap();
        assert!((1 << 10..1 << 13).contains(&steps), "{steps}");
        // Twice for each level of the value.
        let tree = json!({"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}});
        let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({"a": inner}));
        assert!(count(&tree, &nested(10), 1_000_000).is_ok());
        assert_eq!(count(&tree, &nested(40), 1_000_000), Err(Uncounted::TooMany));
    }

    #[test]
    fn what_refers_to_itself_for_the_same_value_has_no_end() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"not": {"$ref": "#/$defs/b"}}}}),
        ] {
            assert_eq!(count(&schema, &json!({"a": 1}), 1_000_000), Err(Uncounted::Endless));
        }
    }

    #[test]
    fn ordinary_schemas_are_counted() {
        let tree = json!({
            "$id": "https://example.com/tree", "$defs": {"name": {"$anchor": "name", "type": "string", "pattern": "^[a-z]+$"}},
            "type": "object", "required": ["name"], "additionalProperties": false,
            "properties": {"name": {"$ref": "#name"}, "alias": {"$ref": "https://example.com/tree#/$defs/name"},
                           "children": {"type": "array", "items": {"$ref": "#"}, "uniqueItems": true}},
            "dependentSchemas": {"alias": {"maxProperties": 5}}, "propertyNames": {"maxLength": 10}});
        let leaf = json!({"name": "a", "alias": "b"});
        let value = json!({"name": "root", "children": vec![leaf; 100]});
        let steps = count(&tree, &value, 100_000).unwrap();
        assert!((100..20_000).contains(&steps), "{steps}");
        assert!(count(&json!({"$ref": "https://json-schema.org/draft/2020-12/schema"}), &tree, 100_000).is_ok());
        let elsewhere = json!({"$ref": "other.json#/a"});
        assert!(matches!(count(&elsewhere, &value, 100_000), Err(Uncounted::Reference(_))));
    }

    #[test]
    fn a_long_chain_of_references_is_refused_before_the_stack_ends() {
        let mut defs = Map::new();
        for link in 0..100_000 {
            defs.insert(format!("d{link}"), json!({"$ref": format!("#/$defs/d{}", link + 1)}));
        }
        let schema = json!({"$ref": "#/$defs/d0", "$defs": defs});
        assert_eq!(Counter::new(&schema, u64::MAX).count_value(&ANY), Err(Uncounted::TooMany));
    }
}
