//! Compares the data areas of two lower disks byte for byte, and reads single blocks from them, past the nodes.

use super::pattern::BLOCK_BYTES;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that are compared at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Bytes compared.
    pub bytes: u64,
    /// First byte that differs.
    pub first: Option<u64>,
    /// Blocks of 4 KiB that differ.
    pub blocks: u64,
}

/// Compares the first `bytes` bytes of two files.
///
/// # Errors
/// One of them cannot be read, or is shorter.
pub fn compare(left: &Path, right: &Path, bytes: u64) -> io::Result<Comparison> {
    let (left, right) = (File::open(left)?, File::open(right)?);
    let (mut one, mut other) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let mut found = Comparison {
        bytes,
        first: None,
        blocks: 0,
    };
    let mut at = 0;
    while at < bytes {
        let piece = usize::try_from(bytes - at).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
        left.read_exact_at(&mut one[..piece], at)?;
        right.read_exact_at(&mut other[..piece], at)?;
        if one[..piece] != other[..piece] {
            let blocks = one[..piece]
                .chunks(BLOCK_BYTES)
                .zip(other[..piece].chunks(BLOCK_BYTES));
            found.blocks += blocks.filter(|(one, other)| one != other).count() as u64;
            let first = one[..piece].iter().zip(&other[..piece]).position(|(a, b)| a != b);
            found.first = found.first.or(first.map(|first| at + first as u64));
        }
        at += piece as u64;
    }
    Ok(found)
}

/// Reads `bytes` bytes at byte `offset` of a file.
///
/// # Errors
/// It cannot be read, or is shorter.
pub fn read_at(file: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    File::open(file)?.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_below_the_limit_counts_and_none_above() {
        let directory = tempfile::tempdir().unwrap();
        let (left, right) = (directory.path().join("left"), directory.path().join("right"));
        let bytes = (2 << 20) + 5000;
        let mut data = vec![9; bytes];
        std::fs::write(&left, &data).unwrap();
        data[bytes - 1] = 1;
        std::fs::write(&right, &data).unwrap();
        let equal = Comparison {
            bytes: bytes as u64 - 1,
            first: None,
            blocks: 0,
        };
        assert_eq!(compare(&left, &right, bytes as u64 - 1).unwrap(), equal);
        data[(1 << 20) + 1] = 1;
        std::fs::write(&right, &data).unwrap();
        let differs = Comparison {
            bytes: bytes as u64,
            first: Some((1 << 20) + 1),
            blocks: 2,
        };
        assert_eq!(compare(&left, &right, bytes as u64).unwrap(), differs);
        assert!(compare(&left, &right, bytes as u64 + 1).is_err());
        assert_eq!(read_at(&right, bytes as u64 - 2, 2).unwrap(), [9, 1]);
    }
}
