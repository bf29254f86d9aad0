//! A process that ships is killed, again and again: nothing of what it kept is missing, and nothing is there twice.

use super::{call, try_open};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Set for the child alone.
const DATABASE: &str = "PAR_TIERS_DATABASE";
const FORWARD: &str = "PAR_TIERS_FORWARD";
const ROUND: &str = "PAR_TIERS_ROUND";

/// Sessions come, change and go, without an end.
#[test]
fn child() {
    let Some(database) = std::env::var_os(DATABASE).map(PathBuf::from) else { return };
    let forward: Value = serde_json::from_str(&std::env::var(FORWARD).unwrap()).unwrap();
    let round = std::env::var(ROUND).unwrap();
    let runtime = try_open(&database, forward, json!({})).unwrap();
    println!("ready");
    for number in 0_u64.. {
        let session = format!("s{}", number % 7);
        super::say(&runtime, &session, &format!("{round} {number} {}", super::noise(2_000)));
        if number % 11 == 10 {
            call(&runtime, "sessions.delete", json!({"session": session})).unwrap();
        }
    }
}

/// Starts a child and kills it, so often. `keys`: environment of the child.
pub fn kill_often(database: &Path, forward: &Value, kills: u64, keys: &[(&str, &str)]) {
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(DATABASE, database)
            .env(FORWARD, forward.to_string())
            .env(ROUND, round.to_string())
            .envs(keys.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = lines.by_ref().any(|line| line.unwrap().contains("ready"));
        // Anywhere in what it does; what that is differs from one round to the next.
        std::thread::sleep(Duration::from_millis(20 + round * 37 % 130));
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(is_ready && output.status.code().is_none(), "round {round}: it ended by itself: {said}");
    }
}

#[test]
fn a_killed_process_has_shipped_everything_in_the_end() {
    let place = super::Place::new();
    let mut forward = place.forward();
    forward["max_batch_bytes"] = json!(65_536);
    kill_often(&place.database(), &forward, 25, &[]);
    let runtime = place.open(forward);
    let shipped = call(&runtime, "store.forward", json!({})).unwrap();
    assert_eq!(shipped["pending"], 0);
    assert_eq!(call(&runtime, "store.verify", json!({})).unwrap()["ok"], true);
    runtime.close(None).unwrap();
    let objects = super::objects(&place.archive());
    assert!(objects.len() > 5, "{} objects: too few were shipped while it was killed", objects.len());
    super::assert_shipped(&place);
    // What was half written when it was killed is gone.
    let source = std::fs::read_dir(place.archive()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_dir(source).unwrap().count(), objects.len());
}
