//! The two CRC-32C of the format: the usual one, and the activity log's.
use super::{META_BLOCK_BYTES, MetaBlock};
use std::sync::LazyLock;

/// CRC-32C as in RFC 3720 (start value and final inversion all ones).
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of a block with start value 0 and without a final inversion, as DRBD computes it for its log.
///
/// For one length the two variants differ by a constant: the usual checksum of that many zeros.
pub(super) fn crc32c_of_log_block(block: &MetaBlock) -> u32 {
    static OF_ZEROS: LazyLock<u32> = LazyLock::new(|| crc32c(&[0; META_BLOCK_BYTES]));
    crc32c(block) ^ *OF_ZEROS
}
