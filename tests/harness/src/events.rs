//! The stream of events, as the command shows it.

use crate::admin::Admin;
use mendblock::admin::schema::Event;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running `mendblock events --json`.
pub struct Events {
    child: Child,
    seen: Arc<Mutex<Vec<Event>>>,
    reader: Option<JoinHandle<()>>,
}

impl Events {
    /// Follows the events of a node; returns when the dump of what there is has come.
    #[track_caller]
    pub fn follow(admin: &Admin) -> Self {
        let mut child = Command::new(crate::program::path())
            .args(["events", "--json", "--socket"])
            .arg(&admin.socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                for line in lines.map_while(Result::ok) {
                    let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                    seen.lock().unwrap().push(event);
                }
            }
        });
        let events = Self {
            child,
            seen,
            reader: Some(reader),
        };
        events.wait_for("the end of the dump", |event| event.object == "-");
        events
    }

    /// All events until now.
    pub fn seen(&self) -> Vec<Event> {
        self.seen.lock().unwrap().clone()
    }

    /// Sizes of the resyncs until now, KiB.
    pub fn resyncs(&self) -> Vec<String> {
        let fields = self.seen().into_iter().flat_map(|event| event.fields);
        fields
            .filter(|(key, _)| key == "out-of-sync-kib")
            .map(|(_, size)| size)
            .collect()
    }

    /// Waits for an event.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&Event) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while !self.seen.lock().unwrap().iter().any(&is_it) {
            assert!(
                Instant::now() < deadline,
                "no event: {what}; there were {:#?}",
                self.seen.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a change of `object` with this key and value.
    #[track_caller]
    pub fn wait_for_field(&self, object: &str, key: &str, value: &str) {
        let wanted = (key.to_owned(), value.to_owned());
        self.wait_for(&format!("{object} {key}:{value}"), |event| {
            event.object == object && event.fields.contains(&wanted)
        });
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It runs until its node ends or it is ended here.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
