//! Waiting for completions in a tokio runtime.
#![allow(
    unsafe_code,
    reason = "tokio leaves it to the caller that a registered descriptor stays open"
)]

use super::Device;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells when a device has completions to reap.
#[derive(Debug)]
pub struct Readiness {
    descriptor: AsyncFd<OwnedFd>,
}

impl Readiness {
    /// For a device; `None` where it has nothing to wait for but [`Device::next_wake`]. Must be called in a tokio runtime
    /// with I/O enabled. It may outlive the device, and then never tells anything again.
    pub fn of(device: &(impl Device + ?Sized)) -> io::Result<Option<Self>> {
        let Some(descriptor) = device.ready_fd() else {
            return Ok(None);
        };
        let descriptor = descriptor.try_clone_to_owned()?;
        // SAFETY: the `AsyncFd` owns the descriptor, whose number cannot change and which only its drop closes.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        let descriptor = registered.map_err(|error| error.into_parts().1)?;
        Ok(Some(Self { descriptor }))
    }

    /// Waits until there may be completions. Reap after it: it is told anew only for completions that come later.
    pub async fn wait(&self) -> io::Result<()> {
        self.descriptor.readable().await?.clear_ready();
        Ok(())
    }
}
