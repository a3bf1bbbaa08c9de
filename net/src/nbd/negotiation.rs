//! The handshake of one connection, from the greeting to the transmission phase.
//!
//! Send [`Negotiation::GREETING`], then feed what the client sends to [`Negotiation::advance`]. Deadlines and the
//! connection are the caller's. Options are answered in the order of arrival, one at each call, so that a client
//! that sends without reading makes the caller hold one answer at most.

use super::constants::*;
use super::export::{ExportDirectory, ExportInfo, ExportRefusal};
use super::option::{
    self, InfoBody, MAXIMUM_OPTION_BYTES, MetaContextBody, OPTION_HEADER_BYTES, reply, reply_error,
};
use super::reply::ReplyFormat;
use super::request::RequestRules;

/// Longest body that is skipped for an option that is not read. A longer one ends the session.
const MAXIMUM_SKIPPED_BYTES: u32 = MAXIMUM_PAYLOAD_BYTES;

/// What the server allows during the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPolicy {
    /// Whether clients may list the exports; else `NBD_REP_ERR_POLICY`.
    pub allow_list: bool,
    /// Most options in one session; one more ends it.
    pub maximum_options: u32,
}

impl Default for ServerPolicy {
    fn default() -> Self {
        Self {
            allow_list: true,
            maximum_options: 4096,
        }
    }
}

/// A metadata context that the client selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedContext {
    /// Names the context in block status replies.
    pub id: u32,
    /// Its name, as in [`ExportInfo::contexts`].
    pub name: String,
}

/// Outcome of a successful handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmission {
    /// The export as the directory described it to this client.
    pub export: ExportInfo,
    /// Transmission flags as sent.
    pub flags: u16,
    /// Form of every reply.
    pub replies: ReplyFormat,
    /// Contexts to report in block status; empty: the client may not ask.
    pub contexts: Vec<SelectedContext>,
}

impl Transmission {
    /// The rules for this client's requests.
    pub fn request_rules(&self) -> RequestRules {
        RequestRules {
            size: self.export.size,
            flags: self.flags,
            block_sizes: self.export.block_sizes,
            replies: self.replies,
            block_status: !self.contexts.is_empty(),
        }
    }
}

/// Why a session ends before transmission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// `NBD_OPT_ABORT`: the client is done. Not an error.
    #[error("the client ended the session")]
    Aborted,
    /// Client flags that the server did not offer.
    #[error("client flags {0:#x} are not known here; is the client speaking NBD?")]
    UnknownClientFlags(u32),
    /// The bytes where an option should start are none.
    #[error("an option must start with IHAVEOPT, not {0:#018x}; is the client speaking NBD?")]
    NoOption(u64),
    /// A client without fixed newstyle can only use `NBD_OPT_EXPORT_NAME`.
    #[error("option {0} needs fixed newstyle, which the client did not announce; use a newer client")]
    NotFixedNewstyle(u32),
    /// An option too long to skip.
    #[error("option {option} has {length} bytes of data; at most 32 MiB are skipped")]
    OptionTooLong {
        /// Option number.
        option: u32,
        /// Announced bytes.
        length: u32,
    },
    /// More than [`ServerPolicy::maximum_options`].
    #[error("more than {0} options in one session")]
    TooManyOptions(u32),
    /// `NBD_OPT_EXPORT_NAME` with a name that is no NBD string.
    #[error("NBD_OPT_EXPORT_NAME: {0}")]
    MalformedExportName(&'static str),
    /// `NBD_OPT_EXPORT_NAME` for an export that the client may not have; the protocol has no answer but this.
    #[error("export {name:?} refused: {refusal}")]
    Refused {
        /// Name as sent.
        name: String,
        /// The directory's answer.
        refusal: ExportRefusal,
    },
    /// [`Negotiation::advance`] was called after the end.
    #[error("the negotiation is over")]
    Over,
}

/// What to do after a call of [`Negotiation::advance`]. In every case first send what is in `out`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call again with the rest of the input.
    Continue,
    /// Read more, then call again with the rest and the new bytes.
    NeedMore,
    /// Requests follow, from the first byte that was not consumed.
    Transmission(Box<Transmission>),
    /// Close the connection.
    Close(CloseReason),
}

/// Result of [`Negotiation::advance`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Bytes at the front of the input that are done with.
    pub consumed: usize,
    /// What to do next.
    pub step: Step,
}

#[derive(Clone, Debug)]
enum State {
    ClientFlags,
    Option,
    /// Dropping the body of an option that is answered with an error.
    Skipping {
        option: u32,
        remaining: u32,
        reply_type: u32,
        message: &'static str,
    },
    Over,
}

/// One connection's handshake.
#[derive(Clone, Debug)]
pub struct Negotiation {
    policy: ServerPolicy,
    state: State,
    fixed_newstyle: bool,
    no_zeroes: bool,
    structured_replies: bool,
    options: u32,
    /// Export name as the client sent it, and what it selected there.
    contexts: Option<(String, Vec<SelectedContext>)>,
}

impl Negotiation {
    /// What the server sends first: both magics and the handshake flags.
    pub const GREETING: [u8; 18] = *b"NBDMAGICIHAVEOPT\0\x03";
    /// With this many bytes of input `advance` always consumes some: the size that a buffer must be able to reach.
    pub const MAXIMUM_INPUT: usize = OPTION_HEADER_BYTES + MAXIMUM_OPTION_BYTES as usize;

    /// A connection to which [`Self::GREETING`] is sent.
    pub fn new(policy: ServerPolicy) -> Self {
        Self {
            policy,
            state: State::ClientFlags,
            fixed_newstyle: false,
            no_zeroes: false,
            structured_replies: false,
            options: 0,
            contexts: None,
        }
    }

    /// Takes at most one message from the front of `input` and appends the answer to `out`. Never panics, whatever
    /// the input; splitting the input differently changes neither answers nor outcome.
    pub fn advance(&mut self, input: &[u8], exports: &dyn ExportDirectory, out: &mut Vec<u8>) -> Advance {
        let advance = match self.state {
            State::ClientFlags => self.client_flags(input),
            State::Option => self.option(input, exports, out),
            State::Skipping {
                option,
                remaining,
                reply_type,
                message,
            } => self.skip(input, out, option, remaining, reply_type, message),
            State::Over => close(0, CloseReason::Over),
        };
        if matches!(advance.step, Step::Transmission(_) | Step::Close(_)) {
            self.state = State::Over;
        }
        advance
    }

    fn client_flags(&mut self, input: &[u8]) -> Advance {
        let Some(bytes) = input.first_chunk::<4>() else {
            return need_more(0);
        };
        let flags = u32::from_be_bytes(*bytes);
        let unknown = flags & !(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
        if unknown != 0 {
            return close(4, CloseReason::UnknownClientFlags(unknown));
        }
        self.fixed_newstyle = flags & NBD_FLAG_C_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & NBD_FLAG_C_NO_ZEROES != 0;
        self.state = State::Option;
        proceed(4)
    }

    fn option(&mut self, input: &[u8], exports: &dyn ExportDirectory, out: &mut Vec<u8>) -> Advance {
        let Some(header) = input.first_chunk::<OPTION_HEADER_BYTES>() else {
            return need_more(0);
        };
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let magic = (u64::from(word(0)) << 32) | u64::from(word(4));
        let (option, length) = (word(8), word(12));
        if magic != IHAVEOPT {
            return close(0, CloseReason::NoOption(magic));
        }
        if !self.fixed_newstyle && option != NBD_OPT_EXPORT_NAME {
            return close(0, CloseReason::NotFixedNewstyle(option));
        }
        if self.options >= self.policy.maximum_options {
            return close(0, CloseReason::TooManyOptions(self.policy.maximum_options));
        }
        if length > MAXIMUM_OPTION_BYTES || !is_known(option) {
            return self.start_skip(&input[OPTION_HEADER_BYTES..], out, option, length);
        }
        let end = OPTION_HEADER_BYTES + length as usize;
        let Some(body) = input.get(OPTION_HEADER_BYTES..end) else {
            return need_more(0);
        };
        self.options += 1;
        Advance {
            consumed: end,
            step: self.answer(option, body, exports, out),
        }
    }

    fn start_skip(&mut self, input: &[u8], out: &mut Vec<u8>, option: u32, length: u32) -> Advance {
        if option == NBD_OPT_EXPORT_NAME {
            let reason = CloseReason::MalformedExportName("the name is longer than 4096 bytes");
            return close(OPTION_HEADER_BYTES, reason);
        }
        if length > MAXIMUM_SKIPPED_BYTES {
            return close(OPTION_HEADER_BYTES, CloseReason::OptionTooLong { option, length });
        }
        self.options += 1;
        let (reply_type, message) = match option {
            NBD_OPT_STARTTLS => (NBD_REP_ERR_UNSUP, "this server does not speak TLS"),
            _ if is_known(option) => (NBD_REP_ERR_TOO_BIG, "the option is longer than 64 KiB"),
            _ => (NBD_REP_ERR_UNSUP, "this server does not know the option"),
        };
        let skipped = self.skip(input, out, option, length, reply_type, message);
        Advance {
            consumed: OPTION_HEADER_BYTES + skipped.consumed,
            step: skipped.step,
        }
    }

    fn skip(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        option: u32,
        remaining: u32,
        reply_type: u32,
        message: &'static str,
    ) -> Advance {
        let skipped = input.len().min(remaining as usize);
        let remaining = remaining - skipped as u32;
        if remaining > 0 {
            self.state = State::Skipping {
                option,
                remaining,
                reply_type,
                message,
            };
            return need_more(skipped);
        }
        self.state = State::Option;
        if option == NBD_OPT_SET_META_CONTEXT {
            self.contexts = None;
        }
        if option == NBD_OPT_ABORT {
            reply(out, option, NBD_REP_ACK, &[]);
            return close(skipped, CloseReason::Aborted);
        }
        reply_error(out, option, reply_type, message);
        proceed(skipped)
    }

    fn answer(&mut self, option: u32, body: &[u8], exports: &dyn ExportDirectory, out: &mut Vec<u8>) -> Step {
        match option {
            NBD_OPT_EXPORT_NAME => return self.export_name(body, exports, out),
            NBD_OPT_ABORT => {
                reply(out, option, NBD_REP_ACK, &[]);
                return Step::Close(CloseReason::Aborted);
            }
            NBD_OPT_LIST | NBD_OPT_STRUCTURED_REPLY if !body.is_empty() => {
                reply_error(out, option, NBD_REP_ERR_INVALID, "this option takes no data");
            }
            NBD_OPT_LIST => self.list(exports, out),
            NBD_OPT_STRUCTURED_REPLY => {
                self.structured_replies = true;
                reply(out, option, NBD_REP_ACK, &[]);
            }
            NBD_OPT_INFO | NBD_OPT_GO => return self.info_or_go(option, body, exports, out),
            _ => self.meta_context(option, body, exports, out),
        }
        Step::Continue
    }

    fn export_name(&mut self, body: &[u8], exports: &dyn ExportDirectory, out: &mut Vec<u8>) -> Step {
        let name = match option::string(body) {
            Ok(name) => name,
            Err((_, message)) => return Step::Close(CloseReason::MalformedExportName(message)),
        };
        match exports.info(name) {
            Ok(export) => {
                let transmission = self.transmission(name, export);
                out.extend_from_slice(&transmission.export.size.to_be_bytes());
                out.extend_from_slice(&transmission.flags.to_be_bytes());
                if !self.no_zeroes {
                    out.extend_from_slice(&[0; 124]);
                }
                Step::Transmission(Box::new(transmission))
            }
            Err(refusal) => Step::Close(CloseReason::Refused {
                name: name.to_owned(),
                refusal,
            }),
        }
    }

    fn list(&self, exports: &dyn ExportDirectory, out: &mut Vec<u8>) {
        if !self.policy.allow_list {
            let message = "this server does not list its exports; ask for one by name";
            return reply_error(out, NBD_OPT_LIST, NBD_REP_ERR_POLICY, message);
        }
        match exports.list() {
            Ok(list) => {
                for export in &list {
                    option::reply_server(out, export);
                }
                reply(out, NBD_OPT_LIST, NBD_REP_ACK, &[]);
            }
            Err(refusal) => reply_error(out, NBD_OPT_LIST, refusal.reply_type(), &refusal.message),
        }
    }

    fn info_or_go(
        &mut self,
        option: u32,
        body: &[u8],
        exports: &dyn ExportDirectory,
        out: &mut Vec<u8>,
    ) -> Step {
        let body = match InfoBody::parse(body) {
            Ok(body) => body,
            Err((reply_type, message)) => {
                reply_error(out, option, reply_type, message);
                return Step::Continue;
            }
        };
        let export = match exports.info(body.name) {
            Ok(export) => export,
            Err(refusal) => {
                reply_error(out, option, refusal.reply_type(), &refusal.message);
                return Step::Continue;
            }
        };
        let flags = export.transmission_flags(self.structured_replies);
        option::reply_info(out, option, &body, &export, flags);
        reply(out, option, NBD_REP_ACK, &[]);
        match option {
            NBD_OPT_GO => Step::Transmission(Box::new(self.transmission(body.name, export))),
            _ => Step::Continue,
        }
    }

    fn meta_context(&mut self, option: u32, body: &[u8], exports: &dyn ExportDirectory, out: &mut Vec<u8>) {
        let selecting = option == NBD_OPT_SET_META_CONTEXT;
        if selecting {
            // A new selection replaces the old one even when it fails.
            self.contexts = None;
            if !self.structured_replies {
                let message = "negotiate structured replies before metadata contexts";
                return reply_error(out, option, NBD_REP_ERR_INVALID, message);
            }
        }
        let body = match MetaContextBody::parse(body) {
            Ok(body) => body,
            Err((reply_type, message)) => return reply_error(out, option, reply_type, message),
        };
        let export = match exports.info(body.name) {
            Ok(export) => export,
            Err(refusal) => return reply_error(out, option, refusal.reply_type(), &refusal.message),
        };
        let mut selected = Vec::new();
        for (id, context) in (1..).zip(&export.contexts) {
            if selecting && body.selects(context) {
                reply_context(out, option, id, context);
                selected.push(SelectedContext {
                    id,
                    name: context.clone(),
                });
            } else if !selecting && body.lists(context) {
                reply_context(out, option, 0, context);
            }
        }
        reply(out, option, NBD_REP_ACK, &[]);
        if selecting {
            self.contexts = Some((body.name.to_owned(), selected));
        }
    }

    /// `name` as the client sent it: a selection of contexts counts only for the name it was made with.
    fn transmission(&mut self, name: &str, export: ExportInfo) -> Transmission {
        let contexts = match self.contexts.take() {
            Some((selected_for, contexts)) if selected_for == name => contexts,
            _ => Vec::new(),
        };
        Transmission {
            flags: export.transmission_flags(self.structured_replies),
            export,
            replies: match self.structured_replies {
                true => ReplyFormat::Structured,
                false => ReplyFormat::Simple,
            },
            contexts,
        }
    }
}

/// Options whose body is read. `NBD_OPT_STARTTLS` is not: there is no TLS.
fn is_known(option: u32) -> bool {
    matches!(
        option,
        NBD_OPT_EXPORT_NAME
            | NBD_OPT_ABORT
            | NBD_OPT_LIST
            | NBD_OPT_INFO
            | NBD_OPT_GO
            | NBD_OPT_STRUCTURED_REPLY
            | NBD_OPT_LIST_META_CONTEXT
            | NBD_OPT_SET_META_CONTEXT
    )
}

fn reply_context(out: &mut Vec<u8>, option: u32, id: u32, name: &str) {
    reply(
        out,
        option,
        NBD_REP_META_CONTEXT,
        &[&id.to_be_bytes(), name.as_bytes()],
    );
}

fn proceed(consumed: usize) -> Advance {
    Advance {
        consumed,
        step: Step::Continue,
    }
}

fn need_more(consumed: usize) -> Advance {
    Advance {
        consumed,
        step: Step::NeedMore,
    }
}

fn close(consumed: usize, reason: CloseReason) -> Advance {
    Advance {
        consumed,
        step: Step::Close(reason),
    }
}
