//! Facts of the parts on their way to the log, to `events` and to the metrics.

use mendblock_core::fact::Fact;
use mendblock_core::part::PartName;
use std::sync::Arc;
use tokio::sync::broadcast;

/// A fact with what the shell knows about its origin.
#[derive(Clone, Debug)]
pub struct Happened {
    /// The volume.
    pub volume: Arc<str>,
    /// The part that said it.
    pub part: PartName,
    /// Seconds since 1970.
    pub wall: u64,
    /// What happened.
    pub fact: Fact,
}

/// Called with every fact, on the volume's Arbiter: for metrics. Must be quick.
pub type Observer = Arc<dyn Fn(&Happened) + Send + Sync>;

/// Where the shells of one volume put their facts.
#[derive(Clone)]
pub struct FactSink {
    volume: Arc<str>,
    events: broadcast::Sender<Arc<Happened>>,
    observer: Observer,
}

impl FactSink {
    /// A sink of this volume.
    pub fn new(volume: &str, events: broadcast::Sender<Arc<Happened>>, observer: Observer) -> Self {
        Self {
            volume: volume.into(),
            events,
            observer,
        }
    }

    /// One fact: one log line, one event, its metrics.
    pub fn put(&self, part: PartName, fact: Fact) {
        log(&self.volume, part, &fact);
        let happened = Happened {
            volume: Arc::clone(&self.volume),
            part,
            wall: crate::clock::wall(),
            fact,
        };
        (self.observer)(&happened);
        // Nobody listening is no error: events are only kept for those who read them.
        let _ = self.events.send(Arc::new(happened));
    }
}

fn log(volume: &str, part: PartName, fact: &Fact) {
    match fact {
        Fact::StateChanged { old, new, cause } => {
            tracing::info!(volume, part = part.as_str(), cause, "{}", old.difference(new));
        }
        Fact::IoError {
            number,
            kind,
            range,
            errno,
        } => {
            let range = range.map(|range| range.to_string());
            tracing::warn!(
                volume,
                number = number.0,
                kind,
                range,
                errno,
                "lower disk failed a request"
            );
        }
        Fact::ReadServedByPeer { range } => {
            tracing::info!(volume, %range, "the read that failed here was answered with the peer's data");
        }
        Fact::ClientError {
            client,
            range,
            errno,
            why,
        } => {
            let range = range.map(|range| range.to_string());
            tracing::warn!(
                volume,
                client = client.0,
                range,
                errno,
                why,
                "a client's request was answered with an error"
            );
        }
        Fact::Surprise { what } => tracing::warn!(volume, part = part.as_str(), what, "surprise"),
        Fact::Alert { what } => tracing::error!(volume, part = part.as_str(), "{what}"),
        Fact::BitmapWritten { .. } | Fact::ActivityTransaction { .. } => {
            tracing::debug!(volume, part = part.as_str(), "{fact:?}");
        }
        other => tracing::info!(volume, part = part.as_str(), "{other:?}"),
    }
}
