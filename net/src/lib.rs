//! net
pub mod nbd;
//! What nodes say to each other and to their clients. Codecs are pure; sockets stand behind the feature `transport`.

#[cfg(feature = "transport")]
pub mod transport;
pub mod wire;
