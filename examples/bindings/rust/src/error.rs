// SPDX-License-Identifier: MIT
//! Errors: an errno value and the library's words for it.

use std::fmt;
use std::io;
use std::os::raw::{c_char, c_int};

/// A call that failed. Nothing is lost by it; the call can be made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    errno: i32,
    why: Box<str>,
}

/// What calls return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(errno: i32, why: String) -> Self {
        Error {
            errno,
            why: why.into_boxed_str(),
        }
    }

    /// The errno value, positive: `libc::EBUSY` and the like.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The reason in words, and the argument that was wrong; may be empty.
    ///
    /// The log keeps its last failure only. If two threads fail at the same time, both may get the
    /// same words; the errno value is always the call's own.
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.why.is_empty() {
            io::Error::from_raw_os_error(self.errno).fmt(f)
        } else {
            f.write_str(&self.why)
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    /// Keeps the errno value, so that `raw_os_error()` has it; the words are lost.
    fn from(error: Error) -> Self {
        io::Error::from_raw_os_error(error.errno)
    }
}

/// Runs a function that writes text as snprintf(3) does, with as much room as it wants.
pub(crate) fn text(write: impl Fn(*mut c_char, usize) -> c_int) -> String {
    let mut buffer = vec![0u8; 256];
    loop {
        let wanted = write(buffer.as_mut_ptr().cast(), buffer.len());
        let length = match usize::try_from(wanted) {
            Ok(length) => length,
            Err(_) => return String::new(),
        };
        if length < buffer.len() {
            buffer.truncate(length);
            return String::from_utf8_lossy(&buffer).into_owned();
        }
        buffer.resize(length + 1, 0);
    }
}

/// A buffer for a reason that has no length.
pub(crate) struct Why([u8; 320]);

impl Why {
    pub(crate) fn new() -> Self {
        Why([0; 320])
    }

    pub(crate) fn pointer(&mut self) -> *mut c_char {
        self.0.as_mut_ptr().cast()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn text(&self) -> String {
        let end = self.0.iter().position(|&byte| byte == 0);
        String::from_utf8_lossy(&self.0[..end.unwrap_or(self.0.len())]).into_owned()
    }
}
