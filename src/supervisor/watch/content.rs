//! What is in the watched files, small enough to keep and to compare.
//!
//! In: a directory and the files named by its configuration. Out: [`ContentSnapshot`], and the directories
//! where a change to it would show. Never: fails. A file that cannot be read is content too: that it
//! vanished is a change, that it is back is another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

use crate::config;

/// Longest part of a file that is read, in bytes; of what is longer, the size is compared as well.
/// The same as the longest configuration file that is accepted.
const MAX_FILE_READ: u64 = 4 << 20;

/// Most files of the directory that are read: one more than a configuration may have.
const MAX_FILES_READ: usize = 1001;

/// Most symbolic links followed for one path, as in the kernel.
const MAX_SYMLINKS: usize = 40;

/// What is watched.
#[derive(Clone)]
pub(super) struct WatchedPaths {
    pub(super) directory: PathBuf,
    pub(super) files: Vec<PathBuf>,
}

/// What was in it at some time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ContentSnapshot {
    /// The `*.toml` files, or why there is no list of them.
    listed: Result<BTreeMap<PathBuf, FileFingerprint>, io::ErrorKind>,
    named: BTreeMap<PathBuf, FileFingerprint>,
}

/// One file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FileFingerprint {
    Read { size: u64, hash: [u8; 32] },
    Unreadable(io::ErrorKind),
}

impl WatchedPaths {
    /// Reads all files. Blocks.
    pub(super) fn read(&self) -> ContentSnapshot {
        let listed = list(&self.directory).map_err(|error| error.kind());
        let listed = listed.map(|paths| paths.into_iter().map(printed).collect());
        ContentSnapshot { listed, named: self.files.iter().cloned().map(printed).collect() }
    }

    /// The directories in which something happens when a file is changed, replaced, or becomes
    /// another because a symbolic link on the way to it does. Canonical. Blocks.
    pub(super) fn places(&self) -> BTreeSet<PathBuf> {
        let mut places = BTreeSet::new();
        add_places(&self.directory, &mut places);
        for path in list(&self.directory).unwrap_or_default().iter().chain(&self.files) {
            add_places(path, &mut places);
        }
        places
    }
}

impl ContentSnapshot {
    /// Makes `files` the named ones. What was known of them stays; the others are read. Blocks.
    pub(super) fn name(&mut self, files: &[PathBuf]) {
        let mut before = std::mem::take(&mut self.named);
        let entry =
            |path: &PathBuf| before.remove_entry(path).unwrap_or_else(|| printed(path.clone()));
        self.named = files.iter().map(entry).collect();
    }
}

/// The files that are configuration, as many as are looked at.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = config::list(directory)?;
    paths.truncate(MAX_FILES_READ);
    Ok(paths)
}

fn printed(path: PathBuf) -> (PathBuf, FileFingerprint) {
    let print = print(&path).unwrap_or_else(|error| FileFingerprint::Unreadable(error.kind()));
    (path, print)
}

fn print(path: &Path) -> io::Result<FileFingerprint> {
    // Opening a named pipe would wait for somebody to write into it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    (&file).take(MAX_FILE_READ).read_to_end(&mut bytes)?;
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    Ok(FileFingerprint::Read { size: file.metadata()?.len(), hash })
}

/// Adds the directory of every symbolic link on the way to `path`, and the one where it ends:
/// `path` itself if it is a directory, else the nearest one above that exists.
fn add_places(path: &Path, places: &mut BTreeSet<PathBuf>) {
    let Ok(mut path) = std::path::absolute(path) else { return };
    for _ in 0..MAX_SYMLINKS {
        let Some((link, target)) = first_link(&path) else { break };
        let place = link.parent().unwrap_or(&link);
        let rest = path.strip_prefix(&link).unwrap_or(Path::new(""));
        let next = place.join(target).join(rest);
        places.extend(fs::canonicalize(place));
        path = next;
    }
    let end = path.ancestors().find(|place| place.is_dir());
    places.extend(end.and_then(|place| fs::canonicalize(place).ok()));
}

fn first_link(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut so_far = PathBuf::new();
    path.components().find_map(|component| {
        so_far.push(component);
        fs::read_link(&so_far).ok().map(|target| (so_far.clone(), target))
    })
}
