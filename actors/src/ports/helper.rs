//! Runs handlers: `/bin/sh -c LINE` in a process group of its own, with the environment that DRBD's handlers expect.

use crate::handle::Handle;
use crate::shell::Port;
use mendblock_core::helper::{Handler, HelperEffect, HelperIn, HelperPart};
use mendblock_core::identity::Query;
use mendblock_metrics::VolumeMetrics;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Arc;
use tokio::process::Command;

/// What handlers are and what they are told.
#[derive(Clone, Debug, Default)]
pub struct HandlerConfiguration {
    /// Shell line of each configured handler, by DRBD's name.
    pub lines: BTreeMap<String, String>,
    /// Environment: `DRBD_RESOURCE`, `DRBD_MINOR`, `DRBD_VOLUME`, `DRBD_LL_DISK`, `DRBD_CONF`, `DRBD_PEER`, ….
    pub environment: Vec<(String, String)>,
}

/// The port of the helper part: the programs that run.
#[derive(Clone)]
pub struct HelperPort {
    configuration: Arc<HandlerConfiguration>,
    actor: Handle<HelperPart>,
    metrics: Arc<VolumeMetrics>,
    groups: Rc<RefCell<BTreeMap<Query, i32>>>,
    started: Rc<RefCell<BTreeSet<Query>>>,
}

impl HelperPort {
    /// For these handlers.
    pub fn new(
        configuration: Arc<HandlerConfiguration>,
        actor: Handle<HelperPart>,
        metrics: Arc<VolumeMetrics>,
    ) -> Self {
        Self {
            configuration,
            actor,
            metrics,
            groups: Rc::default(),
            started: Rc::default(),
        }
    }

    /// Queries that were started by any generation: none is ever started twice.
    pub fn started(&self) -> Vec<Query> {
        self.started.borrow().iter().copied().collect()
    }

    fn start(&self, query: Query, handler: Handler) {
        self.started.borrow_mut().insert(query);
        let Some(line) = self.configuration.lines.get(handler.name()) else {
            let ended = HelperIn::Ended {
                query,
                exit_code: Some(0),
                outcome: "not configured".to_owned(),
            };
            self.actor.deliver(vec![ended]);
            return;
        };
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(line)
            .stdin(Stdio::null())
            .process_group(0)
            .env_clear();
        command
            .env("HOME", "/")
            .env("TERM", "linux")
            .env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin");
        command.envs(self.configuration.environment.iter().cloned());
        let spawned = command.spawn();
        let port = self.clone();
        match spawned {
            Err(error) => {
                // A program that cannot be started counts as exit code 0 (DRBD): the detach must go on.
                let outcome = format!("could not be started: {error}");
                self.actor.deliver(vec![HelperIn::Ended {
                    query,
                    exit_code: None,
                    outcome,
                }]);
            }
            Ok(mut child) => {
                self.metrics.handler_ran(handler.name());
                if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                    self.groups.borrow_mut().insert(query, pid);
                }
                actix::spawn(async move {
                    let ended = child.wait().await;
                    port.groups.borrow_mut().remove(&query);
                    let (exit_code, outcome) = match ended {
                        Ok(status) => (status.code(), status.to_string()),
                        Err(error) => (None, error.to_string()),
                    };
                    port.actor.deliver(vec![HelperIn::Ended {
                        query,
                        exit_code,
                        outcome,
                    }]);
                });
            }
        }
    }

    fn stop(&self, query: Query) {
        let group = self
            .groups
            .borrow()
            .get(&query)
            .copied()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // It may have ended in this very moment.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Port<HelperEffect> for HelperPort {
    fn carry_out(&mut self, effects: &mut Vec<HelperEffect>) {
        for effect in effects.drain(..) {
            match effect {
                HelperEffect::Start { query, handler } => self.start(query, handler),
                HelperEffect::Stop { query } => self.stop(query),
            }
        }
    }
}
