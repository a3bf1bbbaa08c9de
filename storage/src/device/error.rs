//! Why an operation failed, and what that says about the disk.

use super::Action;
use std::fmt;

/// Error numbers of Linux, as they come from the kernel and as devices here make them.
pub mod errno {
    #![allow(missing_docs, reason = "the names are those of errno.h")]
    pub const EPERM: i32 = 1;
    pub const EINTR: i32 = 4;
    pub const EIO: i32 = 5;
    pub const ENXIO: i32 = 6;
    pub const EAGAIN: i32 = 11;
    pub const ENOMEM: i32 = 12;
    pub const EACCES: i32 = 13;
    pub const ENODEV: i32 = 19;
    pub const EINVAL: i32 = 22;
    pub const ENOTTY: i32 = 25;
    pub const ENOSPC: i32 = 28;
    pub const EROFS: i32 = 30;
    pub const ENOSYS: i32 = 38;
    pub const ENODATA: i32 = 61;
    pub const ENOLINK: i32 = 67;
    pub const EBADMSG: i32 = 74;
    pub const EILSEQ: i32 = 84;
    pub const EOPNOTSUPP: i32 = 95;
    pub const ENOBUFS: i32 = 105;
    pub const ENOTCONN: i32 = 107;
    pub const ESHUTDOWN: i32 = 108;
    pub const ETIMEDOUT: i32 = 110;
    pub const ESTALE: i32 = 116;
    pub const EREMOTEIO: i32 = 121;
    pub const EDQUOT: i32 = 122;
    pub const ENOMEDIUM: i32 = 123;
    /// The highest number that Linux uses.
    pub const HIGHEST: i32 = 133;
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceError {
    /// Linux error number.
    pub errno: i32,
    /// The kernel reported the end of the device inside the size that it had at open: it has shrunk.
    pub shrunk: bool,
}

/// What an error says about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// The medium failed here. Numbers that no other class names count as this one.
    Medium,
    /// The device went away as a whole; no block is known to be bad.
    DeviceGone,
    /// The way to the device timed out.
    Transport,
    /// A thin disk or a sparse file has no room.
    NoSpace,
    /// The disk does not know this kind of operation.
    NotSupported,
    /// The operation does not fit the device: a fault of the submitter, not of the disk.
    Misfit,
    /// The disk takes no writes.
    WriteProtected,
    /// The device is smaller than it was at open.
    Shrunk,
}

impl DeviceError {
    /// An error with this number.
    pub fn new(errno: i32) -> Self {
        Self { errno, shrunk: false }
    }

    /// What it says about the disk, as the outcome of an operation of this kind.
    pub fn class(&self, action: Action) -> ErrorClass {
        use errno::*;
        match self.errno {
            _ if self.shrunk => ErrorClass::Shrunk,
            ENXIO | ENODEV | ESHUTDOWN | ENOTCONN | ENOLINK | ENOMEDIUM | ESTALE => ErrorClass::DeviceGone,
            ETIMEDOUT => ErrorClass::Transport,
            ENOSPC | EDQUOT => ErrorClass::NoSpace,
            EOPNOTSUPP | ENOTTY | ENOSYS => ErrorClass::NotSupported,
            EINVAL if matches!(action, Action::Read | Action::Write) => ErrorClass::Misfit,
            EINVAL => ErrorClass::NotSupported,
            EROFS | EPERM | EACCES => ErrorClass::WriteProtected,
            _ => ErrorClass::Medium,
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.errno))?;
        if self.shrunk {
            write!(f, " (the device has become smaller since it was opened)")?;
        }
        Ok(())
    }
}

impl std::error::Error for DeviceError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_depend_on_number_and_action() {
        let class = |number, action| DeviceError::new(number).class(action);
        for number in [
            errno::EIO,
            errno::EREMOTEIO,
            errno::EBADMSG,
            errno::EILSEQ,
            errno::ENODATA,
            132,
        ] {
            assert_eq!(class(number, Action::Read), ErrorClass::Medium);
        }
        assert_eq!(class(errno::ENODEV, Action::Read), ErrorClass::DeviceGone);
        assert_eq!(class(errno::EINVAL, Action::Write), ErrorClass::Misfit);
        assert_eq!(class(errno::EINVAL, Action::Discard), ErrorClass::NotSupported);
        assert_eq!(class(errno::EOPNOTSUPP, Action::Flush), ErrorClass::NotSupported);
        assert_eq!(class(errno::EDQUOT, Action::Write), ErrorClass::NoSpace);
        assert_eq!(class(errno::EROFS, Action::Write), ErrorClass::WriteProtected);
        let shrunk = DeviceError {
            errno: errno::EIO,
            shrunk: true,
        };
        assert_eq!(shrunk.class(Action::Read), ErrorClass::Shrunk);
    }

    #[test]
    fn numbers_are_those_of_linux() {
        use std::io::{Error, ErrorKind};
        let kind = |number| Error::from_raw_os_error(number).kind();
        assert_eq!(kind(errno::EINTR), ErrorKind::Interrupted);
        assert_eq!(kind(errno::EAGAIN), ErrorKind::WouldBlock);
        assert_eq!(kind(errno::ENOMEM), ErrorKind::OutOfMemory);
        assert_eq!(kind(errno::EINVAL), ErrorKind::InvalidInput);
        assert_eq!(kind(errno::ENOSPC), ErrorKind::StorageFull);
        assert_eq!(kind(errno::EROFS), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(kind(errno::ENOTCONN), ErrorKind::NotConnected);
        assert_eq!(kind(errno::ETIMEDOUT), ErrorKind::TimedOut);
        assert_eq!(kind(errno::ESTALE), ErrorKind::StaleNetworkFileHandle);
        assert_eq!(kind(errno::EDQUOT), ErrorKind::QuotaExceeded);
        assert_eq!(kind(errno::EOPNOTSUPP), ErrorKind::Unsupported);
    }
}
