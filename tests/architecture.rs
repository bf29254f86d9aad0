//! The house of docs/architecture.md: imports go down the floors only.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room and its floor. A room may use its own files and rooms on lower floors.
const FLOORS: &[(&str, u8)] = &[
    ("ffi", 8),
    ("runtime", 7),
    ("agent", 5),
    ("approval", 4),
    ("middleware", 4),
    ("events", 3),
    ("llm", 3),
    ("tools", 3),
    ("store", 2),
    ("config", 1),
    ("types", 0),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    found.sort();
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The rooms that a source names after `crate::`, also inside `crate::{…}`.
fn rooms_used(source: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let code = line.split("//").next().unwrap();
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            assert!(!rest.starts_with('{'), "line {}: name one room in each `use crate::`", index + 1);
            let room: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            used.push((index + 1, room));
        }
    }
    used
}

#[test]
fn imports_go_down_only() {
    let floors: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (file, source) in all_sources() {
        if file == "lib.rs" {
            continue;
        }
        let room = file.split('/').next().unwrap();
        let floor = *floors.get(room).unwrap_or_else(|| panic!("{file} stands in no room of the house"));
        for (line, used) in rooms_used(&source) {
            match floors.get(used.as_str()) {
                _ if used == room => {}
                Some(below) if *below < floor => {}
                Some(_) => wrong.push(format!("src/{file}:{line}: {room} (floor {floor}) uses {used}")),
                None => wrong.push(format!("src/{file}:{line}: crate::{used} is no room")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_first_what_it_promises() {
    let silent: Vec<String> =
        all_sources().into_iter().filter(|(_, source)| !source.starts_with("//!")).map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "no `//!` in the first line of: {}", silent.join(", "));
}

#[test]
fn the_unsafe_rooms_are_the_known_ones() {
    for (file, source) in all_sources() {
        let code = source.lines().map(|line| line.split("//").next().unwrap());
        let is_unsafe = code.into_iter().any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
        let may = file.starts_with("ffi/") || file.starts_with("tools/shell/sandbox/");
        assert!(!is_unsafe || may, "unsafe in src/{file}");
    }
}
