//! What a node tells about itself: its status when asked, and its events as they happen, so that a state which lasts for
//! a millisecond is seen too.

use super::directory::NodeFiles;
use super::process::VOLUME;
use crate::admin::paths;
use crate::admin::schema::{Event, Status, VolumeStatus};
use crate::cli::client::{Client, ClientError};
use crate::cli::events;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the node may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The admin API of one node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its client.
    pub client: Client,
}

impl NodeView {
    /// Of the node with these files.
    pub fn of(files: &NodeFiles) -> Self {
        Self {
            client: Client::new(&files.admin_socket, ANSWER_LIMIT),
        }
    }

    /// The whole status; `None`: no answer.
    pub async fn status(&self) -> Option<Status> {
        self.client.get(paths::STATUS).await.ok()
    }

    /// The volume's status; `None`: no answer.
    pub async fn volume(&self) -> Option<VolumeStatus> {
        let status = self.status().await?;
        status.volumes.into_iter().find(|volume| volume.name == VOLUME)
    }

    /// Follows the events from now on.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn follow(&self) -> Result<EventLog, ClientError> {
        let mut lines = self.client.lines(paths::EVENTS).await?;
        while let Some(event) = next(&mut lines).await? {
            if events::ends_dump(&event) {
                break;
            }
        }
        let log = EventLog::default();
        let writer = log.clone();
        tokio::spawn(async move {
            // The stream ends with the node; who waits for an event has a deadline.
            while let Ok(Some(event)) = next(&mut lines).await {
                writer.events().push(event);
            }
        });
        Ok(log)
    }
}

async fn next(lines: &mut crate::cli::client::Lines) -> Result<Option<Event>, ClientError> {
    let Some(line) = lines.next().await? else {
        return Ok(None);
    };
    let event = serde_json::from_str(&line)
        .map_err(|error| ClientError::Unintelligible(format!("{error} in {line}")))?;
    Ok(Some(event))
}

/// Events in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    events: Arc<Mutex<Vec<Event>>>,
}

impl EventLog {
    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        // An event is added in one step; nothing panics half-way.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk's states, in order.
    pub fn disk_states(&self) -> Vec<String> {
        self.values("device", "disk")
    }

    /// Sizes of the resyncs that began, bytes.
    pub fn resync_sizes(&self) -> Vec<u64> {
        let sizes = self.values("peer-device", "out-of-sync-kib");
        sizes
            .iter()
            .filter_map(|kib| kib.parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .collect()
    }

    fn values(&self, object: &str, key: &str) -> Vec<String> {
        let events = self.events();
        let fields = events
            .iter()
            .filter(|event| event.object == object)
            .flat_map(|event| &event.fields);
        fields
            .filter(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::schema::EventKind;

    fn event(object: &str, fields: &[(&str, &str)]) -> Event {
        let fields = fields
            .iter()
            .map(|&(key, value)| (key.into(), value.into()))
            .collect();
        Event {
            number: 1,
            at: 0.0,
            kind: EventKind::Change,
            object: object.into(),
            fields,
        }
    }

    #[test]
    fn states_and_sizes_come_from_the_right_objects() {
        let log = EventLog::default();
        log.events().extend([
            event("device", &[("name", "r0"), ("disk", "Failed")]),
            event("peer-device", &[("disk", "Outdated"), ("out-of-sync-kib", "68")]),
            event("device", &[("step", "D7"), ("out-of-sync-kib", "4")]),
            event("device", &[("disk", "Diskless")]),
        ]);
        assert_eq!(log.disk_states(), ["Failed", "Diskless"]);
        assert_eq!(log.resync_sizes(), [68 * 1024]);
    }
}
