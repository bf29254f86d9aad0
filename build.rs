//! Generates `include/par_ffi.h` from `src/ffi/`, and tells the linker what cargo does not: the SONAME, and that the
//! library is never unloaded.
//!
//! The header is committed. It is rewritten only when its text differs, only in a checkout (never in a packaged or
//! vendored copy), and not with `PAR_NO_HEADER=1`.

use std::env;
use std::fs;
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
            link_soname(&version);
            // Threads of the library outlive a dlclose, so unloading would pull the code from under them.
            println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
            if env::var_os("CARGO_FEATURE_OBJECT_STORE").is_some() {
                hide_foreign_symbols();
            }
        }
    }
}

/// Puts `libpar.so.VERSION` beside `libpar.so`: a program that is linked against the build folder looks for that name. Cargo makes the
/// library under one name only.
fn link_soname(version: &str) {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    // target/PROFILE/build/par-HASH/out
    let Some(folder) = out.ancestors().nth(3) else { return };
    // `cargo build` puts the library into the first, and `cargo test` into the second alone.
    for folder in [folder.to_owned(), folder.join("deps")] {
        let link = folder.join(format!("libpar.so.{version}"));
        if folder.is_dir()
            && link.symlink_metadata().is_err()
            && let Err(error) = symlink("libpar.so", &link)
        {
            let link = link.display();
            println!("cargo::warning={link} cannot be made, so linked programs do not find the library: {error}");
        }
    }
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Cross builds from elsewhere: the file is copied by hand.
#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// C functions that `crc-fast`, a dependency of `object_store`, cannot be built without, and that are none of ours to export.
/// `tests/abi.rs` tells when there are others.
const FOREIGN: [&str; 26] = [
    "checksum",
    "checksum_combine",
    "checksum_combine_with_params",
    "checksum_file",
    "checksum_file_with_params",
    "checksum_with_params",
    "clear_error",
    "crc32_iscsi",
    "crc32_iso_hdlc",
    "crc64_nvme",
    "digest_combine",
    "digest_finalize",
    "digest_finalize_reset",
    "digest_free",
    "digest_get_amount",
    "digest_get_state",
    "digest_new",
    "digest_new_with_init_state",
    "digest_new_with_params",
    "digest_reset",
    "digest_update",
    "error_message",
    "get_calculator_target",
    "get_custom_params",
    "get_last_error",
    "get_version",
];

/// The compiler exports every C function of every dependency; the linker script says otherwise.
fn hide_foreign_symbols() {
    let script = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("hidden.ld");
    let hide = |name: &str| format!("HIDDEN(crc_fast_{name} = crc_fast_{name});\n");
    match fs::write(&script, FOREIGN.map(hide).concat()) {
        Ok(()) => println!("cargo::rustc-cdylib-link-arg={}", script.display()),
        Err(error) => println!("cargo::warning=symbols of dependencies are exported: {error}"),
    }
}

fn write_header(root: &Path) {
    match header(root) {
        Ok(text) => {
            let path = root.join("include/par_ffi.h");
            if fs::read_to_string(&path).is_ok_and(|old| old == text) {
                return;
            }
            match fs::write(&path, text) {
                Ok(()) => println!("cargo::warning=include/par_ffi.h was rewritten: commit it"),
                Err(error) => println!("cargo::warning=include/par_ffi.h cannot be written: {error}"),
            }
        }
        // A syntax error: the compiler will tell it better.
        Err(error) => println!("cargo::warning=the header was not generated: {error}"),
    }
}

/// The header's text, as it should be.
pub fn header(root: &Path) -> Result<String, String> {
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    // Of the boundary alone, in the order of its modules: of the whole crate, types that C never sees get into the header.
    let folder = root.join("src/ffi");
    let modules = fs::read_to_string(folder.join("mod.rs")).map_err(|error| error.to_string())?;
    let modules = modules.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let sources = modules.map(|module| folder.join(format!("{module}.rs")));
    let builder = sources.fold(cbindgen::Builder::new(), cbindgen::Builder::with_src);
    let bindings = builder.with_config(config).generate();
    let mut generated = Vec::new();
    bindings.map_err(|error| error.to_string())?.write(&mut generated);
    Ok(polish(&String::from_utf8_lossy(&generated)))
}

/// The functions that open a chapter.
const CHAPTERS: &[(&str, &str)] = &[
    ("par_abi_version", "1. Version and memory: never fail, and work after a fork"),
    ("par_error_status", "2. Errors: immutable, owned by the caller, may change threads"),
    ("par_runtime_create", "3. Runtime"),
    ("par_register_agent", "4. Registry"),
    ("par_invoke", "5. Request and response"),
    ("par_stream_start", "6. Streams and runs"),
    ("par_tool_complete", "7. Host work: answered by token, once, from any thread"),
    ("par_inbox_poll", "8. Inbox"),
    ("par_on_tool", "9. Callbacks: optional"),
    ("par_echo", "10. Aid for the tests of bindings"),
];

/// What cbindgen cannot be told: chapters, one line for one constant, comments that every C standard takes.
fn polish(generated: &str) -> String {
    let mut out = String::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut lines = generated.lines().peekable();
    let body_starts = generated.find("#define PAR_OK").unwrap_or(0);
    let mut offset = 0;
    while let Some(line) = lines.next() {
        offset += line.len() + 1;
        if line == "/*" && offset + 400 > body_starts {
            comment.clear();
            for line in lines.by_ref() {
                offset += line.len() + 1;
                if line == " */" {
                    break;
                }
                comment.push(line.trim());
            }
            continue;
        }
        if let Some((name, value)) = line.strip_prefix("#define PAR_").and_then(|rest| rest.split_once(' '))
            && !comment.is_empty()
        {
            let name = format!("PAR_{name}");
            // A negative constant is an expression: parenthesized, it survives every use.
            let value = if value.starts_with('-') { format!("({value})") } else { value.to_owned() };
            out.push_str(&format!("#define {name:<32} {value:>5}  /* {} */\n", comment.join(" ")));
            comment.clear();
            // One block of constants; a blank line after the last.
            let mut rest = lines.clone().skip(1);
            if rest.next() == Some("/*") && rest.find(|line| *line == " */").is_some() {
                let more = lines.clone().skip_while(|line| *line != " */").nth(1);
                if more.is_some_and(|line| line.starts_with("#define")) {
                    lines.next();
                    offset += 1;
                }
            }
            continue;
        }
        if line.starts_with("PAR_EXPORT") {
            let declaration = if line == "PAR_EXPORT" { lines.peek().copied().unwrap_or_default() } else { line };
            let chapter = CHAPTERS.iter().find(|(function, _)| declaration.contains(&format!("{function}(")));
            if let Some((_, title)) = chapter {
                out.push_str(&format!("/* ---- {title} {} */\n\n", "-".repeat(100_usize.saturating_sub(title.len()))));
            }
        }
        flush(&mut comment, &mut out);
        match line {
            "PAR_EXPORT" => {
                // The arguments were aligned to a line without the prefix.
                let mut declaration = lines.next().unwrap_or_default().to_owned();
                while !declaration.ends_with(';') {
                    let Some(line) = lines.next() else { break };
                    declaration.push_str(&format!("\n           {line}"));
                }
                offset += declaration.len() + 1;
                out.push_str(&format!("PAR_EXPORT {declaration}\n"));
            }
            "}  // extern \"C\"" => out.push_str("} /* extern \"C\" */\n"),
            "#endif  // __cplusplus" | "#endif // __cplusplus" => out.push_str("#endif /* __cplusplus */\n"),
            line => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// Writes a comment that was held back until its kind was known.
fn flush(comment: &mut Vec<&str>, out: &mut String) {
    match comment.as_slice() {
        [] => return,
        [line] => out.push_str(&format!("/* {line} */\n")),
        lines => {
            for (index, line) in lines.iter().enumerate() {
                let start = if index == 0 { "/*" } else { " *" };
                out.push_str(format!("{start} {line}").trim_end());
                out.push('\n');
            }
            out.push_str(" */\n");
        }
    }
    comment.clear();
}
