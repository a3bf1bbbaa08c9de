//! Exchange of the bitmaps before a resync: the source sends its map, the target lays it over its own and sends the union back.

use super::BitmapEffect;
use super::load::page_blocks;
use super::pages::Whole;
use super::part::BitmapPart;
use crate::fact::Fact;
use crate::identity::{ConnectionNumber, MarkNumber};
use crate::part::{Outbox, To};
use crate::peer::{PeerFrame, PeerIn};
use crate::planted::{Fault, is_planted};
use crate::volume::machine::StateIn;
use mendblock_net::wire::message::{BitmapEncoding, Message};
use mendblock_storage::buffer::Buffer;
use mendblock_storage::format::META_BLOCK_BYTES;

/// Pages in one message at the most.
const PAGES_AT_ONCE: u32 = 64;

/// The exchange that runs, and frames that came before it was ordered.
#[derive(Default)]
pub(super) struct Exchange {
    running: Option<(ConnectionNumber, bool)>,
    /// Ordered; marks up to this one come first.
    ordered: Option<(ConnectionNumber, bool, MarkNumber)>,
    /// First page that the peer has not sent yet: it sends all, in order.
    next_page: u32,
    /// Bits that were set in what it sent.
    received: u64,
    early: Vec<(ConnectionNumber, PeerFrame)>,
}

/// How a run of pages is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Zeroes,
    Ones,
    Mixed,
}

impl BitmapPart {
    pub(super) fn order_exchange(&mut self, connection: ConnectionNumber, source: bool, after: MarkNumber) {
        self.exchange.ordered = Some((connection, source, after));
    }

    /// The peer's list of bad blocks begins a new round of parameters. What came of its map belongs to an exchange that one
    /// of the two gave up: laid over this map it would hide every bit that was set since.
    pub(super) fn begin_round(&mut self, connection: ConnectionNumber) {
        if is_planted(Fault::KeepOldMap) {
            return;
        }
        self.exchange.early.retain(|(of, _)| *of != connection);
        self.exchange.running.take_if(|(of, _)| *of == connection);
        self.exchange.ordered.take_if(|(of, ..)| *of == connection);
    }

    pub(super) fn begin_ordered_exchange(&mut self, out: &mut Outbox<BitmapEffect>) {
        let due = self
            .exchange
            .ordered
            .is_some_and(|(_, _, after)| self.marks_arrived(after));
        if let Some((connection, source, _)) = self.exchange.ordered.take_if(|_| due) {
            self.begin_exchange(connection, source, out);
        }
    }

    fn begin_exchange(&mut self, connection: ConnectionNumber, source: bool, out: &mut Outbox<BitmapEffect>) {
        self.exchange.running = Some((connection, source));
        self.exchange.next_page = 0;
        self.exchange.received = 0;
        if source {
            self.send_map(connection, out);
        }
        for (of, frame) in std::mem::take(&mut self.exchange.early) {
            if of == connection {
                self.exchange_frame(of, frame, out);
            }
        }
    }

    fn class(&self, page: u32) -> Class {
        let Some(loaded) = self.loaded.as_ref() else {
            return Class::Zeroes;
        };
        let set = loaded.map.count_of_page(page);
        let all = page_blocks(page, loaded.map.bits()).map_or(0, |blocks| blocks.count());
        match set {
            0 => Class::Zeroes,
            set if set == all => Class::Ones,
            _ => Class::Mixed,
        }
    }

    fn send_map(&self, connection: ConnectionNumber, out: &mut Outbox<BitmapEffect>) {
        let Some(loaded) = self.loaded.as_ref() else {
            return;
        };
        let pages = loaded.map.page_count();
        let mut first = 0;
        while first < pages {
            let class = self.class(first);
            let mut count = 1;
            while count < PAGES_AT_ONCE && first + count < pages && self.class(first + count) == class {
                count += 1;
            }
            let (encoding, payload) = match class {
                Class::Zeroes => (BitmapEncoding::Uniform(false), None),
                Class::Ones => (BitmapEncoding::Uniform(true), None),
                Class::Mixed => {
                    let bytes: Vec<u8> = (first..first + count)
                        .flat_map(|page| loaded.map.page_bytes(page))
                        .collect();
                    (BitmapEncoding::Pages, Some(Buffer::from_vec(bytes)))
                }
            };
            self.send_on(
                connection,
                Message::BitmapPages {
                    first_page: first,
                    pages: count,
                    encoding,
                },
                payload,
                out,
            );
            first += count;
        }
        self.send_on(
            connection,
            Message::BitmapEnd {
                set_bits: loaded.map.count(),
            },
            None,
            out,
        );
    }

    pub(super) fn exchange_frame(
        &mut self,
        connection: ConnectionNumber,
        frame: PeerFrame,
        out: &mut Outbox<BitmapEffect>,
    ) {
        match self.exchange.running {
            Some((of, source)) if of == connection => self.take_frame(connection, source, frame, out),
            _ => {
                // The peer was faster: its map waits until the state part has decided too.
                if self.exchange.early.iter().any(|(of, _)| *of > connection) {
                    return;
                }
                self.exchange.early.retain(|(of, _)| *of == connection);
                self.exchange.early.push((connection, frame));
                let pages = self
                    .loaded
                    .as_ref()
                    .map_or(u32::MAX, |loaded| loaded.map.page_count());
                if self.exchange.early.len() as u64 > u64::from(pages) + 1 {
                    // A whole map has no more frames than pages, and its end.
                    self.exchange.early.clear();
                    self.wrong_map(connection, out);
                }
            }
        }
    }

    fn take_frame(
        &mut self,
        connection: ConnectionNumber,
        source: bool,
        frame: PeerFrame,
        out: &mut Outbox<BitmapEffect>,
    ) {
        match frame.message {
            Message::BitmapPages {
                first_page,
                pages,
                encoding,
            } => {
                let payload = frame.payload.as_deref().unwrap_or_default();
                let fits = self.merge_pages(first_page, pages, encoding, payload);
                if !fits {
                    self.wrong_map(connection, out);
                }
            }
            Message::BitmapEnd { set_bits } => {
                let pages = self.loaded.as_ref().map(|loaded| loaded.map.page_count());
                // A page that is missing would leave blocks that differ without a bit.
                if pages != Some(self.exchange.next_page) || set_bits != self.exchange.received {
                    return self.wrong_map(connection, out);
                }
                self.exchange.running = None;
                self.pages.lazily = true;
                if !source {
                    self.send_map(connection, out);
                    // Not before the merged bits are on the disk: what the target writes lies in its drive's cache when the source
                    // drops its bit, and after a loss of power only this bit says that the block has to be fetched again.
                    return self.pages.want_whole(Whole::Merged(connection));
                }
                self.exchanged(connection, out);
            }
            _ => {}
        }
    }

    /// Both maps are merged, and of a target on its disk.
    pub(super) fn exchanged(&self, connection: ConnectionNumber, out: &mut Outbox<BitmapEffect>) {
        let set_bits = self.loaded.as_ref().map_or(0, |loaded| loaded.map.count());
        out.send(To::State(StateIn::BitmapExchanged { connection, set_bits }));
    }

    fn wrong_map(&mut self, connection: ConnectionNumber, out: &mut Outbox<BitmapEffect>) {
        let text = "the peer's bitmap does not fit this volume".to_owned();
        out.fact(Fact::Surprise { what: text.clone() });
        out.send(To::Peer(PeerIn::Drop { connection, text }));
        self.exchange.running = None;
    }

    fn merge_pages(&mut self, first: u32, pages: u32, encoding: BitmapEncoding, payload: &[u8]) -> bool {
        let Some(loaded) = self.loaded.as_mut() else {
            return false;
        };
        if first != self.exchange.next_page {
            return false;
        }
        let Some(end) = first
            .checked_add(pages)
            .filter(|&end| end <= loaded.map.page_count())
        else {
            return false;
        };
        self.exchange.next_page = end;
        match encoding {
            BitmapEncoding::Uniform(false) => true,
            BitmapEncoding::Uniform(true) => {
                for page in first..end {
                    if let Some(blocks) = page_blocks(page, loaded.map.bits()) {
                        loaded.map.set(blocks);
                        self.exchange.received += u64::from(blocks.count());
                    }
                }
                true
            }
            BitmapEncoding::Pages => {
                let ones = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
                self.exchange.received += ones(payload);
                payload.len() == pages as usize * META_BLOCK_BYTES
                    && (first..end)
                        .zip(payload.chunks_exact(META_BLOCK_BYTES))
                        .all(|(page, bytes)| loaded.map.merge_page(page, bytes).is_ok())
            }
        }
    }
}
