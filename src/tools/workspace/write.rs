//! Changing files: whole or not at all. New content is written beside the old and put in its place by one rename.

use super::{Access, Workspace};
use crate::tools::ToolFailure;
use cap_std::fs::{Dir, MetadataExt, OpenOptions, OpenOptionsExt, Permissions, PermissionsExt};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::Path;
use uuid::Uuid;

/// What was there before.
struct Old {
    mode: u32,
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl Workspace {
    /// Writes a file, whole; whether it was there before. Without `create_folders` its folder must be there.
    pub fn write(&self, path: &str, content: &[u8], create_folders: bool) -> Result<bool, ToolFailure> {
        let _changing = self.changing.lock();
        let (folder, name) = self.place(path, create_folders)?;
        let old = self.old(path, &folder, &name)?;
        self.put(path, &folder, &name, content, old.as_ref())?;
        Ok(old.is_some())
    }

    /// Reads a file, changes its text, and writes it whole. What `change` refuses changes nothing.
    pub fn edit<T>(
        &self,
        path: &str,
        most_bytes: u64,
        change: impl FnOnce(&str) -> Result<(String, T), ToolFailure>,
    ) -> Result<T, ToolFailure> {
        let _changing = self.changing.lock();
        let (folder, name) = self.place(path, false)?;
        let old = self.old(path, &folder, &name)?;
        let (file, metadata) = self.open_file(path)?;
        if metadata.len() > most_bytes {
            return Err(ToolFailure::new(format!(
                "{path:?} has {} bytes, more than the {most_bytes} that can be edited",
                metadata.len()
            ))
            .with_code("too_large"));
        }
        let mut bytes = Vec::new();
        file.take(most_bytes + 1).read_to_end(&mut bytes).map_err(|error| self.explain(path, &error))?;
        let text = String::from_utf8(bytes).map_err(|_| {
            ToolFailure::new(format!("{path:?} is not UTF-8 text and cannot be edited as text")).with_code("not_utf8")
        })?;
        let (changed, told) = change(&text)?;
        self.put(path, &folder, &name, changed.as_bytes(), old.as_ref())?;
        Ok(told)
    }

    /// The folder of a file that is to be changed, open, and the file's name in it.
    fn place(&self, path: &str, create_folders: bool) -> Result<(Dir, std::ffi::OsString), ToolFailure> {
        let relative = self.admit(path, Access::Write)?;
        let (Some(name), false) = (relative.file_name(), relative == Path::new(".")) else {
            return Err(ToolFailure::new(format!("{path:?} is the workspace itself, no file")).with_code("is_a_folder"));
        };
        let folder = relative.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if create_folders {
            self.create_folders(path, folder)?;
        }
        let folder = self.dir.open_dir(folder).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ToolFailure::new(format!("the folder of {path:?} is not there; set \"create_dirs\" to true to make it"))
                    .with_code("not_found")
            }
            _ => self.explain(path, &error),
        })?;
        self.check_resolved(path, &folder, Access::Write)?;
        Ok((folder, name.to_owned()))
    }

    /// Makes the folders that are missing, each in the one before, so that none is made behind a link to a protected place.
    fn create_folders(&self, path: &str, folder: &Path) -> Result<(), ToolFailure> {
        let mut at = self.dir.try_clone().map_err(|error| self.explain(path, &error))?;
        for name in folder.iter().filter(|name| *name != OsStr::new(".")) {
            self.check_resolved(path, &at, Access::Write)?;
            match at.create_dir(name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(self.explain(path, &error)),
                Ok(()) | Err(_) => {}
            }
            at = at.open_dir(name).map_err(|error| self.explain(path, &error))?;
        }
        Ok(())
    }

    /// What stands at that name; refused if it is no regular file.
    fn old(&self, path: &str, folder: &Dir, name: &OsStr) -> Result<Option<Old>, ToolFailure> {
        let metadata = match folder.symlink_metadata(name) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.explain(path, &error)),
        };
        if metadata.is_symlink() {
            return Err(ToolFailure::new(format!(
                "[workspace] {path:?} is a symbolic link; change the file it leads to by that file's own path"
            ))
            .with_code("workspace_symlink"));
        }
        if metadata.is_dir() {
            return Err(ToolFailure::new(format!("{path:?} is a folder")).with_code("is_a_folder"));
        }
        if !metadata.is_file() {
            return Err(ToolFailure::new(format!("{path:?} is no regular file but a device, pipe or socket"))
                .with_code("not_a_file"));
        }
        Ok(Some(Old {
            mode: metadata.mode() & 0o777,
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            size: metadata.size(),
        }))
    }

    /// Puts content in the place of what was there.
    fn put(
        &self,
        path: &str,
        folder: &Dir,
        name: &OsStr,
        content: &[u8],
        old: Option<&Old>,
    ) -> Result<(), ToolFailure> {
        let beside = format!(".par-{}", Uuid::new_v4());
        let written = write_beside(folder, &beside, content, old.map(|old| old.mode))
            .map_err(|error| self.explain(path, &error))
            .and_then(|()| {
                // The name itself, once more: what matters is what is replaced.
                let now = self.old(path, folder, name)?;
                let is_same = match (old, &now) {
                    (None, None) => true,
                    (Some(old), Some(now)) => {
                        (old.inode, old.modified, old.size) == (now.inode, now.modified, now.size)
                    }
                    (None, Some(_)) | (Some(_), None) => false,
                };
                if !is_same {
                    return Err(ToolFailure::new(format!(
                        "{path:?} was changed by somebody else meanwhile; read it again"
                    ))
                    .with_code("changed_meanwhile")
                    .retryable());
                }
                folder.rename(&beside, folder, name).map_err(|error| self.explain(path, &error))
            });
        if written.is_err() {
            // It may not have come to be.
            let _ = folder.remove_file(&beside);
        }
        written
    }
}

fn write_beside(folder: &Dir, beside: &str, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o666).custom_flags(libc::O_NOFOLLOW);
    let mut file = folder.open_with(beside, &options)?;
    file.write_all(content)?;
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    // What is renamed into place must be there after a crash.
    file.sync_data()
}
