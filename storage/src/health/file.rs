//! The health file on disk: blocking reads and writes in the node's `state-dir`.
//!
//! The file of the disk last attached is `<volume>.health`; the files of other disks are kept as archives,
//! `<volume>.<device id in hex>.health`. The caller holds the volume's lock, so that one process at a time uses them.

use super::header::{Health, VOLUME_NAME_MAX};
use super::slot::{FILE_BYTES, Loaded, NoValidSlot, SLOT_BYTES, Slot};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A health file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HealthFileError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}; check the node's state-dir and its disk")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No slot of the file is valid: what it said is lost. Set it aside ([`HealthStore::set_damaged_aside`]) and attach
    /// as if there were none.
    #[error("{path}: {cause}; it counts as lost, `attach` sets it aside")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with each slot.
        cause: NoValidSlot,
    },
    /// The file belongs to another volume.
    #[error("{path} belongs to volume {found:?}; was it copied or renamed? Move it away")]
    OtherVolume {
        /// The file.
        path: PathBuf,
        /// The volume named in it.
        found: String,
    },
    /// A file is where a new one, or an archive, should go.
    #[error("{path} exists; archive it first")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A content came after a newer one.
    #[error("content {sequence} of the health file came after content {last}: not written")]
    Superseded {
        /// The number in it.
        sequence: u64,
        /// The newest that was written, or tried.
        last: u64,
    },
    /// The volume's name is empty or too long.
    #[error("a volume name of {0} bytes cannot stand in a health file (1 to {VOLUME_NAME_MAX})")]
    Name(usize),
}

/// The open health file of a volume.
#[derive(Debug)]
pub struct HealthStore {
    place: Place,
    file: File,
    device_id: u64,
    /// The slot with the newest durable content.
    newest: Slot,
    last_sequence: u64,
}

/// Where the files of a volume lie.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    stem: String,
}

impl HealthStore {
    /// Opens the volume's health file and reads its newest content; `None` when there is none.
    pub fn load(state_dir: &Path, volume: &str) -> Result<Option<(Self, Health)>, HealthFileError> {
        let place = Place::of(state_dir, volume)?;
        let path = place.current();
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let Loaded { health, slot } = read_newest(&file, &path)?;
        if health.volume != volume {
            let found = health.volume;
            return Err(HealthFileError::OtherVolume { path, found });
        }
        let store = Self {
            place,
            file,
            device_id: health.device_id,
            newest: slot,
            last_sequence: health.sequence,
        };
        Ok(Some((store, health)))
    }

    /// Creates the volume's health file with this content, whose sequence number becomes 1 more. The file appears whole
    /// or not at all; it is durable on return.
    pub fn create(state_dir: &Path, health: &mut Health) -> Result<Self, HealthFileError> {
        let place = Place::of(state_dir, &health.volume)?;
        let path = place.current();
        refuse_existing(&path)?;
        health.sequence += 1;
        let mut bytes = health.encode();
        bytes.resize(FILE_BYTES, 0);
        let temporary = place.directory.join(format!(".{}.health.new", place.stem));
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600);
        let file = options.open(&temporary).map_err(failed("create", &temporary))?;
        file.write_all_at(&bytes, 0)
            .map_err(failed("write", &temporary))?;
        file.sync_all().map_err(failed("flush", &temporary))?;
        place.rename(&temporary, &path)?;
        Ok(Self {
            place,
            file,
            device_id: health.device_id,
            newest: Slot::First,
            last_sequence: health.sequence,
        })
    }

    /// Writes the content, with the next sequence number, to the older slot; durable on return. After an error the
    /// former content is still there, `health` keeps its sequence number, and the next write goes to the same slot.
    pub fn write(&mut self, health: &mut Health) -> Result<(), HealthFileError> {
        let durable = health.sequence;
        // A failed write may have landed all the same: its number is never used again.
        self.last_sequence += 1;
        health.sequence = self.last_sequence;
        let written = self.write_slot(&health.encode());
        if written.is_err() {
            health.sequence = durable;
        }
        written
    }

    /// Writes a slot that was encoded elsewhere ([`Health::encode`]), with the sequence number that stands in it, to the
    /// older slot; durable on return.
    ///
    /// A number that is not above the last one is refused ([`HealthFileError::Superseded`]): the write of a bitmap actor that
    /// died, come late. Written, it would make the slot with the newest content pass for the older one, and the next write that a
    /// crash tears would take that content away.
    pub fn write_encoded(&mut self, sequence: u64, bytes: &[u8]) -> Result<(), HealthFileError> {
        if sequence <= self.last_sequence {
            return Err(HealthFileError::Superseded {
                sequence,
                last: self.last_sequence,
            });
        }
        self.last_sequence = sequence;
        self.write_slot(bytes)
    }

    /// The archives of the volume: files of disks that were attached before. Damaged ones are left out.
    pub fn archives(state_dir: &Path, volume: &str) -> Result<Vec<Health>, HealthFileError> {
        let place = Place::of(state_dir, volume)?;
        let prefix = format!("{}.", place.stem);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&place.directory).map_err(failed("read", &place.directory))? {
            let path = entry.map_err(failed("read", &place.directory))?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let device = name
                .strip_prefix(&prefix)
                .and_then(|rest| rest.strip_suffix(".health"));
            let is_archive = device.is_some_and(|id| id.len() == 16 && u64::from_str_radix(id, 16).is_ok());
            if let (true, Ok(file)) = (is_archive, File::open(&path)) {
                found.extend(
                    read_newest(&file, &path)
                        .ok()
                        .map(|loaded| loaded.health)
                        .filter(|health| health.volume == volume),
                );
            }
        }
        Ok(found)
    }

    fn write_slot(&mut self, bytes: &[u8]) -> Result<(), HealthFileError> {
        let path = self.place.current();
        let slot = self.newest.other();
        self.file
            .write_all_at(bytes, slot.offset())
            .map_err(failed("write", &path))?;
        self.file.sync_data().map_err(failed("flush", &path))?;
        self.newest = slot;
        Ok(())
    }

    /// The disk to which the file belongs.
    pub fn device_id(&self) -> u64 {
        self.device_id
    }

    /// Where the file lies, for messages.
    pub fn path(&self) -> PathBuf {
        self.place.current()
    }

    /// Makes the file an archive: another disk is attached to the volume. Returns the archive's path.
    pub fn archive(self) -> Result<PathBuf, HealthFileError> {
        let archive = self.place.archive(self.device_id);
        refuse_existing(&archive)?;
        self.place.rename(&self.place.current(), &archive)?;
        Ok(archive)
    }

    /// Makes the archive of a disk, if there is one, the volume's file again: that disk is attached again. Returns
    /// whether there was one. The present file must have been archived before.
    pub fn restore(state_dir: &Path, volume: &str, device_id: u64) -> Result<bool, HealthFileError> {
        let place = Place::of(state_dir, volume)?;
        let (archive, current) = (place.archive(device_id), place.current());
        if !exists(&archive)? {
            return Ok(false);
        }
        refuse_existing(&current)?;
        place.rename(&archive, &current)?;
        Ok(true)
    }

    /// Renames a damaged file of the volume, so that a new one can be created; an older damaged one is replaced. Returns
    /// its new path.
    pub fn set_damaged_aside(state_dir: &Path, volume: &str) -> Result<PathBuf, HealthFileError> {
        let place = Place::of(state_dir, volume)?;
        let aside = place.directory.join(format!("{}.damaged.health", place.stem));
        place.rename(&place.current(), &aside)?;
        Ok(aside)
    }
}

impl Place {
    fn of(directory: &Path, volume: &str) -> Result<Self, HealthFileError> {
        if volume.is_empty() || volume.len() > VOLUME_NAME_MAX {
            return Err(HealthFileError::Name(volume.len()));
        }
        let mut stem = String::new();
        for byte in volume.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => stem.push(char::from(byte)),
                // Two names never share a file, and no name leaves the directory.
                other => stem.push_str(&format!("%{other:02X}")),
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            stem,
        })
    }

    fn current(&self) -> PathBuf {
        self.directory.join(format!("{}.health", self.stem))
    }

    fn archive(&self, device_id: u64) -> PathBuf {
        self.directory
            .join(format!("{}.{device_id:016x}.health", self.stem))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), HealthFileError> {
        std::fs::rename(from, to).map_err(failed("rename", from))?;
        let directory = File::open(&self.directory).map_err(failed("open", &self.directory))?;
        directory.sync_all().map_err(failed("flush", &self.directory))
    }
}

fn read_newest(file: &File, path: &Path) -> Result<Loaded, HealthFileError> {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    let mut bounded = file.take(FILE_BYTES as u64);
    bounded.read_to_end(&mut bytes).map_err(failed("read", path))?;
    let (first, second) = bytes.split_at(SLOT_BYTES.min(bytes.len()));
    Health::newest(first, second).map_err(|cause| HealthFileError::Damaged {
        path: path.to_owned(),
        cause,
    })
}

fn exists(path: &Path) -> Result<bool, HealthFileError> {
    path.try_exists().map_err(failed("look for", path))
}

fn refuse_existing(path: &Path) -> Result<(), HealthFileError> {
    if exists(path)? {
        let path = path.to_owned();
        return Err(HealthFileError::Exists { path });
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HealthFileError {
    let path = path.to_owned();
    move |source| HealthFileError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Cause, Finding, GoodAt, Whose};
    use crate::units::BlockRange;

    const VOLUME: &str = "mirror/0";

    fn created(directory: &Path) -> (HealthStore, Health) {
        let mut health = Health::new(1, VOLUME, 0xABCD);
        let store = HealthStore::create(directory, &mut health).unwrap();
        (store, health)
    }

    fn mark(health: &mut Health, block: u64) {
        let finding = Finding {
            whose: Whose::Own,
            cause: Cause::Read,
            good_at: GoodAt::Yes,
            generation: 4,
            now: 1,
        };
        health.records.mark(BlockRange::single(block), finding).unwrap();
    }

    fn reload(directory: &Path) -> (HealthStore, Health) {
        HealthStore::load(directory, VOLUME).unwrap().unwrap()
    }

    #[test]
    fn a_late_write_of_an_older_content_leaves_the_newest_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, mut health) = created(directory.path());
        let older = health.clone();
        mark(&mut health, 7);
        health.sequence += 2;
        let newest = health.sequence;
        store.write_encoded(newest, &health.encode()).unwrap();
        let late = Health {
            sequence: newest - 1,
            ..older
        };
        let refused = store.write_encoded(late.sequence, &late.encode());
        assert!(matches!(refused, Err(HealthFileError::Superseded { .. })));
        // The next write, torn by a crash: the newest content is still there.
        let path = store.place.current();
        let other = store.newest.other();
        store.file.write_all_at(&[0xFF; 512], other.offset()).unwrap();
        assert_eq!(reload(directory.path()).1, health, "{}", path.display());
    }

    #[test]
    fn what_was_written_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        assert!(HealthStore::load(directory.path(), VOLUME).unwrap().is_none());
        let (mut store, mut health) = created(directory.path());
        for block in 0..5 {
            mark(&mut health, block * 3);
            store.write(&mut health).unwrap();
            assert_eq!(reload(directory.path()).1, health);
        }
        assert_eq!(health.sequence, 6);
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file is left");
    }

    #[test]
    fn a_torn_write_leaves_the_content_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, mut health) = created(directory.path());
        mark(&mut health, 7);
        store.write(&mut health).unwrap();
        let durable = health.clone();
        mark(&mut health, 9);
        health.sequence = 3;
        store
            .file
            .write_all_at(&health.encode()[..4100], Slot::First.offset())
            .unwrap();
        let (mut store, loaded) = reload(directory.path());
        assert_eq!(loaded, durable);
        store.write(&mut health).unwrap();
        assert_eq!(reload(directory.path()).1, health);
    }

    #[test]
    fn a_failed_write_does_not_cost_the_valid_slot() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, mut health) = created(directory.path());
        let read_only = File::open(store.path()).unwrap();
        let writable = std::mem::replace(&mut store.file, read_only);
        mark(&mut health, 7);
        assert!(matches!(
            store.write(&mut health),
            Err(HealthFileError::Io { action: "write", .. })
        ));
        assert_eq!((store.newest, health.sequence), (Slot::First, 1));
        store.file = writable;
        store.write(&mut health).unwrap();
        assert_eq!((store.newest, health.sequence), (Slot::Second, 3));
        assert_eq!(reload(directory.path()).1, health);
    }

    #[test]
    fn another_disk_archives_the_file_and_the_old_disk_finds_it_again() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut old) = created(directory.path());
        let refused = HealthStore::create(directory.path(), &mut old.clone());
        assert!(matches!(refused, Err(HealthFileError::Exists { .. })));
        let archive = store.archive().unwrap();
        assert!(archive.ends_with("mirror%2F0.000000000000abcd.health"));
        assert!(!HealthStore::restore(directory.path(), VOLUME, 5).unwrap());
        let store = HealthStore::create(directory.path(), &mut Health::new(2, VOLUME, 5)).unwrap();
        let refused = HealthStore::restore(directory.path(), VOLUME, 0xABCD);
        assert!(matches!(refused, Err(HealthFileError::Exists { .. })));
        store.archive().unwrap();
        assert!(HealthStore::restore(directory.path(), VOLUME, 0xABCD).unwrap());
        let (mut store, loaded) = reload(directory.path());
        assert_eq!((loaded.device_id, store.device_id()), (0xABCD, 0xABCD));
        store.write(&mut old).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named_and_can_be_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = created(directory.path());
        for length in [100, FILE_BYTES as u64] {
            store.file.set_len(length).unwrap();
            store.file.write_all_at(&[9; 100], 0).unwrap();
            let error = HealthStore::load(directory.path(), VOLUME).unwrap_err();
            assert!(matches!(error, HealthFileError::Damaged { .. }), "{error}");
        }
        HealthStore::set_damaged_aside(directory.path(), VOLUME).unwrap();
        assert!(HealthStore::load(directory.path(), VOLUME).unwrap().is_none());
    }

    #[test]
    fn names_neither_leave_the_directory_nor_meet() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| Place::of(directory.path(), name).unwrap().current();
        assert_eq!(place("../x").parent().unwrap(), directory.path());
        assert_ne!(place("a.damaged"), place("a").with_file_name("a.damaged.health"));
        assert!(matches!(
            Place::of(directory.path(), ""),
            Err(HealthFileError::Name(0))
        ));
        let (store, _) = created(directory.path());
        std::fs::copy(store.path(), place("copy")).unwrap();
        let error = HealthStore::load(directory.path(), "copy").unwrap_err();
        assert!(matches!(error, HealthFileError::OtherVolume { .. }));
    }
}
