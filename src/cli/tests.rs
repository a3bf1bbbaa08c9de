//! What the command line accepts, what commands send and print, and with which code they end: against a node that gives
//! prepared answers.

use super::*;
use crate::admin::schema::*;
use crate::configuration::FaultEntry;
use clap::CommandFactory;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
}

fn admin(line: &str) -> AdminCommand {
    match parse(line).unwrap() {
        Command::Admin(command) => command,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_understood() {
    for line in [
        "mendblock node --config n.toml --allow-kill",
        "mendblock check-config --config n.toml",
        "mendblock status",
        "mendblock status r0 --json --socket /s",
        "mendblock primary r0 --force",
        "mendblock secondary r0",
        "mendblock attach r0",
        "mendblock detach r0 --force",
        "mendblock connect r0 --discard-my-data",
        "mendblock disconnect r0 --force --timeout 5",
        "mendblock invalidate r0",
        "mendblock events --now --timestamps",
        "mendblock fault list r0",
        "mendblock fault add r0 --kind read --first-sector 800 --sectors 8 --error EIO --mode until-written",
        "mendblock fault add r0 --kind any --hang",
        "mendblock fault clear r0 --number 3",
        "mendblock kill r0 --actor disk --how stop",
        "mendblock create-md r0 --config n.toml --force",
        "mendblock dump-md --disk /d --meta-disk /m",
        "mendblock check-md --disk /d",
        "mendblock apply-al r0",
        "mendblock demo --dir /tmp/x --exit",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "mendblock",
        "mendblock primary",
        "mendblock primary r0 --fource",
        "mendblock status --timeout 0",
        "mendblock fault add r0 --kind sometimes",
        "mendblock fault add r0 --kind read --mode times=0",
        "mendblock fault add r0 --kind read --sectors 0",
        "mendblock kill r0 --actor disk --how softly",
        "mendblock dump-md",
        "mendblock dump-md r0 --disk /d",
        "mendblock dump-md r0 --meta-disk /m",
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.use_stderr() || line == "mendblock", "{line}: {error}");
    }
}

#[test]
fn off_line_commands_find_their_disk() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.toml");
    let text = "[node]\nname = \"a\"\nid = 0\n[[volume]]\nname = \"r0\"\ndisk = \"/dev/x\"\nmeta-disk = \"/dev/y\"\n";
    std::fs::write(&file, text).unwrap();
    let resolve = |line: &str| match parse(line).unwrap() {
        Command::Offline(OfflineCommand::DumpMd { target, .. }) => target.resolve(),
        other => panic!("{other:?}"),
    };
    let found = resolve(&format!("mendblock dump-md r0 --config {}", file.display())).unwrap();
    assert_eq!(
        (found.disk.as_path(), found.meta_disk),
        (Path::new("/dev/x"), MetaDisk::External("/dev/y".into()))
    );
    let error = resolve(&format!("mendblock dump-md r9 --config {}", file.display())).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("there is no volume \"r9\"; there are: r0"),
        "{error}"
    );
    let found = resolve("mendblock dump-md --disk /d").unwrap();
    assert_eq!(
        (found.disk.as_path(), found.meta_disk),
        (Path::new("/d"), MetaDisk::Internal)
    );
}

/// A node that gives one answer: what it was asked, and the command's exit code, output and refusal.
struct Exchange {
    request: String,
    code: u8,
    out: String,
    errors: String,
}

async fn exchange(line: &str, status: &str, answer: &str) -> Exchange {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    let node = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        stream.write_all(response.as_bytes()).await.unwrap();
        request
    });
    let command = admin(&format!("{line} --socket {}", socket.display()));
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let code = run::run(&command, &mut out, &mut errors).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Exchange {
        request: node.await.unwrap(),
        code,
        out: text(out),
        errors: text(errors),
    }
}

/// The request line and the body.
async fn read_request(stream: &mut tokio::net::UnixStream) -> String {
    let mut bytes = Vec::new();
    loop {
        stream.read_buf(&mut bytes).await.unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |n| n.parse().unwrap());
        if body.len() == length {
            return format!(
                "{} {body}",
                head.lines().next().unwrap().trim_end_matches(" HTTP/1.1")
            );
        }
    }
}

#[tokio::test]
async fn commands_become_requests() {
    for (line, request) in [
        (
            "mendblock primary r0 --force",
            "POST /v1/volumes/r0/primary {\"force\":true}",
        ),
        ("mendblock secondary r0", "POST /v1/volumes/r0/secondary {}"),
        ("mendblock attach r?0", "POST /v1/volumes/r%3F0/attach {}"),
        (
            "mendblock detach r0",
            "POST /v1/volumes/r0/detach {\"force\":false}",
        ),
        (
            "mendblock connect r0 --discard-my-data",
            "POST /v1/volumes/r0/connect {\"discard_my_data\":true}",
        ),
        (
            "mendblock disconnect r0",
            "POST /v1/volumes/r0/disconnect {\"force\":false}",
        ),
        ("mendblock invalidate r0", "POST /v1/volumes/r0/invalidate {}"),
        ("mendblock fault clear r0", "DELETE /v1/volumes/r0/faults "),
        (
            "mendblock fault clear r0 --number 2",
            "DELETE /v1/volumes/r0/faults/2 ",
        ),
        (
            "mendblock kill r0 --actor disk --how hang",
            "POST /v1/volumes/r0/actors/disk/kill {\"how\":\"hang\"}",
        ),
    ] {
        let exchange = exchange(line, "200 OK", "{}").await;
        assert_eq!(
            (exchange.request.as_str(), exchange.code, exchange.errors.as_str()),
            (request, 0, ""),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_refusal_has_drbds_words_and_code() {
    let body = |code, exit_code| {
        serde_json::to_string(&ErrorBody {
            code,
            text: "Need access to UpToDate data".into(),
            hint: "Attach a disk.".into(),
            exit_code,
        })
        .unwrap()
    };
    let refused = exchange("mendblock primary r0", "409 Conflict", &body(-2, 17)).await;
    assert_eq!(refused.code, 17);
    assert_eq!(
        refused.errors,
        "r0: State change failed: (-2) Need access to UpToDate data\nAttach a disk.\n"
    );
    let refused = exchange("mendblock attach r0", "400 Bad Request", &body(124, 10)).await;
    assert!(
        refused.errors.starts_with("r0: Failure: (124) "),
        "{}",
        refused.errors
    );
    assert_eq!(refused.code, 10);
    let odd = exchange("mendblock attach r0", "404 Not Found", "no such page").await;
    assert_eq!(odd.code, 20);
    assert!(
        odd.errors.contains("HTTP 404 Not Found: no such page"),
        "{}",
        odd.errors
    );
    let odd = exchange("mendblock status", "200 OK", "[]").await;
    assert_eq!(odd.code, 20);
}

#[tokio::test]
async fn without_a_node_the_message_says_where_it_looked() {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let command = admin("mendblock attach r0 --socket /nonexistent/admin.sock");
    assert_eq!(run::run(&command, &mut out, &mut errors).await, 20);
    let errors = String::from_utf8(errors).unwrap();
    assert!(
        errors.starts_with("r0: no node answers at /nonexistent/admin.sock:"),
        "{errors}"
    );
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let client = client::Client::new(&socket, std::time::Duration::from_millis(20));
    let error = client.get::<Status>("/v1/status").await.unwrap_err();
    assert!(matches!(error, client::ClientError::TooSlow { .. }), "{error}");
}

fn broken_disk() -> VolumeStatus {
    let rule =
        serde_json::from_str(r#"{"kind":"read","first_sector":800,"sectors":8,"mode":"until-written"}"#)
            .unwrap();
    VolumeStatus {
        name: "r0".into(),
        role: "Primary".into(),
        disk: DiskStatus {
            state: "Diskless".into(),
            reason: "read error at sector 800 (EIO)".into(),
            since: 1000.0,
            ..Default::default()
        },
        bad_blocks: 1,
        out_of_sync_bytes: 4096,
        connections: vec![ConnectionStatus {
            name: "bob".into(),
            node_id: 1,
            state: "Connected".into(),
            role: "Secondary".into(),
            peer_disk: "UpToDate".into(),
            ..Default::default()
        }],
        waits: vec![Wait {
            who: "client 1".into(),
            what: "a read at bob".into(),
            since: 1010.5,
            until: Some(1017.0),
        }],
        why: vec![Explanation {
            code: "diskless-read-error".into(),
            text: "the disk was given up after a read error".into(),
            remedy: "mendblock attach r0: the bad block is rewritten from bob".into(),
        }],
        faults: vec![FaultEntry {
            number: 1,
            hits: 2,
            rule,
        }],
        ..Default::default()
    }
}

fn resyncing() -> VolumeStatus {
    VolumeStatus {
        name: "r1".into(),
        role: "Secondary".into(),
        suspended: vec!["user".into(), "no-data".into()],
        disk: DiskStatus {
            state: "Failed".into(),
            detach: Some(DetachProgress {
                step: "D8".into(),
                text: "writing the bitmap".into(),
                until: None,
            }),
            ..Default::default()
        },
        connections: vec![
            ConnectionStatus {
                name: "bob".into(),
                state: "SyncSource".into(),
                role: "Secondary".into(),
                peer_disk: "Inconsistent".into(),
                resync_suspended: vec!["peer".into()],
                resync: Some(ResyncProgress {
                    done_percent: 37.2,
                    total_bytes: 2 << 20,
                    left_bytes: 1 << 20,
                    rate_bytes_per_second: 2 << 20,
                    eta_seconds: Some(75.0),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ConnectionStatus {
                name: "carol".into(),
                state: "WFConnection".into(),
                peer_disk: "DUnknown".into(),
                reason: "no answer to a ping".into(),
                since: 912.0,
                ..Default::default()
            },
            ConnectionStatus {
                name: "dave".into(),
                state: "StandAlone".into(),
                peer_disk: "Outdated".into(),
                ..Default::default()
            },
        ],
        waits: vec![Wait {
            who: "2 requests".into(),
            what: "resume-io".into(),
            since: 1000.0,
            until: None,
        }],
        ..Default::default()
    }
}

fn node_status() -> Status {
    Status {
        node: NodeStatus {
            name: "alice".into(),
            now: 1012.0,
            ..Default::default()
        },
        volumes: vec![broken_disk(), resyncing()],
    }
}

#[test]
fn status_is_drbds_paragraph_with_causes_waits_and_remedies() {
    insta::assert_snapshot!(status::render(&node_status(), None), @r"
    r0 role:Primary
      disk:Diskless
        cause: read error at sector 800 (EIO), 12.0 s ago
        out-of-sync:4 bad-blocks:1
      bob role:Secondary
        peer-disk:UpToDate
      waiting: client 1 for a read at bob, 1.5 s so far, at most 5.0 s more
      why: the disk was given up after a read error [diskless-read-error]
        do: mendblock attach r0: the bad block is rewritten from bob
      fault 1: read of sectors 800+8 ends with EIO (until-written), hit 2 times

    r1 role:Secondary suspended:user,no-data
      disk:Failed
        detaching: D8 writing the bitmap, as long as it makes progress
      bob role:Secondary
        replication:SyncSource peer-disk:Inconsistent resync-suspended:peer done:37.20
        resync: 1024 of 2048 KiB left at 2048 KiB/s, 1 min 15 s to go
      carol connection:Connecting
        cause: no answer to a ping, 1 min 40 s ago
      dave connection:StandAlone
        peer-disk:Outdated
      waiting: 2 requests for resume-io, 12.0 s so far, until the operator ends it
    ");
}

#[tokio::test]
async fn status_of_one_volume() {
    let answer = serde_json::to_string(&node_status()).unwrap();
    let shown = exchange("mendblock status r1", "200 OK", &answer).await;
    assert_eq!(shown.request, "GET /v1/status ");
    assert!(
        shown
            .out
            .starts_with("r1 role:Secondary suspended:user,no-data\n"),
        "{}",
        shown.out
    );
    let shown = exchange("mendblock status r1 --json", "200 OK", &answer).await;
    let status: Status = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(status.volumes, [resyncing()]);
    let refused = exchange("mendblock status r9", "200 OK", &answer).await;
    assert_eq!((refused.code, refused.out.as_str()), (10, ""));
    assert_eq!(
        refused.errors,
        "mendblock: Failure: (127) there is no volume \"r9\" here; there are: r0, r1\n"
    );
}

/// Fields that this release does not know, and such that another does not have yet, do no harm.
#[test]
fn a_status_of_another_release_is_understood() {
    let text = r#"{"node":{"name":"a","colour":"red"},"volumes":[{"name":"r0","disk":{"state":"UpToDate"}}],"more":1}"#;
    let status: Status = serde_json::from_str(text).unwrap();
    assert_eq!(status.volumes[0].disk.state, "UpToDate");
}

fn event(number: u64, kind: EventKind, object: &str, fields: &[(&str, &str)]) -> String {
    let fields = fields
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    let event = Event {
        number,
        at: 12.5,
        kind,
        object: object.into(),
        fields,
    };
    serde_json::to_string(&event).unwrap() + "\n"
}

#[tokio::test]
async fn events_are_lines_and_now_ends_them_after_the_dump() {
    let stream = event(
        1,
        EventKind::Exists,
        "resource",
        &[("name", "r0"), ("role", "Primary")],
    ) + &event(2, EventKind::Exists, "-", &[])
        + &event(
            3,
            EventKind::Change,
            "device",
            &[
                ("name", "r0"),
                ("volume", "0"),
                ("disk", "Failed"),
                ("cause", "read error"),
            ],
        );
    let all = exchange("mendblock events", "200 OK", &stream).await;
    assert_eq!(
        all.out,
        "exists resource name:r0 role:Primary\nexists -\nchange device name:r0 volume:0 disk:Failed cause:\"read error\"\n"
    );
    let dump = exchange("mendblock events --now --timestamps", "200 OK", &stream).await;
    assert_eq!(
        dump.out,
        "12.500000 exists resource name:r0 role:Primary\n12.500000 exists -\n"
    );
    let json = exchange("mendblock events --json", "200 OK", &stream).await;
    assert_eq!(json.out, stream);
}

#[tokio::test]
async fn fault_rules_are_sent_and_listed() {
    let entry = &broken_disk().faults[0];
    let line = "mendblock fault add r0 --kind read --first-sector 800 --sectors 8 --mode until-written";
    let added = exchange(line, "200 OK", &serde_json::to_string(entry).unwrap()).await;
    let (path, body) = added.request.rsplit_once(' ').unwrap();
    assert_eq!(path, "POST /v1/volumes/r0/faults");
    assert_eq!(
        serde_json::from_str::<crate::configuration::FaultRule>(body).unwrap(),
        entry.rule
    );
    assert_eq!(
        added.out,
        "1: read of sectors 800+8 ends with EIO (until-written), hit 2 times\n"
    );
    let listed = exchange(
        "mendblock fault list r0",
        "200 OK",
        &serde_json::to_string(&[entry, entry]).unwrap(),
    )
    .await;
    assert_eq!(listed.out, added.out.repeat(2));
}
