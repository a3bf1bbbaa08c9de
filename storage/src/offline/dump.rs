//! `dump-md`: the meta-data as text or as a value.
use super::device::Access;
use super::{Devices, Location, OfflineError};
use crate::format::bitmap::{Runs, count_set, decode};
use crate::format::dump::{Dump, PIECE_BYTES, bitmap_text};
use std::io::Write;

/// Runs of set bits that the value lists.
const RUNS: usize = 1000;

/// Writes the text of the meta-data to `text` and returns the same as a value (for JSON; then pass [`std::io::sink`]).
///
/// # Errors
/// Without `force` it refuses meta-data whose activity log must be applied first. Nothing has been written to `text`
/// when it refuses.
pub fn dump_md(location: &Location, force: bool, text: &mut dyn Write) -> Result<Dump, OfflineError> {
    let devices = Devices::open(location, Access::Read)?;
    let verified = devices
        .read_superblock()?
        .verify_structure(devices.index, devices.sizes)
        .map_err(|error| devices.superblock_error(error))?;
    let mut dump = Dump::new(&verified);
    if !dump.clean && !force {
        return Err(OfflineError::Unclean(devices.meta.path().to_owned()));
    }
    let mut put = |piece: String| {
        let written = text.write_all(piece.as_bytes());
        written.map_err(|source| OfflineError::Io {
            action: "write",
            path: "the dump".into(),
            source,
        })
    };
    let mut runs = Runs::new(RUNS);
    put(dump.head())?;
    let mut at = 0;
    while at < dump.bm_bytes {
        let mut bytes = vec![0; (dump.bm_bytes - at).min(PIECE_BYTES as u64) as usize];
        devices
            .meta
            .read(&mut bytes, verified.layout.bitmap_byte() + at)?;
        put(bitmap_text(&bytes, at))?;
        let words = decode(&bytes);
        dump.bits_set += count_set(&words);
        runs.push(&words);
        at += bytes.len() as u64;
    }
    put(dump.tail())?;
    (dump.bits_set_runs, dump.more_runs) = runs.finish();
    Ok(dump)
}
