//! The health file of a simulated node: two slots for each disk that it ever had. Crashes tear a write that is under way.

use fastrand::Rng;
use mendblock_storage::health::Health;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Health files, by device id. They survive every crash.
#[derive(Clone, Debug, Default)]
pub struct HealthFiles {
    slots: BTreeMap<u64, [Arc<Vec<u8>>; 2]>,
    /// Device id of the file that was written last.
    last: Option<u64>,
    /// Writes fail.
    pub unwritable: bool,
}

impl HealthFiles {
    /// What a new bitmap part is given: the newest valid slot of each file, that of the disk attached last first.
    pub fn read(&self) -> Vec<(u64, Vec<u8>)> {
        let mut files: Vec<(u64, Vec<u8>)> = self
            .slots
            .iter()
            .filter_map(|(&id, slots)| newest(slots).map(|slot| (id, slot)))
            .collect();
        files.sort_by_key(|(id, _)| Some(*id) != self.last);
        files
    }

    /// The newest valid content for this disk.
    pub fn health(&self, device_id: u64) -> Option<Health> {
        let slots = self.slots.get(&device_id)?;
        newest(slots).and_then(|bytes| Health::parse(&bytes).ok())
    }

    /// Writes a slot; linux errno on failure.
    pub fn write(&mut self, device_id: u64, slot: u8, bytes: &Arc<Vec<u8>>) -> Result<(), i32> {
        if self.unwritable {
            return Err(5);
        }
        self.slots.entry(device_id).or_default()[usize::from(slot)] = Arc::clone(bytes);
        self.last = Some(device_id);
        Ok(())
    }

    /// A write that a loss of power cuts off: some of its sectors are there.
    pub fn tear(&mut self, device_id: u64, slot: u8, bytes: &[u8], random: &mut Rng) {
        let old = Arc::make_mut(&mut self.slots.entry(device_id).or_default()[usize::from(slot)]);
        old.resize(bytes.len(), 0);
        for (old, new) in old.chunks_mut(512).zip(bytes.chunks(512)) {
            if random.bool() {
                old.copy_from_slice(new);
            }
        }
    }
}

fn newest(slots: &[Arc<Vec<u8>>; 2]) -> Option<Vec<u8>> {
    slots
        .iter()
        .filter_map(|bytes| Health::parse(bytes).ok().map(|health| (health.sequence, bytes)))
        .max_by_key(|(sequence, _)| *sequence)
        .map(|(_, bytes)| bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(sequence: u64) -> Vec<u8> {
        let mut health = Health::new(1, "v0", 7);
        health.sequence = sequence;
        health.encode()
    }

    #[test]
    fn a_torn_slot_never_hides_the_older_one() {
        for seed in 0..32 {
            let mut files = HealthFiles::default();
            files.write(7, 0, &Arc::new(health(3))).unwrap();
            files.tear(7, 1, &health(4), &mut Rng::with_seed(seed));
            let sequence = files.health(7).unwrap().sequence;
            assert!(sequence == 3 || sequence == 4);
        }
    }
}
