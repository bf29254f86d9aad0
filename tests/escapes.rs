//! Nothing leads out of the workspace: what a model could try on the tools that touch files, tried on each of them.

mod support;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::client::{of_type, run};
use tempfile::TempDir;

/// What no tool may ever say, and no file in the workspace may ever hold.
const SECRET: &str = "s3cret-outside-of-the-workspace";

/// A workspace beside a folder that is none of its business.
struct Scene {
    _folder: TempDir,
    workspace: PathBuf,
    outside: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        let (workspace, outside) = (base.join("workspace"), base.join("outside"));
        std::fs::create_dir_all(workspace.join("src/deep")).unwrap();
        std::fs::create_dir_all(outside.join("folder")).unwrap();
        std::fs::write(workspace.join("src/main.txt"), "inside\n").unwrap();
        std::fs::write(outside.join("secret.txt"), format!("{SECRET}\n")).unwrap();
        std::fs::write(outside.join("folder/secret.txt"), format!("{SECRET}\n")).unwrap();
        Self { _folder: folder, workspace, outside }
    }

    /// What each call came to: whether it failed, and what the model was told.
    fn calls(&self, calls: &[(&str, Value)]) -> Vec<(bool, String)> {
        let calls: Vec<Value> = calls
            .iter()
            .enumerate()
            .map(|(index, (name, input))| json!({"id": format!("c{index}"), "name": name, "input": input}))
            .collect();
        let runtime = support::create(
            &json!({"workspace": self.workspace, "persistence": "noop",
                    "llm_providers": {"mock": {"type": "mock", "turns": [{"tool_calls": calls}, {"text": "done"}]}}})
            .to_string(),
        )
        .unwrap();
        let tools = ["read", "ls", "find", "grep", "write", "edit"];
        runtime.register_agent(&json!({"id": "a", "model": "mock/m", "tools": tools}).to_string()).unwrap();
        let (events, result) = run(&runtime, json!({"agent": "a", "input": "go"}));
        result.unwrap();
        let mut results: Vec<_> = of_type(&events, "tool_result")
            .into_iter()
            .map(|event| {
                let index: usize = event["tool_call_id"].as_str().unwrap()[1..].parse().unwrap();
                (index, event["is_error"].as_bool().unwrap(), event["content"].as_str().unwrap().to_owned())
            })
            .collect();
        results.sort();
        assert!(runtime.close(None).is_some());
        assert_eq!(results.len(), calls.len());
        results.into_iter().map(|(_, failed, told)| (failed, told)).collect()
    }

    /// Nothing outside was changed, made or removed.
    fn check_outside(&self) {
        let mut names: Vec<_> =
            std::fs::read_dir(&self.outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["folder", "secret.txt"]);
        for file in ["secret.txt", "folder/secret.txt"] {
            assert_eq!(std::fs::read_to_string(self.outside.join(file)).unwrap(), format!("{SECRET}\n"), "{file}");
        }
        assert_eq!(std::fs::read_dir(self.outside.join("folder")).unwrap().count(), 1);
    }
}

/// Every tool, given this path.
fn every_tool(path: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("read", json!({"path": path})),
        ("ls", json!({"path": path})),
        ("find", json!({"path": path, "pattern": "*"})),
        ("grep", json!({"path": path, "pattern": "."})),
        ("write", json!({"path": path, "content": "written", "create_dirs": true})),
        ("edit", json!({"path": path, "edits": [{"old": SECRET, "new": "edited"}]})),
    ]
}

#[test]
fn no_path_leads_out() {
    let scene = Scene::new();
    let inside = &scene.workspace;
    symlink(&scene.outside, inside.join("to_folder")).unwrap();
    symlink("../outside", inside.join("to_folder_relative")).unwrap();
    symlink(scene.outside.join("secret.txt"), inside.join("to_file")).unwrap();
    symlink("../outside/secret.txt", inside.join("to_file_relative")).unwrap();
    symlink("/", inside.join("to_root")).unwrap();
    symlink("to_folder", inside.join("to_link")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    // In the tree, but absolute: the kernel cannot know that.
    symlink(inside.join("src/main.txt"), inside.join("absolute_inside")).unwrap();
    symlink("/proc/self/cwd", inside.join("to_cwd")).unwrap();
    symlink("/proc/self/root", inside.join("to_proc_root")).unwrap();
    let outside = scene.outside.display();
    let here = inside.display();
    let paths = [
        "..".to_owned(),
        "../".into(),
        "../outside/secret.txt".into(),
        "./../outside/secret.txt".into(),
        "src/../../outside/secret.txt".into(),
        "src/deep/../../../outside/secret.txt".into(),
        "src/..".into(),
        format!("{outside}/secret.txt"),
        format!("{here}/../outside/secret.txt"),
        format!("{here}-not"),
        format!("//{}", outside.to_string().trim_start_matches('/')),
        "/".into(),
        "/etc/passwd".into(),
        "/proc/self/environ".into(),
        "/proc/self/cwd".into(),
        "/proc/self/fd/0".into(),
        "/dev/null".into(),
        "/dev/stdin".into(),
        "/sys/kernel".into(),
        "to_folder/secret.txt".into(),
        "to_folder_relative/secret.txt".into(),
        "to_file".into(),
        "to_file_relative".into(),
        "to_root/etc/passwd".into(),
        "to_link/secret.txt".into(),
        "loop".into(),
        "loop/x".into(),
        "absolute_inside".into(),
        "to_cwd/Cargo.toml".into(),
        "to_proc_root/etc/passwd".into(),
        "src/main.txt\0../../outside/secret.txt".into(),
        "\0".into(),
        String::new(),
    ];
    let calls: Vec<_> = paths.iter().flat_map(|path| every_tool(path)).collect();
    assert!(calls.len() > 150, "{}", calls.len());
    for ((tool, input), (failed, told)) in calls.iter().zip(scene.calls(&calls)) {
        assert!(failed, "{tool} {input} was done: {told}");
        assert!(!told.contains(SECRET), "{tool} {input} told the secret");
    }
    scene.check_outside();
}

#[test]
fn look_alikes_and_odd_names_are_names() {
    let scene = Scene::new();
    // Each is a name like any other here, and leads nowhere.
    let odd = [
        "\u{2025}/outside/secret.txt",
        "\u{ff0e}\u{ff0e}/outside/secret.txt",
        "\u{2024}\u{2024}/outside/secret.txt",
        "..\u{2215}outside\u{2215}secret.txt",
        "..\u{ff0f}outside\u{ff0f}secret.txt",
        "..%2foutside%2fsecret.txt",
        "%2e%2e/outside/secret.txt",
        "..\\outside\\secret.txt",
        ".. /outside/secret.txt",
        "...",
        "~/.ssh/id_rsa",
        "$HOME/.ssh/id_rsa",
        "file:///etc/passwd",
        "C:\\Windows\\win.ini",
        "src/main.txt/",
        "a\nb",
        "-rf",
        "\u{202e}txt.terces",
    ];
    let calls: Vec<_> = odd.iter().map(|path| ("read", json!({"path": path}))).collect();
    for ((_, input), (failed, told)) in calls.iter().zip(scene.calls(&calls)) {
        assert!(failed || told.contains("inside"), "{input}: {told}");
        assert!(!told.contains(SECRET), "{input} told the secret");
    }
    scene.check_outside();
}

#[test]
fn a_second_name_of_a_file_outside_is_not_read_and_not_written_through() {
    let scene = Scene::new();
    std::fs::hard_link(scene.outside.join("secret.txt"), scene.workspace.join("linked")).unwrap();
    let calls = [
        ("read", json!({"path": "linked"})),
        ("grep", json!({"pattern": "s3cret"})),
        ("grep", json!({"pattern": "s3cret", "path": "linked"})),
        ("edit", json!({"path": "linked", "edits": [{"old": SECRET, "new": "x"}]})),
    ];
    for ((tool, _), (_, told)) in calls.iter().zip(scene.calls(&calls)) {
        assert!(!told.contains(SECRET), "{tool}: {told}");
    }
    let written = scene.calls(&[("write", json!({"path": "linked", "content": "mine now"}))]);
    assert_eq!(
        (written[0].0, std::fs::read_to_string(scene.workspace.join("linked")).unwrap()),
        (false, "mine now".into())
    );
    scene.check_outside();
}

#[test]
fn links_inside_are_followed_where_they_stay_inside() {
    let scene = Scene::new();
    symlink("src", scene.workspace.join("alias")).unwrap();
    std::fs::create_dir_all(scene.workspace.join(".git/hooks")).unwrap();
    symlink(".git/hooks", scene.workspace.join("innocent")).unwrap();
    let results = scene.calls(&[
        ("read", json!({"path": "alias/main.txt"})),
        ("write", json!({"path": "alias/new.txt", "content": "x"})),
        ("write", json!({"path": "innocent/pre-commit", "content": "x"})),
        ("write", json!({"path": ".GIT/config", "content": "x", "create_dirs": true})),
        ("find", json!({"pattern": "*"})),
    ]);
    assert!(!results[0].0 && results[0].1.contains("inside"), "{results:?}");
    assert!(!results[1].0 && scene.workspace.join("src/new.txt").exists(), "{results:?}");
    assert!(results[2].1.contains("[workspace_protected_location]"), "{results:?}");
    assert!(results[3].1.contains("[workspace_protected_location]"), "{results:?}");
    assert_eq!(std::fs::read_dir(scene.workspace.join(".git/hooks")).unwrap().count(), 0);
    // A walk names a link and does not go down it.
    assert!(results[4].1.contains("alias") && !results[4].1.contains("alias/"), "{results:?}");
}

#[test]
fn keys_and_the_system_are_protected_wherever_the_workspace_is() {
    let scene = Scene::new();
    let runtime = |root: &Path| support::create(&json!({"workspace": root, "persistence": "noop"}).to_string());
    for place in ["/etc", "/proc", "/sys", "/dev", "/proc/self"] {
        assert_eq!(runtime(Path::new(place)).err().unwrap().path(), Some("config.workspace"), "{place}");
    }
    let scene = Scene { workspace: "/".into(), ..scene };
    let results = scene.calls(&[
        ("read", json!({"path": "/etc/passwd"})),
        ("read", json!({"path": "etc/passwd"})),
        ("ls", json!({"path": "proc/self"})),
        ("grep", json!({"pattern": "root", "path": "etc"})),
        ("write", json!({"path": "etc/par-test", "content": "x"})),
        ("find", json!({"pattern": "passwd", "max_depth": 1, "include_ignored": true})),
        ("ls", json!({})),
    ]);
    for (failed, told) in &results[..5] {
        assert!(*failed && told.contains("[workspace_protected_location]"), "{told}");
    }
    assert!(!results[5].1.contains("etc/passwd") && !results[6].0, "{results:?}");
}

#[test]
fn names_that_are_not_utf8_are_listed_and_harmless() {
    let scene = Scene::new();
    std::fs::write(scene.workspace.join(std::ffi::OsStr::from_bytes(b"bad\xff\xfename")), "needle\n").unwrap();
    let results = scene.calls(&[
        ("ls", json!({})),
        ("find", json!({"pattern": "bad*"})),
        ("grep", json!({"pattern": "needle"})),
        ("read", json!({"path": "bad\u{fffd}\u{fffd}name"})),
    ]);
    assert!(results[..3].iter().all(|(failed, told)| !failed && told.contains("bad\u{fffd}")), "{results:?}");
    assert!(results[3].0, "{results:?}");
}

/// Another thread swaps a folder for a link to the outside, as fast as it can, while every tool works on paths through it.
#[test]
fn a_folder_that_is_swapped_meanwhile_leads_nowhere() {
    let scene = Scene::new();
    let (real, swapped, link) =
        (scene.workspace.join("real"), scene.workspace.join("swapped"), scene.workspace.join("link"));
    std::fs::create_dir(&swapped).unwrap();
    std::fs::write(swapped.join("secret.txt"), "harmless\n").unwrap();
    symlink(&scene.outside, &link).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let swapping = std::thread::spawn({
        let (done, swapped) = (Arc::clone(&done), swapped.clone());
        move || {
            while !done.load(Ordering::Relaxed) {
                std::fs::rename(&swapped, &real).unwrap();
                std::fs::rename(&link, &swapped).unwrap();
                std::fs::rename(&swapped, &link).unwrap();
                std::fs::rename(&real, &swapped).unwrap();
            }
        }
    });
    let mut reached = 0;
    for round in 0..20 {
        let calls: Vec<_> = (0..10)
            .flat_map(|n| {
                vec![
                    ("read", json!({"path": "swapped/secret.txt", "limit": round * 10 + n + 1})),
                    ("grep", json!({"pattern": "s3cret|harmless", "max_results": n + 1})),
                    ("grep", json!({"pattern": "s3cret", "path": "swapped", "max_results": n + 1})),
                    ("write", json!({"path": format!("swapped/w{n}.txt"), "content": "x"})),
                    ("edit", json!({"path": "swapped/secret.txt", "edits": [{"old": SECRET, "new": format!("{n}")}]})),
                ]
            })
            .collect();
        for ((tool, input), (_, told)) in calls.iter().zip(scene.calls(&calls)) {
            assert!(!told.contains(SECRET), "{tool} {input} told the secret");
            reached += usize::from(told.contains("harmless"));
        }
    }
    done.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    scene.check_outside();
    assert!(reached > 0, "the folder was never seen in its place: nothing was tested");
}

#[test]
fn the_runtimes_own_database_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("notes.txt"), "needle").unwrap();
    std::os::unix::fs::symlink("par.db", folder.path().join("link")).unwrap();
    let calls: Vec<Value> = ["par.db", "par.db-wal", "par.db-locks", "./par.db", "link"]
        .iter()
        .flat_map(|path| {
            [
                json!({"name": "read", "input": {"path": path}}),
                json!({"name": "write", "input": {"path": path, "content": "gone"}}),
                json!({"name": "edit", "input": {"path": path, "edits": [{"old": "SQLite", "new": "gone"}]}}),
            ]
        })
        .collect();
    let refused = calls.len();
    let turns = json!([{"tool_calls": calls}, {"tool_calls": [{"name": "read", "input": {"path": "notes.txt"}}]}, {"text": "done"}]);
    let runtime = support::create(
        &json!({"workspace": folder.path(), "persistence": {"type": "sqlite", "path": folder.path().join("par.db")},
                "llm_providers": {"mock": {"type": "mock", "turns": turns}}})
        .to_string(),
    )
    .unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m", "tools": ["read", "write", "edit"]}"#).unwrap();
    let stream = runtime.stream(r#"{"agent": "a", "input": "go"}"#).unwrap();
    let events = support::client::events(&stream);
    let results: Vec<_> = events.iter().filter(|event| event["type"] == "tool_result").collect();
    for result in &results[..refused] {
        assert_eq!(result["is_error"], true, "{result}");
    }
    assert_eq!(results[refused]["is_error"], false, "{}", results[refused]);
    let verified = runtime.call("store.verify", "{}", None).unwrap();
    assert_eq!(verified, r#"{"ok":true,"problems":[]}"#);
}
