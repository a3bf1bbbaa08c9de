//! `[[volume]]`: a replicated volume, its lower disk, its handlers and its fault rules.

use super::fault::FaultRule;
use super::keys::{KEYS, Section};
use super::peer::PeerConfiguration;
use super::reader::Reader;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Where the meta-data lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaDisk {
    /// At the end of the lower disk.
    Internal,
    /// On a disk of its own.
    External(PathBuf),
}

/// What an error of the lower disk does (`on-io-error`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnIoError {
    /// The disk stays attached, Inconsistent.
    #[serde(rename = "pass_on")]
    PassOn,
    /// The handler `local-io-error` runs, then as `Detach`.
    #[serde(rename = "call-local-io-error")]
    CallLocalIoError,
    /// The disk is given up.
    #[default]
    #[serde(rename = "detach")]
    Detach,
}

/// Requests for which no up-to-date copy can be reached (`on-no-data-accessible`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnNoDataAccessible {
    /// They fail.
    #[default]
    IoError,
    /// They wait until a copy returns.
    SuspendIo,
}

/// How the lower disk is driven (`io-backend`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoBackend {
    /// io_uring where the kernel offers it, else threads.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// pread and pwrite on threads.
    Threads,
}

/// The resync controller's options, in base units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncRate {
    /// `resync-rate`, bytes per second: the start, or the fixed rate without a plan.
    pub initial: u64,
    /// `c-plan-ahead`; zero: fixed rate.
    pub plan_ahead: Duration,
    /// `c-delay-target`, used where `fill_target` is 0.
    pub delay_target: Duration,
    /// `c-fill-target`, bytes in flight.
    pub fill_target: u64,
    /// `c-max-rate`, bytes per second.
    pub max: u64,
    /// `c-min-rate`, bytes per second; 0: resync never gives way.
    pub min: u64,
}

/// Handlers: name to shell line. The names are those of `[volume.handlers]`.
pub type Handlers = BTreeMap<&'static str, String>;

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeConfiguration {
    /// Name; also the NBD export name.
    pub name: String,
    /// Minor number.
    pub minor: u32,
    /// Lower disk.
    pub disk: PathBuf,
    /// Meta-data.
    pub meta_disk: MetaDisk,
    /// Size of the activity log in extents; the on-disk ring may cap it.
    pub al_extents: u32,
    /// Policy for errors of the lower disk.
    pub on_io_error: OnIoError,
    /// Limit of local I/O while a good copy is reachable; `None` = off.
    pub disk_timeout: Option<Duration>,
    /// Limit of one step of detach and attach.
    pub detach_step_timeout: Duration,
    /// Limit of a handler's run.
    pub helper_timeout: Duration,
    /// How long a request that only the peer can serve waits for a lost connection.
    pub reconnect_grace: Duration,
    /// Flush the data disk.
    pub disk_flushes: bool,
    /// Flush the meta-data disk.
    pub md_flushes: bool,
    /// The resync controller.
    pub resync_rate: ResyncRate,
    /// Policy for requests without data.
    pub on_no_data_accessible: OnNoDataAccessible,
    /// How the lower disk is driven.
    pub io_backend: IoBackend,
    /// The other node; `None`: not replicated (yet).
    pub peer: Option<PeerConfiguration>,
    /// Shell lines by handler name.
    pub handlers: Handlers,
    /// Fault rules that hold from the start.
    pub faults: Vec<FaultRule>,
}

impl VolumeConfiguration {
    /// Reads a volume; `index` is its number in the file.
    pub(super) fn read(reader: &mut Reader<'_, '_>, index: usize) -> Self {
        reader.refuse_unknown_keys();
        Self {
            name: reader.name("name"),
            minor: reader.integer("minor").unwrap_or(index as u64) as u32,
            disk: reader.path("disk").unwrap_or_default(),
            meta_disk: read_meta_disk(reader),
            al_extents: reader.integer("al-extents").unwrap_or(0) as u32,
            on_io_error: reader.choice("on-io-error").unwrap_or_default(),
            disk_timeout: Some(reader.tenths("disk-timeout")).filter(|timeout| !timeout.is_zero()),
            detach_step_timeout: reader.seconds("detach-step-timeout"),
            helper_timeout: reader.seconds("helper-timeout"),
            reconnect_grace: reader.seconds("reconnect-grace"),
            disk_flushes: reader.boolean("disk-flushes"),
            md_flushes: reader.boolean("md-flushes"),
            resync_rate: ResyncRate::read(reader),
            on_no_data_accessible: reader.choice("on-no-data-accessible").unwrap_or_default(),
            io_backend: reader.choice("io-backend").unwrap_or_default(),
            peer: reader
                .subtable("peer")
                .map(|table| PeerConfiguration::read(&mut reader.inner(Section::Peer, table, "peer"))),
            handlers: read_handlers(reader),
            faults: reader
                .subtables("faults")
                .into_iter()
                .enumerate()
                .map(|(index, table)| {
                    FaultRule::read(&mut reader.inner(Section::Faults, table, &format!("faults[{index}]")))
                })
                .collect(),
        }
    }
}

impl ResyncRate {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        let rate = Self {
            initial: reader.kibibytes("resync-rate"),
            plan_ahead: reader.tenths("c-plan-ahead"),
            delay_target: reader.tenths("c-delay-target"),
            fill_target: reader.integer("c-fill-target").unwrap_or(0) * 512,
            max: reader.kibibytes("c-max-rate"),
            min: reader.kibibytes("c-min-rate"),
        };
        if rate.min > rate.max {
            reader.refuse_plainly(
                "c-min-rate",
                format!("must not be above c-max-rate, which is {} KiB/s", rate.max / 1024),
            );
        }
        rate
    }
}

fn read_meta_disk(reader: &mut Reader<'_, '_>) -> MetaDisk {
    match reader.text("meta-disk").as_deref() {
        None | Some("internal") => MetaDisk::Internal,
        Some(_) => reader
            .path("meta-disk")
            .map_or(MetaDisk::Internal, MetaDisk::External),
    }
}

fn read_handlers(reader: &mut Reader<'_, '_>) -> Handlers {
    let Some(table) = reader.subtable("handlers") else {
        return Handlers::new();
    };
    let mut reader = reader.inner(Section::Handlers, table, "handlers");
    reader.refuse_unknown_keys();
    let mut handlers = Handlers::new();
    for key in KEYS.iter().filter(|key| key.section == Section::Handlers) {
        match reader.text(key.name) {
            None => {}
            Some(line) if line.trim().is_empty() => {
                reader.refuse(key.name, "is empty; leave the key out for no handler")
            }
            Some(line) => {
                handlers.insert(key.name, line);
            }
        }
    }
    handlers
}
