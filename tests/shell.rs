//! Programs of the tool `bash`: none gets out, none hangs, nothing is left of any.
//!
//! What the policy would refuse is let through here on purpose (`ANYTHING`), so that what contains it is seen to hold alone.

mod support;

use par::config::{Built, CommandPolicy, Ruling};
use par::runtime::Runtime;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::client::{next, of_type, run};
use tempfile::TempDir;

const SECRET: &str = "s3cret-outside-of-the-workspace";

/// A policy that lets everything pass.
fn anything() -> Value {
    json!({"name": "anything", "default": "allow", "writes": true, "network": true})
}

struct Scene {
    _folder: TempDir,
    workspace: PathBuf,
    outside: PathBuf,
    shell: Value,
}

impl Scene {
    fn with(shell: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        let (workspace, outside) = (base.join("workspace"), base.join("outside"));
        std::fs::create_dir(&workspace).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret.txt"), SECRET).unwrap();
        std::fs::write(workspace.join("notes.txt"), "one\ntwo\n").unwrap();
        Self { _folder: folder, workspace, outside, shell }
    }

    fn runtime(&self, calls: &[Value]) -> Runtime {
        let calls: Vec<Value> = calls
            .iter()
            .enumerate()
            .map(|(index, input)| json!({"id": format!("c{index}"), "name": "bash", "input": input}))
            .collect();
        let runtime = support::create(
            &json!({"workspace": self.workspace, "persistence": "noop", "shell": self.shell, "bash_confirm": {"default_policy": "never"},
                    "llm_providers": {"mock": {"type": "mock", "turns": [{"tool_calls": calls}, {"text": "done"}]}}})
            .to_string(),
        )
        .unwrap();
        runtime.register_agent(r#"{"id": "a", "model": "mock/m", "tools": ["bash"]}"#).unwrap();
        runtime
    }

    /// What each call came to: its result, or what the model was told instead.
    fn calls(&self, calls: &[Value]) -> Vec<Result<Value, String>> {
        let runtime = self.runtime(calls);
        let (events, result) = run(&runtime, json!({"agent": "a", "input": "go"}));
        result.unwrap();
        let mut results: Vec<_> = of_type(&events, "tool_result")
            .into_iter()
            .map(|event| {
                let index: usize = event["tool_call_id"].as_str().unwrap()[1..].parse().unwrap();
                let content = event["content"].as_str().unwrap().to_owned();
                let result = match event["is_error"].as_bool().unwrap() {
                    true => Err(content),
                    false => Ok(serde_json::from_str(&content).unwrap()),
                };
                (index, result)
            })
            .collect();
        results.sort_by_key(|(index, _)| *index);
        assert!(runtime.close(None).is_some());
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn call(&self, input: Value) -> Result<Value, String> {
        self.calls(&[input]).remove(0)
    }

    /// Runs a shell script, which only these tests can: from a file, so that no policy sees what is in it.
    fn script(&self, script: &str) -> Value {
        std::fs::write(self.workspace.join("script.sh"), script).unwrap();
        self.call(json!({"argv": ["sh", "script.sh"], "timeout": 20})).unwrap()
    }
}

/// Whether the kernel contains files; the tests about that say nothing where it does not.
fn has_landlock() -> bool {
    let scene = Scene::with(json!({}));
    let contained = scene.call(json!({"argv": ["true"]})).unwrap()["sandbox"]["files"] == true;
    if !contained {
        assert!(std::env::var_os("PAR_TEST_REQUIRE_ALL").is_none(), "this kernel has no Landlock");
        eprintln!("SKIPPED: this kernel has no Landlock");
    }
    contained
}

/// Processes whose command line has this text.
fn living(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        if !own && line.contains(mark) {
            found.push(line);
        }
    }
    found
}

/// Children of this process, zombies among them, and copies of it.
fn children() -> usize {
    let own = std::process::id().to_string();
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).is_some_and(|parent| parent == own)
        })
        .count()
}

// ---- what the policies refuse

#[test]
fn interpreters_and_injected_arguments_are_refused() {
    let scene = Scene::with(json!({"policy": "coder"}));
    // Each is split at blanks; `_` is a blank inside of an argument.
    let refused: Vec<&str> = include_str!("support/refused_commands.txt").lines().collect();
    assert!(refused.len() > 130, "{}", refused.len());
    let argv = |line: &str| line.split(' ').map(|part| part.replace('_', " ")).collect::<Vec<_>>();
    let mut let_through = Vec::new();
    for built in [Built::Coder, Built::ReadOnly, Built::ReadOnlyNoNet] {
        let policy = CommandPolicy::built(built).unwrap();
        for line in &refused {
            let argv = argv(line);
            let judgement = policy.judge(&[&argv[0]], &argv[1..]).unwrap();
            if judgement.ruling != Ruling::Deny || judgement.justification.len() < 15 {
                let_through.push((built, *line, judgement));
            }
        }
    }
    assert!(let_through.is_empty(), "{let_through:#?}");
    // The same through the tool, with programs that every system has.
    let installed =
        ["sh", "bash", "env", "find", "xargs", "sed", "awk", "tar", "sort", "split", "timeout", "nice", "cat", "rm"];
    let lines: Vec<_> =
        refused.into_iter().filter(|line| installed.contains(&line.split(' ').next().unwrap())).collect();
    assert!(lines.len() > 40, "{}", lines.len());
    let calls: Vec<_> = lines.iter().map(|line| json!({"argv": argv(line)})).collect();
    for (line, result) in lines.iter().zip(scene.calls(&calls)) {
        let told = result.expect_err(line);
        assert!(told.contains("[bash_policy_rejected]") && told.contains("may not be run so"), "{line}: {told}");
    }
    // Nor under another name: a link is judged by where it leads, too.
    let links = tempfile::tempdir_in(home()).unwrap();
    std::os::unix::fs::symlink("/bin/sh", links.path().join("innocent")).unwrap();
    let scene = Scene { shell: json!({"policy": "coder", "path": [links.path()]}), ..scene };
    let told = scene.call(json!({"argv": ["innocent", "-c", "id"]})).unwrap_err();
    assert!(told.contains("may not be run so"), "{told}");
}

/// Where a folder can be made that does not count as one for everybody.
fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

#[test]
fn programs_come_from_trusted_folders_only() {
    let scene = Scene::with(json!({"policy": anything()}));
    for place in [scene.workspace.join("evil"), scene.outside.join("evil"), scene.workspace.join("ls")] {
        std::fs::write(&place, "#!/bin/sh\necho RAN\n").unwrap();
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::symlink("/bin/ls", scene.workspace.join("link")).unwrap();
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    for program in [
        "./evil".to_owned(),
        "evil".into(),
        "../outside/evil".into(),
        path(scene.workspace.join("evil")),
        path(scene.outside.join("evil")),
        "./link".into(),
        "".into(),
        "/".into(),
        "/etc/passwd".into(),
        "ls\n".into(),
        "ls ".into(),
        "l\u{455}".into(),
        "/bin/../tmp/x".into(),
    ] {
        let told = scene.call(json!({"argv": [program]})).expect_err(&program);
        assert!(told.contains("[bash_"), "{program}: {told}");
    }
    // The name, and not the one in the workspace.
    let said = scene.call(json!({"argv": ["ls"]})).unwrap();
    assert!(!said["stdout"].as_str().unwrap().contains("RAN"), "{said}");
    assert!(said["stdout"].as_str().unwrap().contains("evil"), "{said}");
}

// ---- what the kernel refuses

#[test]
fn files_outside_cannot_be_read_written_or_made() {
    if !has_landlock() {
        return;
    }
    let scene = Scene::with(json!({"policy": anything()}));
    let outside = scene.outside.display().to_string();
    std::os::unix::fs::symlink(&scene.outside, scene.workspace.join("link")).unwrap();
    let host = std::process::id();
    for attempt in [
        format!("cat {outside}/secret.txt"),
        format!("cat {outside}/../outside/secret.txt"),
        "cat link/secret.txt".into(),
        "cat ../outside/secret.txt".into(),
        format!("cd {outside} && cat secret.txt"),
        format!("ls {outside}"),
        format!("ln {outside}/secret.txt stolen && cat stolen"),
        format!("ln -s {outside}/secret.txt stolen2 && cat stolen2"),
        format!("cp {outside}/secret.txt ."),
        format!("mv {outside}/secret.txt ."),
        format!("echo x > {outside}/secret.txt"),
        format!("echo x >> {outside}/secret.txt"),
        format!("touch {outside}/new"),
        format!("mkdir {outside}/new"),
        format!("rm {outside}/secret.txt"),
        format!("mv notes.txt {outside}/"),
        format!("ln notes.txt {outside}/new"),
        format!("mkfifo {outside}/new"),
        "cat /etc/shadow".into(),
        "ls /root/.ssh".into(),
        "ls /home".into(),
        "echo x > /etc/par-test".into(),
        "echo x > /tmp/par-escape-test".into(),
        "touch /dev/shm/par-escape-test".into(),
        "ls /tmp".into(),
        "cat /dev/mem".into(),
        "cat /dev/sda /dev/vda".into(),
        "mknod dev b 8 0".into(),
        format!("cat /proc/{host}/environ"),
        format!("cat /proc/{host}/root/etc/shadow"),
        format!("ls /proc/{host}/cwd/"),
        format!("cat /proc/{host}/mem"),
        format!("cat /proc/{host}/maps"),
        "cat /proc/$PPID/environ".into(),
        "cat /proc/1/environ".into(),
        "echo x > /proc/sys/kernel/hostname".into(),
        format!("kill -9 {host}"),
        "kill -9 $PPID".into(),
        "kill -9 1".into(),
        "mount -t tmpfs x .".into(),
        "unshare -U true".into(),
        "chroot . true".into(),
    ] {
        let result = scene.script(&format!("{attempt}; echo code=$?"));
        let said = result["stdout"].as_str().unwrap();
        assert!(!said.contains(SECRET), "{attempt}: {result}");
        assert!(!said.contains("code=0"), "{attempt}: {result}");
    }
    assert_eq!(std::fs::read_to_string(scene.outside.join("secret.txt")).unwrap(), SECRET);
    assert_eq!(std::fs::read_dir(&scene.outside).unwrap().count(), 1);
    assert!(!Path::new("/tmp/par-escape-test").exists());
    // What is allowed goes on.
    let result =
        scene.script("cat notes.txt && echo x > new && mkdir d && mv new d/ && ls d && rm -r d && touch $TMPDIR/t");
    assert_eq!((&result["exit_code"], result["stdout"].as_str().unwrap()), (&json!(0), "one\ntwo\nnew\n"), "{result}");
}

#[test]
fn a_policy_that_only_reads_has_nothing_written() {
    if !has_landlock() {
        return;
    }
    let scene = Scene::with(json!({"policy": {"default": "allow"}}));
    for attempt in [
        "echo x > new",
        "rm notes.txt",
        "echo x >> notes.txt",
        "mkdir d",
        "mv notes.txt x",
        "ln notes.txt x",
        "chmod +x notes.txt && ./notes.txt",
    ] {
        let result = scene.script(&format!("({attempt}) 2>&1; echo code=$?"));
        assert!(!result["stdout"].as_str().unwrap().contains("code=0"), "{attempt}: {result}");
    }
    assert_eq!(std::fs::read_to_string(scene.workspace.join("notes.txt")).unwrap(), "one\ntwo\n");
    // And the script.
    assert_eq!(std::fs::read_dir(&scene.workspace).unwrap().count(), 2);
}

#[test]
fn without_a_network_there_is_none() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // The program that tries must be there; the interpreter of these tests' own harness is.
    let script = format!(
        "import socket\nfor kind in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):\n  for how in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n    try:\n      socket.socket(kind, how)\n      print('GOT', kind, how)\n    except PermissionError:\n      print('refused')\ntry:\n  socket.create_connection(('127.0.0.1', {port}))\n  print('CONNECTED')\nexcept PermissionError:\n  print('refused')\n"
    );
    if !has_python() {
        return;
    }
    let ran = |network: bool| {
        let scene = Scene::with(json!({"policy": {"default": "allow", "network": network}}));
        std::fs::write(scene.workspace.join("net.py"), &script).unwrap();
        scene.call(json!({"argv": ["/usr/bin/python3", "net.py"]})).unwrap()
    };
    let closed = ran(false);
    assert_eq!(closed["stdout"], "refused\n".repeat(7), "{closed}");
    assert_eq!(closed["sandbox"]["network"], "closed");
    let open = ran(true);
    assert!(open["stdout"].as_str().unwrap().contains("CONNECTED"), "{open}");
    assert_eq!(open["sandbox"]["network"], "open");
}

/// Whether there is a language in which any system call can be made.
fn has_python() -> bool {
    let is_there = Path::new("/usr/bin/python3").exists();
    if !is_there {
        assert!(std::env::var_os("PAR_TEST_REQUIRE_ALL").is_none(), "python3 is needed");
        eprintln!("SKIPPED: no python3");
    }
    is_there
}

#[cfg(target_arch = "x86_64")]
#[test]
fn system_calls_that_reach_out_are_refused() {
    if !has_python() {
        return;
    }
    let scene = Scene::with(json!({"policy": anything()}));
    // clone with a user namespace, clone3, ptrace, process_vm_readv, unshare, mount, keyctl, bpf, io_uring_setup, and one of
    // the other interface; then a thread, which must still be had.
    let script = "import ctypes, threading\n\
        call = ctypes.CDLL(None, use_errno=True).syscall\n\
        def errno(*arguments):\n    \
            return ctypes.get_errno() if call(*arguments) < 0 else 0\n\
        print([errno(*a) for a in ((56, 0x10000011, 0, 0, 0, 0), (435, 0, 0), (101, 16, 1, 0, 0), (310, 1, 0, 0, 0, 0, 0), (272, 0x10000000),\
        (165, 0, 0, 0, 0, 0), (250, 0, 0, 0, 0, 0), (321, 0, 0, 0), (425, 1, 0), (0x40000027,))])\n\
        thread = threading.Thread(target=lambda: print('thread'))\n\
        thread.start()\n\
        thread.join()\n";
    std::fs::write(scene.workspace.join("calls.py"), script).unwrap();
    let result = scene.call(json!({"argv": ["/usr/bin/python3", "calls.py"]})).unwrap();
    let (not_permitted, unknown) = (libc::EPERM, libc::ENOSYS);
    let expected = [
        not_permitted,
        unknown,
        not_permitted,
        not_permitted,
        not_permitted,
        not_permitted,
        not_permitted,
        not_permitted,
        unknown,
        unknown,
    ];
    assert_eq!(result["stdout"], format!("{expected:?}\nthread\n"), "{result}");
}

#[test]
fn nothing_of_the_host_is_inherited() {
    // What a host may have in its environment, and open.
    let scene = Scene::with(json!({"policy": anything(), "env": ["CARGO_MANIFEST_DIR"]}));
    let result = scene.script(
        "env; echo ---; ls /proc/self/fd; echo ---; trap; grep -E 'Sig(Blk|Ign)' /proc/self/status; ulimit -c; umask",
    );
    let said = result["stdout"].as_str().unwrap();
    let (env, rest) = said.split_once("---\n").unwrap();
    for line in env.lines() {
        let name = line.split('=').next().unwrap();
        let known = [
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "LANG",
            "LC_ALL",
            "LC_CTYPE",
            "TZ",
            "TMPDIR",
            "TERM",
            "PWD",
            "OLDPWD",
            "SHLVL",
            "_",
            "GIT_TERMINAL_PROMPT",
            "GIT_PAGER",
            "PAGER",
            "CARGO_MANIFEST_DIR",
        ];
        assert!(known.contains(&name), "{line}");
    }
    assert!(env.contains("CARGO_MANIFEST_DIR=") && !env.contains("CARGO_PKG_NAME"), "{env}");
    let (fds, rest) = rest.split_once("---\n").unwrap();
    // Its own three, and the folder that ls reads.
    assert_eq!(fds.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    let masks: Vec<_> = rest.lines().filter(|line| line.starts_with("Sig")).collect();
    assert_eq!(masks, ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"], "{rest}");
    let input = scene.script("cat; echo end");
    assert_eq!(input["stdout"], "end\n", "there is nothing to read");
}

// ---- time, floods, and what is left behind

#[test]
fn nothing_is_left_of_a_command() {
    let scene = Scene::with(json!({"policy": anything()}));
    let mark = format!("31{}", std::process::id());
    for (what, script, timeout) in [
        ("a background process", format!("sleep {mark} & echo started"), 10.0),
        ("one in a session of its own", format!("setsid sleep {mark} & sleep 0.2; echo started"), 10.0),
        (
            "a daemon",
            format!(
                "(setsid sh -c 'sleep {mark} & sleep {mark}' </dev/null >/dev/null 2>&1 &); sleep 0.2; echo started"
            ),
            10.0,
        ),
        ("one that keeps the pipes open", format!("(sleep {mark} &) ; echo started"), 10.0),
        (
            "one that ignores signals",
            format!("trap '' TERM HUP INT; echo started; sleep {mark} & sleep {mark}; sleep {mark}"),
            0.5,
        ),
        ("a tree", format!("echo started; for i in 1 2 3; do (sh -c 'sleep {mark} & sleep {mark}') & done; wait"), 0.5),
        ("a stopped one", format!("echo started; sleep {mark} & kill -STOP $!; wait"), 0.5),
        (
            "one whose output nobody can take",
            format!("echo started; sleep {mark} >&- 2>&- & exec >&- 2>&-; sleep {mark}"),
            0.5,
        ),
    ] {
        let began = Instant::now();
        let result = scene.call(json!({"argv": ["sh", "-c", script], "timeout": timeout})).unwrap();
        assert!(result["stdout"].as_str().unwrap().contains("started"), "{what}: {result}");
        assert_eq!(result["timed_out"], timeout < 1.0, "{what}: {result}");
        assert!(began.elapsed() < Duration::from_secs(8), "{what} took {:?}", began.elapsed());
        assert_eq!(living(&mark), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_fork_bomb_ends_with_its_time() {
    let scene = Scene::with(json!({"policy": anything(), "max_processes": 64}));
    let mark = format!("32{}", std::process::id());
    // Bounded, so that a failure of this test does not take the machine with it.
    let bomb =
        format!("bomb() {{ if [ $1 -gt 0 ]; then bomb $(($1 - 1)) & bomb $(($1 - 1)) & fi; sleep {mark}; }}; bomb 7");
    let result = scene.call(json!({"argv": ["sh", "-c", bomb], "timeout": 1.0})).unwrap();
    assert_eq!(result["timed_out"], true, "{result}");
    assert_eq!(living(&mark), Vec::<String>::new());
}

#[test]
fn floods_are_bounded_and_both_ends_are_shown() {
    let scene = Scene::with(json!({"policy": anything(), "max_output_bytes": 4096, "max_output_lines": 100}));
    let result = scene.script("echo first; head -c 50000000 /dev/zero | tr '\\0' 'x'; echo; echo last; echo oops >&2");
    let said = result["stdout"].as_str().unwrap();
    assert!(said.starts_with("first\n") && said.ends_with("last\n") && said.len() < 4300, "{}", said.len());
    assert_eq!(
        (&result["truncated"], &result["stderr"], &result["exit_code"]),
        (&json!(true), &json!("oops\n"), &json!(0))
    );
    let result = scene.script("seq 1 100000");
    let said = result["stdout"].as_str().unwrap();
    assert!(said.starts_with("1\n2\n") && said.ends_with("100000\n") && said.lines().count() <= 101, "{}", said.len());
    let result = scene.call(json!({"argv": ["yes"], "timeout": 0.5})).unwrap();
    assert_eq!(
        (&result["timed_out"], &result["exit_code"], &result["truncated"]),
        (&json!(true), &json!(124), &json!(true))
    );
    let result = scene.script("printf '\\033[31mred\\033[0m \\033]0;title\\007text\\n'");
    assert_eq!(result["stdout"], "red text\n");
}

#[test]
fn limits_hold() {
    let scene = Scene::with(json!({"policy": anything(), "max_file_mb": 1, "max_memory_mb": 64}));
    let result = scene.script("head -c 3000000 /dev/zero > big; ls -l big | awk '{print $5}'");
    assert_eq!(result["stdout"], "1048576\n", "{result}");
    let result = scene.script("head -c 500000000 /dev/zero | tail -n 1 | wc -c");
    assert!(!result["stdout"].as_str().unwrap().contains("500000000"), "{result}");
    let result = scene.script("ulimit -c; ulimit -n");
    assert_eq!(result["stdout"], "0\n4096\n");
}

#[test]
fn signals_and_codes_are_told() {
    let scene = Scene::with(json!({"policy": anything()}));
    assert_eq!(scene.script("exit 3")["exit_code"], 3);
    assert_eq!(scene.script("kill -SEGV $$")["exit_code"], 139);
    assert_eq!(scene.script("kill -KILL $$")["exit_code"], 137);
    // A program that ends orderly when it is told that its time is over.
    let orderly = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let result = scene.call(json!({"argv": ["sh", "-c", orderly], "timeout": 0.5})).unwrap();
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("ready\nbye\n"), &json!(124)));
    let stages = json!([{"program": "sh", "args": ["-c", "exit 3"]}, {"program": "cat"}, {"program": "sh", "args": ["-c", "exit 4"]}]);
    let result = scene.call(json!({"command": {"type": "pipeline", "stages": stages}})).unwrap();
    assert_eq!((&result["exit_codes"], &result["exit_code"]), (&json!([3, 0, 4]), &json!(4)));
}

#[test]
fn many_at_once_and_cancelled_leave_no_process_and_no_file() {
    let temporaries = || {
        let names = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.file_name());
        // Those of other tests that run at the same time come and go.
        names.filter(|name| name.to_string_lossy().starts_with("par-")).collect::<std::collections::BTreeSet<_>>()
    };
    let scene = Scene::with(json!({"policy": anything()}));
    let mark = format!("33{}", std::process::id());
    let calls: Vec<_> = (0..12).map(|n| json!({"argv": ["sleep", format!("{mark}.{n}")], "timeout": 500})).collect();
    let runtime = scene.runtime(&calls);
    let before = temporaries();
    let stream = runtime.stream(r#"{"agent": "a", "input": "go"}"#).unwrap();
    let mut invoked = 0;
    let mut invoked_all = false;
    let began = Instant::now();
    while let Some(event) = next(&stream) {
        invoked += usize::from(event["type"] == "bash_invoked");
        // Four at a time.
        if invoked == 4 && !invoked_all {
            invoked_all = true;
            stream.cancel("enough");
        }
    }
    assert!(invoked_all && began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(runtime.close(None).is_some());
    assert_eq!(living(&mark), Vec::<String>::new());
    let left: Vec<_> = temporaries().difference(&before).cloned().collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while left.iter().any(|name| temporaries().contains(name)) {
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        std::thread::yield_now();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while children() > 0 {
        assert!(Instant::now() < deadline, "a child is left");
        std::thread::yield_now();
    }
}

#[test]
fn a_sandbox_that_must_be_there_is() {
    let scene = Scene::with(json!({"sandbox": "required"}));
    let result = scene.call(json!({"argv": ["true"]}));
    match has_landlock() {
        true => assert_eq!(result.unwrap()["sandbox"]["files"], true),
        false => assert!(result.unwrap_err().contains("Landlock")),
    }
    let scene = Scene { workspace: "/".into(), ..scene };
    assert!(scene.call(json!({"argv": ["true"]})).unwrap_err().contains("[bash_workspace_too_wide]"));
}
