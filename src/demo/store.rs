//! Bounded store of files in memory: new files replace the oldest ones.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use crate::demo::echo::hex;

/// Largest file, in bytes.
pub(crate) const MAX_FILE: usize = 40 * 1024 * 1024;
/// Limit on the bytes of all files.
const MAX_ALL: usize = 64 * 1024 * 1024;
/// Limit on the number of files, because files may be empty.
const MAX_FILES: usize = 1000;

/// A stored file.
#[derive(Clone, Debug)]
pub(crate) struct StoredFile {
    /// A unique name, safe in a URL, with the extension of the original name.
    pub(crate) name: String,
    pub(crate) original: String,
    pub(crate) media_type: String,
    pub(crate) sha256: String,
    pub(crate) content: Bytes,
}

/// All stored files, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Store {
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    stored: VecDeque<StoredFile>,
    bytes: usize,
    number: u64,
}

impl Store {
    /// Keeps `content`, dropping the oldest files if it must.
    pub(crate) fn keep(&self, original: &str, media_type: &str, content: Bytes) -> StoredFile {
        let sha256 = hex(digest(&SHA256, &content).as_ref());
        let mut files = self.lock();
        files.number += 1;
        let unique = sha256.get(..12).unwrap_or_default();
        let original: String = original.chars().filter(|c| !c.is_control()).take(120).collect();
        let file = StoredFile {
            name: format!("{}-{unique}-{}", files.number, plain(&original)),
            original,
            media_type: media_type.to_owned(),
            sha256,
            content,
        };
        files.bytes += file.content.len();
        files.stored.push_back(file.clone());
        while files.bytes > MAX_ALL || files.stored.len() > MAX_FILES {
            let Some(oldest) = files.stored.pop_front() else { break };
            files.bytes -= oldest.content.len();
        }
        file
    }

    pub(crate) fn find(&self, name: &str) -> Option<StoredFile> {
        self.lock().stored.iter().find(|file| file.name == name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        // No code panics while it holds the lock.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name without characters that are special in a path, a header or a shell.
fn plain(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    let name: Vec<char> = last.chars().map(safe).collect();
    // The end is kept, because it contains the extension.
    let text: String = name.iter().skip(name.len().saturating_sub(80)).collect();
    let text = text.trim_matches('.');
    if text.is_empty() { "file".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert_eq!(plain("../../etc/passwd"), "passwd");
        assert_eq!(plain("C:\\a\\my file (1).pdf"), "my_file__1_.pdf");
        assert_eq!(plain("..."), "file");
        assert_eq!(plain("ä\".png"), "__.png");
    }

    #[test]
    fn the_oldest_files_are_replaced() {
        let store = Store::default();
        let half = Bytes::from(vec![0; MAX_ALL / 2]);
        let first = store.keep("a", "text/plain", half.clone());
        let second = store.keep("a", "text/plain", half);
        assert_ne!(first.name, second.name);
        assert!(store.find(&first.name).is_some());
        store.keep("b", "text/plain", Bytes::from_static(b"x"));
        assert!(store.find(&first.name).is_none());
        assert!(store.find(&second.name).is_some());
    }
}
