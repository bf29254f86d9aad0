//! The binary and the header: what C programs are linked against.
#![allow(unsafe_code, reason = "one call of the C ABI")]

use pretty_assertions::assert_eq;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../build.rs"]
#[allow(dead_code, reason = "the generator alone is used")]
mod generator;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shared library that was built with this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let deps = test.parent().unwrap();
    [deps.join("libpar.so"), deps.parent().unwrap().join("libpar.so")]
        .into_iter()
        .find(|path| path.exists())
        .expect("libpar.so beside the test")
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).arg(library()).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_header_is_what_the_sources_say() {
    let generated = generator::header(root()).unwrap();
    assert_eq!(fs::read_to_string(root().join("include/par_ffi.h")).unwrap(), generated, "run `make header`");
}

#[test]
fn the_symbols_are_the_published_ones_and_those_of_the_header() {
    let exported: BTreeSet<String> = output("nm", &["-D", "--defined-only"])
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .map(|symbol| symbol.split('@').next().unwrap().to_owned())
        .collect();
    let listed = fs::read_to_string(root().join("tests/abi/symbols.txt")).unwrap();
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    assert_eq!(exported, listed, "tests/abi/symbols.txt lists what may be exported: add, never remove");
    let abi: Value = serde_json::from_str(&fs::read_to_string(root().join("include/par.abi.json")).unwrap()).unwrap();
    let declared: BTreeSet<String> =
        abi["functions"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(exported, declared, "run `make header`");
}

/// Programs share one space of names: every type, macro and function of the header begins with the library's prefix.
#[test]
fn every_name_of_the_header_has_the_prefix() {
    let header = fs::read_to_string(root().join("include/par_ffi.h")).unwrap();
    let mut types = 0;
    for line in header.lines() {
        let declared = if let Some(rest) = line.strip_prefix("typedef ") {
            types += 1;
            // `typedef struct a b;`, `typedef int32_t b;`, `typedef void (*b)(…);`
            let name = match rest.split_once("(*") {
                Some((_, pointer)) => pointer.split(')').next().unwrap(),
                None => rest.trim_end_matches(';').rsplit(' ').next().unwrap(),
            };
            let tag =
                rest.strip_prefix("struct ").or(rest.strip_prefix("enum ")).and_then(|rest| rest.split(' ').next());
            vec![Some(name), tag]
        } else if ["struct ", "enum ", "union "].iter().any(|start| line.starts_with(start)) {
            vec![line.split(' ').nth(1)]
        } else {
            vec![
                line.trim_start_matches(['#', ' '])
                    .strip_prefix("define ")
                    .and_then(|rest| rest.split([' ', '(']).next()),
            ]
        };
        for name in declared.into_iter().flatten() {
            assert!(name.starts_with("par_") || name.starts_with("PAR_"), "{name:?} in: {line}");
        }
    }
    assert_eq!(types, 6, "{header}");
}

#[test]
fn the_library_has_its_name_and_stays_loaded() {
    let dynamic = output("readelf", &["-d"]);
    assert!(dynamic.contains("[libpar.so.0.1]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    let needed: Vec<&str> =
        dynamic.lines().filter(|l| l.contains("NEEDED")).map(|l| l.rsplit('[').next().unwrap()).collect();
    for library in &needed {
        let known = ["libc.so", "libm.so", "libgcc_s.so", "ld-linux", "libpthread.so", "libdl.so"];
        assert!(known.iter().any(|name| library.starts_with(name)), "unexpected dependency: {library} in {needed:?}");
    }
    // A program that is linked against a build folder looks for the library by that name, whatever built it.
    let test = std::env::current_exe().unwrap();
    for folder in test.ancestors().skip(1).take(2) {
        let link = folder.join("libpar.so.0.1");
        assert_eq!(fs::read_link(&link).ok().as_deref(), Some(Path::new("libpar.so")), "{}", link.display());
    }
    // Without this function there is no handler of a signal, and none of what tokio keeps open for them.
    let imported = output("nm", &["-D", "--undefined-only"]);
    assert!(!imported.contains("sigaction"), "something in the library handles signals");
    let segments = output("readelf", &["-lW"]);
    let stack = segments.lines().find(|line| line.contains("GNU_STACK")).unwrap();
    assert!(!stack.contains("RWE"), "an executable stack: {stack}");
    assert!(segments.contains("GNU_RELRO"), "{segments}");
}

#[test]
fn every_version_is_the_same() {
    let header = fs::read_to_string(root().join("include/par_ffi.h")).unwrap();
    assert!(header.contains(&format!("#define PAR_ABI_VERSION {:#010x}u", par::ffi::par_abi_version())));
    // SAFETY: static and NUL-terminated.
    let version = unsafe { std::ffi::CStr::from_ptr(par::ffi::par_version()) };
    assert_eq!(version.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    let python = fs::read_to_string(root().join("bindings/python/pyproject.toml")).unwrap();
    assert!(python.contains(&format!("version = {:?}", env!("CARGO_PKG_VERSION"))));
}
