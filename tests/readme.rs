//! The documents: what they show works. JSON is parsed by the shapes it is for, the C of the README is compiled and run.

use par::runtime::Runtime;
use pretty_assertions::assert_eq;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The fenced blocks of a document in one language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_configuration_of_the_readme_is_one() {
    let blocks = blocks("README.md", "json");
    assert_eq!(blocks.len(), 2);
    // What it makes, it makes somewhere else.
    std::env::set_current_dir(tempfile::tempdir().unwrap().keep()).unwrap();
    for block in blocks {
        Runtime::create(&block).unwrap();
    }
}

#[test]
fn the_defaults_of_the_readme_are_the_defaults() {
    use par::config::RuntimeConfig;
    let shown = &blocks("README.md", "json")[0];
    assert!(shown.contains("max_tool_result_bytes") && shown.contains("drain_timeout"), "{shown}");
    let read = |json: &str| format!("{:#?}", RuntimeConfig::from_json(json).unwrap());
    assert_eq!(read(shown), read("{}"));
}

#[test]
fn the_json_of_the_documents_is_what_it_says() {
    use par::config::{
        AgentConfig, Decision, RunRequest, RuntimeConfig, Steering, SubscribeParams, ToolConfig, strict,
    };
    let (mut seen, mut there) = (0, 0);
    for document in ["docs/agents.md", "docs/persistence.md", "docs/providers.md", "docs/tools.md"] {
        for kind in ["agent", "tool", "request", "runtime", "decision", "steering", "subscribe", "message"] {
            for block in blocks(document, &format!("json {kind}")) {
                let read = match kind {
                    "agent" => AgentConfig::from_json(&block).map(drop),
                    "tool" => ToolConfig::from_json(&block).map(drop),
                    "request" => RunRequest::from_json(&block).map(drop),
                    "decision" => Decision::from_json(&block).map(drop),
                    "steering" => Steering::from_json(&block).map(drop),
                    "subscribe" => {
                        strict::from_str::<SubscribeParams>(&block, "params").and_then(|it| it.check("params"))
                    }
                    "message" => strict::parse(&block, "message").map(drop),
                    _ => RuntimeConfig::from_json(&block).map(drop),
                };
                assert_eq!(read, Ok(()), "{document}: {block}");
                seen += 1;
            }
        }
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        // A block of another kind, or of none, is not parsed.
        there += text.lines().filter(|line| line.starts_with("```json")).count();
    }
    assert_eq!(seen, there);
}

#[test]
fn the_c_of_the_readme_does_what_it_says() {
    let test = std::env::current_exe().unwrap();
    let deps = test.parent().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let library: PathBuf = [deps.join("libpar.so"), deps.parent().unwrap().join("libpar.so")]
        .into_iter()
        .find(|path| path.exists())
        .unwrap();
    // Programs look for the library by its SONAME.
    std::os::unix::fs::symlink(&library, folder.path().join("libpar.so.0.1")).unwrap();
    std::os::unix::fs::symlink(&library, folder.path().join("libpar.so")).unwrap();
    let source = folder.path().join("readme.c");
    let program = folder.path().join("readme");
    std::fs::write(&source, &blocks("README.md", "c")[0]).unwrap();
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o"])
        .arg(&program)
        .arg(&source)
        .arg(format!("-I{}", root().join("include").display()))
        .arg(format!("-L{}", folder.path().display()))
        .args(["-lpar", &format!("-Wl,-rpath,{}", folder.path().display())])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(&program).output().unwrap();
    assert!(ran.status.success());
    assert_eq!(String::from_utf8(ran.stderr).unwrap(), "");
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), blocks("README.md", "text")[0]);
}

#[test]
fn links_lead_somewhere() {
    for document in [
        "README.md",
        "docs/ABI.md",
        "docs/agents.md",
        "docs/architecture.md",
        "docs/providers.md",
        "docs/tools.md",
        "bindings/python/README.md",
    ] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if !link.starts_with("http") {
                let target = root().join(document).parent().unwrap().join(link);
                assert!(target.exists(), "{document}: {link}");
            }
        }
    }
}
