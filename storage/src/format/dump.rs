//! The text of `drbdmeta dump-md`, and the same as a value for JSON.
//!
//! The bitmap may be large, so the text is made in pieces: [`Dump::head`], [`bitmap_text`] for each piece of at most
//! [`PIECE_BYTES`], [`Dump::tail`]. Unlike `drbdmeta` 9.22.0 the dump shows the flags as they are on disk.
use super::bitmap::room_of;
use super::superblock::{Flags, GenerationIds, Verified};
use crate::units::BLOCK_BYTES;
use serde::Serialize;
use std::fmt::Write;

/// Bytes of the bitmap after which `drbdmeta` starts a new piece: runs end there.
pub const PIECE_BYTES: usize = 32 << 20;
/// 32-bit words that may start a new line (four values).
const LINE_WORDS: usize = 8;
/// 32-bit words after which a line says where it is.
const MARK_WORDS: usize = 64;
/// KiB of data that a 32-bit word of the bitmap describes.
const KIB_OF_WORD: u64 = 32 * BLOCK_BYTES / 1024;

/// Everything that `dump-md` says, under its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dump {
    /// The format: always "v08".
    pub version: &'static str,
    /// Whether the activity log needs no replay. If not, the bitmap is not to be trusted.
    pub clean: bool,
    /// Size of the whole meta-data in sectors.
    pub md_size_sect: u32,
    /// Byte of the superblock.
    pub md_offset: u64,
    /// Byte of the activity log.
    pub al_offset: u64,
    /// Byte of the bitmap.
    pub bm_offset: u64,
    /// Current, bitmap, younger and older history.
    pub uuid: GenerationIds,
    /// Names of the flags.
    pub flags: Flags,
    /// All flags, also those without a name.
    pub flags_word: u32,
    /// Slots of the activity log.
    pub al_extents: u32,
    /// Agreed size of the volume in sectors, cut to what the devices have room for.
    pub la_size_sect: u64,
    /// The size that the superblock says, when it had to be cut.
    pub la_size_sect_on_disk: Option<u64>,
    /// Bytes of data of a bit.
    pub bm_byte_per_bit: u64,
    /// Identity of the meta-data, 16 hexadecimal digits.
    pub device_uuid: String,
    /// Largest bio that the peer announced.
    pub la_peer_max_bio_size: u32,
    /// Stripes of the activity log.
    pub al_stripes: u32,
    /// Blocks of a stripe.
    pub al_stripe_size_4k: u32,
    /// Bytes of the bitmap.
    pub bm_bytes: u64,
    /// Set bits in these bytes, also behind the end of the volume.
    pub bits_set: u64,
    /// First runs of set bits: first and last bit.
    pub bits_set_runs: Vec<(u64, u64)>,
    /// Whether there are more runs than listed.
    pub more_runs: bool,
}

impl Dump {
    /// Without what only the bitmap knows ([`Self::bits_set`] and the runs).
    pub fn new(verified: &Verified) -> Self {
        let Verified { superblock, layout } = verified;
        let size = superblock.effective_sectors.min(layout.usable_sectors());
        Self {
            version: "v08",
            clean: superblock.log_is_clean(),
            md_size_sect: superblock.layout.meta_sectors,
            md_offset: layout.superblock_byte(),
            al_offset: layout.log_byte(),
            bm_offset: layout.bitmap_byte(),
            uuid: superblock.generations,
            flags: superblock.flags,
            flags_word: superblock.flags.bits(),
            al_extents: superblock.log_slots,
            la_size_sect: size,
            la_size_sect_on_disk: (superblock.effective_sectors != size)
                .then_some(superblock.effective_sectors),
            bm_byte_per_bit: BLOCK_BYTES,
            device_uuid: format!("{:016X}", superblock.device_id),
            la_peer_max_bio_size: superblock.peer_max_bio_bytes,
            al_stripes: superblock.layout.log.stripes(),
            al_stripe_size_4k: superblock.layout.log.stripe_blocks(),
            bm_bytes: room_of(size),
            bits_set: 0,
            bits_set_runs: Vec::new(),
            more_runs: false,
        }
    }

    /// The text up to the bitmap.
    pub fn head(&self) -> String {
        let mut text = String::new();
        let written = self.write_head(&mut text);
        written.expect("writing to a String cannot fail");
        text
    }

    fn write_head(&self, text: &mut String) -> std::fmt::Result {
        if let Some(on_disk) = self.la_size_sect_on_disk {
            writeln!(
                text,
                "# la-size-sect was too big ({on_disk}), truncated ({})!",
                self.la_size_sect
            )?;
        }
        writeln!(text, "version \"{}\";\n", self.version)?;
        if !self.clean {
            // The first line is no comment on purpose: a restore of this text must fail.
            writeln!(text, "This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.")?;
            writeln!(
                text,
                "# You should \"apply-al\" first, if you plan to restore this.\n"
            )?;
        }
        writeln!(
            text,
            "# md_size_sect {}\n# md_offset {}",
            self.md_size_sect, self.md_offset
        )?;
        writeln!(
            text,
            "# al_offset {}\n# bm_offset {}\n",
            self.al_offset, self.bm_offset
        )?;
        let [current, bitmap, younger, older] = self.uuid.slots();
        writeln!(
            text,
            "uuid {{\n    0x{current:016X}; 0x{bitmap:016X}; 0x{younger:016X}; 0x{older:016X};"
        )?;
        writeln!(text, "    flags 0x{:08X};\n}}", self.flags_word)?;
        writeln!(
            text,
            "# al-extents {};\nla-size-sect {};",
            self.al_extents, self.la_size_sect
        )?;
        writeln!(
            text,
            "bm-byte-per-bit {};\ndevice-uuid 0x{};",
            self.bm_byte_per_bit, self.device_uuid
        )?;
        writeln!(text, "la-peer-max-bio-size {};", self.la_peer_max_bio_size)?;
        writeln!(
            text,
            "al-stripes {};\nal-stripe-size-4k {};",
            self.al_stripes, self.al_stripe_size_4k
        )?;
        write!(text, "# bm-bytes {};\nbm {{", self.bm_bytes)
    }

    /// The text behind the bitmap.
    pub fn tail(&self) -> String {
        format!("\n}}\n# bits-set {};\n", self.bits_set)
    }
}

/// The text of a piece of the bitmap that starts at byte `first_byte` (a multiple of 32), a multiple of 32 bytes long.
pub fn bitmap_text(bytes: &[u8], first_byte: u64) -> String {
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    let mut text = String::new();
    let mut at = 0;
    while at < words.len() {
        let index = first_byte / 4 + at as u64;
        let written = write_line(&mut text, &words[at..], index);
        at += written.expect("writing to a String cannot fail");
    }
    text
}

/// One line: a run of equal values, or four values. Returns the number of words.
fn write_line(text: &mut String, words: &[u32], index: u64) -> Result<usize, std::fmt::Error> {
    if index.is_multiple_of(MARK_WORDS as u64) {
        write!(text, "\n   # at {}kB", index * KIB_OF_WORD)?;
    }
    text.push_str("\n   ");
    let first = words[0];
    let equal = words.iter().take_while(|&&word| word == first).count() / LINE_WORDS * LINE_WORDS;
    if equal > LINE_WORDS {
        write!(text, " {} times 0x{first:08X}{first:08X};", equal / 2)?;
        return Ok(equal);
    }
    let line = &words[..words.len().min(LINE_WORDS)];
    for pair in line.chunks_exact(2) {
        write!(text, " 0x{:08X}{:08X};", pair[1], pair[0])?;
    }
    Ok(line.len())
}
