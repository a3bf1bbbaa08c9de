use super::keys::{KEYS, Section};
use super::*;
use std::time::Duration;

const MINIMAL: &str = r#"
[node]
name = "alice"
id = 0
listen = "10.0.0.1:7789"

[[volume]]
name = "r0"
disk = "/dev/vg/r0"

[volume.peer]
node-id = 1
name = "bob"
address = "10.0.0.2:7789"
"#;

fn parse(text: &str) -> Result<Configuration, ConfigurationError> {
    Configuration::parse(text, Path::new("node.toml"))
}

fn refusal(text: &str) -> String {
    parse(text).expect_err("the text has a mistake").to_string()
}

/// `MINIMAL` with one piece replaced.
fn with(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from), "{from} is in the minimal configuration");
    MINIMAL.replacen(from, to, 1)
}

/// `MINIMAL` with a line more in its `[node]`, `[[volume]]` or `[volume.peer]`.
fn added(section: Section, line: &str) -> String {
    match section {
        Section::Node => with("id = 0\n", &format!("id = 0\n{line}\n")),
        Section::Volume => with("name = \"r0\"\n", &format!("name = \"r0\"\n{line}\n")),
        Section::Peer => format!("{MINIMAL}{line}\n"),
        Section::Handlers => format!("{MINIMAL}[volume.handlers]\n{line}\n"),
        Section::Faults => format!("{MINIMAL}[[volume.faults]]\n{line}\n"),
    }
}

#[test]
fn minimal_configuration_has_the_defaults() {
    let configuration = parse(MINIMAL).unwrap();
    assert_eq!(
        configuration.node.metrics_listen,
        Some("127.0.0.1:9942".parse().unwrap())
    );
    assert_eq!(configuration.node.admin_socket, Path::new(DEFAULT_ADMIN_SOCKET));
    assert_eq!(configuration.node.state_dir, Path::new("/var/lib/mendblock"));
    let volume = configuration.volume("r0").unwrap();
    assert_eq!((volume.minor, volume.al_extents), (0, 1237));
    assert_eq!(
        (volume.on_io_error, &volume.meta_disk),
        (OnIoError::Detach, &MetaDisk::Internal)
    );
    assert_eq!(volume.disk_timeout, Some(Duration::from_secs(60)));
    assert_eq!(volume.reconnect_grace, Duration::from_secs(5));
    assert_eq!(volume.resync_rate.max, 4 << 30);
    assert!(volume.disk_flushes && volume.md_flushes);
    let peer = volume.peer.as_ref().unwrap();
    assert_eq!(peer.timeout, Duration::from_secs(6));
    assert_eq!(
        (peer.ko_count, peer.max_buffers, peer.max_epoch_size),
        (Some(7), 2048, 2048)
    );
}

#[test]
fn every_value_arrives_in_base_units() {
    let text = added(
        Section::Volume,
        "minor = 7\nmeta-disk = \"/dev/vg/./meta\"\non-io-error = \"call-local-io-error\"\ndisk-timeout = 0\n\
         resync-rate = \"100M\"\nc-fill-target = \"8192s\"\nc-min-rate = 0x100\nmd-flushes = \"no\"\nio-backend = \"io_uring\"\n\
         on-no-data-accessible = \"suspend-io\"",
    );
    let text = format!(
        "{text}timeout = 30\nko-count = 0\n[volume.handlers]\nlocal-io-error = \"echo o > /proc/sysrq-trigger\"\n\
         [[volume.faults]]\nkind = \"read\"\nfirst-sector = 800\nsectors = 8\nmode = \"until-written\"\n\
         [[volume.faults]]\nkind = \"any\"\ndelay-ms = 20\nmode = \"times=3\"\n"
    );
    let configuration = parse(&text).unwrap();
    let volume = &configuration.volumes[0];
    assert_eq!((volume.minor, volume.disk_timeout), (7, None));
    assert_eq!(volume.meta_disk, MetaDisk::External("/dev/vg/meta".into()));
    assert_eq!(volume.resync_rate.initial, 100 << 20);
    assert_eq!(
        (volume.resync_rate.fill_target, volume.resync_rate.min),
        (4 << 20, 256 << 10)
    );
    assert_eq!(
        (volume.md_flushes, volume.io_backend),
        (false, IoBackend::IoUring)
    );
    assert_eq!(volume.on_io_error, OnIoError::CallLocalIoError);
    assert_eq!(volume.on_no_data_accessible, OnNoDataAccessible::SuspendIo);
    assert_eq!(volume.peer.as_ref().unwrap().ko_count, None);
    assert_eq!(volume.handlers["local-io-error"], "echo o > /proc/sysrq-trigger");
    let modes: Vec<_> = volume.faults.iter().map(|rule| rule.mode).collect();
    assert_eq!(modes, [FaultMode::UntilWritten, FaultMode::Times(3)]);
    assert_eq!(volume.faults[0].sectors, Some(8));
}

/// A bad text and what its refusal must say.
#[test]
fn every_kind_of_mistake_is_named() {
    use Section::{Faults, Handlers, Node, Peer, Volume};
    let second =
        |lines: &str| format!("{MINIMAL}[[volume]]\nname = \"r1\"\ndisk = \"/dev/vg/r1\"\n{lines}\n");
    let cases: Vec<(String, &[&str])> = vec![
        ("[node".into(), &["node.toml:1: no valid TOML"]),
        (
            with("id = 0", "id = 0\nid = 1"),
            &["node.toml:5: no valid TOML", "duplicate key"],
        ),
        (String::new(), &["node: is missing", "volume: there is no volume"]),
        (
            format!("{MINIMAL}\n[global]\n"),
            &["global: unknown table or key (allowed: [node], [[volume]])"],
        ),
        (
            added(Node, "nmae = 1"),
            &[
                "node.toml:5: node: nmae: unknown key; did you mean \"name\"?",
                "state-dir",
            ],
        ),
        (
            added(Node, "foo = 1"),
            &["node: foo: unknown key in [node] (allowed: name, id"],
        ),
        (
            added(Node, "al-extents = 99"),
            &["unknown key in [node]; it belongs to [[volume]]"],
        ),
        (
            added(Volume, "on_io_error = \"detach\""),
            &["did you mean \"on-io-error\"?"],
        ),
        (
            added(Peer, "shared-secret = \"x\""),
            &["volume \"r0\": peer.shared-secret: unknown key in [volume.peer]"],
        ),
        (
            with("name = \"alice\"\n", ""),
            &["node: name: is missing (allowed: 1 to 127 bytes"],
        ),
        (
            with("id = 0", "id = 32"),
            &["node.toml:4: node: id = 32: is too large (allowed: 0..31"],
        ),
        (with("id = 0", "id = -1"), &["id = -1: is too small"]),
        (
            with("id = 0", "id = \"zero\""),
            &["id = \"zero\": is no whole number"],
        ),
        (with("id = 0", "id = 0.5"), &["id = 0.5: is no whole number"]),
        (
            with("listen = \"10.0.0.1:7789\"\n", ""),
            &["node.toml:2: node: listen: is missing: a volume has a peer"],
        ),
        (
            with("10.0.0.1:7789", "alice:7789"),
            &[
                "listen = \"alice:7789\": is no IP address with a port",
                "\"IP:PORT\"",
            ],
        ),
        (with("10.0.0.1:7789", "10.0.0.1:0"), &["has port 0"]),
        (
            added(Node, "state-dir = \"var/lib\""),
            &["state-dir = \"var/lib\": is no absolute path"],
        ),
        (added(Node, "state-dir = \"/var/../lib\""), &["has \"..\" in it"]),
        (
            added(Node, "state-dir = \"/dev/vg/r0/state\""),
            &["lies on the path of volume \"r0\": disk in line 10"],
        ),
        (
            added(Node, "metrics-listen = \"10.0.0.1:7789\""),
            &["is the same address as node: listen in line 6"],
        ),
        (
            added(
                Node,
                "nbd-unix = \"/run/mendblock/admin.sock\"\nadmin-socket = \"/run/mendblock/admin.sock\"",
            ),
            &["is the same path as node: admin-socket"],
        ),
        (
            added(Node, "log = \"mendblock=loud\""),
            &["log = \"mendblock=loud\":", "a tracing filter"],
        ),
        (
            with("\"r0\"", "\"a/b\""),
            &["has a \"/\" in it", "1 to 127 bytes"],
        ),
        (with("\"r0\"", "\"a b\""), &["has whitespace"]),
        (with("\"r0\"", "\"\""), &["is empty"]),
        (with("\"r0\"", "\"-f\""), &["starts with \"-\""]),
        (
            with("\"r0\"", &format!("\"{}\"", "x".repeat(128))),
            &["is too long", "xxx..."],
        ),
        (with("\"r0\"", "5"), &["name = 5: is no string"]),
        (
            with("disk = \"/dev/vg/r0\"\n", ""),
            &["node.toml:7: volume \"r0\": disk: is missing"],
        ),
        (
            added(Volume, "meta-disk = \"flexible\""),
            &[
                "meta-disk = \"flexible\": is no absolute path",
                "\"internal\" or an absolute path",
            ],
        ),
        (
            added(Volume, "meta-disk = \"/dev/vg/r0\""),
            &["is the same path as volume \"r0\": disk in line 10"],
        ),
        (
            added(Volume, "al-extents = 7"),
            &["al-extents = 7: is too small (allowed: 67..65534"],
        ),
        (
            added(Volume, "on-io-error = \"heal\""),
            &[
                "on-io-error = \"heal\": is not in this release (allowed: pass_on, call-local-io-error, detach)",
            ],
        ),
        (
            added(Volume, "on-io-error = \"panic\""),
            &["is none of the known words"],
        ),
        (
            added(Volume, "disk-timeout = 6001"),
            &["is too large (allowed: 0..6000, in 0.1 s)"],
        ),
        (
            added(Volume, "md-flushes = 1"),
            &["md-flushes = 1: is neither true nor false"],
        ),
        (
            added(Volume, "resync-rate = \"10T\""),
            &["resync-rate = \"10T\": is no whole number"],
        ),
        (
            added(Volume, "resync-rate = \"5G\""),
            &["is too large (allowed: 1..4194304 KiB/s"],
        ),
        (
            added(Volume, "c-min-rate = 1000\nc-max-rate = 500"),
            &["c-min-rate = 1000: must not be above c-max-rate, which is 500 KiB/s"],
        ),
        (
            added(Volume, "io-backend = \"aio\""),
            &["allowed: auto, io_uring, threads"],
        ),
        (added(Volume, "size = 5"), &["unknown key"]),
        (
            added(Volume, "peer = 3").replace("[volume.peer]", "[extra]"),
            &["peer = 3: must be a table: [volume.peer]"],
        ),
        (
            added(Volume, "faults = 3"),
            &["must be an array of tables: [[volume.faults]]"],
        ),
        (
            with("node-id = 1\n", ""),
            &["volume \"r0\": peer.node-id: is missing"],
        ),
        (
            with("node-id = 1", "node-id = 0"),
            &["peer.node-id = 0: is this node's own id"],
        ),
        (
            with("bob", "alice"),
            &["peer.name = \"alice\": is this node's own name"],
        ),
        (
            with("10.0.0.2:7789", "10.0.0.1:7789"),
            &["is where this node itself listens"],
        ),
        (
            with("10.0.0.2:7789", "0.0.0.0:7789"),
            &["is the address of no particular host"],
        ),
        (
            added(Peer, "timeout = 100"),
            &[
                "must be less than connect-int, which is 10 s",
                "must be less than ping-int",
                "at most 99",
            ],
        ),
        (
            added(Peer, "protocol = \"A\""),
            &["protocol = \"A\": is not in this release (allowed: C)"],
        ),
        (
            added(Peer, "max-buffers = 31"),
            &["is too small (allowed: 32..131072"],
        ),
        (
            added(Handlers, "fence-peer = \"x\""),
            &[
                "handlers.fence-peer: unknown key in [volume.handlers]",
                "pri-on-incon-degr",
            ],
        ),
        (
            added(Handlers, "split-brain = \" \""),
            &["handlers.split-brain = \" \": is empty"],
        ),
        (
            added(Faults, "sectors = 8"),
            &["faults[0].kind: is missing (allowed: read, write, flush, any)"],
        ),
        (
            added(Faults, "kind = \"read\"\nmode = \"times=0\""),
            &["mode = \"times=0\": is no fault mode", "times=N"],
        ),
        (
            added(Faults, "kind = \"read\"\nerror = \"EIO\"\ndelay-ms = 1"),
            &["faults[0].error = \"EIO\": a rule does one thing"],
        ),
        (
            added(Faults, "kind = \"write\"\nmode = \"until-written\""),
            &["until-written goes with kind read"],
        ),
        (
            added(Faults, "kind = \"read\"\nfirst-sector = 8"),
            &["first-sector = 8: needs sectors"],
        ),
        (
            added(Faults, "kind = \"flush\"\nsectors = 8"),
            &["a flush has no sectors"],
        ),
        (
            second("minor = 0"),
            &["volume \"r1\": minor = 0: is the same minor number as volume \"r0\": minor in line 7"],
        ),
        (
            second("").replace("\"r1\"", "\"r0\""),
            &["name = \"r0\": is the same name as volume \"r0\": name in line 8"],
        ),
        (
            second("").replace("/dev/vg/r1", "/dev//vg/r0"),
            &["disk = \"/dev//vg/r0\": is the same path"],
        ),
        (
            second("[volume.peer]\nnode-id = 1\nname = \"bob\"\naddress = \"10.0.0.3:7789\""),
            &[
                "peer.address = \"10.0.0.3:7789\": differs from volume \"r0\": peer.address in line 14, and both speak of node 1",
            ],
        ),
        (
            second("[volume.peer]\nnode-id = 2\nname = \"bob\"\naddress = \"10.0.0.3:7789\""),
            &["peer.node-id = 2: has the name or the address of node 1 in volume \"r0\": peer.node-id"],
        ),
    ];
    for (text, parts) in cases {
        let refusal = refusal(&text);
        for part in parts {
            assert!(
                refusal.contains(part),
                "expected {part:?} in:\n{refusal}\nfor:\n{text}"
            );
        }
    }
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_lines() {
    let text = with("id = 0", "id = 99")
        .replace("/dev/vg/r0", "r0")
        .replace("node-id = 1", "node-id = 77");
    let error = parse(&text).unwrap_err();
    let lines: Vec<_> = error
        .mistakes()
        .iter()
        .map(|mistake| mistake.place.line)
        .collect();
    assert_eq!(lines, [4, 9, 12], "{error}");
}

#[test]
fn two_paths_to_one_file_are_one_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, link) = (directory.path().join("disk"), directory.path().join("link"));
    std::fs::write(&disk, "").unwrap();
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let text = with("/dev/vg/r0", disk.to_str().unwrap());
    let text = format!("{text}[[volume]]\nname = \"r1\"\ndisk = {link:?}\n");
    assert!(
        refusal(&text).contains("is the same file or device as volume \"r0\": disk"),
        "{}",
        refusal(&text)
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Configuration::load(Path::new("/nonexistent/node.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/node.toml: cannot read the configuration:"),
        "{error}"
    );
}

/// Every key's default, written out, is a value that the key takes; one beyond its range is not.
#[test]
fn defaults_are_inside_the_ranges_and_the_ranges_hold() {
    for key in KEYS {
        let keys::Kind::Integer {
            default, min, max, ..
        } = key.kind
        else {
            continue;
        };
        assert!(
            default.is_none_or(|default| (min..=max).contains(&default)),
            "{}",
            key.name
        );
        if key.required {
            continue;
        }
        let fault = if key.section == Section::Faults {
            "kind = \"read\"\n"
        } else {
            ""
        };
        for outside in [i128::from(min) - 1, i128::from(max) + 1] {
            let text = added(key.section, &format!("{fault}{} = {outside}", key.name));
            assert!(parse(&text).is_err(), "{} = {outside}", key.name);
        }
    }
}

/// Each word of a choice is accepted, so that table and types cannot drift apart.
#[test]
fn every_word_of_a_choice_is_accepted() {
    for key in KEYS {
        let keys::Kind::Choice { allowed, .. } = key.kind else {
            continue;
        };
        for word in allowed {
            let rest = match (key.section, key.name) {
                (Section::Faults, "kind") => "\n",
                (Section::Faults, _) => "\nkind = \"read\"\n",
                _ => "\n",
            };
            let text = added(key.section, &format!("{} = \"{word}\"{rest}", key.name));
            parse(&text).unwrap_or_else(|error| panic!("{} = {word}: {error}", key.name));
        }
    }
}

#[test]
fn fault_rules_travel_as_json() {
    let rule: FaultRule = serde_json::from_str(
        r#"{"kind":"write","first_sector":8,"sectors":1,"error":"ENOSPC","mode":"times=2"}"#,
    )
    .unwrap();
    assert_eq!(
        (rule.mode, rule.error.map(FaultError::errno)),
        (FaultMode::Times(2), Some(28))
    );
    let json = serde_json::to_string(&rule).unwrap();
    assert_eq!(serde_json::from_str::<FaultRule>(&json).unwrap(), rule);
    assert!(serde_json::from_str::<FaultRule>(r#"{"kind":"write","mode":"sometimes"}"#).is_err());
    assert!(serde_json::from_str::<FaultRule>(r#"{"kind":"write","sector":1}"#).is_err());
}

#[test]
fn the_examples_are_right_and_know_every_key() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut texts = String::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        Configuration::load(&path).unwrap_or_else(|error| panic!("{error}"));
        texts += &std::fs::read_to_string(&path).unwrap();
        count += 1;
    }
    assert!(count >= 2, "examples in {}", directory.display());
    for key in KEYS {
        let explained = texts.lines().any(|line| {
            line.trim_start_matches('#')
                .trim_start()
                .starts_with(&format!("{} = ", key.name))
        });
        assert!(
            explained,
            "{} {} stands in no example",
            key.section.header(),
            key.name
        );
    }
}

#[test]
fn the_manual_has_every_key() {
    let manual = include_str!("../../docs/configuration.md");
    let mut expected = String::new();
    for section in Section::ALL {
        expected += &format!("## `{}`\n\n", section.header());
        expected += "| Key | Default | Allowed | Meaning |\n|---|---|---|---|\n";
        for key in KEYS.iter().filter(|key| key.section == section) {
            expected += &format!(
                "| `{}` | {} | {} | {} |\n",
                key.name,
                key.default_text(),
                key.allowed(),
                key.meaning
            );
        }
        expected += "\n";
    }
    let missing: Vec<&str> = expected
        .lines()
        .filter(|line| !manual.lines().any(|row| row == *line))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/configuration.md lacks:\n{}\nthe tables should be:\n\n{expected}",
        missing.join("\n")
    );
    let rows = manual.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(
        rows,
        KEYS.len(),
        "docs/configuration.md has a row for a key that does not exist"
    );
}

/// Whatever is cut off or put in: a configuration or mistakes, never a panic, and each mistake in a line that is there.
#[test]
fn damaged_texts_are_refused_in_order() {
    let text = include_str!("../../configs/pair-alice.toml");
    let settings: String = text
        .lines()
        .filter(|line| !line.starts_with("# ") && !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect();
    let mut refused = 0;
    for (position, _) in settings.char_indices() {
        for damaged in [
            settings[..position].to_owned(),
            settings[position..].to_owned(),
            format!("{}\u{1F4BE}{}", &settings[..position], &settings[position..]),
            format!("{}]{}", &settings[..position], &settings[position..]),
        ] {
            let Err(error) = parse(&damaged) else { continue };
            refused += 1;
            assert!(!error.mistakes().is_empty());
            let lines: Vec<usize> = error
                .mistakes()
                .iter()
                .map(|mistake| mistake.place.line)
                .collect();
            assert!(
                lines.is_sorted()
                    && lines
                        .iter()
                        .all(|line| (1..=damaged.lines().count() + 1).contains(line)),
                "{error}"
            );
        }
    }
    assert!(
        refused > settings.len(),
        "most damages are noticed: {refused} of {}",
        settings.len() * 4
    );
}
