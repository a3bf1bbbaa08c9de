//! What the parts of a volume are configured with. Values are checked where the configuration file is read.

use serde::{Deserialize, Serialize};

/// What follows an I/O error of the lower disk (`on-io-error`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnIoError {
    /// The disk becomes Inconsistent and stays attached.
    #[serde(rename = "pass_on")]
    PassOn,
    /// The disk is detached.
    Detach,
    /// The handler `local-io-error` runs, then the disk is detached.
    CallLocalIoError,
}

/// What happens to I/O when no up-to-date copy is reachable (`on-no-data-accessible`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnNoData {
    /// It is answered with an error.
    IoError,
    /// It waits.
    SuspendIo,
}

/// Speed of the resync (DRBD's controller; units as in its manual).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResyncRate {
    /// `resync-rate`, KiB/s: start value, or the fixed rate when `plan_ahead` is 0.
    pub resync_rate: u32,
    /// `c-plan-ahead`, 0.1 s.
    pub plan_ahead: u32,
    /// `c-delay-target`, 0.1 s.
    pub delay_target: u32,
    /// `c-fill-target`, sectors.
    pub fill_target: u32,
    /// `c-max-rate`, KiB/s.
    pub max_rate: u32,
    /// `c-min-rate`, KiB/s.
    pub min_rate: u32,
}

/// Configuration of one volume's parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeConfiguration {
    /// Name of the volume.
    pub volume: String,
    /// Own node id.
    pub node_id: u8,
    /// Own node name.
    pub node_name: String,
    /// The peer's node id.
    pub peer_id: u8,
    /// The peer's name.
    pub peer_name: String,
    /// Random number of this process life.
    pub process_id: u64,
    /// Where the meta-data lies.
    pub meta_index: mendblock_storage::format::layout::MetaIndex,
    /// `on-io-error`.
    pub on_io_error: OnIoError,
    /// `on-no-data-accessible`.
    pub on_no_data: OnNoData,
    /// `al-extents`: slots of the activity log.
    pub al_extents: u32,
    /// `max-epoch-size`: writes.
    pub max_epoch_size: u32,
    /// `max-buffers`, as bytes: most payload that may be under way to the peer.
    pub peer_window: u64,
    /// `detach-step-timeout`, ms.
    pub detach_step_timeout: u64,
    /// `helper-timeout`, ms.
    pub helper_timeout: u64,
    /// `reconnect-grace`, ms.
    pub reconnect_grace: u64,
    /// `disk-timeout`, ms; 0 = off.
    pub disk_timeout: u64,
    /// `timeout` × `ko-count`, ms: an unanswered peer is dead after this; 0 = never.
    pub peer_timeout: u64,
    /// `ping-int`, ms.
    pub ping_interval: u64,
    /// `ping-timeout`, ms.
    pub ping_timeout: u64,
    /// `connect-int`, ms.
    pub connect_interval: u64,
    /// Speed of the resync.
    pub resync: ResyncRate,
}

#[cfg(test)]
impl ResyncRate {
    /// A usual setting.
    pub(crate) const SAMPLE: Self = Self {
        resync_rate: 102_400,
        plan_ahead: 20,
        delay_target: 10,
        fill_target: 8192,
        max_rate: 4 << 20,
        min_rate: 250,
    };
}

#[cfg(test)]
impl VolumeConfiguration {
    /// What the parts' tests start from; nodes are 0 and 1.
    pub(crate) fn sample(node_id: u8) -> Self {
        Self {
            volume: "data".to_owned(),
            node_id,
            node_name: format!("node{node_id}"),
            peer_id: 1 - node_id,
            peer_name: format!("node{}", 1 - node_id),
            process_id: 100 + u64::from(node_id),
            meta_index: mendblock_storage::format::layout::MetaIndex::Internal,
            on_io_error: OnIoError::Detach,
            on_no_data: OnNoData::IoError,
            al_extents: 1237,
            max_epoch_size: 2048,
            peer_window: 1 << 20,
            detach_step_timeout: 10_000,
            helper_timeout: 10_000,
            reconnect_grace: 10_000,
            disk_timeout: 0,
            peer_timeout: 6_000,
            ping_interval: 10_000,
            ping_timeout: 500,
            connect_interval: 10_000,
            resync: ResyncRate::SAMPLE,
        }
    }
}
