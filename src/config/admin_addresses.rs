//! Admin addresses of the gateway that runs on a configuration directory, even an invalid one.
//!
//! A command that finds a mistake in a file must still reach the gateway, where a rejected reload
//! is counted. So this module reads only `[admin]`, from every file that can be parsed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::expand::{Env, expand};
use super::problem::Findings;
use super::read;

/// The readable part of `[admin]`.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct AdminAddresses {
    /// `socket`, if it is a path.
    pub socket: Option<PathBuf>,
    /// `listen`.
    pub listen: Option<SocketAddr>,
}

/// Reads `[admin]` from the files of `dir`. Never fails; unreadable values are omitted.
#[must_use]
pub fn read_admin_addresses(dir: &Path, env: Env<'_>) -> AdminAddresses {
    let mut addresses = AdminAddresses::default();
    for path in read::list(dir).unwrap_or_default() {
        // Opening a named pipe would block until another process writes into it.
        if !fs::metadata(&path).is_ok_and(|there| there.is_file()) {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let (root, _) = DeTable::parse_recoverable(&text);
        let mut root = root.into_inner();
        expand(&mut root, 0, env, &mut Findings::default());
        let Some(admin) = root.get("admin").and_then(|admin| admin.get_ref().as_table()) else {
            continue;
        };
        let text = |key: &str| admin.get(key).and_then(|value| value.get_ref().as_str());
        let socket = text("socket").filter(|path| path.contains('/'));
        addresses.socket = addresses.socket.or(socket.map(|path| dir.join(path)));
        addresses.listen =
            addresses.listen.or(text("listen").and_then(|listen| listen.parse().ok()));
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_invalid_files() {
        let dir = tempfile::tempdir().unwrap();
        let env = |name: &str| (name == "PORT").then(|| "9145".to_owned());
        let text = "[admin]\nlisten = \"127.0.0.1:${PORT}\"\nsocket = \"./a.sock\"\n\n[gateway\nworkers = = 2\n";
        fs::write(dir.path().join("a.toml"), text).unwrap();
        fs::write(dir.path().join("b.toml"), b"\xff").unwrap();
        assert!(crate::config::load(dir.path(), &env).is_err());
        let found = read_admin_addresses(dir.path(), &env);
        assert_eq!(found.listen, Some(SocketAddr::from(([127, 0, 0, 1], 9145))));
        assert_eq!(found.socket, Some(dir.path().join("./a.sock")));
        assert_eq!(read_admin_addresses(Path::new("/nowhere"), &env), AdminAddresses::default());
    }
}
