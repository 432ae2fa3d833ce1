//! The admin socket, by which commands on this host find and reach the gateway.
//!
//! Each configuration directory has a default socket path, which the gateway and the commands
//! derive without reading a file, because a gateway must stay reachable when its configuration has
//! just been broken. The permissions of the socket admit its owner; the peer's user id, as reported
//! by the kernel, is checked as well.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

use crate::config::AdminSocket;
use crate::units::display_hex;

/// Directory for the sockets of system services.
const SYSTEM_SOCKET_DIR: &str = "/run/app-gateway";

/// The configuration directory whose socket has the plainest name.
const SYSTEM_CONFIG_DIR: &str = "/etc/app-gateway";

/// A bound socket. When it is dropped, its file goes, if it is still the same one.
pub struct AdminSocketFile {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens on the socket.
    #[error("the admin socket {path} is taken by a running gateway{}", process(*pid))]
    Taken {
        /// Path of the socket.
        path: PathBuf,
        /// The process that listens.
        pid: Option<i32>,
    },
    /// There is something else at its path.
    #[error(
        "the admin socket cannot be {0}: the path is in use by another file; move it away, or set `admin.socket`"
    )]
    NoSocket(PathBuf),
    /// The system says no.
    #[error("cannot listen on the admin socket {path}: {source}")]
    System {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
}

fn process(pid: Option<i32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// Default socket paths of a configuration directory, in order of preference: for system services,
/// then for processes that a user starts.
#[must_use]
pub fn usual(directory: &Path) -> Vec<PathBuf> {
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let name = if directory == Path::new(SYSTEM_CONFIG_DIR) {
        "admin.sock".to_owned()
    } else {
        let hash = digest(&SHA256, directory.as_os_str().as_encoded_bytes());
        let digits = display_hex(hash.as_ref().get(..6).unwrap_or_default());
        format!("admin-{digits}.sock")
    };
    let user =
        std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("app-gateway"));
    let places = [Some(PathBuf::from(SYSTEM_SOCKET_DIR)), user.filter(|dir| dir.is_absolute())];
    places.into_iter().flatten().map(|place| place.join(&name)).collect()
}

/// Opens the configured socket. Returns `None` if the configuration disables it, or if no default
/// path is usable; the latter is logged and does not prevent the start. Blocks.
///
/// # Errors
///
/// [`SocketError`] if a socket with an explicitly configured path cannot be opened.
pub fn open(wish: &AdminSocket, directory: &Path) -> Result<Option<AdminSocketFile>, SocketError> {
    match wish {
        AdminSocket::Off => Ok(None),
        AdminSocket::At { path, .. } => bind(path).map(Some),
        AdminSocket::Usual => {
            let mut why = None;
            for path in usual(directory) {
                let bound = path.parent().map(make_directory).transpose();
                let bound =
                    bound.map_err(|source| SocketError::System { path: path.clone(), source });
                match bound.and_then(|_| bind(&path)) {
                    Ok(socket) => return Ok(Some(socket)),
                    Err(error @ SocketError::Taken { .. }) => {
                        tracing::warn!(
                            "{error}; commands on this host reach that one, and not this one"
                        );
                        return Ok(None);
                    }
                    Err(error) => why = why.or(Some(error)),
                }
            }
            if let Some(why) = why {
                tracing::warn!(
                    "{why}; commands on this host do not reach this gateway: set `socket` in [admin]"
                );
            }
            Ok(None)
        }
    }
}

/// Prepares the default path as root, so that the user who will run the gateway can create a socket
/// there. Failures are reported when the socket is opened.
pub fn prepare(wish: &AdminSocket, directory: &Path, (uid, gid): (u32, u32)) {
    if !matches!(wish, AdminSocket::Usual) {
        return;
    }
    let system = Path::new(SYSTEM_SOCKET_DIR);
    let made = DirBuilder::new().mode(0o755).create(system).is_ok();
    let is_root = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|there| there.is_dir() && there.uid() == 0)
    };
    if made || is_root(system) {
        let _ = chown(system, Some(uid), Some(gid));
    }
    // A root gateway that was killed has left one that this user may not even ask.
    for path in usual(directory).into_iter().filter(|path| path.starts_with(system)) {
        let refused = UnixStream::connect(&path).err().map(|error| error.kind());
        if refused == Some(io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Binds a socket. One that a dead process left behind is replaced. Blocks.
///
/// # Errors
///
/// [`SocketError`].
pub fn bind(path: &Path) -> Result<AdminSocketFile, SocketError> {
    let failed = |source| SocketError::System { path: path.to_owned(), source };
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(other) => {
                let peer = rustix::net::sockopt::socket_peercred(&other).ok();
                let pid = peer.map(|peer| peer.pid.as_raw_nonzero().get());
                return Err(SocketError::Taken { path: path.to_owned(), pid });
            }
        }
    }
    // Created under a temporary name until its permissions are restricted; renaming it then
    // replaces the old file atomically.
    let mut own = path.as_os_str().to_owned();
    own.push(format!(".{}", std::process::id()));
    let own = PathBuf::from(own);
    let _ = fs::remove_file(&own);
    let listener = UnixListener::bind(&own).map_err(failed)?;
    let placed = (|| {
        fs::set_permissions(&own, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let file = fs::symlink_metadata(&own)?;
        fs::rename(&own, path)?;
        Ok((file.dev(), file.ino()))
    })();
    match placed {
        Ok(file) => Ok(AdminSocketFile { listener, path: path.to_owned(), file }),
        Err(error) => {
            let _ = fs::remove_file(&own);
            Err(failed(error))
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().mode(0o755).create(path)
}

impl AdminSocketFile {
    /// Path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listening end; the file stays until `self` is dropped.
    ///
    /// # Errors
    ///
    /// The system's, if there is no descriptor left.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for AdminSocketFile {
    fn drop(&mut self) {
        // Another gateway may have taken the place over.
        let same = fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == self.file);
        if same {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_for_its_owner_and_goes_with_its_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_one_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = bind(&path).unwrap();
        let taken = bind(&path).err().unwrap().to_string();
        assert!(taken.contains(&format!("process {}", std::process::id())), "{taken}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
    }

    #[test]
    fn what_took_its_place_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "other").unwrap();
        drop(socket);
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert!(matches!(bind(&path), Err(SocketError::NoSocket(_))));
    }

    #[test]
    fn a_directory_has_one_name_however_it_is_spelt() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let spelt = dir.path().join(".").join("..").join(dir.path().file_name().unwrap());
        assert_eq!(usual(dir.path()), usual(&spelt));
        assert_ne!(usual(dir.path()), usual(other.path()));
    }
}
