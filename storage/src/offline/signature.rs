//! Recognising what lies on a device, so that it is not overwritten by mistake.
use super::OfflineError;
use super::device::BlockFile;
use crate::format::layout::{MetaIndex, superblock_byte};
use crate::format::superblock::UnverifiedSuperblock;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Something that is already on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What it is.
    pub what: &'static str,
    /// Device.
    pub path: PathBuf,
    /// Byte of its signature.
    pub byte: u64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on {} (signature at byte {})",
            self.what,
            self.path.display(),
            self.byte
        )
    }
}

/// Byte, signature, what it stands for. A negative byte counts from the end of the device.
const SIGNATURES: [(i64, &[u8], &str); 41] = [
    (1080, b"\x53\xEF", "an ext2, ext3 or ext4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (65_600, b"_BHRfS_M", "a btrfs file system"),
    (1024, b"\x10\x20\xF5\xF2", "an F2FS file system"),
    (1024, b"\xE2\xE1\xF5\xE0", "an EROFS file system"),
    (1030, b"\x34\x34", "a NILFS2 file system"),
    (32_768, b"JFS1", "a JFS file system"),
    (65_588, b"ReIsErFs", "a ReiserFS file system"),
    (65_588, b"ReIsEr2Fs", "a ReiserFS file system"),
    (65_588, b"ReIsEr3Fs", "a ReiserFS file system"),
    (65_536, b"\x01\x16\x19\x70", "a GFS2 file system"),
    (8192, b"OCFSV2", "an OCFS2 file system"),
    (4096 + 24, b"\xC6\x85\x73\xF6", "a bcache or bcachefs device"),
    (0, b"hsqs", "a squashfs file system"),
    (32_769, b"CD001", "an ISO 9660 file system"),
    (32_769, b"BEA01", "a UDF file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"ReFS", "a ReFS file system"),
    (54, b"FAT1", "a FAT file system"),
    (82, b"FAT32   ", "a FAT file system"),
    (32, b"NXSB", "an APFS container"),
    (1024, b"H+", "an HFS+ file system"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4086, b"SWAP-SPACE", "swap space"),
    (0, b"LUKS\xBA\xBE", "a LUKS volume"),
    (16_384, b"SKUL\xBA\xBE", "a LUKS volume"),
    (0, b"LABELONE", "an LVM physical volume"),
    (512, b"LABELONE", "an LVM physical volume"),
    (1024, b"LABELONE", "an LVM physical volume"),
    (1536, b"LABELONE", "an LVM physical volume"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (-512, b"EFI PART", "the backup of a GPT partition table"),
    (510, b"\x55\xAA", "a partition table or boot sector"),
    (4096, b"\xFC\x4E\x2B\xA9", "a member of an MD RAID"),
    (0, b"\xFC\x4E\x2B\xA9", "a member of an MD RAID"),
    (0, b"integrt\0", "a dm-integrity volume"),
    (0, b"dmvdo001", "a VDO volume"),
    (0, b"bluestore block device", "a Ceph OSD"),
    (131_072, b"\x0C\xB1\xBA\x00\x00\x00\x00\x00", "a ZFS pool"),
];

/// What lies on a device, as far as its first and last sectors say.
pub(super) fn find(device: &BlockFile) -> Result<Vec<Found>, OfflineError> {
    let mut found: Vec<Found> = Vec::new();
    for (place, signature, what) in SIGNATURES {
        let Some(byte) = (if place < 0 {
            device.bytes().checked_add_signed(place)
        } else {
            Some(place.unsigned_abs())
        }) else {
            continue;
        };
        if byte + signature.len() as u64 > device.bytes() {
            continue;
        }
        let mut there = vec![0; signature.len()];
        device.read(&mut there, byte)?;
        if there == signature && found.iter().all(|other| other.what != what) {
            found.push(Found {
                what,
                path: device.path().to_owned(),
                byte,
            });
        }
    }
    Ok(found)
}

/// Meta-data of any version of DRBD where this layout has its superblock.
pub(super) fn find_metadata(device: &BlockFile, index: MetaIndex) -> Result<Option<Found>, OfflineError> {
    let Ok(byte) = superblock_byte(index, device.bytes()) else {
        return Ok(None);
    };
    let block = device.read_block(byte)?;
    let claims = UnverifiedSuperblock::parse(&block).is_ok_and(|block| block.claims_to_be_metadata());
    Ok(claims.then(|| Found {
        what: "DRBD meta-data",
        path: device.path().to_owned(),
        byte,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::device::Access;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    #[test]
    fn every_signature_is_found_where_it_belongs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        for (place, signature, what) in SIGNATURES {
            let file = File::create(&path).unwrap();
            file.set_len(1 << 20).unwrap();
            assert_eq!(find(&BlockFile::open(&path, Access::Read).unwrap()).unwrap(), []);
            let byte = if place < 0 {
                (1_u64 << 20).checked_add_signed(place).unwrap()
            } else {
                place as u64
            };
            file.write_all_at(signature, byte).unwrap();
            let found = find(&BlockFile::open(&path, Access::Read).unwrap()).unwrap();
            assert_eq!(
                found,
                [Found {
                    what,
                    path: path.clone(),
                    byte
                }]
            );
        }
    }
}
