//! Content of the watched files, as fingerprints that can be kept and compared.
//!
//! The input is a directory and the files that its configuration names. The output is a
//! [`ContentSnapshot`], and the directories to watch for changes. Reading never fails: an error is
//! part of the snapshot, so that a file that vanishes or returns is a change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

use crate::config;

/// Maximum number of bytes read of a file, equal to the size limit of configuration files. Further
/// bytes count only through the size, which is part of the fingerprint.
const MAX_FILE_READ: u64 = 4 << 20;

/// Maximum number of files read in the directory: one more than a configuration may have.
const MAX_FILES_READ: usize = 1001;

/// Maximum number of symbolic links followed for one path, as in the kernel.
const MAX_SYMLINKS: usize = 40;

/// The watched directory and files.
#[derive(Clone)]
pub(super) struct WatchedPaths {
    pub(super) directory: PathBuf,
    pub(super) files: Vec<PathBuf>,
}

/// Fingerprints of all watched files at one time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ContentSnapshot {
    /// The `*.toml` files, or the error of listing the directory.
    listed: Result<BTreeMap<PathBuf, FileFingerprint>, io::ErrorKind>,
    named: BTreeMap<PathBuf, FileFingerprint>,
}

/// Size and hash of a file, or the error of reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FileFingerprint {
    Read { size: u64, hash: [u8; 32] },
    Unreadable(io::ErrorKind),
}

impl WatchedPaths {
    /// Reads all files. Blocks.
    pub(super) fn read(&self) -> ContentSnapshot {
        let listed = list(&self.directory).map_err(|error| error.kind());
        let listed = listed.map(|paths| paths.into_iter().map(fingerprint_entry).collect());
        ContentSnapshot {
            listed,
            named: self.files.iter().cloned().map(fingerprint_entry).collect(),
        }
    }

    /// Directories with an event for every change of a watched file, including changes of symbolic
    /// links on its path. The paths are canonical. Blocks.
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
    /// Replaces the set of named files. Known files keep their fingerprint; new ones are read.
    /// Blocks.
    pub(super) fn set_files(&mut self, files: &[PathBuf]) {
        let mut before = std::mem::take(&mut self.named);
        let entry = |path: &PathBuf| {
            before.remove_entry(path).unwrap_or_else(|| fingerprint_entry(path.clone()))
        };
        self.named = files.iter().map(entry).collect();
    }
}

/// Configuration files of a directory, at most [`MAX_FILES_READ`].
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = config::list(directory)?;
    paths.truncate(MAX_FILES_READ);
    Ok(paths)
}

fn fingerprint_entry(path: PathBuf) -> (PathBuf, FileFingerprint) {
    let fingerprint =
        fingerprint(&path).unwrap_or_else(|error| FileFingerprint::Unreadable(error.kind()));
    (path, fingerprint)
}

fn fingerprint(path: &Path) -> io::Result<FileFingerprint> {
    // Opening a named pipe would block until another program writes to it.
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

/// Adds the directory of every symbolic link in `path`, and the directory of its target: `path`
/// itself if it is a directory, else the nearest parent that exists.
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
