//! The `Device` port: data and meta-data device with their in-flight tables, the fault layer and the buffer pool. The kernel
//! holds its buffers, so it outlives every `DiskActor`.

use crate::counters::Counters;
use crate::handle::Handle;
use crate::shell::Port;
use mendblock_core::disk::{
    DeviceCompletion, DiskEffect, DiskIn, DiskPart, OpenFailure, OpenedDevice, PortOperation, Token,
    WhichDevice,
};
use mendblock_core::identity::{ErrorNumber, Query};
use mendblock_metrics::Operation;
use mendblock_storage::buffer::{BufferMut, BufferPool, Share};
use mendblock_storage::device::fault::{FaultDevice, FaultHandle};
use mendblock_storage::device::table::{DeviceTable, Reaped};
use mendblock_storage::device::{self, Action, Device, OperationKind, Options, Readiness};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A device under the fault layer.
type Rehearsed = FaultDevice<Box<dyn Device + Send>>;
type Lower = DeviceTable<Rehearsed>;

/// What to open.
#[derive(Clone, Debug)]
pub struct DiskConfiguration {
    /// Data device.
    pub data: PathBuf,
    /// Meta-data device, if it is another one.
    pub meta: Option<PathBuf>,
    /// How I/O is done.
    pub options: Options,
}

struct Opened {
    table: Lower,
    life: u64,
}

#[derive(Default)]
struct Tokens {
    next: u64,
    named: BTreeMap<u64, Token>,
}

impl Tokens {
    fn name(&mut self, token: Token) -> u64 {
        self.next += 1;
        self.named.insert(self.next, token);
        self.next
    }
}

struct Inner {
    configuration: DiskConfiguration,
    faults: FaultHandle,
    pool: BufferPool,
    actor: Handle<DiskPart>,
    counters: Arc<Counters>,
    data: Option<Opened>,
    meta: Option<Opened>,
    tokens: Tokens,
    errors: u64,
    failed: BTreeMap<ErrorNumber, (Token, i32)>,
    lives: u64,
}

/// The port; clones are the same one.
#[derive(Clone)]
pub struct DiskPort(Rc<RefCell<Inner>>);

impl DiskPort {
    /// For this disk.
    pub fn new(
        configuration: DiskConfiguration,
        faults: FaultHandle,
        pool: BufferPool,
        actor: Handle<DiskPart>,
        counters: Arc<Counters>,
    ) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            configuration,
            faults,
            pool,
            actor,
            counters,
            data: None,
            meta: None,
            tokens: Tokens::default(),
            errors: 0,
            failed: BTreeMap::new(),
            lives: 0,
        })))
    }

    /// What a new disk part must know: what is in the kernel, and failures that nobody has acknowledged.
    pub fn adopted(&self) -> DiskIn {
        let inner = self.0.borrow();
        DiskIn::Adopted {
            in_kernel: inner.tokens.named.values().copied().collect(),
            failed: inner
                .failed
                .iter()
                .map(|(&number, &(token, errno))| (token, number, errno))
                .collect(),
        }
    }

    fn open(&self, query: Query) {
        let (configuration, faults) = {
            let inner = self.0.borrow();
            (inner.configuration.clone(), inner.faults.clone())
        };
        let port = self.clone();
        actix::spawn(async move {
            let opened = tokio::task::spawn_blocking(move || open_both(&configuration, &faults)).await;
            let result = match opened {
                Ok(Ok((data, meta))) => Ok(port.opened(data, meta)),
                Ok(Err(failure)) => Err(failure),
                Err(error) => Err(OpenFailure::Failed {
                    text: error.to_string(),
                    errno: None,
                    in_use: false,
                }),
            };
            let actor = port.0.borrow().actor.clone();
            actor.deliver(vec![DiskIn::Opened { query, result }]);
        });
    }

    fn opened(&self, data: Rehearsed, meta: Option<Rehearsed>) -> OpenedDevice {
        let mut inner = self.0.borrow_mut();
        inner.lives += 1;
        let life = inner.lives;
        let opened = OpenedDevice {
            data_bytes: data.size(),
            meta_bytes: meta.as_ref().map(Device::size),
            logical_block: data
                .logical_block()
                .max(meta.as_ref().map_or(0, Device::logical_block)),
            backend: data.backend(),
        };
        inner.data = Some(Opened {
            table: DeviceTable::new(data),
            life,
        });
        inner.meta = meta.map(|meta| Opened {
            table: DeviceTable::new(meta),
            life,
        });
        drop(inner);
        self.watch(WhichDevice::Data, life);
        self.watch(WhichDevice::Meta, life);
        opened
    }

    /// Reaps whenever the device is readable or wants to be woken, as long as this life of the disk lasts.
    fn watch(&self, which: WhichDevice, life: u64) {
        let readiness = {
            let inner = self.0.borrow();
            let Some(opened) = inner.of(which).filter(|opened| opened.life == life) else {
                return;
            };
            match Readiness::of(opened.table.device()) {
                Ok(readiness) => readiness,
                Err(error) => {
                    tracing::error!(%error, "completions of the lower disk cannot be waited for");
                    None
                }
            }
        };
        let port = self.clone();
        actix::spawn(async move {
            loop {
                let wake = match port.0.borrow().of(which).filter(|opened| opened.life == life) {
                    Some(opened) => opened.table.next_wake(),
                    None => return,
                };
                // Injected delays end by the clock; new ones are noticed at the latest after 20 ms.
                let limit = wake.map_or(std::time::Duration::from_millis(20), |at| {
                    at.saturating_duration_since(Instant::now())
                });
                let ready = async {
                    match readiness.as_ref() {
                        Some(readiness) => readiness.wait().await.is_ok(),
                        None => std::future::pending().await,
                    }
                };
                let _ = tokio::time::timeout(limit.max(std::time::Duration::from_millis(1)), ready).await;
                port.reap(which, life);
            }
        });
    }

    fn reap(&self, which: WhichDevice, life: u64) {
        let (completions, actor) = {
            let mut inner = self.0.borrow_mut();
            let Some(completions) = inner.reap(which, life) else {
                return;
            };
            (completions, inner.actor.clone())
        };
        if !completions.is_empty() {
            actor.deliver(vec![DiskIn::Completed(completions)]);
        }
    }
}

impl Inner {
    fn of(&self, which: WhichDevice) -> Option<&Opened> {
        match which {
            WhichDevice::Meta => self.meta.as_ref(),
            WhichDevice::Data => self.data.as_ref(),
        }
    }

    fn table(&mut self, which: WhichDevice) -> Option<&mut Opened> {
        match which {
            WhichDevice::Meta if self.meta.is_some() => self.meta.as_mut(),
            WhichDevice::Meta | WhichDevice::Data => self.data.as_mut(),
        }
    }

    fn submit(&mut self, token: Token, which: WhichDevice, operation: PortOperation) {
        let kind = match operation {
            PortOperation::Read { offset, length } => {
                let buffer = self.read_buffer(&token, length as usize);
                OperationKind::Read { offset, buffer }
            }
            PortOperation::Write { offset, buffer, fua } => OperationKind::Write { offset, buffer, fua },
            PortOperation::WriteZeroes {
                offset,
                length,
                may_unmap,
            } => OperationKind::WriteZeroes {
                offset,
                length,
                may_unmap,
            },
            PortOperation::Flush => OperationKind::Flush,
        };
        let name = self.tokens.name(token);
        match self.table(which) {
            Some(opened) => {
                if let Err(error) = opened
                    .table
                    .submit(device::Operation { token: name, kind }, Instant::now())
                {
                    tracing::error!(
                        token = error.token,
                        "a token was used twice: the operation is dropped"
                    );
                    self.tokens.named.remove(&name);
                }
            }
            None => {
                // The part submits only while a disk is open; what crosses a close is answered as such.
                self.tokens.named.remove(&name);
                let gone = DeviceCompletion {
                    token,
                    error: Some((ErrorNumber(0), ENODEV)),
                    buffer: None,
                };
                self.actor.deliver(vec![DiskIn::Completed(vec![gone])]);
            }
        }
    }

    /// A pooled buffer; if the share is empty one from the heap, since the requests behind it are admitted already.
    fn read_buffer(&self, token: &Token, length: usize) -> BufferMut {
        let share = if matches!(token, Token::Meta { .. }) {
            Share::Metadata
        } else {
            Share::Clients
        };
        self.pool
            .take(share, length)
            .unwrap_or_else(|| BufferMut::zeroed(length))
    }

    fn reap(&mut self, which: WhichDevice, life: u64) -> Option<Vec<DeviceCompletion>> {
        let mut reaped: Vec<Reaped> = Vec::new();
        {
            let opened = match which {
                WhichDevice::Meta => self.meta.as_mut(),
                WhichDevice::Data => self.data.as_mut(),
            };
            let opened = opened.filter(|opened| opened.life == life)?;
            opened.table.kick();
            opened.table.reap(&mut reaped);
            for entry in &reaped {
                if let Some(number) = entry.failure {
                    // Failures are kept here, under numbers that ascend over both devices.
                    opened.table.acknowledge(number);
                }
            }
        }
        Some(
            reaped
                .into_iter()
                .filter_map(|entry| self.completion(entry))
                .collect(),
        )
    }

    fn completion(&mut self, entry: Reaped) -> Option<DeviceCompletion> {
        let token = self.tokens.named.remove(&entry.completion.token)?;
        let pending = self.tokens.named.len() as u64;
        self.counters
            .lower_pending
            .store(pending, std::sync::atomic::Ordering::Relaxed);
        if entry.completion.result.is_ok() {
            let summary = &entry.completion.summary;
            let operation = operation_of(summary.action);
            self.counters
                .disk_ended(operation, summary.length, entry.completion.latency);
            if !matches!(token, Token::Meta { .. }) {
                self.counters.data_moved(operation, summary.length);
            }
        }
        let error = entry.completion.result.err().map(|error| {
            self.errors += 1;
            let number = ErrorNumber(self.errors);
            self.failed.insert(number, (token, error.errno));
            (number, error.errno)
        });
        Some(DeviceCompletion {
            token,
            error,
            buffer: entry.completion.buffer,
        })
    }

    fn kick(&mut self) -> Vec<DeviceCompletion> {
        let mut completions = Vec::new();
        for which in [WhichDevice::Data, WhichDevice::Meta] {
            if let Some(life) = self.of(which).map(|opened| opened.life) {
                completions.extend(self.reap(which, life).unwrap_or_default());
            }
        }
        completions
    }
}

const ENODEV: i32 = 19;

fn operation_of(action: Action) -> Operation {
    match action {
        Action::Read => Operation::Read,
        Action::Write => Operation::Write,
        Action::Flush => Operation::Flush,
        Action::WriteZeroes => Operation::WriteZeroes,
        Action::Discard => Operation::Trim,
    }
}

fn open_both(
    configuration: &DiskConfiguration,
    faults: &FaultHandle,
) -> Result<(Rehearsed, Option<Rehearsed>), OpenFailure> {
    let clock: device::fault::Clock = Arc::new(Instant::now);
    let open = |path: &std::path::Path| {
        device::open(path, configuration.options).map_err(|error| OpenFailure::Failed {
            in_use: matches!(error, device::OpenError::InUse { .. }),
            errno: None,
            text: error.to_string(),
        })
    };
    let data = open(&configuration.data)?;
    let meta = configuration.meta.as_deref().map(open).transpose()?;
    Ok((
        FaultDevice::new(data, faults.clone(), Arc::clone(&clock)),
        // Faults are given in sectors of the data device: an external meta-data device is not part of the rehearsal.
        meta.map(|meta| FaultDevice::new(meta, FaultHandle::new(), clock)),
    ))
}

impl Port<DiskEffect> for DiskPort {
    fn carry_out(&mut self, effects: &mut Vec<DiskEffect>) {
        let mut submitted = false;
        for effect in effects.drain(..) {
            match effect {
                DiskEffect::Open { query } => self.open(query),
                DiskEffect::Close => {
                    let actor = {
                        let mut inner = self.0.borrow_mut();
                        // What is still in the kernel keeps its buffers, the file and its lock until it returns (Q1).
                        inner.data = None;
                        inner.meta = None;
                        inner.tokens.named.clear();
                        inner.actor.clone()
                    };
                    actor.deliver(vec![DiskIn::Closed]);
                }
                DiskEffect::Submit {
                    token,
                    device,
                    operation,
                } => {
                    self.0.borrow_mut().submit(token, device, operation);
                    submitted = true;
                }
                DiskEffect::Forget { number } => {
                    self.0.borrow_mut().failed.remove(&number);
                }
            }
        }
        if submitted {
            let (completions, actor) = {
                let mut inner = self.0.borrow_mut();
                (inner.kick(), inner.actor.clone())
            };
            if !completions.is_empty() {
                actor.deliver(vec![DiskIn::Completed(completions)]);
            }
        }
    }
}
