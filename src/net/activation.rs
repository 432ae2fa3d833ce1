//! Listening sockets that a service manager opened for us (`sd_listen_fds(3)`).
//!
//! The one place of the gateway that needs `unsafe`: a descriptor that comes with the process is a
//! number, and only the protocol says that it is ours.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes over what `LISTEN_FDS` announces, if it is meant for this process (`LISTEN_PID`). The
/// second call finds nothing.
///
/// # Errors
///
/// If the variables are malformed, or a descriptor is not open.
#[expect(unsafe_code, reason = "descriptors of the socket activation protocol come as numbers")]
pub fn take() -> io::Result<Vec<OwnedFd>> {
    // Each number may get one owner only.
    static SOCKETS_TAKEN: AtomicBool = AtomicBool::new(false);
    if SOCKETS_TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let numbers = sd_notify::listen_fds()?;
    // SAFETY: `listen_fds` has checked that the variables name this process and has set a flag on
    // every descriptor, so all are open. By the protocol they were opened for this process before
    // its first instruction, hence nothing else in it owns them: this runs once, and whatever the
    // process opened itself has other numbers, because these were taken.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}
