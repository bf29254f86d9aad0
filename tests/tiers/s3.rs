//! A real S3-compatible server, which checks signatures: moto.
//!
//! `tests/scripts/s3_server.sh install` installs it; where it is not, the tests say so and are done, or fail under
//! `PAR_TEST_REQUIRE_ALL`.

use super::archive::{replayed, stored, unpacked};
use super::{Place, call, kill, noise, say, told, until};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A policy that allows everything of S3, as a form has it.
const ANYTHING: &str = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C\
                      %22Action%22%3A%22s3%3A%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";

struct Server {
    process: Child,
    port: u16,
    /// The id and the key.
    key: (String, String),
}

fn script(verb: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/s3_server.sh"))
        .arg(verb)
        .args(std::env::var("PAR_TEST_S3_DIR").ok())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

impl Server {
    fn start() -> Option<Self> {
        if !script("installed").status().unwrap().success() {
            assert!(
                std::env::var_os("PAR_TEST_REQUIRE_ALL").is_none(),
                "the S3-compatible server is required and not installed"
            );
            super::support::skipped("no S3-compatible server (tests/scripts/s3_server.sh install)");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self::start_at(port))
    }

    /// With an empty bucket, and a new key for it.
    fn start_at(port: u16) -> Self {
        let process = script("run").arg(port.to_string()).spawn().unwrap();
        let mut server = Self { process, port, key: Default::default() };
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.try_http("GET", "/moto-api/", "").is_none() {
            assert!(Instant::now() < deadline, "the S3-compatible server does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        server.iam("Action=CreateUser&UserName=par");
        let made = server.iam("Action=CreateAccessKey&UserName=par");
        server.iam(&format!("Action=PutUserPolicy&UserName=par&PolicyName=all&PolicyDocument={ANYTHING}"));
        server.http("PUT", "/bucket", "");
        server.checks(true);
        let between = |from: &str| made.split(from).nth(1).unwrap().split('<').next().unwrap().to_owned();
        server.key = (between("<AccessKeyId>"), between("<SecretAccessKey>"));
        server
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn iam(&self, action: &str) -> String {
        self.http("POST", "/", &format!("{action}&Version=2010-05-08"))
    }

    fn http(&self, method: &str, path: &str, body: &str) -> String {
        String::from_utf8_lossy(&self.try_http(method, path, body).unwrap()).into_owned()
    }

    fn try_http(&self, method: &str, path: &str, body: &str) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let (service, kind) = match path {
            "/" if body.contains("2011-06-15") => ("sts", "application/x-www-form-urlencoded"),
            "/" => ("iam", "application/x-www-form-urlencoded"),
            _ => ("s3", "text/plain"),
        };
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\
             Content-Type: {kind}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/{service}/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let body = answer.split_off(end + 4);
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{method} {path}: {}", String::from_utf8_lossy(&answer));
        Some(body)
    }

    /// Whether requests must be signed, by who may do what they ask for.
    fn checks(&self, on: bool) {
        self.http("POST", "/moto-api/reset-auth", if on { "0" } else { "1000000" });
    }

    /// All that is in the bucket, by name. The server looks away meanwhile.
    fn objects(&self) -> BTreeMap<String, String> {
        self.checks(false);
        let list = self.http("GET", "/bucket?list-type=2&max-keys=1000", "");
        let keys = list.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned());
        let found = keys
            .map(|key| {
                let packed = self.try_http("GET", &format!("/bucket/{key}"), "").unwrap();
                (key, unpacked(&packed))
            })
            .collect();
        self.checks(true);
        found
    }

    /// The bucket, with the key in these files.
    fn bucket(&self, keys: &Keys) -> Value {
        json!({"type": "s3", "bucket": "bucket", "prefix": "a/day=1/", "endpoint": format!("http://127.0.0.1:{}", self.port),
               "access_key_id": {"file": keys.id}, "secret_access_key": {"file": keys.key}})
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A key in files.
struct Keys {
    id: PathBuf,
    key: PathBuf,
}

impl Keys {
    fn new(place: &Place) -> Self {
        Self { id: place.folder.path().join("id"), key: place.folder.path().join("key") }
    }

    fn write(&self, key: &(String, String)) {
        std::fs::write(&self.id, &key.0).unwrap();
        std::fs::write(&self.key, &key.1).unwrap();
    }
}

#[test]
fn a_bucket_is_forwarded_to_and_read_back() {
    let Some(server) = Server::start() else { return };
    let (place, wrong) = (Place::new(), ("AKIA0".to_owned(), "none".to_owned()));
    let keys = Keys::new(&place);
    keys.write(&wrong);
    let forward = json!({"to": server.bucket(&keys), "interval_seconds": 0.05, "max_batch_bytes": 65_536});
    let runtime = place.open(forward);
    for number in 0..12 {
        say(&runtime, &format!("s{}", number % 3), &format!("{number} {}", noise(8_000)));
    }
    until("the key is refused", || told(&runtime)["failures"].as_u64().unwrap() > 0);
    assert_eq!(told(&runtime)["error"]["code"], "archive_unavailable");
    assert!(told(&runtime)["error"]["message"].as_str().unwrap().contains("403"), "{}", told(&runtime));
    // A key that is changed is read again.
    keys.write(&server.key);
    let shipped = call(&runtime, "store.forward", json!({})).unwrap();
    assert!(shipped["batches"].as_u64().unwrap() > 2, "{shipped}");
    call(&runtime, "sessions.delete", json!({"session": "s0"})).unwrap();
    call(&runtime, "store.forward", json!({})).unwrap();
    runtime.close(None).unwrap();
    let objects = server.objects();
    assert!(objects.keys().all(|name| name.starts_with("a/day=1/")), "{:?}", objects.keys());
    assert_eq!(replayed(&objects), stored(&place.database()));

    let (runtime, told) = super::restored(&place, "new.db", json!({"from": server.bucket(&keys)})).unwrap();
    assert_eq!((&told["runs"], &told["sessions"]), (&json!(12), &json!(2)), "{told}");
    assert_eq!(call(&runtime, "store.verify", json!({})).unwrap(), json!({"ok": true, "problems": []}));
    say(&runtime, "s1", "it goes on");
    runtime.close(None).unwrap();
}

#[test]
fn a_server_that_was_away_gets_what_it_missed() {
    let Some(mut server) = Server::start() else { return };
    let place = Place::new();
    let keys = Keys::new(&place);
    keys.write(&server.key);
    let forward = json!({"to": server.bucket(&keys), "interval_seconds": 0.05});
    let runtime = place.open(forward);
    for number in 0..5 {
        say(&runtime, "s", &format!("before {number}"));
    }
    call(&runtime, "store.forward", json!({})).unwrap();
    let mut objects = server.objects();
    assert!(!objects.is_empty());
    server.stop();
    for number in 0..5 {
        say(&runtime, "s", &format!("meanwhile {number}"));
    }
    until("it is missed", || told(&runtime)["failures"].as_u64().unwrap() > 1);
    let away = told(&runtime);
    assert_eq!(away["state"], "failing");
    assert!(away["pending"].as_u64().unwrap() > 0 && away["lag_seconds"].as_f64().unwrap() > 0.0, "{away}");
    // What it had is gone with its memory; what is left here is not.
    server = Server::start_at(server.port);
    keys.write(&server.key);
    until("it caught up", || told(&runtime)["pending"] == 0);
    assert_eq!(told(&runtime)["state"], "on");
    say(&runtime, "s", "after");
    call(&runtime, "store.forward", json!({})).unwrap();
    runtime.close(None).unwrap();
    objects.extend(server.objects());
    assert_eq!(replayed(&objects), stored(&place.database()));
}

#[test]
fn a_killed_process_has_shipped_everything_to_a_bucket() {
    let Some(server) = Server::start() else { return };
    let place = Place::new();
    // The key is in the environment.
    let to = json!({"type": "s3", "bucket": "bucket", "endpoint": format!("http://127.0.0.1:{}", server.port)});
    let forward = json!({"to": to, "interval_seconds": 0.05, "max_batch_bytes": 65_536});
    let (id, key) = &server.key;
    kill::kill_often(&place.database(), &forward, 8, &[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", key)]);
    // The same place, whatever the key.
    let keys = Keys::new(&place);
    keys.write(&server.key);
    let mut to = server.bucket(&keys);
    to["prefix"] = json!("");
    let runtime = place.open(json!({"to": to, "interval_seconds": 0.05}));
    call(&runtime, "store.forward", json!({})).unwrap();
    runtime.close(None).unwrap();
    let objects = server.objects();
    assert!(objects.len() > 1, "{} objects", objects.len());
    assert_eq!(replayed(&objects), stored(&place.database()));
}

/// Answers every request with these credentials, as the agent of a pod does, to whoever has its token.
fn role(credentials: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/credentials", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.extend(byte);
            }
            let is_allowed = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("authorization: of the pod");
            let (status, body) = if is_allowed { ("200 OK", credentials.as_str()) } else { ("401 Unauthorized", "") };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            // Whoever asked may have been killed.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn the_key_of_a_role_is_fetched() {
    let Some(server) = Server::start() else { return };
    let place = Place::new();
    server.checks(false);
    server.iam(&format!("Action=CreateRole&RoleName=pod&AssumeRolePolicyDocument={ANYTHING}"));
    server.iam(&format!("Action=PutRolePolicy&RoleName=pod&PolicyName=all&PolicyDocument={ANYTHING}"));
    let role_arn = "arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fpod";
    let taken =
        server.http("POST", "/", &format!("Action=AssumeRole&RoleArn={role_arn}&RoleSessionName=x&Version=2011-06-15"));
    server.checks(true);
    let between = |from: &str| taken.split(from).nth(1).unwrap().split('<').next().unwrap();
    let credentials = json!({"AccessKeyId": between("<AccessKeyId>"), "SecretAccessKey": between("<SecretAccessKey>"),
                             "Token": between("<SessionToken>"), "Expiration": "2099-01-01T00:00:00Z"});
    let url = role(credentials.to_string());
    let token = place.folder.path().join("token");
    std::fs::write(&token, "of the pod").unwrap();
    let to = json!({"type": "s3", "bucket": "bucket", "endpoint": format!("http://127.0.0.1:{}", server.port)});
    let forward = json!({"to": to, "interval_seconds": 0.05, "max_batch_bytes": 65_536});
    let keys = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let mut rounds = 0;
    while server.objects().is_empty() {
        assert!(rounds < 20, "nothing was shipped");
        kill::kill_often(&place.database(), &forward, 5, &keys);
        rounds += 1;
    }
}
