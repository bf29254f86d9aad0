//! Places that no file tool touches, wherever the workspace is: the system's own, and where people keep their keys.

use super::Access;
use std::path::{Path, PathBuf};

/// Folders of the system.
const SYSTEM: &[&str] = &["/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var"];
/// Of which a workspace may be inside: programs keep their data there.
const MAY_HOLD_A_WORKSPACE: &[&str] = &["/var"];
/// In the user's folder.
const OF_THE_USER: &[&str] =
    &[".aws", ".azure", ".config/gcloud", ".docker", ".gnupg", ".kube", ".netrc", ".password-store", ".ssh"];

/// See the module's head.
pub struct Protected {
    /// Every place.
    places: Vec<PathBuf>,
    /// Those that lie in the workspace, relative to its root.
    below: Vec<PathBuf>,
    /// The runtime's own files that lie in the workspace, relative to its root.
    own: Vec<PathBuf>,
}

impl Protected {
    /// The places, seen from a workspace. `own`: the runtime's own files.
    pub fn new(root: &Path, own: &[PathBuf]) -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let home = home.map(|home| home.canonicalize().unwrap_or(home));
        let of_the_user = home.iter().flat_map(|home| OF_THE_USER.iter().map(|place| home.join(place)));
        let places: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).chain(of_the_user).collect();
        let below = places.iter().filter_map(|place| place.strip_prefix(root).ok()).map(Path::to_owned).collect();
        let own = own.iter().filter_map(|file| file.strip_prefix(root).ok()).map(Path::to_owned).collect();
        Self { places, below, own }
    }

    /// The place that the workspace itself is in.
    pub fn contains_root(&self, root: &Path) -> Option<&Path> {
        let may = |place: &Path| MAY_HOLD_A_WORKSPACE.iter().any(|other| Path::new(other) == place && place != root);
        self.places.iter().map(PathBuf::as_path).find(|place| root.starts_with(place) && !may(place))
    }

    /// The places in the workspace, relative to its root.
    pub fn below(&self) -> impl Iterator<Item = &Path> {
        self.below.iter().map(PathBuf::as_path)
    }

    /// Whether none is in the workspace.
    pub fn is_empty(&self) -> bool {
        self.below.is_empty() && self.own.is_empty()
    }

    /// Why a path, relative to the root, is protected.
    pub fn reason(&self, relative: &Path, access: Access) -> Option<&'static str> {
        if self.below.iter().any(|place| relative.starts_with(place)) {
            return Some("it is the system's, or holds keys");
        }
        if self.own.iter().any(|file| relative == file) {
            return Some("it is the runtime's own database");
        }
        // Hooks and settings in it are run by whoever uses the repository next.
        let is_git = |part: std::path::Component<'_>| part.as_os_str().eq_ignore_ascii_case(".git");
        (access == Access::Write && relative.components().any(is_git))
            .then_some("git's own files are changed by git only")
    }
}
