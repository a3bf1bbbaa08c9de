//! An NBD client's bytes: handshake, options, requests.

use super::nbd_session::{Session, feed_in_pieces, feed_whole, parts};
use crate::mutate;
use crate::target::{Breach, Cap, Probe, Target, ensure_equal};
use fastrand::Rng;
use mendblock_net::nbd::constants::*;

/// Everything that a client sends behind the greeting.
pub(super) struct Nbd;

impl Target for Nbd {
    fn name(&self) -> &'static str {
        "nbd"
    }

    fn about(&self) -> &'static str {
        "an NBD client: flags, options, requests, in any pieces"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 64 << 10,
            because: "one step answers one option (NBD.md): at most 256 queries of 16 bytes, and replies about 3 exports",
        }
    }

    fn longest(&self) -> usize {
        160 << 10
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let info = |name: &str| [&text(name)[..], &[0, 2, 0, 1, 0, 3]].concat();
        let contexts = [&text("r0")[..], &[0, 0, 0, 1], &text("base:allocation")].concat();
        let go = option(NBD_OPT_GO, &info("r0"));
        let requests = [
            request(NBD_CMD_READ, 0, 4096, 8192),
            [request(NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 512), vec![7; 512]].concat(),
            request(NBD_CMD_FLUSH, 0, 0, 0),
            request(NBD_CMD_TRIM, 0, 1 << 20, 1 << 20),
            request(NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 0, 1 << 20),
            request(NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, 1 << 20),
            request(NBD_CMD_CACHE, 0, 0, 4096),
            request(NBD_CMD_READ, NBD_CMD_FLAG_DF, (64 << 20) - 512, 1024),
            request(NBD_CMD_DISC, 0, 0, 0),
        ]
        .concat();
        let flags = vec![0, 0, 0, 3];
        let structured = option(NBD_OPT_STRUCTURED_REPLY, &[]);
        let select = option(NBD_OPT_SET_META_CONTEXT, &contexts);
        vec![
            [
                flags.clone(),
                option(NBD_OPT_EXPORT_NAME, b"r0"),
                requests.clone(),
            ]
            .concat(),
            [
                flags.clone(),
                structured.clone(),
                select,
                go.clone(),
                requests.clone(),
            ]
            .concat(),
            [
                flags.clone(),
                option(NBD_OPT_LIST, &[]),
                option(NBD_OPT_ABORT, &[]),
            ]
            .concat(),
            [
                flags.clone(),
                option(NBD_OPT_INFO, &info("")),
                option(NBD_OPT_LIST_META_CONTEXT, &[&text("r0")[..], &[0; 4]].concat()),
                option(NBD_OPT_STARTTLS, &[]),
                option(NBD_OPT_GO, &info("secondary")),
                option(NBD_OPT_GO, &info("nothing")),
                option(NBD_OPT_EXTENDED_HEADERS, &[]),
                go,
                requests,
            ]
            .concat(),
            [vec![0; 4], option(NBD_OPT_EXPORT_NAME, b"read-only")].concat(),
            [flags, structured, option(NBD_OPT_LIST, &vec![0; 70_000])].concat(),
        ]
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let names = [
            "r0",
            "read-only",
            "secondary",
            "base:",
            "base:allocation",
            "qemu:x",
        ];
        let options = (0..13).map(|number| option(number, &[]));
        let commands = (0..9).map(|command| request(command, 0, 0, 512));
        names
            .map(text)
            .into_iter()
            .chain(options)
            .chain(commands)
            .collect()
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        let mut whole = Session::new();
        feed_whole(&mut whole, input, probe)?;
        whole.check_answers()?;
        probe.outline("events", &whole.events);
        probe.outline("end", &whole.end);
        for reply in &whole.replies {
            probe.feature((reply.0.min(12), reply.1));
        }
        let mut pieces = Session::new();
        feed_in_pieces(&mut pieces, input, &mut probe.random)?;
        ensure_equal(
            "pieces give the same answers",
            &(whole.answers, whole.events, whole.end),
            &(pieces.answers, pieces.events, pieces.end),
        )
    }

    /// Makes each option as long as the way to the next magic.
    fn seal(&self, input: &mut Vec<u8>) {
        let mut at = 4;
        for part in parts(input).into_iter().skip(1) {
            if part.starts_with(&IHAVEOPT.to_be_bytes()) && part.len() >= 16 {
                let length = (part.len() - 16) as u32;
                input[at + 12..at + 16].copy_from_slice(&length.to_be_bytes());
            }
            at += part.len();
        }
    }

    fn restructure(&self, input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
        let mut pieces = parts(input);
        let others = parts(other);
        let at = random.usize(0..pieces.len());
        let theirs = &others[random.usize(0..others.len())];
        match random.u8(0..6) {
            0 if pieces.len() > 1 => drop(pieces.remove(at)),
            1 => pieces.insert(at.max(1), theirs.clone()),
            2 if at > 0 => {
                let with = random.usize(1..pieces.len());
                pieces.swap(at, with);
            }
            3 if at > 0 => pieces[at].clone_from(theirs),
            _ => change_part(&mut pieces[at], theirs, &self.words(), random),
        }
        Some(pieces.concat())
    }
}

/// Changes an option's number or body, or a request's fields; magics stay.
fn change_part(part: &mut Vec<u8>, other: &[u8], words: &[Vec<u8>], random: &mut Rng) {
    if part.starts_with(&NBD_REQUEST_MAGIC.to_be_bytes()) && part.len() >= 28 {
        return change_request(part, random);
    }
    let keep = if part.starts_with(&IHAVEOPT.to_be_bytes()) {
        16
    } else {
        0
    }
    .min(part.len());
    if keep == 16 && random.u8(0..4) == 0 {
        part[11] = random.u8(0..14);
    }
    let mut body = part.split_off(keep);
    let longest = body.len() + 4096;
    mutate::bytes(&mut body, other, words, longest, random);
    part.extend(body);
}

fn change_request(part: &mut [u8], random: &mut Rng) {
    match random.u8(0..5) {
        0 => part[7] = random.u8(0..10),
        1 => part[5] = random.u8(..),
        2 => part[16..24].copy_from_slice(&place(random).to_be_bytes()),
        3 => part[24..28].copy_from_slice(&(place(random) as u32).to_be_bytes()),
        _ => part[24..28].copy_from_slice(&(mutate::number(random) as u32).to_be_bytes()),
    }
}

/// A number near the limits of requests: sectors, the end of the export, the longest payload.
fn place(random: &mut Rng) -> u64 {
    let near = [0, 512, 4096, 32 << 20, 64 << 20, (64 << 20) - 512, u64::MAX - 511];
    let step = [0, 0, 1, 512][random.usize(0..4)];
    let value: u64 = near[random.usize(0..near.len())];
    if random.bool() {
        value.wrapping_add(step)
    } else {
        value.wrapping_sub(step)
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

fn option(number: u32, body: &[u8]) -> Vec<u8> {
    [
        &IHAVEOPT.to_be_bytes()[..],
        &number.to_be_bytes(),
        &(body.len() as u32).to_be_bytes(),
        body,
    ]
    .concat()
}

fn request(command: u16, flags: u16, offset: u64, length: u32) -> Vec<u8> {
    [
        &NBD_REQUEST_MAGIC.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        b"cookie!!",
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}
