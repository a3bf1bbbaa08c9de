//! What nodes and clients say: the peer protocol ([`wire`]), NBD ([`nbd`]), and the sockets that carry both.

pub mod nbd;
#[cfg(feature = "transport")]
pub mod transport;
pub mod wire;
