//! Whole handshakes byte by byte, as clients of today send them (recorded from nbdinfo 1.14 and qemu-io 10), and
//! any bytes at all.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use mendblock_net::nbd::constants::*;
use mendblock_net::nbd::*;
use proptest::prelude::*;

struct Directory;

impl ExportDirectory for Directory {
    fn list(&self) -> Result<Vec<ListedExport>, ExportRefusal> {
        Ok(vec![
            ListedExport {
                name: "disk".into(),
                description: "a disk".into(),
            },
            ListedExport {
                name: "bad\0name".into(),
                description: String::new(),
            },
            ListedExport {
                name: "r1".into(),
                description: String::new(),
            },
        ])
    }

    fn info(&self, name: &str) -> Result<ExportInfo, ExportRefusal> {
        let refuse = |kind, message: &str| {
            Err(ExportRefusal {
                kind,
                message: message.to_owned(),
            })
        };
        match name {
            "" | "disk" => Ok(ExportInfo {
                name: "disk".into(),
                description: "a disk".into(),
                size: 1 << 20,
                flags: NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA,
                block_sizes: BlockSizes::default(),
                contexts: vec!["base:allocation".into(), "x-test:bad".into()],
            }),
            "secondary" => refuse(RefusalKind::NotServing, "Secondary"),
            "closing" => refuse(RefusalKind::ShuttingDown, "closing"),
            _ => refuse(RefusalKind::Unknown, "unknown"),
        }
    }
}

/// Replies, outcome (`None`: more input is wanted) and the bytes left over.
type Result3 = (Vec<u8>, Option<Step>, Vec<u8>);

/// Feeds the pieces one after the other, as they would come from a socket.
fn drive_with<'a>(policy: ServerPolicy, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result3 {
    let mut negotiation = Negotiation::new(policy);
    let (mut buffer, mut replies, mut end) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while end.is_none() {
            let full = buffer.len() >= Negotiation::MAXIMUM_INPUT;
            let advance = negotiation.advance(&buffer, &Directory, &mut replies);
            buffer.drain(..advance.consumed);
            match advance.step {
                Step::Continue => assert!(advance.consumed > 0, "no progress"),
                Step::NeedMore => {
                    assert!(!full || advance.consumed > 0, "a full buffer makes no progress");
                    break;
                }
                step => end = Some(step),
            }
        }
    }
    if end.is_some() {
        let over = negotiation.advance(&buffer, &Directory, &mut Vec::new());
        assert_eq!((over.consumed, over.step), (0, Step::Close(CloseReason::Over)));
    }
    (replies, end, buffer)
}

fn drive(input: &[u8]) -> Result3 {
    drive_with(ServerPolicy::default(), [input])
}

/// The outcome must be transmission; with the replies.
fn transmits(input: &[u8]) -> (Vec<u8>, Transmission) {
    match drive(input) {
        (replies, Some(Step::Transmission(transmission)), rest) if rest.is_empty() => {
            (replies, *transmission)
        }
        other => panic!("{other:?}"),
    }
}

fn closes(input: &[u8]) -> (Vec<u8>, CloseReason) {
    match drive(input) {
        (replies, Some(Step::Close(reason)), _) => (replies, reason),
        other => panic!("{other:?}"),
    }
}

/// Replies to a client with `NBD_FLAG_C_FIXED_NEWSTYLE` and `NBD_FLAG_C_NO_ZEROES` that goes on afterwards.
fn answers(options: &[(u32, &[u8])]) -> Vec<u8> {
    match drive(&client(options)) {
        (replies, None, rest) if rest.is_empty() => replies,
        other => panic!("{other:?}"),
    }
}

fn client(options: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    for (option, body) in options {
        bytes.extend_from_slice(b"IHAVEOPT");
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
        bytes.extend_from_slice(body);
    }
    bytes
}

const MAGIC: &[u8; 8] = b"\x00\x03\xe8\x89\x04\x55\x65\xa9";

/// Replies as the specification lays them out: option, type, body.
fn replies(list: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (option, kind, body) in list {
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
        bytes.extend_from_slice(body);
    }
    bytes
}

#[test]
fn greeting() {
    assert_eq!(
        Negotiation::GREETING,
        *b"\x4e\x42\x44\x4d\x41\x47\x49\x43\x49\x48\x41\x56\x45\x4f\x50\x54\x00\x03"
    );
}

#[test]
fn as_nbdinfo_does_it() {
    let input = b"\0\0\0\x03\
        IHAVEOPT\0\0\0\x08\0\0\0\0\
        IHAVEOPT\0\0\0\x06\0\0\0\x10\0\0\0\x04disk\0\x03\0\x03\0\x01\0\x02\
        IHAVEOPT\0\0\0\x09\0\0\0\x0c\0\0\0\x04disk\0\0\0\0\
        IHAVEOPT\0\0\0\x07\0\0\0\x10\0\0\0\x04disk\0\x03\0\x03\0\x01\0\x02";
    let expected = b"\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x06\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\0\x10\0\0\0\x8d\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x06\0\0\0\x03\0\0\0\x06\0\x01disk\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x06\0\0\0\x03\0\0\0\x08\0\x02a disk\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x06\0\0\0\x03\0\0\0\x0e\0\x03\0\0\x02\0\0\0\x10\0\x02\0\0\0\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x06\0\0\0\x01\0\0\0\0\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x09\0\0\0\x04\0\0\0\x13\0\0\0\0base:allocation\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x09\0\0\0\x04\0\0\0\x0e\0\0\0\0x-test:bad\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x09\0\0\0\x01\0\0\0\0\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\0\x10\0\0\0\x8d\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x06\0\x01disk\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x08\0\x02a disk\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0e\0\x03\0\0\x02\0\0\0\x10\0\x02\0\0\0\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0";
    let (sent, transmission) = transmits(input);
    assert_eq!(sent, expected);
    assert_eq!(transmission.export.name, "disk");
    assert_eq!(transmission.flags, 0x8d);
    assert_eq!(transmission.replies, ReplyFormat::Structured);
    assert_eq!(transmission.contexts, vec![]);
    assert!(!transmission.request_rules().block_status);
}

#[test]
fn as_qemu_does_it() {
    let input = b"\0\0\0\x03\
        IHAVEOPT\0\0\0\x0b\0\0\0\0\
        IHAVEOPT\0\0\0\x08\0\0\0\0\
        IHAVEOPT\0\0\0\x0a\0\0\0\x1f\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation\
        IHAVEOPT\0\0\0\x07\0\0\0\x0c\0\0\0\x04disk\0\x01\0\x03";
    let expected = b"\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0b\x80\0\0\x01\0\0\0\x24this server does not know the option\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0a\0\0\0\x04\0\0\0\x13\0\0\0\x01base:allocation\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0a\0\0\0\x01\0\0\0\0\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\0\x10\0\0\0\x8d\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0e\0\x03\0\0\x02\0\0\0\x10\0\x02\0\0\0\
        \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0";
    let (sent, transmission) = transmits(input);
    assert_eq!(sent, expected);
    assert_eq!(transmission.contexts.len(), 1);
    assert_eq!(
        transmission.contexts[0],
        SelectedContext {
            id: 1,
            name: "base:allocation".into()
        }
    );
    assert!(transmission.request_rules().block_status);
}

#[test]
fn as_old_clients_do_it() {
    // Newstyle without "fixed", and the default export: 124 zeroes follow.
    let (sent, transmission) = transmits(b"\0\0\0\0IHAVEOPT\0\0\0\x01\0\0\0\0");
    let mut expected = b"\0\0\0\0\0\x10\0\0\0\x0d".to_vec();
    expected.resize(134, 0);
    assert_eq!(sent, expected);
    assert_eq!(transmission.export.name, "disk");
    assert_eq!(transmission.replies, ReplyFormat::Simple);

    let (sent, _) = transmits(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04disk");
    assert_eq!(sent, b"\0\0\0\0\0\x10\0\0\0\x0d");

    let (sent, reason) = closes(b"\0\0\0\x01IHAVEOPT\0\0\0\x01\0\0\0\x09secondary");
    assert_eq!(sent, b"");
    assert_eq!(reason.to_string(), "export \"secondary\" refused: Secondary");

    let (sent, reason) = closes(b"\0\0\0\0IHAVEOPT\0\0\0\x03\0\0\0\0");
    assert_eq!(
        (sent.as_slice(), reason),
        (&b""[..], CloseReason::NotFixedNewstyle(3))
    );
}

#[test]
fn requests_behind_go_are_left_to_the_transmission_phase() {
    let mut input = client(&[(NBD_OPT_GO, b"\0\0\0\0\0\0")]);
    input.extend_from_slice(b"\x25\x60\x95\x13");
    let (_, end, rest) = drive(&input);
    assert!(matches!(end, Some(Step::Transmission(_))));
    assert_eq!(rest, b"\x25\x60\x95\x13");
}

#[test]
fn list_and_abort() {
    let (sent, reason) = closes(&client(&[
        (NBD_OPT_LIST, b""),
        (NBD_OPT_LIST, b"x"),
        (NBD_OPT_ABORT, b"data is ignored"),
    ]));
    assert_eq!(reason, CloseReason::Aborted);
    assert_eq!(
        sent,
        replies(&[
            (3, 2, b"\0\0\0\x04diska disk"),
            (3, 2, b"\0\0\0\x02r1"),
            (3, 1, b""),
            (3, NBD_REP_ERR_INVALID, b"this option takes no data"),
            (2, 1, b""),
        ])
    );
    let policy = ServerPolicy {
        allow_list: false,
        ..ServerPolicy::default()
    };
    let (sent, end, _) = drive_with(policy, [&client(&[(NBD_OPT_LIST, b"")])[..]]);
    assert_eq!(end, None);
    assert_eq!(sent[8..16], *b"\0\0\0\x03\x80\0\0\x02");
}

#[test]
fn refusals_have_the_reply_of_their_kind() {
    for option in [NBD_OPT_INFO, NBD_OPT_GO] {
        let sent = answers(&[
            (option, b"\0\0\0\x09secondary\0\0"),
            (option, b"\0\0\0\x07closing\0\0"),
            (option, b"\0\0\0\x04none\0\0"),
            (option, b"\0\0\0\x04none"),
        ]);
        let short = b"the option is shorter than its fields say";
        assert_eq!(
            sent,
            replies(&[
                (option, 0x8000_0002, b"Secondary"),
                (option, 0x8000_0007, b"closing"),
                (option, 0x8000_0006, b"unknown"),
                (option, 0x8000_0003, short),
            ])
        );
    }
}

#[test]
fn unsupported_options_are_skipped_and_answered() {
    let long = vec![0xff; 100_000];
    let sent = answers(&[
        (NBD_OPT_STARTTLS, b""),
        (NBD_OPT_PEEK_EXPORT, b"disk"),
        (NBD_OPT_EXTENDED_HEADERS, b""),
        (0x4321, &long),
        (NBD_OPT_INFO, &long),
        (NBD_OPT_STRUCTURED_REPLY, b""),
    ]);
    let unknown = b"this server does not know the option";
    assert_eq!(
        sent,
        replies(&[
            (5, 0x8000_0001, b"this server does not speak TLS"),
            (4, 0x8000_0001, unknown),
            (11, 0x8000_0001, unknown),
            (0x4321, 0x8000_0001, unknown),
            (6, 0x8000_0009, b"the option is longer than 64 KiB"),
            (8, 1, b""),
        ])
    );
    let (sent, reason) = closes(b"\0\0\0\x03IHAVEOPT\0\0\0\x63\xff\xff\xff\xff");
    assert_eq!(sent, b"");
    assert_eq!(
        reason,
        CloseReason::OptionTooLong {
            option: 99,
            length: u32::MAX
        }
    );
}

#[test]
fn metadata_contexts() {
    let disk = b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x05base:";
    let sent = answers(&[
        (NBD_OPT_SET_META_CONTEXT, disk),
        (NBD_OPT_STRUCTURED_REPLY, b""),
        (NBD_OPT_LIST_META_CONTEXT, disk),
        (NBD_OPT_SET_META_CONTEXT, disk),
        (NBD_OPT_LIST_META_CONTEXT, b"\0\0\0\x04none\0\0\0\0"),
        (
            NBD_OPT_LIST_META_CONTEXT,
            b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x04none",
        ),
        (
            NBD_OPT_SET_META_CONTEXT,
            b"\0\0\0\x04disk\0\0\0\x02\0\0\0\x04none",
        ),
    ]);
    let first = b"negotiate structured replies before metadata contexts";
    assert_eq!(
        sent,
        replies(&[
            (10, 0x8000_0003, first),
            (8, 1, b""),
            (9, 4, b"\0\0\0\0base:allocation"),
            (9, 1, b""),
            (10, 1, b""),
            (9, 0x8000_0006, b"unknown"),
            (9, 1, b""),
            (10, 0x8000_0003, b"the option is shorter than its fields say"),
        ])
    );
}

#[test]
fn a_selection_counts_for_its_export_and_until_the_next_one() {
    let go: (u32, &[u8]) = (NBD_OPT_GO, b"\0\0\0\x04disk\0\0");
    let structured: (u32, &[u8]) = (NBD_OPT_STRUCTURED_REPLY, b"");
    let both = b"\0\0\0\x04disk\0\0\0\x02\0\0\0\x0ax-test:bad\0\0\0\x0fbase:allocation";
    let select: (u32, &[u8]) = (NBD_OPT_SET_META_CONTEXT, both);
    let selected = |options: &[(u32, &[u8])]| transmits(&client(options)).1.contexts.len();
    assert_eq!(selected(&[structured, select, go]), 2);
    let other: (u32, &[u8]) = (NBD_OPT_SET_META_CONTEXT, b"\0\0\0\x04none\0\0\0\0");
    assert_eq!(selected(&[structured, select, other, go]), 0);
    let broken: (u32, &[u8]) = (NBD_OPT_SET_META_CONTEXT, b"");
    assert_eq!(selected(&[structured, select, broken, go]), 0);
    let long = vec![0; 70_000];
    assert_eq!(
        selected(&[structured, select, (NBD_OPT_SET_META_CONTEXT, &long), go]),
        0
    );
    let default: (u32, &[u8]) = (NBD_OPT_GO, b"\0\0\0\0\0\0");
    assert_eq!(selected(&[structured, select, default]), 0);
}

#[test]
fn what_is_no_nbd_ends_the_session() {
    assert_eq!(closes(b"\0\0\0\x07").1, CloseReason::UnknownClientFlags(4));
    assert_eq!(
        closes(b"\0\0\0\x03GET / HTTP/1.1\r\n").1,
        CloseReason::NoOption(0x4745_5420_2f20_4854)
    );
    assert_eq!(
        closes(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x02\xff\xfe").1,
        CloseReason::MalformedExportName("a string is not UTF-8 without NUL")
    );
    let long = vec![b'x'; 5000];
    assert_eq!(
        closes(&client(&[(NBD_OPT_EXPORT_NAME, &long)])).1,
        CloseReason::MalformedExportName("a string is longer than 4096 bytes")
    );
}

#[test]
fn the_number_of_options_is_bounded() {
    let policy = ServerPolicy {
        maximum_options: 3,
        ..ServerPolicy::default()
    };
    let options: [(u32, &[u8]); 4] = [(99, b""), (NBD_OPT_LIST, b"x"), (99, b"x"), (NBD_OPT_ABORT, b"")];
    let (_, end, _) = drive_with(policy, [&client(&options)[..]]);
    assert_eq!(end, Some(Step::Close(CloseReason::TooManyOptions(3))));
    let (_, end, _) = drive_with(policy, [&client(&options[1..])[..]]);
    assert_eq!(end, Some(Step::Close(CloseReason::Aborted)));
}

/// Options that are nearly right, so that more than their headers is exercised.
fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just(b"disk".to_vec()),
        Just(b"secondary".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20)
    ];
    let tail = prop_oneof![
        Just(b"\0\0".to_vec()),
        Just(b"\0\x01\0\x03".to_vec()),
        Just(b"\0\0\0\x01\0\0\0\x05base:".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40)
    ];
    let option = prop_oneof![1_u32..12, any::<u32>()];
    (option, name, tail, any::<bool>(), 0_u32..6).prop_map(|(option, name, tail, bare, extra)| {
        let mut body = Vec::new();
        if !bare {
            body.extend_from_slice(&(name.len() as u32).to_be_bytes());
        }
        body.extend(name);
        body.extend(tail);
        let length = body.len() as u32 + if extra == 5 { 3 } else { 0 };
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend(body);
        bytes
    })
}

fn any_session() -> impl Strategy<Value = Vec<u8>> {
    let options = proptest::collection::vec(any_option(), 0..12);
    (0_u8..4, options, proptest::collection::vec(any::<u8>(), 0..30)).prop_map(|(flags, options, garbage)| {
        let mut bytes = vec![0, 0, 0, flags];
        bytes.extend(options.concat());
        bytes.extend(garbage);
        bytes
    })
}

proptest! {
    #[test]
    fn any_bytes_are_survived(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (sent, _, rest) = drive(&input);
        prop_assert!(rest.len() <= input.len());
        prop_assert!(sent.len() < 64 * 1024);
    }

    #[test]
    fn splitting_the_input_changes_nothing(input in any_session(), cuts in proptest::collection::vec(any::<u16>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) % (input.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(input.len());
        let mut start = 0;
        let pieces: Vec<&[u8]> = cuts.iter().map(|cut| &input[std::mem::replace(&mut start, *cut)..*cut]).collect();
        let whole = drive(&input);
        prop_assert_eq!(&drive_with(ServerPolicy::default(), pieces), &whole);
        prop_assert_eq!(&drive_with(ServerPolicy::default(), input.chunks(1)), &whole);
        // Each answer is bounded by what the directory holds, whatever the client says.
        prop_assert!(whole.0.len() <= 13 * 1024);
    }

    #[test]
    fn any_request_gets_a_verdict(header in any::<[u8; 24]>(), command in 0_u16..10, flags in any::<u16>(), near in any::<bool>()) {
        let mut bytes = [0; 28];
        bytes[..4].copy_from_slice(&NBD_REQUEST_MAGIC.to_be_bytes());
        bytes[4..].copy_from_slice(&header);
        if near {
            bytes[4..6].copy_from_slice(&(flags & 0x1f).to_be_bytes());
            bytes[6..8].copy_from_slice(&command.to_be_bytes());
            bytes[16..21].fill(0);
            bytes[23] = 0;
            bytes[24..26].fill(0);
            bytes[27] = 0;
        }
        let rules = RequestRules {
            size: 1 << 20,
            flags: flags | NBD_FLAG_HAS_FLAGS,
            block_sizes: BlockSizes::default(),
            replies: ReplyFormat::Structured,
            block_status: true,
        };
        match rules.first(&bytes) {
            Ok(Some(Parsed::Request(request))) => {
                let end = request.offset + u64::from(request.length);
                prop_assert!(end <= rules.size);
                prop_assert_eq!(request.offset % 512 + u64::from(request.length) % 512, 0);
                prop_assert_eq!(request.length == 0, request.command == Command::Flush);
                prop_assert!(request.payload_length() <= 32 << 20);
            }
            Ok(Some(Parsed::Refused(refused))) => prop_assert!(refused.skip <= 64 << 20),
            Ok(Some(Parsed::Disconnect)) => prop_assert_eq!(&bytes[6..8], &[0, 2]),
            Err(ProtocolViolation::OversizedWrite { length, .. }) => prop_assert!(length > 64 << 20),
            other => panic!("{other:?}"),
        }
    }
}
