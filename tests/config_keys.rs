//! Every key of the config has a test that shows its behaviour: `config_keys.txt` says which.
//!
//! A line is a key and its test: `Type.key  file::test`. The key is that of the JSON Schema: of a type, or of a variant of it
//! (`Type(variant).key`); those that every provider has are one. The test's file must name the key.

use par::config::{AgentConfig, RunRequest, RuntimeConfig, ToolConfig};
use pretty_assertions::assert_eq;
use schemars::{Schema, schema_for};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What every provider that is a server has.
const OF_SERVERS: &[&str] =
    &["api_key", "base_url", "ca_file", "circuit_breaker", "headers", "proxy", "retry", "stream", "timeouts"];

/// The keys of a type, and of its variants.
fn keys_of(name: &str, schema: &Value, keys: &mut BTreeSet<String>) {
    for (key, shape) in schema["properties"].as_object().into_iter().flatten() {
        let names_variant = key == "type" && shape.get("const").is_some();
        let is_of_servers = OF_SERVERS.contains(&key.as_str()) && name != "ProviderConfig(replay)";
        match name.split_once('(') {
            _ if names_variant => {}
            Some(("ProviderConfig", _)) if is_of_servers => _ = keys.insert(format!("ProviderConfig.{key}")),
            Some(_) | None => _ = keys.insert(format!("{name}.{key}")),
        }
    }
    for form in ["oneOf", "anyOf", "allOf"] {
        for variant in schema[form].as_array().into_iter().flatten() {
            let kind = variant["properties"]["type"]["const"].as_str();
            keys_of(&kind.map_or_else(|| name.to_owned(), |kind| format!("{name}({kind})")), variant, keys);
        }
    }
}

/// Every key of the config, of agents, requests and tools.
fn keys() -> BTreeSet<String> {
    let roots: [(&str, Schema); 4] = [
        ("RuntimeConfig", schema_for!(RuntimeConfig)),
        ("AgentConfig", schema_for!(AgentConfig)),
        ("RunRequest", schema_for!(RunRequest)),
        ("ToolConfig", schema_for!(ToolConfig)),
    ];
    let mut keys = BTreeSet::new();
    for (name, root) in roots {
        let root = root.to_value();
        keys_of(name, &root, &mut keys);
        for (name, schema) in root["$defs"].as_object().into_iter().flatten() {
            keys_of(name, schema, &mut keys);
        }
    }
    keys
}

/// The table: the file and the name of each key's test.
fn table() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let lines = include_str!("config_keys.txt").lines();
    lines
        .map(|line| {
            let (key, test) = line.split_once("  ").unwrap_or_else(|| panic!("not a key and a test: {line}"));
            (key, test.split_once("::").unwrap_or_else(|| panic!("not a file and a test: {line}")))
        })
        .collect()
}

#[test]
fn every_key_has_a_test() {
    let (keys, table) = (keys(), table());
    assert!(keys.len() > 350, "the schema was not read: {} keys", keys.len());
    let untested: Vec<_> = keys.iter().filter(|key| !table.contains_key(key.as_str())).collect();
    assert_eq!(
        untested,
        Vec::<&String>::new(),
        "write a test that shows what each does, and name it in config_keys.txt"
    );
    let unknown: Vec<_> = table.keys().filter(|key| !keys.contains(**key)).collect();
    assert_eq!(unknown, Vec::<&&str>::new(), "the schema has no such key");
}

#[test]
fn every_test_of_the_table_is_there_and_its_file_names_the_key() {
    let mut wrong = Vec::new();
    for (key, (file, test)) in table() {
        let Ok(text) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)) else {
            wrong.push(format!("{key}: there is no {file}"));
            continue;
        };
        if !["fn {}(", "TEST({})", "def {}("].iter().any(|form| text.contains(&form.replace("{}", test))) {
            wrong.push(format!("{key}: {file} has no test {test}"));
        }
        let name = key.rsplit('.').next().unwrap_or(key);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !text.split(|c| !is_word(c)).any(|word| word == name) {
            wrong.push(format!("{key}: {file} does not name it"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
