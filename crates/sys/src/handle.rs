//! open_by_handle_at(2): a file by its filesystem's own name for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::check;

/// Longest handle (MAX_HANDLE_SZ).
pub const LONGEST: usize = 128;

#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; LONGEST],
}

/// Opens the file with O_PATH. `mount` is any open file of its filesystem.
///
/// # Errors
/// Those of open_by_handle_at(2): ESTALE when there is no such file, EOPNOTSUPP for filesystems
/// that cannot; `InvalidInput` for a handle longer than [`LONGEST`].
pub fn open(mount: BorrowedFd<'_>, kind: u32, handle: &[u8]) -> io::Result<OwnedFd> {
    let mut all =
        FileHandle { bytes: handle.len() as u32, kind: kind as i32, handle: [0; LONGEST] };
    let Some(room) = all.handle.get_mut(..handle.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(handle);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: `all` is a live struct file_handle with as many bytes as it says.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut all, flags)
    })?;
    // SAFETY: `fd` was just returned by the kernel and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
