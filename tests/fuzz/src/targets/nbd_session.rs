//! One NBD connection driven by hand, and what its answers must look like.

use crate::target::{Breach, Probe, ensure};
use fastrand::Rng;
use mendblock_net::nbd::constants::*;
use mendblock_net::nbd::{
    BlockSizes, CloseReason, Command, ExportDirectory, ExportInfo, ExportRefusal, ListedExport, NbdError,
    Negotiation, Parsed, ProtocolViolation, RefusalKind, Request, RequestRules, ServerPolicy, Step,
};

/// Bytes of the export `r0`.
const SIZE: u64 = 64 << 20;

/// What happened in a session, as far as the bytes went.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// The handshake ended, with these flags and so many contexts.
    Transmission(String, u16, usize),
    /// A request to carry out.
    Request(Request),
    /// A request that is answered with an error.
    Refused(NbdError, u32),
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// More bytes are needed.
    Open,
    /// In the handshake.
    Closed(CloseReason),
    /// In the transmission, by the client's fault.
    Violation(ProtocolViolation),
    /// By the client.
    Disconnected,
}

/// A connection.
pub(super) struct Session {
    negotiation: Negotiation,
    rules: Option<RequestRules>,
    /// Payload that is still to come.
    skip: usize,
    pub answers: Vec<u8>,
    pub events: Vec<Event>,
    pub end: End,
    /// Options with the types of their replies.
    pub replies: Vec<(u32, u32)>,
}

struct Exports;

impl ExportDirectory for Exports {
    fn list(&self) -> Result<Vec<ListedExport>, ExportRefusal> {
        Ok(["r0", "read-only", "with\0nul"]
            .map(|name| ListedExport {
                name: name.into(),
                description: "replicated with bob".into(),
            })
            .into())
    }

    fn info(&self, name: &str) -> Result<ExportInfo, ExportRefusal> {
        let refusal = |kind| ExportRefusal {
            kind,
            message: format!("{name} is refused: ask for another one"),
        };
        let offered = NBD_FLAG_SEND_FLUSH
            | NBD_FLAG_SEND_FUA
            | NBD_FLAG_SEND_TRIM
            | NBD_FLAG_SEND_WRITE_ZEROES
            | NBD_FLAG_SEND_FAST_ZERO
            | NBD_FLAG_SEND_CACHE;
        let flags = match name {
            "" | "r0" => offered,
            "read-only" => NBD_FLAG_READ_ONLY,
            "secondary" => return Err(refusal(RefusalKind::NotServing)),
            "leaving" => return Err(refusal(RefusalKind::ShuttingDown)),
            _ => return Err(refusal(RefusalKind::Unknown)),
        };
        Ok(ExportInfo {
            name: "r0".into(),
            description: "replicated with bob".into(),
            size: SIZE,
            flags,
            block_sizes: BlockSizes::default(),
            contexts: vec!["base:allocation".into(), "qemu:dirty".into()],
        })
    }
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            negotiation: Negotiation::new(ServerPolicy {
                allow_list: true,
                maximum_options: 64,
            }),
            rules: None,
            skip: 0,
            answers: Vec::new(),
            events: Vec::new(),
            end: End::Open,
            replies: Vec::new(),
        }
    }

    /// Takes what it can from the front of the input; gives the bytes that are done with, and whether it wants more.
    fn step(
        &mut self,
        input: &[u8],
        measure: &mut dyn FnMut(&mut dyn FnMut()),
    ) -> Result<(usize, bool), Breach> {
        if self.skip > 0 {
            let skipped = self.skip.min(input.len());
            self.skip -= skipped;
            return Ok((skipped, self.skip > 0));
        }
        match self.rules {
            None => self.negotiate(input, measure),
            Some(rules) => self.request(&rules, input),
        }
    }

    fn negotiate(
        &mut self,
        input: &[u8],
        measure: &mut dyn FnMut(&mut dyn FnMut()),
    ) -> Result<(usize, bool), Breach> {
        let mut advanced = None;
        let before = self.answers.len();
        measure(&mut || {
            let mut out = Vec::new();
            let advance = self.negotiation.advance(input, &Exports, &mut out);
            self.answers.extend_from_slice(&out);
            advanced = Some(advance);
        });
        let Some(advance) = advanced else {
            return Ok((0, true));
        };
        let (consumed, given) = (advance.consumed, input.len());
        ensure(consumed <= given, "no byte is taken that is not there", || {
            format!("{consumed} of {given}")
        })?;
        let wants_more = matches!(advance.step, Step::NeedMore);
        let is_stuck = wants_more && consumed == 0 && given >= Negotiation::MAXIMUM_INPUT
            || matches!(advance.step, Step::Continue) && consumed == 0;
        ensure(!is_stuck, "the handshake goes on", || {
            format!("{:?} with {given} bytes", advance.step)
        })?;
        self.read_replies(before)?;
        match advance.step {
            Step::Continue | Step::NeedMore => {}
            Step::Transmission(transmission) => {
                self.events.push(Event::Transmission(
                    transmission.export.name.clone(),
                    transmission.flags,
                    transmission.contexts.len(),
                ));
                self.rules = Some(transmission.request_rules());
            }
            Step::Close(reason) => self.end = End::Closed(reason),
        }
        Ok((consumed, wants_more))
    }

    fn request(&mut self, rules: &RequestRules, input: &[u8]) -> Result<(usize, bool), Breach> {
        match rules.first(input) {
            Err(violation) => self.end = End::Violation(violation),
            Ok(None) => {
                ensure(
                    input.len() < REQUEST_HEADER_BYTES,
                    "a whole header is judged",
                    || format!("{} bytes", input.len()),
                )?;
                return Ok((0, true));
            }
            Ok(Some(Parsed::Disconnect)) => self.end = End::Disconnected,
            Ok(Some(Parsed::Refused(refused))) => {
                ensure(
                    refused.skip <= 64 << 20,
                    "no more than 64 MiB are skipped",
                    || format!("{refused:?}"),
                )?;
                self.skip = refused.skip as usize;
                self.events.push(Event::Refused(refused.error, refused.skip));
            }
            Ok(Some(Parsed::Request(request))) => {
                check_request(rules, &request)?;
                self.skip = request.payload_length() as usize;
                self.events.push(Event::Request(request));
            }
        }
        Ok((REQUEST_HEADER_BYTES, false))
    }

    /// Reads the replies behind `from`, which must be whole ones. (The answer to `NBD_OPT_EXPORT_NAME` is none.)
    fn read_replies(&mut self, from: usize) -> Result<(), Breach> {
        let mut rest = &self.answers[from..];
        if matches!(rest.len(), 10 | 134) && !rest.starts_with(&NBD_REP_MAGIC.to_be_bytes()) {
            return Ok(());
        }
        while !rest.is_empty() {
            let word = |at: usize| {
                rest.get(at..at + 4).map_or(u32::MAX, |word| {
                    u32::from_be_bytes([word[0], word[1], word[2], word[3]])
                })
            };
            let whole = rest.starts_with(&NBD_REP_MAGIC.to_be_bytes())
                && rest.len() >= 20
                && rest.len() - 20 >= word(16) as usize;
            ensure(whole, "answers are whole replies", || format!("{rest:02x?}"))?;
            self.replies.push((word(8), word(12)));
            rest = &rest[20 + word(16) as usize..];
        }
        Ok(())
    }

    /// What can be said when everything was fed.
    pub(super) fn check_answers(&self) -> Result<(), Breach> {
        let known = |(_, reply): &(u32, u32)| {
            matches!(*reply, NBD_REP_ACK..=NBD_REP_META_CONTEXT) || reply & NBD_REP_FLAG_ERROR != 0
        };
        ensure(
            self.replies.iter().all(known),
            "replies are of known types",
            || format!("{:?}", self.replies),
        )
    }
}

/// What may be carried out is inside the export, aligned, not empty, and was offered.
fn check_request(rules: &RequestRules, request: &Request) -> Result<(), Breach> {
    let minimum = u64::from(rules.block_sizes.minimum());
    let (offset, length) = (request.offset, u64::from(request.length));
    let is_good = match request.command {
        Command::Flush => (offset, length) == (0, 0),
        _ => {
            length > 0
                && offset % minimum == 0
                && length % minimum == 0
                && offset.checked_add(length).is_some_and(|end| end <= rules.size)
        }
    };
    ensure(is_good, "an accepted range lies in the export", || {
        format!("{request:?}")
    })?;
    let moves_data = matches!(request.command, Command::Read { .. } | Command::Write { .. });
    let is_short = !moves_data || request.length <= rules.block_sizes.maximum_payload();
    ensure(is_short, "an accepted payload is within the limit", || {
        format!("{request:?}")
    })?;
    let changes = matches!(
        request.command,
        Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. }
    );
    let may = !changes || rules.flags & NBD_FLAG_READ_ONLY == 0;
    ensure(may, "nothing changes a read-only export", || {
        format!("{request:?}")
    })
}

/// Feeds everything at once.
pub(super) fn feed_whole(session: &mut Session, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
    let mut rest = input;
    loop {
        let (consumed, wants_more) =
            session.step(rest, &mut |work: &mut dyn FnMut()| probe.measured(work))?;
        rest = &rest[consumed..];
        if wants_more || session.end != End::Open {
            return Ok(());
        }
    }
}

/// Feeds random pieces into a buffer, as a socket does.
pub(super) fn feed_in_pieces(session: &mut Session, input: &[u8], random: &mut Rng) -> Result<(), Breach> {
    let mut buffer: Vec<u8> = Vec::new();
    let mut rest = input;
    while session.end == End::Open {
        let (consumed, wants_more) = session.step(&buffer, &mut |work: &mut dyn FnMut()| work())?;
        buffer.drain(..consumed);
        if session.end != End::Open || !wants_more {
            continue;
        }
        if rest.is_empty() {
            break;
        }
        let most = [2, 30, 5000, rest.len()][random.usize(0..4)];
        let (piece, behind) = rest.split_at(random.usize(1..=most).min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = behind;
    }
    Ok(())
}

/// The input at its magics: client flags, then options and requests, each up to the next one.
pub(super) fn parts(input: &[u8]) -> Vec<Vec<u8>> {
    let (flags, mut rest) = input.split_at(input.len().min(4));
    let mut parts = vec![flags.to_vec()];
    let is_magic = |bytes: &[u8]| {
        bytes.starts_with(&IHAVEOPT.to_be_bytes()) || bytes.starts_with(&NBD_REQUEST_MAGIC.to_be_bytes())
    };
    while !rest.is_empty() {
        let end = (1..rest.len()).find(|&at| is_magic(&rest[at..]));
        let (part, behind) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(part.to_vec());
        rest = behind;
    }
    parts
}
