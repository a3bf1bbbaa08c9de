//! The steps of a meta-data operation. Each follows only after the one before it has completed:
//!
//! | operation | internal meta-data | on a device of their own |
//! |---|---|---|
//! | read, lazy write, write | it | it |
//! | write, `flush_before` | flush data, write (FUA) | flush data, flush meta, write (FUA) |
//! | flush | flush data | flush data, flush meta |

use super::{MetaKind, PortOperation, Token, WhichDevice};
use crate::identity::PartGeneration;
use std::collections::VecDeque;

/// One step.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Its number in the token.
    pub number: u8,
    /// On which device.
    pub device: WhichDevice,
    /// What.
    pub operation: PortOperation,
}

/// The steps of an operation. Those before the last are numbered differently by each (near) generation of the disk part: a
/// flush that a predecessor left in the kernel must not pass for the same step of the repeated operation.
pub(super) fn steps(kind: MetaKind, internal: bool, generation: PartGeneration) -> VecDeque<Step> {
    let mut operations = VecDeque::new();
    let flushes = [WhichDevice::Data, WhichDevice::Meta];
    let flushes = flushes.into_iter().take(if internal { 1 } else { 2 });
    let flushes = flushes.map(|device| (device, PortOperation::Flush));
    match kind {
        MetaKind::Read { offset, length } => {
            operations.push_back((WhichDevice::Meta, PortOperation::Read { offset, length }));
        }
        MetaKind::Write {
            offset,
            buffer,
            flush_before,
        } => {
            operations.extend(flushes.filter(|_| flush_before));
            operations.push_back((
                WhichDevice::Meta,
                PortOperation::Write {
                    offset,
                    buffer,
                    fua: true,
                },
            ));
        }
        MetaKind::WriteLazy { offset, buffer } => {
            operations.push_back((
                WhichDevice::Meta,
                PortOperation::Write {
                    offset,
                    buffer,
                    fua: false,
                },
            ));
        }
        MetaKind::Flush => operations.extend(flushes),
    }
    let first = ((generation.0 % 127) * 2) as u8;
    let last = operations.len() - 1;
    operations
        .into_iter()
        .enumerate()
        .map(|(at, (device, operation))| Step {
            number: if at == last {
                Token::LAST_STEP
            } else {
                first + at as u8
            },
            device,
            operation,
        })
        .collect()
}
