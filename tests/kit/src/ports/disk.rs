//! The `Device` port: the in-flight table above a simulated disk.

use crate::format;
use crate::node::{InKernel, Node};
use crate::world::{Event, MICROSECOND, World};
use mendblock_core::disk::{
    DeviceCompletion, DiskEffect, DiskIn, OpenFailure, OpenedDevice, PortOperation, Token,
};
use mendblock_core::identity::{ErrorNumber, Query};
use mendblock_core::part::{PartName, To};

const ENODEV: i32 = 19;

impl World {
    pub(crate) fn disk(&mut self, node: usize, effect: DiskEffect) {
        match effect {
            DiskEffect::Open { query } => {
                let delay = self.delay(300 * MICROSECOND);
                self.schedule(node, delay, Event::DiskOpened(query));
            }
            DiskEffect::Close => {
                let table = &mut self.nodes[node].table;
                table.open = false;
                table
                    .in_kernel
                    .values_mut()
                    .for_each(|entry| entry.quarantined = true);
                self.port_says(node, PartName::Disk, To::Disk(DiskIn::Closed));
            }
            DiskEffect::Submit { token, operation, .. } => self.submit(node, token, operation),
            DiskEffect::Forget { number } => {
                self.nodes[node].table.failed.remove(&number);
            }
        }
    }

    pub(crate) fn disk_opened(&mut self, node: usize, query: Query) {
        let node_state = &mut self.nodes[node];
        let in_kernel = node_state.table.in_kernel.len();
        let result = if in_kernel > 0 {
            Err(OpenFailure::Busy { in_kernel, oldest: 0 })
        } else {
            node_state.table.open = true;
            node_state.ledger.new_life();
            Ok(OpenedDevice {
                data_bytes: node_state.device.size(),
                meta_bytes: None,
                logical_block: 512,
                backend: "simulated",
            })
        };
        self.port_says(node, PartName::Disk, To::Disk(DiskIn::Opened { query, result }));
    }

    fn submit(&mut self, node: usize, token: Token, operation: PortOperation) {
        if !self.nodes[node].table.open {
            let gone = DeviceCompletion {
                token,
                error: Some((ErrorNumber(0), ENODEV)),
                buffer: None,
            };
            return self.port_says(node, PartName::Disk, To::Disk(DiskIn::Completed(vec![gone])));
        }
        let number = self.number();
        let entry = InKernel {
            token,
            operation,
            quarantined: false,
            held: false,
        };
        self.note(node, || {
            format!("submit {number}: {:?} {:?}", entry.token, entry.operation)
        });
        self.nodes[node].table.in_kernel.insert(number, entry);
        let delay = self.delay(80 * MICROSECOND);
        self.schedule(node, delay, Event::DiskDone(number));
    }

    /// An operation ends; of an earlier life of the process (`current` false) nobody hears.
    pub(crate) fn disk_done(&mut self, node: usize, number: u64, current: bool) {
        let here = &mut self.nodes[node];
        if let Some(entry) = here.table.in_kernel.get_mut(&number)
            && here.device.faults.hangs
        {
            entry.held = true;
            here.ledger.silence();
            return;
        }
        let Some(entry) = here.table.in_kernel.remove(&number) else {
            return;
        };
        let result = here.device.execute(&entry.operation);
        if result.is_err() {
            here.note_failure(&entry);
        }
        if !current || entry.quarantined {
            return;
        }
        let (error, buffer) = match result {
            Ok(buffer) => (None, buffer),
            Err(errno) => {
                here.table.errors += 1;
                let error = ErrorNumber(here.table.errors);
                here.table.failed.insert(error, (entry.token, errno));
                (Some((error, errno)), None)
            }
        };
        self.note(node, || format!("done {number}: {:?} {error:?}", entry.token));
        let completion = DeviceCompletion {
            token: entry.token,
            error,
            buffer,
        };
        self.port_says(
            node,
            PartName::Disk,
            To::Disk(DiskIn::Completed(vec![completion])),
        );
    }

    /// A disk that hung goes on.
    pub fn thaw(&mut self, node: usize) {
        self.nodes[node].device.faults.hangs = false;
        let held: Vec<u64> = self.nodes[node]
            .table
            .in_kernel
            .iter()
            .filter(|(_, entry)| entry.held)
            .map(|(&number, _)| number)
            .collect();
        for number in held {
            let delay = self.delay(80 * MICROSECOND);
            self.schedule(node, delay, Event::DiskDone(number));
        }
    }

    /// Of the reads of data that a hanging disk holds, the first ends.
    pub fn release_first(&mut self, node: usize) {
        let held = self.nodes[node]
            .table
            .in_kernel
            .iter()
            .find(|(_, entry)| entry.is_held_read());
        let Some(number) = held.map(|(&number, _)| number) else {
            return;
        };
        let hangs = std::mem::replace(&mut self.nodes[node].device.faults.hangs, false);
        self.disk_done(node, number, true);
        self.nodes[node].device.faults.hangs = hangs;
    }
}

impl Node {
    /// What its ledger of bad blocks makes of a failure.
    fn note_failure(&mut self, entry: &InKernel) {
        match (&entry.operation, entry.token) {
            (PortOperation::Read { offset, length }, Token::Data(..)) if !entry.quarantined => {
                let bytes = *offset..*offset + u64::from(*length);
                self.ledger.report(self.device.unreadable(&bytes).into_iter());
            }
            (PortOperation::Flush, _) => self.ledger.silence(),
            (PortOperation::Write { offset, .. }, Token::Meta { .. }) => {
                let superblock = format::layout(&self.device).superblock_byte();
                if *offset == superblock {
                    self.ledger.silence();
                }
            }
            _ => {}
        }
        if self.device.faults.dead {
            self.ledger.silence();
        }
    }
}
