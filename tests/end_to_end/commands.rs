//! Each command of the program against running nodes, as a person types it.

use mendblock::admin::schema::{Event, Status};
use mendblock::configuration::FaultEntry;
use mendblock_harness::disks::BLOCK;
use mendblock_harness::pair::{Options, Pair, connection, is_in_sync};

fn small() -> Options {
    Options {
        disk_bytes: 32 << 20,
        ..Options::default()
    }
}

#[test]
fn status_for_people_and_for_programs() {
    let pair = Pair::running(&small());
    let alice = &pair.alice.admin;
    for order in [&["status"][..], &["status", "r0"]] {
        let shown = alice.command(order).expect_code(0).out;
        for word in [
            "r0 role:Primary",
            "disk:UpToDate",
            "bob role:Secondary",
            "peer-disk:UpToDate",
        ] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
    }
    let json = alice.command(&["status", "--json"]).expect_code(0).out;
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!((status.node.name.as_str(), status.node.id), ("alice", 0));
    let volume = &status.volumes[0];
    assert!(is_in_sync(volume), "{volume:#?}");
    assert_eq!((volume.role.as_str(), volume.name.as_str()), ("Primary", "r0"));
    assert_eq!(volume.generations.current.len(), 16);
    assert!(volume.actors.iter().all(|actor| actor.generation == 1));
}

#[test]
fn events_begin_with_what_there_is() {
    let pair = Pair::running(&small());
    let now = pair
        .bob
        .admin
        .command(&["events", "--now", "--json"])
        .expect_code(0)
        .out;
    let events: Vec<Event> = now
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let objects: Vec<&str> = events.iter().map(|event| event.object.as_str()).collect();
    assert_eq!(objects, ["resource", "device", "connection", "peer-device", "-"]);
    let now = pair.bob.admin.command(&["events", "--now"]).expect_code(0).out;
    for line in [
        "exists resource name:r0 role:Secondary",
        "exists device name:r0 volume:0 disk:UpToDate",
        "exists connection name:r0 conn-name:alice connection:Connected role:Primary",
        "exists peer-device name:r0 conn-name:alice volume:0 peer-disk:UpToDate",
        "exists -",
    ] {
        assert!(now.contains(line), "{line:?} is missing:\n{now}");
    }
}

/// A rule is added, listed with its hits, and cleared; what it says happens.
#[test]
fn faults_come_and_go() {
    let pair = Pair::running(&small());
    let alice = &pair.alice.admin;
    let mut session = pair.alice.session();
    session.write(0, &[7; BLOCK as usize]).unwrap();
    let fault = |arguments: &[&str]| alice.command(&[&["fault"], arguments].concat());
    let add = [
        "add",
        "r0",
        "--kind",
        "read",
        "--first-sector",
        "0",
        "--sectors",
        "8",
        "--mode",
        "times=1",
    ];
    fault(&add).expect_code(0);
    let rules: Vec<FaultEntry> = alice.volume().faults;
    assert_eq!((rules.len(), rules[0].hits), (1, 0), "{rules:#?}");
    let listed = fault(&["list", "r0"]).expect_code(0).out;
    assert!(listed.contains("read") && listed.contains("times=1"), "{listed}");
    assert_eq!(session.read(0, BLOCK as u32).unwrap(), [7; BLOCK as usize]);
    alice.wait_for("the fault has hit", 10, |volume| {
        volume.io.read_errors == 1 && volume.disk.state == "Diskless"
    });
    fault(&["clear", "r0", "--number", "99"]).expect_code(10);
    fault(&["clear", "r0"]).expect_code(0);
    assert!(alice.volume().faults.is_empty());
    fault(&[
        "add",
        "r0",
        "--kind",
        "flush",
        "--first-sector",
        "0",
        "--sectors",
        "8",
    ])
    .expect_code(20);
    fault(&["add", "r0", "--kind", "read", "--mode", "sometimes"]).expect_code(20);
    drop(session);
    alice.order(&["attach"]).expect_code(0);
    pair.wait_in_sync(30);
}

/// Roles, disk, connection and resync by their commands; every state is what was ordered.
#[test]
fn orders_change_what_they_name() {
    let pair = Pair::running(&small());
    let (alice, bob) = (&pair.alice.admin, &pair.bob.admin);
    alice.order(&["secondary"]).expect_code(0);
    assert_eq!(alice.volume().role, "Secondary");
    bob.order(&["primary"]).expect_code(0);
    assert_eq!(bob.volume().role, "Primary");
    alice.order(&["detach"]).expect_code(0);
    alice.wait_for("detached", 10, |volume| volume.disk.state == "Diskless");
    alice.order(&["attach"]).expect_code(0);
    pair.wait_in_sync(30);
    alice.order(&["invalidate"]).expect_code(0);
    pair.wait_in_sync(30);
    bob.order(&["disconnect"]).expect_code(0);
    assert_eq!(connection(&bob.volume()), "StandAlone");
    bob.order(&["connect"]).expect_code(0);
    pair.wait_in_sync(30);
    bob.order(&["disconnect", "--force"]).expect_code(0);
    bob.order(&["connect"]).expect_code(0);
    pair.wait_in_sync(30);
}

/// The disks that two nodes have used, through the off-line commands and drbdmeta, in both directions.
#[test]
fn metadata_of_a_used_disk() {
    use mendblock_harness::tool::succeeds;
    let mut pair = Pair::running(&small());
    pair.alice.session().write(5 * BLOCK, &[1; 8192]).unwrap();
    pair.bob.stop();
    pair.alice.session().write(700 * BLOCK, &[2; 8192]).unwrap();
    pair.alice.demote();
    pair.alice.order_detach();
    pair.alice.offline(&["check-md"]).expect_code(0);
    pair.alice.offline(&["apply-al"]).expect_code(0);
    let ours = pair.alice.offline(&["dump-md"]).expect_code(0).out;
    let disk = pair.alice.disk.to_str().unwrap().to_owned();
    let drbdmeta = ["--force", "-", "v08", &disk, "internal", "dump-md"];
    if let Some(theirs) = succeeds("drbdmeta", &drbdmeta) {
        // Versions before 9.23 print all flags as 0; on a file, a complaint about the block size is mixed in.
        let body = |dump: &str| -> Vec<String> {
            let body = &dump[dump.find("version \"v08\"").unwrap()..];
            let lines = body
                .lines()
                .filter(|line| !line.trim_start().starts_with("flags ") && !line.starts_with("ioctl("));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(body(&ours), body(&theirs));
        // What drbdmeta creates, a node takes.
        succeeds(
            "drbdmeta",
            &[
                "--force",
                "-",
                "v08",
                pair.bob.disk.to_str().unwrap(),
                "internal",
                "create-md",
            ],
        );
    } else {
        pair.bob.offline(&["create-md", "--force"]).expect_code(0);
    }
    pair.alice.admin.order(&["attach"]).expect_code(0);
    pair.bob.start();
    pair.stop_and_compare();
}
