//! A disk that is soon full: a small file system that only one test sees.
//!
//! ```ignore
//! #[test]
//! fn a_full_disk_is_told() {
//!     let Some(folder) = small_disk::folder() else {
//!         return small_disk::run("a_full_disk_is_told", 2, small_disk::As::Root);
//!     };
//!     let junk = small_disk::fill(&folder);
//!     // … what is written now fails …
//!     std::fs::remove_file(junk).unwrap();
//!     // … and succeeds again.
//! }
//! ```

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FOLDER: &str = "PAR_TEST_SMALL";

/// Who the test is there.
pub enum As {
    /// Who may mount.
    Root,
    /// Who may run servers that refuse to run as root.
    User,
}

/// Where the small file system is; none in a test that has to be run again to see it.
pub fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Runs a test of this program again, in a mount namespace of its own. Its temporary files are in the small file system, too.
pub fn run(test: &str, megabytes: u32, run_as: As) {
    let place = tempfile::tempdir().unwrap();
    let who = match run_as {
        As::Root => "",
        As::User => "unshare --user --map-user=1000",
    };
    let script = format!(
        "mount -t tmpfs -o size={megabytes}m none \"${FOLDER}\" || exit 77; \
         export TMPDIR=\"${FOLDER}\"; exec {who} \"$0\" {test} --exact --nocapture"
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, place.path())
        .output();
    let said = |output: &Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    match output {
        Ok(output) if output.status.success() => assert!(said(&output).contains("1 passed"), "{}", said(&output)),
        Ok(output) if output.status.code() != Some(77) && said(&output).contains("panicked") => {
            panic!("{}", said(&output))
        }
        other => {
            assert!(std::env::var_os("PAR_TEST_REQUIRE_ALL").is_none(), "no mount namespace to be had: {other:?}");
            super::skipped("a full disk: no mount namespace to be had");
        }
    }
}

/// Fills the disk with a file that can be removed again.
pub fn fill(folder: &Path) -> PathBuf {
    let junk = folder.join("junk");
    let mut file = File::create(&junk).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    junk
}
