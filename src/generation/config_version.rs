//! Identifies a configuration by number, by a hash of its effect and by a fingerprint of its bytes.
//!
//! In: a configuration and the files it names. Out: two hashes. The *fingerprint* covers every
//! byte, comments and file names included: if it is unchanged, a reload has nothing to do. The
//! *hash* is for people and covers the effective configuration: two gateways that act alike have
//! the same one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use aws_lc_rs::digest::{Context, SHA256, digest};

use crate::config::Config;
use crate::units::display_hex;

/// Hexadecimal digits of the hash that are shown: 48 bits distinguish the configurations of one
/// installation.
const HASH_DIGITS: usize = 12;

/// SHA-256 of each file that a configuration names; `None` for an unreadable file.
pub type FileHashes = BTreeMap<PathBuf, Option<[u8; 32]>>;

/// Number and hash of a generation. Set once, when the generation is put into effect.
#[derive(Debug, Default)]
pub struct ConfigVersion(OnceLock<(u64, String)>);

impl ConfigVersion {
    /// The generation number, counted from 1 in each process; 0 before it is set.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.get().map_or(0, |(number, _)| *number)
    }

    /// The hash, 12 hexadecimal digits; empty before it is set.
    #[must_use]
    pub fn hash(&self) -> &str {
        self.0.get().map_or("", |(_, hash)| hash)
    }

    /// Sets number and hash. Later calls have no effect.
    pub fn name(&self, number: u64, hash: String) {
        let _ = self.0.set((number, hash));
    }
}

/// Reads and hashes the files. Blocks.
pub(super) fn read(files: Vec<PathBuf>) -> FileHashes {
    let one = |path: PathBuf| {
        let bytes = std::fs::read(&path).ok();
        let hash = bytes.and_then(|bytes| digest(&SHA256, &bytes).as_ref().try_into().ok());
        (path, hash)
    };
    files.into_iter().map(one).collect()
}

/// Hash of all bytes of the configuration and the files it names.
pub(super) fn fingerprint(config: &Config, contents: &FileHashes) -> Vec<u8> {
    let mut hash = ConfigHash::new();
    for source in &config.sources.files {
        hash.add(source.name.as_bytes());
        hash.add(source.text.as_bytes());
    }
    for (path, content) in contents {
        hash.add(path.as_os_str().as_encoded_bytes());
        hash.add(content.as_ref().map_or(&[], |content| content));
    }
    hash.0.finish().as_ref().to_vec()
}

/// Hash of the effective configuration: items, keys, values with environment variables substituted,
/// and contents of the named files.
///
/// A hash of a short secret alone would allow an attacker to test guesses. Nearly every
/// configuration names private keys, whose contents go into the same hash and cannot be guessed.
pub(super) fn effective(config: &Config, contents: &FileHashes) -> String {
    let mut hash = ConfigHash::new();
    let mut others = contents.clone();
    for (name, item) in config.outline.items() {
        hash.add(name.to_string().as_bytes());
        for (key, value) in item.keys() {
            hash.add(key.as_bytes());
            hash.add(value.exact().as_bytes());
            let path = config.outline.file(value).filter(|path| contents.contains_key(path));
            if let Some(path) = path {
                let content = contents.get(&path).copied().flatten();
                hash.add(&content.unwrap_or_default());
                others.remove(&path);
            }
        }
        hash.add(b"");
    }
    // Files that are elements of a list, which the loop above does not visit.
    let mut others: Vec<_> = others.into_values().flatten().collect();
    others.sort_unstable();
    for content in &others {
        hash.add(content);
    }
    let mut digits = display_hex(hash.0.finish().as_ref());
    digits.truncate(HASH_DIGITS);
    digits
}

struct ConfigHash(Context);

impl ConfigHash {
    fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds a part, prefixed by its length so that two sequences of parts never produce the same
    /// input.
    fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config;

    /// Fingerprint and hash of a directory with these files.
    fn hashes(dir: &Path, files: &[(&str, &str)]) -> (Vec<u8>, String) {
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
        let env = |name: &str| (name == "PORT").then(|| "8080".to_owned());
        let config = config::load(dir, &env).unwrap().config;
        let contents = read(vec![dir.join("ca.pem")]);
        (fingerprint(&config, &contents), effective(&config, &contents))
    }

    const UPSTREAM: &str =
        "[upstream.a]\nendpoints = ['https://127.0.0.1:9']\nca-file = 'ca.pem'\n";
    const PROFILE: &str = "[profile.p]\nlistener = [{ listen = '127.0.0.1:8080', redirect-to-https = 443 }]\n\
                           route = [{ path = '/', upstream = 'a' }]\n";

    #[test]
    fn the_hash_covers_the_effective_configuration() {
        let dir = || tempfile::tempdir().unwrap();
        let (one, two, three, four) = (dir(), dir(), dir(), dir());
        let first =
            hashes(one.path(), &[("ca.pem", "x"), ("a.toml", UPSTREAM), ("b.toml", PROFILE)]);
        let (a, b) = (format!("# comment\n\n{UPSTREAM}"), PROFILE.replace("8080", "${PORT}"));
        let spelt = hashes(two.path(), &[("ca.pem", "x"), ("c.toml", &a), ("d.toml", &b)]);
        let content =
            hashes(three.path(), &[("ca.pem", "y"), ("a.toml", UPSTREAM), ("b.toml", PROFILE)]);
        let port = PROFILE.replace("443", "444");
        let value =
            hashes(four.path(), &[("ca.pem", "x"), ("a.toml", UPSTREAM), ("b.toml", &port)]);

        assert_eq!(first.1.len(), HASH_DIGITS);
        assert_eq!(first.1, spelt.1, "comments, file names and variables do not change the hash");
        assert_ne!(first.0, spelt.0, "the fingerprint covers all bytes");
        assert_ne!(first.1, content.1, "contents of named files change the hash");
        assert_ne!(first.1, value.1);
    }
}
