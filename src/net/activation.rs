//! Listening sockets opened by a service manager (`sd_listen_fds(3)`).
//!
//! This is the only use of `unsafe` in the gateway: the protocol passes inherited descriptors as
//! plain numbers, and only the protocol guarantees that they belong to this process.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes ownership of the descriptors announced in `LISTEN_FDS`, if `LISTEN_PID` names this
/// process. A second call returns an empty list.
///
/// # Errors
///
/// The variables are malformed, or a descriptor is not open.
#[expect(unsafe_code, reason = "descriptors of the socket activation protocol come as numbers")]
pub fn take() -> io::Result<Vec<OwnedFd>> {
    // Each descriptor must have exactly one owner.
    static SOCKETS_TAKEN: AtomicBool = AtomicBool::new(false);
    if SOCKETS_TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let numbers = sd_notify::listen_fds()?;
    // SAFETY: `listen_fds` has checked that the variables name this process and has set a flag on
    // every descriptor, so all are open. By the protocol they were opened for this process before
    // its first instruction, hence nothing else in the process owns them: this code runs once, and
    // descriptors opened by the process itself have other numbers, because these were in use.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}
