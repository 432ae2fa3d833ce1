//! Reads the text of the files of a configuration directory.
//!
//! The result is [`Sources`], sorted by name. Subdirectories are not read, nor files that editors
//! or Kubernetes leave beside the configuration (`x.toml~`, `.x.toml.swp`, `..data`).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::problem::{Findings, Problem, SourceFile, Sources};

/// Maximum size of a file, in bytes. A larger file is not a handwritten configuration.
const MAX_FILE_LEN: u64 = 4 << 20;

/// Maximum number of files.
const MAX_FILES: usize = 1000;

/// Reads every `*.toml` of `dir`. A file that cannot be read is reported and left out.
pub(super) fn read(dir: &Path, found: &mut Findings) -> Sources {
    let mut sources = Sources::default();
    let paths = match list(dir) {
        Ok(paths) => paths,
        Err(error) => {
            found.push(no_directory(dir, &error));
            return sources;
        }
    };
    if paths.is_empty() {
        found.push(
            Problem::nowhere(
                "files.none",
                format!("there is no `*.toml` file in `{}`", dir.display()),
            )
            .with_help("copy the shipped `config/` directory there, or name another one"),
        );
    }
    if paths.len() > MAX_FILES {
        let message = format!("`{}` holds more than {MAX_FILES} `*.toml` files", dir.display());
        found.push(Problem::nowhere("files.too-many", message));
        return sources;
    }
    for path in paths {
        match text(&path) {
            Ok(text) => {
                sources.files.push(SourceFile { name: path.display().to_string(), text });
            }
            Err(problem) => found.push(problem),
        }
    }
    sources
}

/// Description of a failed I/O operation, without the error number.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::NotADirectory => "it is not a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// The configuration files of `dir`, sorted: its `*.toml`, without hidden files and directories.
///
/// # Errors
///
/// The operating system's, if the directory cannot be listed.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let visible = path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
        if visible
            && path.extension().is_some_and(|extension| extension == "toml")
            && !path.is_dir()
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn no_directory(dir: &Path, error: &io::Error) -> Problem {
    let shown = dir.display();
    let message =
        format!("the configuration directory `{shown}` cannot be read: {}", reason(error));
    let help = match (error.kind(), dir.parent()) {
        (io::ErrorKind::NotADirectory, Some(parent)) if dir.is_file() => {
            format!("the whole directory is the configuration: name `{}`", parent.display())
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "the user the gateway runs as needs to read and enter it".to_owned()
        }
        _ => "create it with a copy of the shipped `config/` directory, or name another one"
            .to_owned(),
    };
    Problem::nowhere("files.no-directory", message).with_help(help)
}

#[expect(clippy::result_large_err, reason = "once per file")]
fn text(path: &Path) -> Result<String, Problem> {
    let unreadable = |why: String, help: &str| {
        let message = format!("`{}` cannot be read: {why}", path.display());
        Problem::nowhere("files.unreadable", message).with_help(help)
    };
    let failed = |error: io::Error| {
        unreadable(
            reason(&error),
            "every `*.toml` of the directory counts: make it readable, or remove it",
        )
    };
    // Checked before opening, because opening a pipe blocks until another process writes into it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(unreadable(
            "it is not a file".to_owned(),
            "remove it, or give it another ending",
        ));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(unreadable(
            "it is longer than 4 MiB".to_owned(),
            "is it a configuration file?",
        ));
    }
    // The text is kept as long as the configuration.
    bytes.shrink_to_fit();
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(good).filter(|byte| **byte == b'\n').count();
        let why = format!("line {line} is not UTF-8");
        unreadable(
            why,
            "save it as UTF-8; an editor that writes Latin-1 does this with an accent in a comment",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configuration_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", ".a.toml", "a.toml~", "a.toml.bak", "#a.toml#", "a.conf"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("c.toml")).unwrap();

        let mut found = Findings::default();
        let sources = read(dir.path(), &mut found);

        let texts: Vec<_> = sources.files.iter().map(|file| file.text.as_str()).collect();
        assert_eq!(texts, ["a.toml", "b.toml"]);
        assert!(!found.refused());
    }

    #[test]
    fn the_line_that_is_not_utf8_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.toml"), b"# one\n# caf\xe9\n").unwrap();
        let mut found = Findings::default();
        read(dir.path(), &mut found);
        assert!(found.into_sorted()[0].message.ends_with("line 2 is not UTF-8"));
    }

    #[test]
    fn the_size_of_files_is_limited() {
        let dir = tempfile::tempdir().unwrap();
        let long = vec![b'#'; usize::try_from(MAX_FILE_LEN).unwrap() + 1];
        fs::write(dir.path().join("a.toml"), long).unwrap();
        let mut found = Findings::default();
        assert!(read(dir.path(), &mut found).files.is_empty());
        assert!(found.refused());
    }
}
