//! Moving bytes from socket to socket inside the kernel (splice(2)), through a pipe that is held
//! only while bytes are in it.
//!
//! Safe to use as it is: file descriptors are owned, and no byte passes through our memory.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Size asked for a pipe, in bytes. A pipe holds a fixed number of pieces, and a piece from a
/// network card is a packet, so the default of 64 KiB would carry a third of that at a time.
const PIPE_SIZE: usize = 256 * 1024;
/// Empty pipes a worker keeps for the next use.
const MAX_SPARE_PIPES: usize = 16;

/// A pipe and how many bytes are in it.
#[derive(Debug)]
pub struct SplicePipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// A worker's empty pipes.
#[derive(Debug, Default)]
pub struct SparePipes(RefCell<Vec<SplicePipe>>);

impl SparePipes {
    /// An empty pipe.
    ///
    /// # Errors
    ///
    /// The system's, if there is none at hand and none to be had.
    pub fn take(&self) -> io::Result<SplicePipe> {
        if let Some(pipe) = self.0.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user may hold so many pages in pipes; beyond that the default size has to do.
        let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
        Ok(SplicePipe { read, write, held: 0 })
    }

    /// Takes an empty pipe back. One that still holds bytes is closed: they belong to somebody.
    pub fn put(&self, pipe: SplicePipe) {
        let mut kept = self.0.borrow_mut();
        if pipe.held == 0 && kept.len() < MAX_SPARE_PIPES {
            kept.push(pipe);
        }
    }
}

impl SplicePipe {
    /// Bytes in it.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `most` bytes out of a socket; 0 at its end. To be called with an empty pipe, so
    /// that `WouldBlock` can only mean the socket.
    ///
    /// # Errors
    ///
    /// The socket's; `InvalidInput` if the system cannot splice it.
    pub fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<usize> {
        let moved = from.try_io(Interest::READABLE, || {
            again(|| splice(from, None, &self.write, None, most, flags()))
        })?;
        self.held += moved;
        Ok(moved)
    }

    /// Gives what it holds to a socket, as much as that takes.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let moved = to.try_io(Interest::WRITABLE, || {
            again(|| splice(&self.read, None, to, None, self.held, flags()))
        })?;
        self.held -= moved.min(self.held);
        Ok(moved)
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::NONBLOCK | SpliceFlags::MOVE
}

fn again(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}
