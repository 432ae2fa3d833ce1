use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::LogRotation;
use crate::telemetry::line::{Key, LineWriter};

use super::*;

/// A numbered line with padding.
struct Numbered(u64, usize);

impl LogEvent for Numbered {
    fn write_fields<L: LineWriter>(&self, line: &mut L) {
        line.number(Key::Status, self.0);
        line.text(Key::Error, &vec![b'x'; self.1]);
    }
}

fn config(path: &Path, rotation: Option<LogRotation>) -> config::AccessLog {
    let target = LogTarget::File { path: path.to_owned(), rotation };
    config::AccessLog { target, ..config::AccessLog::default() }
}

fn open(path: &Path, rotation: Option<LogRotation>) -> (AccessLogWriter, IntCounter) {
    let counter = |name| IntCounter::new(name, "lines").unwrap();
    let (written, dropped) = (counter("written"), counter("dropped"));
    let counts = LineCounts { written, dropped: dropped.clone() };
    (AccessLogWriter::open(&config(path, rotation), counts).unwrap(), dropped)
}

fn add(lines: &WorkerLines, numbers: std::ops::Range<u64>) {
    for number in numbers {
        lines.add(&TimestampCache::default(), &Numbered(number, 10));
    }
}

/// Numbers of the lines in a file, each of which must be complete.
fn numbers(path: impl AsRef<Path>) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is cut");
    let number =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].as_u64();
    text.lines().map(|line| number(line).unwrap()).collect()
}

/// Lines in the queue.
fn waiting(log: &AccessLogWriter) -> u64 {
    log.writer.as_ref().unwrap().pipe().waiting.load(Ordering::Relaxed)
}

fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
}

#[test]
fn writes_every_line_before_it_finishes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (log, dropped) = open(&path, None);
    let lines = log.handle().lines();
    add(&lines, 0..5000);
    drop(lines);
    log.finish();
    assert_eq!(numbers(&path).len() as u64 + dropped.get(), 5000);
}

#[test]
fn goes_on_in_a_new_file_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let (log, _) = open(&path, None);
    let (lines, reopener) = (log.handle().lines(), log.reopener());
    add(&lines, 1..2);
    lines.flush();
    until(|| numbers(&path) == [1]);
    fs::rename(&path, &moved).unwrap();
    reopener.reopen().unwrap();
    add(&lines, 2..3);
    drop((lines, reopener));
    log.finish();
    assert_eq!((numbers(moved), numbers(path)), (vec![1], vec![2]));
}

#[test]
fn goes_on_in_a_new_file_when_the_old_one_was_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let (log, dropped) = open(&path, None);
    let lines = log.handle().lines();
    fs::rename(&path, &moved).unwrap();
    until(|| {
        !numbers(&path).is_empty() || {
            // Until the move is noticed, lines go to the moved file.
            add(&lines, 0..1);
            lines.flush();
            until(|| waiting(&log) == 0);
            false
        }
    });
    add(&lines, 7..8);
    drop(lines);
    log.finish();
    assert_eq!(dropped.get(), 0);
    assert_eq!(numbers(&path).last(), Some(&7));
    assert!(!numbers(&moved).contains(&7));
}

#[test]
fn a_removed_file_is_replaced_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (log, dropped) = open(&path, None);
    let lines = log.handle().lines();
    fs::remove_file(&path).unwrap();
    add(&lines, 0..3);
    drop(lines);
    log.finish();
    assert_eq!((numbers(&path), dropped.get()), (vec![0, 1, 2], 0));
}

#[test]
fn what_a_file_without_a_name_would_get_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("below").join("access.log");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let (log, dropped) = open(&path, None);
    fs::remove_file(&path).unwrap();
    fs::remove_dir(path.parent().unwrap()).unwrap();
    let said = log.reopener().reopen().unwrap_err();
    assert!(said.contains("lines still go to the old file"), "{said}");
    let lines = log.handle().lines();
    add(&lines, 0..2);
    lines.flush();
    until(|| dropped.get() == 2);
    // The log recovers by itself.
    fs::create_dir(path.parent().unwrap()).unwrap();
    add(&lines, 2..3);
    drop(lines);
    log.finish();
    assert_eq!(numbers(&path), [2]);
}

#[test]
fn counts_what_a_full_disk_loses() {
    let (log, dropped) = open(Path::new("/dev/full"), None);
    add(&log.handle().lines(), 0..3);
    log.finish();
    assert_eq!(dropped.get(), 3);
}

#[test]
fn nobody_waits_for_a_pipe_that_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let (log, dropped) = open(&path, None);
    let lines = log.handle().lines();
    // More lines than the pipe and the queue can hold.
    let many = 100_000;
    add(&lines, 0..many);
    lines.flush();
    assert!(dropped.get() > 0);
    // A new reader receives all lines that were not dropped.
    let mut reader = File::options().read(true).write(true).open(&path).unwrap();
    let reading = std::thread::spawn(move || {
        let (mut seen, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        while !seen.ends_with(b"\"status\":4242,\"error\":\"\"}\n") {
            let read = reader.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..read]);
        }
        memchr::memchr_iter(b'\n', &seen).count() as u64
    });
    until(|| waiting(&log) == 0);
    lines.add(&TimestampCache::default(), &Numbered(4242, 0));
    drop(lines);
    log.finish();
    assert_eq!(reading.join().unwrap() + dropped.get(), many + 1);
}

#[test]
fn rotation_keeps_so_many_files_of_that_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let numbered = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    // Files left from a configuration that kept more.
    for number in 3..6 {
        fs::write(numbered(number), "").unwrap();
    }
    let rotation = LogRotation { size: 10_000, keep: 3, strict: true };
    let (log, dropped) = open(&path, Some(rotation));
    let lines = log.handle().lines();
    for number in 0..2000 {
        lines.add(
            &TimestampCache::default(),
            &Numbered(number, usize::try_from(number % 90).unwrap()),
        );
        if number % 50 == 0 {
            lines.flush();
            until(|| waiting(&log) == 0);
        }
    }
    drop(lines);
    log.finish();
    assert_eq!(dropped.get(), 0);
    let files = [numbered(3), numbered(2), numbered(1), path.clone()];
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= rotation.size);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    let kept: Vec<u64> = files.iter().flat_map(numbers).collect();
    assert_eq!(kept.last(), Some(&1999));
    assert!(
        kept.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "a line is missing between two files"
    );
}

#[test]
fn two_processes_rotate_one_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let rotation = Some(LogRotation { size: 5_000, keep: 500, strict: true });
    let logs = [open(&path, rotation), open(&path, rotation)];
    for round in 0..100 {
        for (number, (log, _)) in (0..).zip(&logs) {
            let lines = log.handle().lines();
            add(&lines, round * 20 + number * 10..round * 20 + number * 10 + 10);
        }
        // Waits, because this test covers files and not the queue.
        for (log, _) in &logs {
            until(|| waiting(log) == 0);
        }
    }
    let mut dropped = 0;
    for (log, counter) in logs {
        log.finish();
        dropped += counter.get();
    }
    let mut all: Vec<u64> = Vec::new();
    for entry in fs::read_dir(dir.path()).unwrap() {
        all.extend(numbers(entry.unwrap().path()));
    }
    all.sort_unstable();
    assert_eq!(dropped, 0);
    assert_eq!(all, (0..2000).collect::<Vec<_>>());
}

#[test]
fn a_line_longer_than_a_file_has_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (log, _) = open(&path, Some(LogRotation { size: 1000, keep: 5, strict: true }));
    let lines = log.handle().lines();
    for (number, length) in [(0, 10), (1, 3000), (2, 10)] {
        lines.add(&TimestampCache::default(), &Numbered(number, length));
    }
    drop(lines);
    log.finish();
    let file = |number: u32| numbers(format!("{}.{number}", path.display()));
    assert_eq!((file(2), file(1), numbers(&path)), (vec![0], vec![1], vec![2]));
}

#[test]
fn changes_place_and_form_while_lines_come_in() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let (mut log, dropped) = open(&first, None);
    let lines = log.handle().lines();
    add(&lines, 0..10);
    let next = config::AccessLog { format: config::LogFormat::Combined, ..config(&second, None) };
    let writer = log.opener().open(&next).unwrap();
    assert!(log.change(&next, writer));
    lines.change(log.handle());
    add(&lines, 10..13);
    // Same path: only the format changes, and the writer stays.
    let form = config(&second, Some(LogRotation { size: 1 << 20, keep: 1, strict: true }));
    assert!(log.opener().open(&form).unwrap().is_none());
    assert!(log.change(&form, None));
    lines.change(log.handle());
    assert!(!log.change(&form, None));
    add(&lines, 13..14);
    let off = config::AccessLog { target: LogTarget::Off, ..config::AccessLog::default() };
    assert!(log.opener().open(&off).unwrap().is_none());
    assert!(log.change(&off, None));
    lines.change(log.handle());
    add(&lines, 14..20);
    drop(lines);
    log.finish();
    assert_eq!(numbers(&first), (0..10).collect::<Vec<_>>());
    let text = fs::read_to_string(&second).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("- - - [")).count(), 3);
    assert!(text.lines().last().unwrap().contains("\"status\":13,"));
    assert_eq!(dropped.get(), 0);
}

#[test]
fn a_new_file_is_not_for_everybody_and_a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("access.log"), dir.path().join("link.log"));
    let (log, _) = open(&path, None);
    log.finish();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let counts = LineCounts {
        written: IntCounter::new("written", "lines").unwrap(),
        dropped: IntCounter::new("dropped", "lines").unwrap(),
    };
    let error = AccessLogWriter::open(&config(&link, None), counts).err().unwrap().to_string();
    assert!(error.contains("symbolic link"), "{error}");
}

#[test]
fn a_file_that_nobody_asked_to_rotate_grows_where_it_cannot_be_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    // Blocks the name of the first rotated file, also for root.
    fs::create_dir_all(dir.path().join("access.log.1").join("full")).unwrap();
    let (log, dropped) = open(&path, Some(LogRotation { size: 1000, keep: 1, strict: false }));
    let lines = log.handle().lines();
    add(&lines, 0..100);
    drop(lines);
    log.finish();
    assert_eq!((numbers(&path).len(), dropped.get()), (100, 0));
}
