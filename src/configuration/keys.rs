//! Every key of a node's configuration in one table: section, name, kind, range, default, meaning. The reader, the
//! texts of its refusals and the manual (`docs/configuration.md`, compared by a test) all follow this table.

use std::fmt;

/// A table of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// `[node]`
    Node,
    /// `[[volume]]`
    Volume,
    /// `[volume.peer]`
    Peer,
    /// `[volume.handlers]`
    Handlers,
    /// `[[volume.faults]]`
    Faults,
}

impl Section {
    /// All sections, in the order of the manual.
    pub const ALL: [Self; 5] = [Self::Node, Self::Volume, Self::Peer, Self::Handlers, Self::Faults];

    /// The header as it stands in the file.
    pub fn header(self) -> &'static str {
        match self {
            Self::Node => "[node]",
            Self::Volume => "[[volume]]",
            Self::Peer => "[volume.peer]",
            Self::Handlers => "[volume.handlers]",
            Self::Faults => "[[volume.faults]]",
        }
    }

    /// Tables inside a table of this section.
    pub fn subtables(self) -> &'static [&'static str] {
        match self {
            Self::Volume => &["peer", "handlers", "faults"],
            _ => &[],
        }
    }
}

/// What a plain number of an integer key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// 0.1 s, as in DRBD.
    TenthSeconds,
    /// s
    Seconds,
    /// ms
    Milliseconds,
    /// KiB/s; a string with K, M or G is a number of bytes per second.
    KibibytesPerSecond,
    /// 512-byte sectors; a string with s is sectors, with K, M or G bytes.
    Sectors,
    /// A number of something; empty where the key's name says it.
    Count(&'static str),
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TenthSeconds => "0.1 s",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::KibibytesPerSecond => "KiB/s",
            Self::Sectors => "sectors",
            Self::Count(what) => what,
        })
    }
}

/// What values a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number from `min` to `max`.
    Integer {
        /// Value of an absent key.
        default: Option<u64>,
        /// Lowest value.
        min: u64,
        /// Highest value.
        max: u64,
        /// What it counts.
        unit: Unit,
    },
    /// `true` or `false` (`"yes"` and `"no"` as well).
    Boolean {
        /// Value of an absent key.
        default: bool,
    },
    /// One word of a list.
    Choice {
        /// Value of an absent key.
        default: Option<&'static str>,
        /// The words.
        allowed: &'static [&'static str],
        /// Words that DRBD or a later release knows: refused by name.
        later: &'static [&'static str],
    },
    /// A name by the rules of DRBD's resource names.
    Name,
    /// A string; `allowed` says in words what may stand there.
    Text {
        /// Value of an absent key.
        default: Option<&'static str>,
        /// What may stand there.
        allowed: &'static str,
    },
    /// An absolute path.
    Path {
        /// Value of an absent key.
        default: Option<&'static str>,
    },
    /// `IP:PORT`; where `off` is set, the empty string switches it off.
    Address {
        /// Value of an absent key.
        default: Option<&'static str>,
        /// Whether `""` means off.
        off: bool,
    },
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Where it stands.
    pub section: Section,
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether the file must have it.
    pub required: bool,
    /// What it is for.
    pub meaning: &'static str,
}

impl Key {
    /// The allowed values in words, for refusals and the manual.
    pub fn allowed(&self) -> String {
        match self.kind {
            Kind::Integer { min, max, unit, .. } => match unit {
                Unit::KibibytesPerSecond => {
                    format!("{min}..{max} {unit}, or a string such as \"100M\" (bytes/s; K, M, G)")
                }
                Unit::Sectors => format!(
                    "{min}..{max} {unit}, or a string such as \"4M\" or \"8192s\" (K, M, G bytes; s sectors)"
                ),
                Unit::Count("") => format!("{min}..{max}"),
                Unit::Count(what) => format!("{min}..{max} {what}"),
                _ => format!("{min}..{max}, in {unit}"),
            },
            Kind::Boolean { .. } => "true, false".into(),
            Kind::Choice { allowed, .. } => allowed.join(", "),
            Kind::Name => {
                "1 to 127 bytes without \"/\", whitespace and control characters, not starting with \"-\""
                    .into()
            }
            Kind::Text { allowed, .. } => allowed.into(),
            Kind::Path { .. } => "an absolute path".into(),
            Kind::Address { off: false, .. } => "\"IP:PORT\", \"[IPv6]:PORT\"".into(),
            Kind::Address { off: true, .. } => "\"IP:PORT\", \"[IPv6]:PORT\", \"\" (off)".into(),
        }
    }

    /// The default in words: `required` or `none` where there is no value.
    pub fn default_text(&self) -> String {
        let none = if self.required { "required" } else { "none" };
        match self.kind {
            Kind::Integer { default, .. } => default.map_or(none.into(), |value| value.to_string()),
            Kind::Boolean { default } => default.to_string(),
            Kind::Choice { default, .. }
            | Kind::Text { default, .. }
            | Kind::Path { default }
            | Kind::Address { default, .. } => default.unwrap_or(none).into(),
            Kind::Name => none.into(),
        }
    }
}

/// The entry of `name` in `section`.
pub fn find(section: Section, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

const fn integer(
    section: Section,
    name: &'static str,
    default: u64,
    range: [u64; 2],
    unit: Unit,
    meaning: &'static str,
) -> Key {
    let kind = Kind::Integer {
        default: Some(default),
        min: range[0],
        max: range[1],
        unit,
    };
    Key {
        section,
        name,
        kind,
        required: false,
        meaning,
    }
}

const fn number(
    section: Section,
    name: &'static str,
    required: bool,
    range: [u64; 2],
    unit: Unit,
    meaning: &'static str,
) -> Key {
    let kind = Kind::Integer {
        default: None,
        min: range[0],
        max: range[1],
        unit,
    };
    Key {
        section,
        name,
        kind,
        required,
        meaning,
    }
}

const fn required(section: Section, name: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key {
        section,
        name,
        kind,
        required: true,
        meaning,
    }
}

const fn optional(section: Section, name: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key {
        section,
        name,
        kind,
        required: false,
        meaning,
    }
}

const fn choice(
    default: Option<&'static str>,
    allowed: &'static [&'static str],
    later: &'static [&'static str],
) -> Kind {
    Kind::Choice {
        default,
        allowed,
        later,
    }
}

const fn handler(name: &'static str, meaning: &'static str) -> Key {
    optional(
        Handlers,
        name,
        Kind::Text {
            default: None,
            allowed: "a shell line, run by /bin/sh -c",
        },
        meaning,
    )
}

use Section::{Faults, Handlers, Node, Peer, Volume};
use Unit::{Count, KibibytesPerSecond, Milliseconds, Seconds, Sectors, TenthSeconds};

/// Highest DRBD minor number.
const MINOR_MAX: u64 = (1 << 20) - 1;
/// Highest resync rate, KiB/s (DRBD 8.4).
const RATE_MAX: u64 = 4 << 20;

/// The table, a key a line. Ranges are DRBD's where DRBD has the key.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    required(Node, "name", Kind::Name, "this node's name, as handlers, status and the peer show it"),
    number(Node, "id", true, [0, 31], Count(""), "this node's number; different on the peer"),
    optional(Node, "listen", Kind::Address { default: None, off: false }, "where peers connect to; required as soon as a volume has a peer"),
    optional(Node, "state-dir", Kind::Path { default: Some("/var/lib/mendblock") }, "directory of the health files; must not lie on a lower disk of this node"),
    optional(Node, "admin-socket", Kind::Path { default: Some("/run/mendblock/admin.sock") }, "unix socket of the admin API, which the commands use"),
    optional(Node, "metrics-listen", Kind::Address { default: Some("127.0.0.1:9942"), off: true }, "HTTP address of the Prometheus endpoint /metrics"),
    optional(Node, "nbd-unix", Kind::Path { default: None }, "unix socket where NBD clients connect; the export name is the volume's name"),
    optional(Node, "nbd-tcp", Kind::Address { default: None, off: false }, "TCP address where NBD clients connect"),
    optional(Node, "log", Kind::Text { default: Some("info"), allowed: "a tracing filter such as \"info\" or \"warn,mendblock=debug\"" }, "which log lines are written"),
    required(Volume, "name", Kind::Name, "the volume's name: DRBD's resource name, and the NBD export name"),
    number(Volume, "minor", false, [0, MINOR_MAX], Count(""), "DRBD_MINOR of handlers, minor in status; absent: the volume's index counted from 0"),
    required(Volume, "disk", Kind::Path { default: None }, "lower disk: a block device or a regular file"),
    optional(Volume, "meta-disk", Kind::Text { default: Some("internal"), allowed: "\"internal\" or an absolute path" }, "where DRBD's v08 meta-data lies: at the end of the lower disk, or on a disk of its own"),
    integer(Volume, "al-extents", 1237, [67, 65534], Count("extents of 4 MiB"), "size of the activity log; the on-disk ring caps it (6433 at 32 KiB)"),
    optional(Volume, "on-io-error", choice(Some("detach"), &["pass_on", "call-local-io-error", "detach"], &["heal"]), "what an error of the lower disk does: keep it attached as Inconsistent, run the handler and detach, or detach"),
    integer(Volume, "disk-timeout", 600, [0, 6000], TenthSeconds, "local I/O older than this counts as failed while a good copy is reachable; 0 = off"),
    integer(Volume, "detach-step-timeout", 10, [1, 600], Seconds, "limit of one step of a detach or attach; where a whole bitmap is written: without progress"),
    integer(Volume, "helper-timeout", 30, [1, 600], Seconds, "limit of a handler's run"),
    integer(Volume, "reconnect-grace", 5, [0, 60], Seconds, "how long a request that only the peer can serve waits for a lost connection to return"),
    optional(Volume, "disk-flushes", Kind::Boolean { default: true }, "flush the lower disk for write ordering; only a disk whose cache survives power loss may do without"),
    optional(Volume, "md-flushes", Kind::Boolean { default: true }, "the same for meta-data writes"),
    integer(Volume, "resync-rate", 102_400, [1, RATE_MAX], KibibytesPerSecond, "rate at which a resync starts; its fixed rate where c-plan-ahead is 0 (DRBD: 250)"),
    integer(Volume, "c-plan-ahead", 20, [0, 300], TenthSeconds, "how far the resync controller looks ahead; 0 = fixed rate"),
    integer(Volume, "c-delay-target", 10, [1, 100], TenthSeconds, "delay on the link that the controller aims at where c-fill-target is 0"),
    integer(Volume, "c-fill-target", 8192, [0, 1_048_576], Sectors, "resync data in flight that the controller aims at; 0 = use c-delay-target (DRBD: 100)"),
    integer(Volume, "c-max-rate", RATE_MAX, [250, RATE_MAX], KibibytesPerSecond, "highest resync rate (DRBD: 102400)"),
    integer(Volume, "c-min-rate", 250, [0, RATE_MAX], KibibytesPerSecond, "a resync that is faster gives way to application I/O; 0 = it never gives way"),
    optional(Volume, "on-no-data-accessible", choice(Some("io-error"), &["io-error", "suspend-io"], &[]), "requests when no up-to-date copy can be reached: fail, or wait until one returns"),
    optional(Volume, "io-backend", choice(Some("auto"), &["auto", "io_uring", "threads"], &[]), "how the lower disk is driven; auto probes io_uring and falls back to threads"),
    number(Peer, "node-id", true, [0, 31], Count(""), "the peer's [node] id"),
    required(Peer, "name", Kind::Name, "the peer's [node] name"),
    required(Peer, "address", Kind::Address { default: None, off: false }, "the peer's [node] listen"),
    optional(Peer, "protocol", choice(Some("C"), &["C"], &["A", "B"]), "replication protocol: C = a write is answered when both nodes have it"),
    integer(Peer, "timeout", 60, [1, 600], TenthSeconds, "how long the peer may take for an answer; must be shorter than connect-int and ping-int"),
    integer(Peer, "ko-count", 7, [0, 200], Count("times timeout"), "a peer that takes no data for so many timeouts is disconnected; 0 = off"),
    integer(Peer, "connect-int", 10, [1, 120], Seconds, "pause between two attempts to connect"),
    integer(Peer, "ping-int", 10, [1, 120], Seconds, "idle time after which a keep-alive is sent"),
    integer(Peer, "ping-timeout", 5, [1, 300], TenthSeconds, "how long the answer to a keep-alive may take"),
    integer(Peer, "max-buffers", 2048, [32, 131_072], Count("pages of 4 KiB"), "memory for the peer's data; half of it caps resync data in flight"),
    integer(Peer, "max-epoch-size", 2048, [1, 20_000], Count("requests"), "writes between two barriers at most"),
    handler("local-io-error", "the lower disk failed and on-io-error is call-local-io-error; runs before the peer is told"),
    handler("pri-on-incon-degr", "Primary, and neither disk is UpToDate any more"),
    handler("split-brain", "a split brain was found and not solved; the connection is about to be dropped"),
    handler("initial-split-brain", "a split brain was found, also one that will be solved by itself"),
    handler("before-resync-target", "about to become SyncTarget; an exit code other than 0 drops the connection"),
    handler("before-resync-source", "about to become SyncSource; an exit code other than 0 and 3 drops the connection"),
    handler("after-resync-target", "a resync towards this node ended"),
    required(Faults, "kind", choice(None, &["read", "write", "flush", "any"], &[]), "which operations of the lower disk fail"),
    number(Faults, "first-sector", false, [0, super::fault::FIRST_SECTOR_MAX], Sectors, "first sector of the lower disk (meta-data included) that is hit; only together with sectors"),
    number(Faults, "sectors", false, [1, u32::MAX as u64], Sectors, "how many sectors are hit; absent: the whole disk"),
    optional(Faults, "error", choice(None, &["EIO", "ENOSPC", "ENXIO", "ENODEV", "EILSEQ", "ETIMEDOUT", "EREMOTEIO"], &[]), "the error that the operation ends with; absent: EIO, unless the rule delays or hangs"),
    optional(Faults, "mode", Kind::Text { default: Some("always"), allowed: "\"always\", \"times=N\" (N from 1), \"until-written\"" }, "how long the rule holds: for ever, for N operations, or (reads) per sector until it is written, as on a disk that remaps"),
    integer(Faults, "delay-ms", 0, [0, super::fault::DELAY_MAX], Milliseconds, "the operation reaches the disk so much later, and succeeds"),
    optional(Faults, "hang", Kind::Boolean { default: false }, "the operation does not end before the rule is removed"),
];
