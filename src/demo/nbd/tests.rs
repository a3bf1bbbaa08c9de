use super::*;
use std::collections::VecDeque;

/// A server that says what it is told to, and remembers what it hears.
#[derive(Debug, Default)]
struct Script {
    says: VecDeque<u8>,
    heard: Vec<u8>,
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.says.read(buffer)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn script(parts: &[&[u8]]) -> Script {
    Script {
        says: parts.concat().into(),
        heard: Vec::new(),
    }
}

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
/// NBD_REP_ERR_UNSUP to NBD_OPT_STRUCTURED_REPLY.
const NO_STRUCTURE: &[u8] = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\x80\0\0\x01\0\0\0\0";
/// NBD_REP_INFO with NBD_INFO_EXPORT: 1 MiB, flags 0x0105; NBD_REP_ACK.
const INFO: &[u8] =
    b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\0\x10\0\0\x01\x05";
const ACK: &[u8] = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0";

/// A client behind the negotiation, and what the server is going to say.
fn client<'s>(server: &'s mut Script, replies: &[&[u8]]) -> NbdClient<&'s mut Script> {
    *server = script(&[GREETING, NO_STRUCTURE, INFO, ACK, &replies.concat()]);
    NbdClient::negotiate(server, "r0").unwrap()
}

#[test]
fn negotiation_says_what_the_specification_wants() {
    let mut server = Script::default();
    let client = client(&mut server, &[]);
    assert_eq!(client.bytes(), 1 << 20);
    drop(client);
    let expected: [&[u8]; 5] = [
        b"\0\0\0\x03",
        b"IHAVEOPT\0\0\0\x08\0\0\0\0",
        b"IHAVEOPT\0\0\0\x07\0\0\0\x08\0\0\0\x02r0\0\0",
        // NBD_CMD_DISC
        b"\x25\x60\x95\x13\0\0\0\x02\0\0\0\0\0\0\0\x01",
        &[0; 12],
    ];
    assert_eq!(server.heard, expected.concat());
}

#[test]
fn refusals_are_told_with_the_servers_words() {
    let refusal = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\x80\0\0\x06\0\0\0\x07unknown";
    let mut server = script(&[GREETING, NO_STRUCTURE, refusal]);
    let error = NbdClient::negotiate(&mut server, "r1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "NBD: the server refuses the export \"r1\": unknown (reply 0x80000006)"
    );
}

#[test]
fn strangers_are_no_servers() {
    for greeting in [
        &b"SSH-2.0-OpenSSH_9.0"[..],
        b"NBDMAGICIHAVEOPT\0\0",
        b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\x03",
    ] {
        let error = NbdClient::negotiate(&mut script(&[greeting]), "r0").unwrap_err();
        assert!(matches!(error, NbdClientError::Protocol { .. }), "{error}");
    }
}

#[test]
fn simple_replies_carry_data_or_an_error() {
    let mut server = Script::default();
    let mut client = client(
        &mut server,
        &[
            b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x01abcdefgh",
            b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x02",
            b"\x67\x44\x66\x98\0\0\0\x05\0\0\0\0\0\0\0\x03",
        ],
    );
    let mut data = [0; 8];
    client.read(4096, &mut data).unwrap();
    assert_eq!(&data, b"abcdefgh");
    client.write(512, b"data").unwrap();
    let error = client.flush().unwrap_err();
    assert_eq!(
        error.to_string(),
        "NBD flush of 0 bytes at byte 0 failed: error 5"
    );
    drop(client);
    let write = b"\x25\x60\x95\x13\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x02\0\0\0\0\x04data";
    assert!(server.heard.windows(write.len()).any(|window| window == write));
}

/// Head of a chunk of the reply to request 1.
fn chunk(flags: u8, kind: [u8; 2], length: u8) -> Vec<u8> {
    let mut head = b"\x66\x8e\x33\xef\0".to_vec();
    head.push(flags);
    head.extend(kind);
    head.extend(b"\0\0\0\0\0\0\0\x01\0\0\0");
    head.push(length);
    head
}

#[test]
fn structured_replies_come_in_parts_and_in_any_order() {
    let mut server = Script::default();
    let (hole, text) = (chunk(0, [0, 2], 12), chunk(1, [0, 1], 12));
    let mut client = client(
        &mut server,
        &[
            &hole,
            b"\0\0\0\0\0\0\x10\x04\0\0\0\x04",
            &text,
            b"\0\0\0\0\0\0\x10\0abcd",
        ],
    );
    let mut data = [9; 8];
    client.read(4096, &mut data).unwrap();
    assert_eq!(&data, b"abcd\0\0\0\0");
}

#[test]
fn structured_errors_and_nonsense_are_told_apart() {
    let mut data = [0; 8];
    let mut server = Script::default();
    let error = [chunk(1, [0x80, 1], 6), b"\0\0\0\x05\0\0".to_vec()].concat();
    let told = client(&mut server, &[&error]).read(0, &mut data).unwrap_err();
    assert!(
        matches!(
            told,
            NbdClientError::Request {
                error: 5,
                command: "read",
                ..
            }
        ),
        "{told}"
    );
    let nonsense = [
        // Outside of the buffer, behind it and in front of it.
        [chunk(1, [0, 1], 12), b"\0\0\0\0\0\0\x10\x06abcd".to_vec()].concat(),
        [chunk(1, [0, 1], 12), b"\0\0\0\0\0\0\x0f\xffabcd".to_vec()].concat(),
        // Not everything.
        [chunk(1, [0, 1], 12), b"\0\0\0\0\0\0\x10\0abcd".to_vec()].concat(),
        chunk(1, [0, 0], 0),
        // Unknown type, wrong length, wrong cookie, wrong magic.
        chunk(1, [0, 9], 0),
        chunk(1, [0, 1], 7),
        b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x02".to_vec(),
        b"\x67\x44\x66\x99\0\0\0\0\0\0\0\0\0\0\0\x01".to_vec(),
    ];
    for reply in nonsense {
        let told = client(&mut server, &[&reply]).read(4096, &mut data).unwrap_err();
        assert!(matches!(told, NbdClientError::Protocol { .. }), "{told}");
    }
    let told = client(&mut server, &[]).read(4096, &mut data).unwrap_err();
    assert!(matches!(told, NbdClientError::Socket { .. }), "{told}");
}
