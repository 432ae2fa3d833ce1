//! Zero-copy transfer between sockets inside the kernel (splice(2)), through a pipe that is held
//! only while it contains bytes.
//!
//! No `unsafe` is needed: file descriptors are owned, and no byte passes through process memory.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Requested size of a pipe, in bytes. A pipe holds a fixed number of segments, and a segment from
/// a network card is one packet, so the default of 64 KiB would hold a third of that.
const PIPE_SIZE: usize = 256 * 1024;
/// Number of empty pipes that a worker keeps.
const MAX_SPARE_PIPES: usize = 16;

/// A pipe and the number of bytes in it.
#[derive(Debug)]
pub struct SplicePipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// The empty pipes of a worker.
#[derive(Debug, Default)]
pub struct SparePipes(RefCell<Vec<SplicePipe>>);

impl SparePipes {
    /// Takes an empty pipe, or creates one.
    ///
    /// # Errors
    ///
    /// Error of the system, if no pipe can be created.
    pub fn take(&self) -> io::Result<SplicePipe> {
        if let Some(pipe) = self.0.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The kernel limits the pipe pages of a user. Beyond that limit the default size is used.
        let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
        Ok(SplicePipe { read, write, held: 0 })
    }

    /// Returns a pipe for reuse. One that still contains bytes is closed, because they belong to
    /// another connection.
    pub fn put(&self, pipe: SplicePipe) {
        let mut kept = self.0.borrow_mut();
        if pipe.held == 0 && kept.len() < MAX_SPARE_PIPES {
            kept.push(pipe);
        }
    }
}

impl SplicePipe {
    /// Number of bytes in the pipe.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `most` bytes from a socket into the pipe; 0 at the end of the stream. The pipe
    /// must be empty, so that `WouldBlock` can only refer to the socket.
    ///
    /// # Errors
    ///
    /// Error of the socket; `InvalidInput` if the system cannot splice from it.
    pub fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<usize> {
        let moved = from.try_io(Interest::READABLE, || {
            retry_interrupted(|| splice(from, None, &self.write, None, most, flags()))
        })?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves bytes from the pipe to a socket, as many as the socket takes.
    ///
    /// # Errors
    ///
    /// Error of the socket.
    pub fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let moved = to.try_io(Interest::WRITABLE, || {
            retry_interrupted(|| splice(&self.read, None, to, None, self.held, flags()))
        })?;
        self.held -= moved.min(self.held);
        Ok(moved)
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::NONBLOCK | SpliceFlags::MOVE
}

fn retry_interrupted(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}
