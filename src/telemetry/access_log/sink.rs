//! Output of the access log: standard output, or a file that may be moved, removed, or rotated.
//!
//! Lines are never split: a line cut short by a full disk is completed when there is space, and a
//! file is rotated between two lines. Several processes may append to one file, as during a binary
//! upgrade.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::LogRotation;

/// Interval at which the file's name is checked to still refer to it.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Permissions of a new file.
const NEW_FILE_MODE: u32 = 0o640;
/// `O_NOFOLLOW`.
const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
/// Interval between attempts to write to a non-blocking pipe.
const PIPE_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Output of one log.
pub(super) struct LogSink {
    file: File,
    /// `None`: standard output.
    path: Option<PathBuf>,
    rotation: Option<LogRotation>,
    /// A warning that the file cannot be rotated was logged.
    complained: bool,
    looked: Instant,
    torn: Option<PartialLine>,
}

/// A line of which only a part was written.
struct PartialLine {
    line: Vec<u8>,
    written: usize,
    /// Length of the file after the partial write.
    length: u64,
}

impl LogSink {
    pub(super) fn stdout() -> io::Result<Self> {
        // Bypasses `io::stdout()`, whose buffer hides how much was not written.
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self {
            complained: false,
            file,
            path: None,
            rotation: None,
            looked: Instant::now(),
            torn: None,
        })
    }

    pub(super) fn open(path: &Path, rotation: Option<LogRotation>) -> io::Result<Self> {
        let file = append(path, None)?;
        let path = Some(path.to_owned());
        Ok(Self { complained: false, file, path, rotation, looked: Instant::now(), torn: None })
    }

    /// Name for log messages.
    pub(super) fn name(&self) -> String {
        self.path
            .as_ref()
            .map_or("on standard output".to_owned(), |path| path.display().to_string())
    }

    pub(super) fn rotate_by(&mut self, rotation: Option<LogRotation>) {
        self.rotation = rotation;
    }

    /// Switches to another file.
    pub(super) fn take(&mut self, file: File) {
        self.looked = Instant::now();
        let old = std::mem::replace(&mut self.file, file);
        let Some(torn) = &mut self.torn else { return };
        // The whole line moves to the new file. Its fragment is cut off the old file, unless
        // another process has written after it.
        if old.metadata().is_ok_and(|old| old.is_file() && old.len() == torn.length) {
            let _ = old.set_len(torn.length - torn.written as u64);
        }
        torn.written = 0;
    }

    /// Writes lines; the last one includes its line end.
    ///
    /// # Errors
    ///
    /// The number of dropped lines and the cause.
    pub(super) fn write(&mut self, bytes: &[u8], lines: u64) -> Result<(), (u64, io::Error)> {
        let mut length = self.reopen_if_moved().map_err(|error| (lines, error))?;
        if let Some(torn) = self.torn.take() {
            match put(&mut self.file, &torn.line, torn.written) {
                Ok(()) => length += (torn.line.len() - torn.written) as u64,
                Err((written, error)) => {
                    let length = length + (written - torn.written) as u64;
                    self.torn = Some(PartialLine { written, length, ..torn });
                    return Err((lines, error));
                }
            }
        }
        let (mut rest, mut left) = (bytes, lines);
        while !rest.is_empty() {
            let room = self.writable_len(&mut length, rest).map_err(|error| (left, error))?;
            let (part, further) = rest.split_at(room.min(rest.len()));
            if let Err((written, error)) = put(&mut self.file, part, 0) {
                let lost = self.keep_partial(part, written, length + written as u64);
                let further = count(further);
                return Err((lost + further, error));
            }
            length += part.len() as u64;
            left -= count(part);
            rest = further;
        }
        Ok(())
    }

    /// Keeps the line that was cut at `written`, if any. Returns the number of dropped lines of
    /// `part`.
    fn keep_partial(&mut self, part: &[u8], written: usize, length: u64) -> u64 {
        let (done, rest) = part.split_at(written);
        let begin = memchr::memrchr(b'\n', done).map_or(0, |end| end + 1);
        if begin == written {
            return count(rest);
        }
        let end = memchr::memchr(b'\n', rest).map_or(part.len(), |end| written + end + 1);
        let line = part.get(begin..end).unwrap_or_default().to_vec();
        self.torn = Some(PartialLine { line, written: written - begin, length });
        count(rest).saturating_sub(1)
    }

    /// Number of partially written lines: 0 or 1.
    pub(super) fn unfinished(&self) -> u64 {
        self.torn.is_some().into()
    }

    /// Drops the partially written line. Returns the number of dropped lines.
    pub(super) fn give_up(&mut self) -> u64 {
        self.torn.take().map_or(0, |_| 1)
    }

    /// Reopens the file if its name refers to another one. Returns the length of the open file.
    fn reopen_if_moved(&mut self) -> io::Result<u64> {
        let Some(path) = &self.path else { return Ok(0) };
        let there = self.file.metadata()?;
        if !there.is_file() {
            return Ok(0);
        }
        let removed = there.nlink() == 0;
        if !removed && self.looked.elapsed() < FILE_CHECK_INTERVAL {
            return Ok(there.len());
        }
        self.looked = Instant::now();
        let same = fs::symlink_metadata(path).is_ok_and(|named| is_same(&named, &there));
        if same && !removed {
            return Ok(there.len());
        }
        match append(path, Some(&there)) {
            Ok(file) => self.take(file),
            // Data written to a file without a name would be lost.
            Err(error) if removed => return Err(error),
            Err(_) => {}
        }
        Ok(self.file.metadata()?.len())
    }

    /// Number of bytes of `rest` that may be written before the next rotation. Rotates the file
    /// first if a line does not fit.
    fn writable_len(&mut self, length: &mut u64, rest: &[u8]) -> io::Result<usize> {
        let (Some(rotation), Some(path)) = (self.rotation, self.path.clone()) else {
            return Ok(rest.len());
        };
        let fits = |length: u64| {
            let room = usize::try_from(rotation.size.saturating_sub(length)).unwrap_or(usize::MAX);
            let room = rest.get(..room.min(rest.len())).unwrap_or_default();
            memchr::memrchr(b'\n', room).map(|end| end + 1)
        };
        if let Some(room) = fits(*length) {
            return Ok(room);
        }
        if *length > 0 && self.file.metadata()?.is_file() {
            match self.rotate(&path, rotation.keep) {
                Ok(new) => (*length, self.complained) = (new, false),
                Err(error) if rotation.strict => {
                    let said = format!("it is full and cannot be rotated: {error}");
                    return Err(io::Error::new(error.kind(), said));
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.complained, true) {
                        tracing::warn!(
                            "the access log {} cannot be rotated and grows further: {error}; make its directory \
                             writable for the gateway, or set `rotate = \"off\"` and have logrotate do it",
                            path.display()
                        );
                    }
                    return Ok(rest.len());
                }
            }
        }
        // A line longer than the size limit gets a file of its own.
        let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        Ok(fits(*length).unwrap_or(line))
    }

    /// Renames the file and its predecessors and opens a new one. Returns the length of the new
    /// file.
    fn rotate(&mut self, path: &Path, keep: u32) -> io::Result<u64> {
        // Another process may rotate at the same time. Where files cannot be locked, a single
        // process is assumed.
        let _ = self.file.lock();
        let there = self.file.metadata()?;
        if fs::symlink_metadata(path).is_ok_and(|named| is_same(&named, &there)) {
            let numbered = |number: u32| {
                let mut name = path.to_owned().into_os_string();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            };
            // Files left from a configuration that kept more.
            let mut beyond = keep + 1;
            while fs::remove_file(numbered(beyond)).is_ok() {
                beyond += 1;
            }
            // Files are shifted up to the first gap; without a gap the oldest is overwritten.
            let free = (1..keep).find(|number| !numbered(*number).exists()).unwrap_or(keep);
            for number in (1..free).rev() {
                fs::rename(numbered(number), numbered(number + 1))?;
            }
            fs::rename(path, numbered(1))?;
        }
        let file = append(path, Some(&there))?;
        let length = file.metadata()?.len();
        self.take(file);
        Ok(length)
    }
}

/// Opens a file for appending, and creates it if necessary: with the permissions of `like`, else
/// readable by owner and group. Symbolic links are not followed, so that a user with write access
/// to the directory cannot redirect lines to another file of the gateway's user. Exception: paths
/// below `/dev`, where `stdout` is a link.
pub(super) fn append(path: &Path, like: Option<&fs::Metadata>) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    options.mode(like.map_or(NEW_FILE_MODE, |like| like.permissions().mode() & 0o777));
    // Opening a named pipe only for writing would wait for a reader.
    if fs::metadata(path).is_ok_and(|there| there.file_type().is_fifo()) {
        options.read(true);
    }
    if !path.starts_with("/dev") {
        options.custom_flags(NO_FOLLOW);
    }
    options.open(path).map_err(|error| {
        if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            let said = "it is a symbolic link, which is not followed: name the file it leads to";
            return io::Error::new(error.kind(), said);
        }
        error
    })
}

fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn count(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Writes everything from `written` on. The error contains the number of bytes written by then.
fn put(file: &mut File, bytes: &[u8], mut written: usize) -> Result<(), (usize, io::Error)> {
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the descriptor has set `O_NONBLOCK`.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(PIPE_RETRY_INTERVAL);
            }
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}
