//! Whether a volume serves clients. At an orderly end they get what they are owed before they are let go.

use tokio::sync::watch;

/// What clients of a volume get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// All that they ask for.
    Open,
    /// The answers to what was taken from them, then the end of the connection. Nothing new is taken.
    Ending,
    /// The end of the connection, whatever is open: what was not answered promises nothing.
    Ended,
}

/// Says to every session of a volume, present and future, what its client gets.
#[derive(Clone)]
pub struct Serving(watch::Sender<Service>);

impl Default for Serving {
    fn default() -> Self {
        Self(watch::Sender::new(Service::Open))
    }
}

impl Serving {
    /// There is no way back: an end that has begun goes on.
    pub fn go_on_to(&self, service: Service) {
        self.0.send_if_modified(|now| {
            let later = service > *now;
            *now = service.max(*now);
            later
        });
    }

    /// What clients get now.
    pub fn now(&self) -> Service {
        *self.0.borrow()
    }

    /// Waits until clients get no more than this.
    pub async fn reached(&self, service: Service) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|now| *now >= service).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_that_has_begun_is_not_taken_back() {
        let serving = Serving::default();
        let session = serving.clone();
        assert_eq!(session.now(), Service::Open);
        serving.go_on_to(Service::Ended);
        serving.go_on_to(Service::Ending);
        assert_eq!(session.now(), Service::Ended);
        session.reached(Service::Ending).await;
        session.reached(Service::Ended).await;
    }
}
