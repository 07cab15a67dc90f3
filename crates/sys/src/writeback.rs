//! Telling the kernel when dirty pages of a file go to the disk: sync_file_range(2), which rustix lacks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// Begins to write the dirty pages of a part of a file to the disk, and does not wait for it.
///
/// It gives no promise (no metadata, no cache of the disk): fsync(2) is still needed, and still reports
/// the errors that this meets, as nothing is waited for here. It may block while the disk's queue is full.
///
/// # Errors
/// ESPIPE for what is not a file; those of the file system's writing of pages.
pub fn start(fd: BorrowedFd<'_>, at: u64, len: u64) -> io::Result<()> {
    let (at, len) = (at as libc::off64_t, len as libc::off64_t);
    // SAFETY: no memory is involved.
    check(
        unsafe { libc::sync_file_range(fd.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE) }
            .into(),
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn writing_of_a_file_is_begun_and_that_of_a_pipe_is_refused() {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 8192], 0).unwrap();
        start(file.as_fd(), 0, 8192).unwrap();
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert_eq!(start(read.as_fd(), 0, 1).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
    }
}
