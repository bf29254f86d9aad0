//! Generates `include/par_ffi.h` from `src/ffi/`, and tells the linker what cargo does not: the SONAME, and that the
//! library is never unloaded.
//!
//! The header is committed. It is rewritten only when its text differs, only in a checkout (never in a packaged or
//! vendored copy), and not with `PAR_NO_HEADER=1`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    for watched in ["src/ffi", "cbindgen.toml", "build.rs", "Cargo.toml", ".git/HEAD", "include/par_ffi.h"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    println!("cargo::rerun-if-env-changed=PAR_NO_HEADER");
    describe_build(&root);
    link_arguments();
    if env::var_os("PAR_NO_HEADER").is_none() && root.join("bindings").is_dir() && root.join(".git").exists() {
        write_header(&root);
    }
}

fn describe_build(root: &Path) {
    let commit = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).current_dir(root).output();
    let commit = commit
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned());
    println!("cargo::rustc-env=PAR_COMMIT={commit}");
    for (name, source) in [("PAR_TARGET", "TARGET"), ("PAR_PROFILE", "PROFILE"), ("PAR_PANIC", "CARGO_CFG_PANIC")] {
        println!("cargo::rustc-env={name}={}", env::var(source).unwrap_or_else(|_| "unknown".to_owned()));
    }
}

/// Before 1.0 every minor version may break the ABI, so it is part of the name; afterwards the major alone.
fn link_arguments() {
    let part = |name: &str| env::var(name).unwrap_or_default();
    let (major, minor) = (part("CARGO_PKG_VERSION_MAJOR"), part("CARGO_PKG_VERSION_MINOR"));
    let version = if major == "0" { format!("0.{minor}") } else { major };
    match part("CARGO_CFG_TARGET_OS").as_str() {
        "macos" => println!("cargo::rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libpar.{version}.dylib"),
        "windows" => {}
        _ => {
            println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libpar.so.{version}");
            // Threads of the library outlive a dlclose, so unloading would pull the code from under them.
            println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
        }
    }
}

fn write_header(root: &Path) {
    let config = match cbindgen::Config::from_file(root.join("cbindgen.toml")) {
        Ok(config) => config,
        Err(error) => return println!("cargo::error=cbindgen.toml: {error}"),
    };
    match cbindgen::Builder::new().with_crate(root).with_config(config).generate() {
        Ok(bindings) => {
            let header = root.join("include/par_ffi.h");
            if !bindings.write_to_file(&header) {
                return;
            }
            println!("cargo::warning=include/par_ffi.h was rewritten: commit it");
        }
        // A syntax error: the compiler will tell it better.
        Err(error) => println!("cargo::warning=the header was not generated: {error}"),
    }
}
