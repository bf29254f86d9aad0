//! A real PostgreSQL server for one test program, on a free port of the loopback interface.
//!
//! The binaries are those of `PAR_TEST_PG_BIN`, of Debian's `postgresql-*`, or of the path. The server refuses to run as root:
//! there it runs as the user `postgres`, or `nobody`.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server with a database `postgres` and a user of that name.
pub struct Postgres {
    folder: TempDir,
    bin: PathBuf,
    port: u16,
    options: Vec<String>,
    pid: Mutex<Option<u32>>,
}

/// The server of this test program, or none if there are no binaries: then the test is skipped.
pub fn shared() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::start(&[])).as_ref()
}

impl Postgres {
    /// Makes a database cluster and starts its server. `options` go to the server, each as `-c`.
    pub fn start(options: &[&str]) -> Option<Self> {
        let bin = programs()?;
        let folder = TempDir::new().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let server = Self { folder, bin, port, options, pid: Mutex::default() };
        let password = server.folder.path().join("password");
        std::fs::write(&password, "pass word").unwrap();
        let made = server
            .command("initdb")
            .args(["-A", "scram-sha-256", "-U", "postgres", "-E", "UTF8", "--locale", "C", "-N", "--pwfile"])
            .arg(&password)
            .arg(server.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.run();
        Some(server)
    }

    /// The same cluster, to be started with these options.
    pub fn with_options(mut self, options: &[String]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// Starts a server that follows this one. Commits of this one wait for it, once [`Postgres::wait_for_standby`] was said.
    pub fn standby(&self) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let standby = Self { folder, bin: self.bin.clone(), port, options: Vec::new(), pid: Mutex::default() };
        let copied = standby
            .command("pg_basebackup")
            .args(["-R", "-X", "stream", "-c", "fast", "-d", &self.url(), "-D"])
            .arg(standby.data())
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        standby.run();
        standby
    }

    /// From here on no commit is answered before the standby has it.
    pub fn wait_for_standby(&self) {
        self.sql("public", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.sql("public", "SELECT pg_reload_conf()");
        let until = Instant::now() + Duration::from_secs(60);
        while self.sql("public", "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != "1" {
            assert!(Instant::now() < until, "the standby does not follow");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes a standby the one that is written to.
    pub fn promote(&self) {
        self.sql("public", "SELECT pg_promote()");
        // It waits for nobody: its own settings are those of the server that it followed.
        self.sql("public", "ALTER SYSTEM RESET synchronous_standby_names");
        self.sql("public", "SELECT pg_reload_conf()");
    }

    /// The folder of the server's files.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A file in the server's own folder, readable for it alone.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some(user) = user() {
            assert!(Command::new("chown").arg(user).arg(&path).status().unwrap().success());
        }
        path
    }

    /// Where the database is.
    pub fn url(&self) -> String {
        format!("postgres://postgres:pass%20word@127.0.0.1:{}/postgres", self.port)
    }

    /// The port that the server listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the server's Unix socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// The persistence of a runtime, in a schema that nothing else uses.
    pub fn persistence(&self) -> serde_json::Value {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let schema = format!("test_{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        serde_json::json!({"type": "postgres", "url": self.url(), "schema": schema})
    }

    /// Runs SQL as `psql` does, and answers what it prints.
    pub fn sql(&self, schema: &str, sql: &str) -> String {
        let output = Command::new(self.bin.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                &self.url(),
                "-c",
                &format!("SET search_path = {schema}"),
                "-c",
                sql,
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts the server, and waits until it answers.
    pub fn run(&self) {
        let mut pid = self.spawn();
        let until = Instant::now() + Duration::from_secs(60);
        while !self.answers() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "the server does not answer: {log}");
            std::thread::sleep(Duration::from_millis(20));
            // It refuses to begin as long as a process of the one that was killed before it is there.
            if !Path::new(&format!("/proc/{pid}")).exists() {
                pid = self.spawn();
            }
        }
        *self.pid.lock().unwrap() = Some(pid);
    }

    fn spawn(&self) -> u32 {
        let (told, pid) = mpsc::channel();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-k"]).arg(self.folder.path());
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=300"]);
        for option in &self.options {
            command.args(["-c", option]);
        }
        let log = std::fs::File::options().append(true).create(true).open(self.folder.path().join("log")).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        // The server ends with the thread that started it, so one that never ends does.
        std::thread::spawn(move || {
            let mut child = command.spawn().unwrap();
            told.send(child.id()).unwrap();
            child.wait().unwrap();
        });
        pid.recv().unwrap()
    }

    fn answers(&self) -> bool {
        let ready = Command::new(self.bin.join("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .status();
        ready.unwrap().success()
    }

    /// Ends the server as a failing machine does, and waits until it is gone.
    pub fn kill(&self) {
        self.signal("KILL");
    }

    /// Ends the server in order, without waiting for those who are connected.
    pub fn stop(&self) {
        self.signal("INT");
    }

    fn signal(&self, name: &str) {
        let Some(pid) = self.pid.lock().unwrap().take() else { return };
        let send = |name: &str, pid: &str| {
            let _ = Command::new("kill").args([&format!("-{name}"), pid]).stderr(Stdio::null()).status();
        };
        let proc = PathBuf::from(format!("/proc/{pid}"));
        if name == "KILL" {
            // All of it at once: a process that was overlooked could wait for ever for what one that was killed has locked. As
            // long as the first one is stopped there are no new ones.
            send("STOP", &pid.to_string());
            let is_stopped = || {
                let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_none_or(|rest| !rest.starts_with(['R', 'S', 'D']))
            };
            while !is_stopped() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let children = std::fs::read_to_string(proc.join(format!("task/{pid}/children"))).unwrap_or_default();
            children.split_whitespace().for_each(|child| send(name, child));
        }
        send(name, &pid.to_string());
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() || proc.exists() {
            assert!(Instant::now() < until, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A program of the server, as the user that may run it.
    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let Some(user) = user() else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL", "--"]);
        command.arg(program).current_dir("/");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the server's programs are. None if they are nowhere, which is said.
pub fn programs() -> Option<PathBuf> {
    let found = find_programs();
    if found.is_none() {
        assert!(std::env::var_os("PAR_TEST_REQUIRE_ALL").is_none(), "PostgreSQL is needed: apt-get install postgresql");
        super::skipped("the tests with PostgreSQL (apt-get install postgresql)");
    }
    found
}

fn find_programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PAR_TEST_PG_BIN").map(PathBuf::from).into_iter().collect();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.map(|version| version.unwrap().path().join("bin")).collect())
        .unwrap_or_default();
    debian.sort();
    folders.extend(debian.into_iter().rev());
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.into_iter().find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// Who runs the server, if we are root.
fn user() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then(|| {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        if passwd.lines().any(|line| line.starts_with("postgres:")) { "postgres" } else { "nobody" }
    })
}
