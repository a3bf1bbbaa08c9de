//! The health file of a volume: written on the blocking pool, one write at a time (the bitmap part keeps to that).

use crate::counters::Counters;
use crate::handle::Handle;
use crate::shell::Port;
use mendblock_core::bitmap::{BadBlocks, BitmapEffect, BitmapIn, BitmapPart};
use mendblock_storage::health::Health;
use mendblock_storage::health::file::{HealthFileError, HealthStore};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The files of one volume in the node's `state-dir`.
#[derive(Clone)]
pub struct HealthFiles {
    state_dir: Arc<Path>,
    volume: Arc<str>,
    open: Arc<Mutex<Option<HealthStore>>>,
}

impl HealthFiles {
    /// Opens what is there; a damaged file is set aside (it counts as lost, and the superblock's anchor tells so).
    pub fn open(state_dir: &Path, volume: &str) -> Result<(Self, Vec<Health>), HealthFileError> {
        let mut found = Vec::new();
        let open = match HealthStore::load(state_dir, volume) {
            Ok(Some((store, health))) => {
                found.push(health);
                Some(store)
            }
            Ok(None) => None,
            Err(HealthFileError::Damaged { path, cause }) => {
                tracing::error!(volume, path = %path.display(), %cause, "health file damaged: set aside");
                HealthStore::set_damaged_aside(state_dir, volume)?;
                None
            }
            Err(error) => return Err(error),
        };
        found.extend(HealthStore::archives(state_dir, volume)?);
        let files = Self {
            state_dir: state_dir.into(),
            volume: volume.into(),
            open: Arc::new(Mutex::new(open)),
        };
        Ok((files, found))
    }

    /// The newest content of every file, the one of the disk attached last first: for a new bitmap part.
    pub fn read(&self) -> Vec<(u64, Vec<u8>)> {
        let guard = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let current = HealthStore::load(&self.state_dir, &self.volume)
            .ok()
            .flatten()
            .map(|(_, health)| health);
        drop(guard);
        let archives = HealthStore::archives(&self.state_dir, &self.volume).unwrap_or_default();
        current
            .into_iter()
            .chain(archives)
            .map(|health| (health.device_id, health.encode()))
            .collect()
    }

    fn write(&self, device_id: u64, sequence: u64, bytes: &[u8]) -> Result<(), HealthFileError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|store| store.device_id() != device_id)
            && let Some(store) = open.take()
        {
            store.archive()?;
        }
        if open.is_none() && HealthStore::restore(&self.state_dir, &self.volume, device_id)? {
            *open = HealthStore::load(&self.state_dir, &self.volume)?.map(|(store, _)| store);
        }
        match open.as_mut() {
            Some(store) => store.write_encoded(sequence, bytes),
            None => {
                let mut health = Health::parse(bytes).map_err(|error| HealthFileError::Io {
                    action: "understand",
                    path: PathBuf::from(&*self.volume),
                    source: std::io::Error::other(error),
                })?;
                // `create` counts one up: what the part encoded is what shall stand there.
                health.sequence -= 1;
                *open = Some(HealthStore::create(&self.state_dir, &mut health)?);
                Ok(())
            }
        }
    }
}

/// The port of the bitmap part.
pub struct HealthPort {
    files: HealthFiles,
    actor: Handle<BitmapPart>,
    bad_blocks: watch::Sender<Arc<BadBlocks>>,
    counters: Arc<Counters>,
}

impl HealthPort {
    /// On these files.
    pub fn new(
        files: HealthFiles,
        actor: Handle<BitmapPart>,
        bad_blocks: watch::Sender<Arc<BadBlocks>>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            files,
            actor,
            bad_blocks,
            counters,
        }
    }
}

impl Port<BitmapEffect> for HealthPort {
    fn carry_out(&mut self, effects: &mut Vec<BitmapEffect>) {
        for effect in effects.drain(..) {
            match effect {
                BitmapEffect::WriteHealth {
                    device_id,
                    sequence,
                    bytes,
                    ..
                } => {
                    let (files, actor) = (self.files.clone(), self.actor.clone());
                    actix::spawn(async move {
                        let written =
                            tokio::task::spawn_blocking(move || files.write(device_id, sequence, &bytes))
                                .await;
                        let result = match written {
                            Ok(Ok(())) => Ok(()),
                            Ok(Err(error)) => {
                                tracing::error!(%error, "health file not written");
                                Err(5)
                            }
                            Err(error) => {
                                tracing::error!(%error, "health file write died");
                                Err(5)
                            }
                        };
                        actor.deliver(vec![BitmapIn::HealthWritten { sequence, result }]);
                    });
                }
                BitmapEffect::SetBits(count) => {
                    self.counters.set_out_of_sync(count);
                }
                BitmapEffect::Publish(bad) => {
                    self.bad_blocks.send_replace(bad);
                }
            }
        }
    }
}
