//! What an archive holds, read by its description, and what the database has, in the same words.

use pretty_assertions::assert_eq;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Objects by name, each unpacked.
pub fn objects(archive: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for source in std::fs::read_dir(archive).into_iter().flatten().flatten() {
        for object in std::fs::read_dir(source.path()).unwrap() {
            let path = object.unwrap().path();
            // One that is half written has another name.
            if path.extension().is_some_and(|extension| extension == "gz") {
                let name = path.strip_prefix(archive).unwrap().to_string_lossy().into_owned();
                found.insert(name, unpacked(&std::fs::read(path).unwrap()));
            }
        }
    }
    found
}

/// What is in an object.
pub fn unpacked(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

/// What a reader of the archive has, who follows its rules: all objects in the order of their names, a record in the place of
/// the one before it under the same key.
pub fn replayed(objects: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    let mut next = None;
    for (name, text) in objects {
        for line in text.lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            let field = |key: &str| match &record[key] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            match record["kind"].as_str().unwrap() {
                "head" => {
                    assert!(name.contains(&field("source")), "{name}");
                    let (first, last) = (record["first"].as_i64().unwrap(), record["last"].as_i64().unwrap());
                    let expected = next.unwrap_or(record["begins"].as_i64().unwrap());
                    assert!(first <= expected, "{name}: changes {expected} to {first} are missing");
                    next = Some(expected.max(last + 1));
                }
                "session_deleted" => {
                    let of = format!("{}/{}", field("scope"), field("session"));
                    state.retain(|key: &String, _| {
                        *key != format!("session {of}") && !key.starts_with(&format!("entry {of}/"))
                    });
                }
                "dead_letter_removed" => drop(state.remove(&format!("dead_letter {}", field("id")))),
                "run" => {
                    let is = format!("{} {} {} {}", field("status"), field("agent"), field("last_seq"), field("chain"));
                    state.insert(format!("run {}", field("run_id")), is);
                }
                "events" => {
                    let texts: Vec<String> =
                        record["events"].as_array().unwrap().iter().map(|event| field_of(event, "seq")).collect();
                    assert_eq!(texts.is_empty(), field("body").is_empty(), "{line}");
                    assert!(texts.is_empty() || *texts.last().unwrap() == field("last_seq"), "{line}");
                    let is = format!("{} {} {}", field("last_seq"), field("hash"), field("body").len());
                    state.insert(format!("events {}/{}", field("run_id"), field("first_seq")), is);
                }
                "session" => {
                    let of = format!("{}/{}", field("scope"), field("session"));
                    let entries = record["entries"].as_i64().unwrap();
                    state.retain(|key: &String, _| {
                        let position = key.strip_prefix(&format!("entry {of}/"));
                        position.is_none_or(|position| position.parse::<i64>().unwrap() < entries)
                    });
                    state.insert(format!("session {of}"), format!("{} {entries}", field("version")));
                }
                "entry" => {
                    let of = format!("entry {}/{}/{}", field("scope"), field("session"), field("position"));
                    state.insert(of, record["messages"].to_string());
                }
                "blob" => {
                    let is = record["text"].as_str().or(record["base64"].as_str()).unwrap().to_owned();
                    state.insert(format!("blob {}", field("hash")), is);
                }
                "dead_letter" => drop(state.insert(format!("dead_letter {}", field("id")), field("event"))),
                other => panic!("{other}"),
            }
        }
    }
    state
}

fn field_of(value: &Value, key: &str) -> String {
    value[key].to_string()
}

/// What the database has, in the same words. It must not be in use.
pub fn stored(database: &Path) -> BTreeMap<String, String> {
    let connection = rusqlite::Connection::open(database).unwrap();
    let mut state = BTreeMap::new();
    for query in [
        "SELECT 'run ' || run_id, status || ' ' || agent || ' ' || last_seq || ' ' || lower(hex(chain)) FROM runs",
        "SELECT 'events ' || run_id || '/' || first_seq, \
         events.last_seq || ' ' || lower(hex(hash)) || ' ' || ((length(body) + 2) / 3 * 4) \
         FROM events JOIN runs ON runs.id = run",
        "SELECT 'session ' || scope || '/' || name, version || ' ' || entries FROM sessions",
        "SELECT 'entry ' || scope || '/' || name || '/' || position, body FROM entries JOIN sessions ON id = session",
        "SELECT 'blob ' || lower(hex(hash)), CAST(content AS TEXT) FROM blobs",
        "SELECT 'dead_letter ' || id, event FROM dead_letters",
    ] {
        let mut query = connection.prepare(query).unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        state.extend(rows.map(|row| row.unwrap()));
    }
    state
}
