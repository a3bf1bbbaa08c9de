//! The server side of NBD (fixed newstyle): bytes in, values out. What is spoken stands in `net/NBD.md`.
//!
//! 1. [`Negotiation`] turns a client's options into replies and ends in a [`Transmission`] or a [`CloseReason`].
//! 2. [`RequestRules`] judges each 28-byte request header; the payload of a write is the caller's to take.
//! 3. [`ReplyFormat`] makes the bytes in front of a reply's payload.
//!
//! Nothing here does I/O but `listener` (feature `transport`), which only opens and accepts sockets.

pub mod constants;
pub mod export;
#[cfg(feature = "transport")]
pub mod listener;
pub mod negotiation;
mod option;
pub mod reply;
pub mod request;

pub use export::{BlockSizes, ExportDirectory, ExportInfo, ExportRefusal, ListedExport, RefusalKind};
#[cfg(feature = "transport")]
pub use listener::{BindError, ClientSocket, ListenAddress, NbdListener};
pub use negotiation::{Advance, CloseReason, Negotiation, SelectedContext, ServerPolicy, Step, Transmission};
pub use reply::{NbdError, ReplyFormat, ReplyHead, StatusExtent, block_status_chunk};
pub use request::{
    Command, Parsed, ProtocolViolation, Refused, Request, RequestHeader, RequestRefusal, RequestRules,
};
