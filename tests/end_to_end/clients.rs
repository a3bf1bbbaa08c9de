//! Real NBD clients, unmodified, on a pair: what they write stands on both disks.

use mendblock_harness::admin::text;
use mendblock_harness::disks;
use mendblock_harness::node::Node;
use mendblock_harness::pair::{Options, Pair};
use mendblock_harness::tool::{is_installed, succeeds};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The lower disk begins with the bytes of `file`.
#[track_caller]
fn assert_holds(node: &Node, file: &Path) {
    let wanted = fs::read(file).unwrap();
    let mut found = vec![0; wanted.len()];
    let disk = File::open(&node.disk).unwrap();
    disk.read_exact_at(&mut found, 0).unwrap();
    assert!(found == wanted, "{}: not what was written", node.settings.name);
}

/// Bytes that differ from block to block, with holes.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = vec![0; length];
    for (number, part) in bytes.chunks_mut(64 << 10).enumerate() {
        if number % 4 == 3 {
            continue;
        }
        for word in part.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_be_bytes()[..word.len()]);
        }
    }
    bytes
}

#[test]
fn an_ext4_file_system_by_qemu_img() {
    if !is_installed("qemu-img") || !is_installed("mkfs.ext4") {
        return;
    }
    let mut pair = Pair::running(&Options::default());
    let size = pair.alice.session().size;
    let image = pair.disks.path().join("ext4.raw");
    File::create(&image).unwrap().set_len(size).unwrap();
    succeeds("mkfs.ext4", &["-q", "-F", text(&image)]);
    let uri = pair.alice.uri();
    let convert = ["convert", "-n", "-f", "raw", "-O", "raw", text(&image), &uri];
    succeeds("qemu-img", &convert);
    let compare = ["compare", "-f", "raw", "-F", "raw", text(&image), &uri];
    succeeds("qemu-img", &compare);
    pair.stop_and_compare();
    assert_holds(&pair.alice, &image);
    assert_holds(&pair.bob, &image);
}

#[test]
fn qemu_io_writes_reads_and_zeroes() {
    if !is_installed("qemu-io") {
        return;
    }
    let mut pair = Pair::running(&Options::default());
    let uri = pair.alice.uri();
    let steps = [
        "write -P 0xab 4k 1M",
        "write -P 0x17 512 512",
        "write -z 256k 128k",
        "flush",
        "read -P 0x17 512 512",
        "read -P 0xab 4k 252k",
        "read -P 0 256k 128k",
        "read -P 0xab 384k 600k",
        "discard 512k 64k",
        "write -f -P 0x55 32M 64k",
        "read -P 0x55 32M 64k",
    ];
    let arguments: Vec<&str> = ["-f", "raw"]
        .into_iter()
        .chain(steps.iter().flat_map(|step| ["-c", *step]))
        .chain([uri.as_str()])
        .collect();
    let said = succeeds("qemu-io", &arguments).unwrap();
    assert!(!said.contains("failed"), "{said}");
    pair.stop_and_compare();
}

#[test]
fn nbdinfo_and_nbdcopy() {
    if !is_installed("nbdcopy") || !is_installed("nbdinfo") {
        return;
    }
    let mut pair = Pair::running(&Options::default());
    let uri = pair.alice.uri();
    let size = pair.alice.session().size;
    let said = succeeds("nbdinfo", &["--size", &uri]).unwrap();
    assert_eq!(said.trim(), size.to_string());
    let said = succeeds("nbdinfo", &["--json", &uri]).unwrap();
    let info: serde_json::Value = serde_json::from_str(&said).unwrap();
    for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"] {
        assert_eq!(info["exports"][0][can], true, "{can}: {said}");
    }
    let (there, back) = (
        pair.disks.path().join("there.raw"),
        pair.disks.path().join("back.raw"),
    );
    fs::write(&there, pattern(usize::try_from(size).unwrap())).unwrap();
    succeeds("nbdcopy", &["--flush", text(&there), &uri]);
    succeeds("nbdcopy", &[&uri, text(&back)]);
    assert!(
        fs::read(&there).unwrap() == fs::read(&back).unwrap(),
        "the copy is not the original"
    );
    pair.stop_and_compare();
    assert_holds(&pair.bob, &there);
}

/// `base:allocation` says what is known: everything is data, whatever holes the lower disks have.
#[test]
fn maps_by_nbdinfo_and_qemu_img_show_data() {
    if !is_installed("nbdinfo") || !is_installed("qemu-img") {
        return;
    }
    let pair = Pair::running(&Options::default());
    let uri = pair.alice.uri();
    let mut session = pair.alice.session();
    let size = session.size;
    session.write(1 << 20, &pattern(1 << 20)).unwrap();
    session.trim(4 << 20, 4 << 20).unwrap();
    drop(session);
    let json = |program, arguments: &[&str]| -> Value {
        let said = succeeds(program, &[arguments, &[uri.as_str()]].concat()).unwrap();
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    let info = json("nbdinfo", &["--json"]);
    assert_eq!(info["exports"][0]["contexts"][0], "base:allocation", "{info:#}");
    let map = json("nbdinfo", &["--map", "--json"]);
    assert_eq!(
        map,
        json!([{ "offset": 0, "length": size, "type": 0, "description": "data" }])
    );
    let totals = json("nbdinfo", &["--map", "--totals", "--json"]);
    assert_eq!(totals[0]["size"], size, "{totals:#}");
    let map = json("qemu-img", &["map", "-f", "raw", "--output=json"]);
    let extents = map.as_array().unwrap();
    let mut end = 0;
    for extent in extents {
        assert_eq!(
            (extent["start"].as_u64(), &extent["data"], &extent["zero"]),
            (Some(end), &json!(true), &json!(false)),
            "{map:#}"
        );
        end += extent["length"].as_u64().unwrap();
    }
    assert_eq!(end, size);
}

/// A Secondary serves no client, and says why.
#[test]
fn a_secondary_refuses_clients() {
    let pair = Pair::running(&Options::default());
    let refused = mendblock_harness::nbd::Session::connect(&pair.bob.nbd_socket(), "r0");
    let text = refused.err().unwrap().to_string();
    assert!(text.contains("Secondary") || text.contains("primary"), "{text}");
    let refused = mendblock_harness::nbd::Session::connect(&pair.alice.nbd_socket(), "r9");
    assert!(refused.is_err(), "there is no r9");
}

/// Trim and zeroes reach both disks, and read as zeros.
#[test]
fn trimmed_blocks_are_the_same_on_both_disks() {
    let mut pair = Pair::running(&Options::default());
    let mut session = pair.alice.session();
    let bytes = pattern(3 << 20);
    session.write(0, &bytes).unwrap();
    session.write_zeroes(512, 1 << 20).unwrap();
    session.trim(2 << 20, 1 << 20).unwrap();
    session.flush().unwrap();
    let zeroed = session.read(512, 1 << 20).unwrap();
    assert!(zeroed.iter().all(|&byte| byte == 0), "write-zeroes left data");
    assert_eq!(session.read(0, 512).unwrap(), bytes[..512]);
    drop(session);
    pair.stop_and_compare();
    assert_eq!(disks::block(&pair.bob, 1), vec![0; 4096]);
}
