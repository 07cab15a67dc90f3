//! Sockets: options and addresses as plain numbers and bytes, for state that is carried as it is.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

/// Largest socket address (struct sockaddr_storage) in bytes.
const ADDRESS: usize = 128;

/// getsockopt(2) of an int.
///
/// # Errors
/// ENOPROTOOPT when this kind of socket has no such option.
pub fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` and `len` are live and describe each other.
    check(i64::from(unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len)
    }))?;
    Ok(value)
}

/// setsockopt(2) of an int.
///
/// # Errors
/// Those of the call.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_bytes(fd, level, name, &value.to_ne_bytes())
}

/// getsockopt(2) of a structure of at most `N` bytes; the bytes beyond the answer are 0.
///
/// # Errors
/// Those of the call.
pub fn bytes<const N: usize>(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<[u8; N]> {
    let mut value = [0u8; N];
    let mut len = N as libc::socklen_t;
    // SAFETY: `value` and `len` are live and describe each other.
    check(i64::from(unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len)
    }))?;
    Ok(value)
}

/// getsockopt(2) of a structure that is the question and the answer.
///
/// # Errors
/// Those of the call.
pub fn ask<const N: usize>(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    mut value: [u8; N],
) -> io::Result<[u8; N]> {
    let mut len = N as libc::socklen_t;
    // SAFETY: `value` and `len` are live and describe each other.
    check(i64::from(unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len)
    }))?;
    Ok(value)
}

/// First IPv4 address of an interface of the socket's network namespace (SIOCGIFADDR); `None` when
/// it has none.
///
/// # Errors
/// ENODEV when there is no such interface.
pub fn interface_address(fd: BorrowedFd<'_>, interface: &[u8]) -> io::Result<Option<[u8; 4]>> {
    // SAFETY: ifreq is plain data for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(interface) {
        *to = *from as libc::c_char;
    }
    // SAFETY: `request` is a live ifreq, which the request takes.
    let done = check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFADDR, &raw mut request)
    }));
    match done {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => return Ok(None),
        Err(e) => return Err(e),
    }
    // SAFETY: SIOCGIFADDR filled this member of the union.
    let address = unsafe { request.ifr_ifru.ifru_addr };
    let bytes = address.sa_data.map(|b| b as u8);
    // A sockaddr_in: the port, then the address.
    Ok(Some([bytes[2], bytes[3], bytes[4], bytes[5]]))
}

/// setsockopt(2) of a structure.
///
/// # Errors
/// Those of the call.
pub fn set_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    check(i64::from(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    }))
    .map(drop)
}

/// Own address (getsockname(2)) as the bytes of its sockaddr.
///
/// # Errors
/// Those of the call.
pub fn name(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut addr = vec![0u8; ADDRESS];
    let mut len = ADDRESS as libc::socklen_t;
    // SAFETY: `addr` and `len` are live and describe each other.
    check(i64::from(unsafe {
        libc::getsockname(fd.as_raw_fd(), addr.as_mut_ptr().cast(), &raw mut len)
    }))?;
    addr.truncate((len as usize).min(ADDRESS));
    Ok(addr)
}

/// The peer's address (getpeername(2)); `None` when not connected.
///
/// # Errors
/// Those of the call but ENOTCONN.
pub fn peer(fd: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let mut addr = vec![0u8; ADDRESS];
    let mut len = ADDRESS as libc::socklen_t;
    // SAFETY: `addr` and `len` are live and describe each other.
    let ret = check(i64::from(unsafe {
        libc::getpeername(fd.as_raw_fd(), addr.as_mut_ptr().cast(), &raw mut len)
    }));
    match ret {
        Ok(_) => {
            addr.truncate((len as usize).min(ADDRESS));
            Ok(Some(addr))
        }
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => Ok(None),
        Err(e) => Err(e),
    }
}

/// bind(2) to the bytes of a sockaddr.
///
/// # Errors
/// EADDRINUSE and others of the call.
pub fn bind(fd: BorrowedFd<'_>, addr: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `addr`.
    check(i64::from(unsafe {
        libc::bind(fd.as_raw_fd(), addr.as_ptr().cast(), addr.len() as libc::socklen_t)
    }))
    .map(drop)
}

/// connect(2) to the bytes of a sockaddr.
///
/// # Errors
/// Those of the call.
pub fn connect(fd: BorrowedFd<'_>, addr: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `addr`.
    check(i64::from(unsafe {
        libc::connect(fd.as_raw_fd(), addr.as_ptr().cast(), addr.len() as libc::socklen_t)
    }))
    .map(drop)
}

/// getsockopt(2) without room for an answer: the length the kernel reports (for SO_GET_FILTER the
/// number of instructions).
///
/// # Errors
/// Those of the call.
pub fn length(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<usize> {
    let mut len: libc::socklen_t = 0;
    // SAFETY: a length of 0 means that nothing is written but the length.
    check(i64::from(unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, std::ptr::null_mut(), &raw mut len)
    }))?;
    Ok(len as usize)
}

/// The file a unix socket is bound to, opened with O_PATH (SIOCUNIXFILE, 4.19); `None` when it is
/// bound to no path.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the socket's network namespace.
pub fn bound_file(fd: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    const SIOCUNIXFILE: libc::c_ulong = 0x89e0;
    // SAFETY: the request takes no argument.
    match check(i64::from(unsafe { libc::ioctl(fd.as_raw_fd(), SIOCUNIXFILE) })) {
        // SAFETY: the kernel just made it for us and nobody else owns it.
        Ok(file) => Ok(Some(unsafe { OwnedFd::from_raw_fd(file as RawFd) })),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}
