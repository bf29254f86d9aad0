//! `cargo bench --bench tools`: `grep` and `find` over 100,000 files against ripgrep and fd, and what it costs to run a program
//! contained over running it bare. Through whole runs of the runtime, on the scripted provider.

use par::runtime::Runtime;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Folders, and files in each.
const FOLDERS: usize = 1_000;
const FILES: usize = 100;
/// How often a search is measured, by turns, and how often a program, which takes less time than what else the machine does;
/// the best counts, since all else is noise.
const SEARCHES: usize = 15;
const PROGRAMS: usize = 300;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("its path");
    plant(&root);
    println!("{:<34} {:>10} {:>10} {:>7}", "", "libpar ms", "bare ms", "ratio");
    let needle = json!({"pattern": "needle_[0-9]+", "max_results": 10_000});
    compare(
        "grep, a rare word",
        &root,
        "grep",
        &needle,
        rg(&["-n", "--no-heading", "--hidden", "needle_[0-9]+"]).as_mut(),
    );
    let class = json!({"pattern": "[a-z]+ing [0-9]+999$", "max_results": 10_000});
    compare(
        "grep, no literal",
        &root,
        "grep",
        &class,
        rg(&["-n", "--no-heading", "--hidden", "[a-z]+ing [0-9]+999$"]).as_mut(),
    );
    let name = json!({"pattern": "*77.txt", "max_results": 100_000});
    compare("find, by name", &root, "find", &name, fd(&["--hidden", "--glob", "*77.txt"]).as_mut());
    let shell = json!({"argv": ["true"]});
    let (contained, bare) =
        compare("bash, a program that does nothing", &root, "bash", &shell, Some(&mut Command::new("true")));
    println!("what contains a program costs {:.2} ms", (contained - bare).as_secs_f64() * 1e3);
}

/// A tree of text files, one in a hundred with the needle.
fn plant(root: &Path) {
    for folder in 0..FOLDERS {
        let path = root.join(format!("group{:02}/folder{folder:04}", folder % 50));
        std::fs::create_dir_all(&path).expect("a folder");
        for file in 0..FILES {
            let mut text = String::new();
            for line in 0..20 {
                writeln!(text, "line {line} of file {file}: nothing but hay, stacking {}", folder * 31 + line)
                    .expect("text");
            }
            if (folder + file) % 100 == 0 {
                writeln!(text, "needle_{folder}").expect("text");
            }
            std::fs::write(path.join(format!("file{file:03}.txt")), text).expect("a file");
        }
    }
}

fn rg(arguments: &[&str]) -> Option<Command> {
    program("rg", arguments)
}

fn fd(arguments: &[&str]) -> Option<Command> {
    program("fdfind", arguments).or_else(|| program("fd", arguments))
}

/// The program, if it is installed.
fn program(name: &str, arguments: &[&str]) -> Option<Command> {
    Command::new(name).arg("--version").stdout(Stdio::null()).status().ok()?;
    let mut command = Command::new(name);
    command.args(arguments);
    Some(command)
}

/// The best times of a tool and of a program, by turns.
fn compare(what: &str, root: &Path, tool: &str, input: &Value, bare: Option<&mut Command>) -> (Duration, Duration) {
    let runtime = Runtime::create(
        &json!({"workspace": root, "persistence": "noop", "bash_confirm": {"default_policy": "never"},
                "limits": {"max_tool_output_bytes": 16_777_216},
                "llm_providers": {"mock": {"type": "mock", "turns": [
                    {"tool_calls": [{"name": tool, "input": input}]}, {"text": "done"}]}}})
        .to_string(),
    )
    .expect("a runtime");
    runtime.register_agent(&json!({"id": "a", "model": "mock/m", "tools": [tool]}).to_string()).expect("an agent");
    let run = || {
        let result = runtime.invoke(r#"{"agent": "a", "input": "go"}"#, None).expect("a result");
        assert!(result.contains(r#""is_error":false"#), "{result}");
    };
    let Some(bare) = bare else {
        println!("{what:<34} {:>10} {:>10}", "-", "not installed");
        return (Duration::ZERO, Duration::ZERO);
    };
    bare.current_dir(root).stdout(Stdio::null());
    let mut times = (Vec::new(), Vec::new());
    let rounds = if tool == "bash" { PROGRAMS } else { SEARCHES };
    for round in 0..=rounds {
        let own = timed(run);
        let other = timed(|| assert!(bare.status().expect("it runs").success()));
        // The first round fills the caches.
        if round > 0 {
            times.0.push(own);
            times.1.push(other);
        }
    }
    let best = |times: Vec<Duration>| times.into_iter().min().unwrap_or_default();
    let (own, other) = (best(times.0), best(times.1));
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what:<34} {:>10.2} {:>10.2} {:>6.2}x",
        milliseconds(own),
        milliseconds(other),
        own.as_secs_f64() / other.as_secs_f64()
    );
    (own, other)
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}
