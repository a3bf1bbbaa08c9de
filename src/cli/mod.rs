//! The command line: every command, its options and its help. What commands print is in [`status`] and [`events`]; how
//! they reach the node in [`client`]. Commands on a disk that no node uses run in [`crate::offline`].

pub mod client;
pub mod events;
pub mod run;
pub mod status;
#[cfg(test)]
mod tests;

use crate::admin::schema::Kill;
use crate::configuration::{
    Configuration, ConfigurationError, DEFAULT_ADMIN_SOCKET, FaultError, FaultKind, FaultMode, FaultRule,
    MetaDisk,
};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Configuration file where the command line names none.
pub const DEFAULT_CONFIGURATION: &str = "/etc/mendblock/node.toml";

/// The program's arguments.
#[derive(Debug, Parser)]
#[command(
    name = "mendblock",
    version,
    about = "A replicated block-storage node: two nodes keep one volume, NBD clients use it, bad blocks mend",
    after_help = "Exit codes, as of drbdsetup: 0 done; 10 request refused; 11 state change refused; 5 disk state is already \
                  lower than Outdated; 16 no local disk; 17 no up-to-date data would remain; 20 wrong usage or no node running."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node (in the foreground; end it with SIGTERM)
    Node(NodeArguments),
    /// Check a configuration file and say what is wrong with it
    CheckConfig(ConfigurationFile),
    /// Commands to a running node.
    #[command(flatten)]
    Admin(AdminCommand),
    /// Commands on a disk that no node uses.
    #[command(flatten)]
    Offline(OfflineCommand),
    /// Show the whole story with two nodes on this machine: a disk breaks under load, no client notices, the disk mends
    Demo(DemoArguments),
}

/// Where the configuration is.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ConfigurationFile {
    /// Configuration file
    #[arg(short, long = "config", value_name = "FILE", env = "MENDBLOCK_CONFIG", default_value = DEFAULT_CONFIGURATION)]
    pub configuration: PathBuf,
}

impl ConfigurationFile {
    /// Reads and checks it.
    ///
    /// # Errors
    /// As [`Configuration::load`].
    pub fn load(&self) -> Result<Configuration, ConfigurationError> {
        Configuration::load(&self.configuration)
    }
}

/// Options of `node`.
#[derive(Debug, Args)]
pub struct NodeArguments {
    /// Where the configuration is.
    #[command(flatten)]
    pub file: ConfigurationFile,
    /// Let the admin API kill actors, to try out that nothing is lost. Not for production
    #[arg(long)]
    pub allow_kill: bool,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Directory for disks, sockets and logs of the demo; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "mendblock-demo")]
    pub dir: PathBuf,
    /// End when the story is told, instead of keeping the nodes running
    #[arg(long)]
    pub exit: bool,
}

/// How a command reaches the node.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Connection {
    /// Unix socket of the node's admin API
    #[arg(long, value_name = "PATH", env = "MENDBLOCK_SOCKET", default_value = DEFAULT_ADMIN_SOCKET)]
    pub socket: PathBuf,
    /// How many seconds to wait for the node's answer
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// The volume that a command is about.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Target {
    /// Name of the volume
    pub volume: String,
    /// How to reach the node.
    #[command(flatten)]
    pub connection: Connection,
}

/// Commands to a running node.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Show roles, disks, connections, who waits for what, and what to do
    Status {
        /// Only this volume
        volume: Option<String>,
        /// As JSON, with everything
        #[arg(long)]
        json: bool,
        /// How to reach the node.
        #[command(flatten)]
        connection: Connection,
    },
    /// Make this node Primary: clients may use the volume
    Primary {
        /// The volume.
        #[command(flatten)]
        target: Target,
        /// Take the own data as good even if it is Inconsistent or Outdated (for the very first start, or when the other
        /// copy is lost)
        #[arg(long)]
        force: bool,
    },
    /// Make this node Secondary
    Secondary(Target),
    /// Attach the lower disk
    Attach(Target),
    /// Detach the lower disk; clients go on with the peer's copy
    Detach {
        /// The volume.
        #[command(flatten)]
        target: Target,
        /// Do not wait for I/O that hangs: it is sent to the peer
        #[arg(long)]
        force: bool,
    },
    /// Connect to the peer
    Connect {
        /// The volume.
        #[command(flatten)]
        target: Target,
        /// After a split brain: throw this node's changes away and take the peer's
        #[arg(long)]
        discard_my_data: bool,
    },
    /// Disconnect from the peer, and stay disconnected
    Disconnect {
        /// The volume.
        #[command(flatten)]
        target: Target,
        /// Do not ask the peer first
        #[arg(long)]
        force: bool,
    },
    /// Throw this node's data away and resync all of it from the peer
    Invalidate(Target),
    /// Follow what happens: first everything there is, then each change
    Events {
        /// As JSON lines
        #[arg(long)]
        json: bool,
        /// End after the dump of what there is
        #[arg(long)]
        now: bool,
        /// Begin each line with its time (seconds since 1970)
        #[arg(long)]
        timestamps: bool,
        /// How to reach the node.
        #[command(flatten)]
        connection: Connection,
    },
    /// Lay faults over the lower disk, to see what the node does
    #[command(subcommand)]
    Fault(FaultCommand),
    /// Kill an actor (only of a node that runs with --allow-kill)
    Kill {
        /// The volume.
        #[command(flatten)]
        target: Target,
        /// The actor, as `status --json` names it
        #[arg(long)]
        actor: String,
        /// How it ends
        #[arg(long, value_enum, default_value = "panic")]
        how: Kill,
    },
}

/// Commands about fault rules.
#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// List the rules of a volume with the operations that they have hit
    List(Target),
    /// Add a rule
    Add {
        /// The volume.
        #[command(flatten)]
        target: Target,
        /// The rule.
        #[command(flatten)]
        rule: FaultArguments,
    },
    /// Remove a rule, or all rules of a volume
    Clear {
        /// The volume.
        #[command(flatten)]
        target: Target,
        /// Number of the rule; all where it is left out
        #[arg(long)]
        number: Option<u64>,
    },
}

/// A fault rule on the command line.
#[derive(Debug, Args)]
pub struct FaultArguments {
    /// Operations that it hits
    #[arg(long, value_parser = word::<FaultKind>, value_name = "read|write|flush|any")]
    pub kind: FaultKind,
    /// First sector of the lower disk
    #[arg(long, requires = "sectors")]
    pub first_sector: Option<u64>,
    /// How many sectors; the whole disk where it is left out
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub sectors: Option<u32>,
    /// The error of a hit operation; EIO, unless it is delayed or hangs
    #[arg(long, value_parser = word::<FaultError>, value_name = "EIO|ENOSPC|...", conflicts_with_all = ["delay_ms", "hang"])]
    pub error: Option<FaultError>,
    /// How long the rule holds
    #[arg(long, default_value = "always", value_name = "always|times=N|until-written")]
    pub mode: FaultMode,
    /// Milliseconds by which a hit operation is held back
    #[arg(long, default_value_t = 0, conflicts_with = "hang")]
    pub delay_ms: u64,
    /// A hit operation does not end before the rule is removed
    #[arg(long)]
    pub hang: bool,
}

impl FaultArguments {
    /// The rule.
    pub fn rule(&self) -> FaultRule {
        FaultRule {
            kind: self.kind,
            first_sector: self.first_sector,
            sectors: self.sectors,
            error: self.error,
            mode: self.mode,
            delay_ms: self.delay_ms,
            hang: self.hang,
        }
    }
}

/// A word of an enumeration, by its serde spelling.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|error| error.to_string())
}

/// Commands on a disk that no node uses.
#[derive(Debug, Subcommand)]
pub enum OfflineCommand {
    /// Write fresh meta-data: the disk is Inconsistent afterwards, and its data area is left as it is
    CreateMd {
        /// The disk.
        #[command(flatten)]
        target: OfflineTarget,
        /// Overwrite meta-data, and areas of a known file system, partition table or the like, that are there
        #[arg(long)]
        force: bool,
    },
    /// Print the meta-data as text (the format of drbdmeta)
    DumpMd {
        /// The disk.
        #[command(flatten)]
        target: OfflineTarget,
        /// Print it even if the activity log must be applied first: the bitmap then lacks what was hot
        #[arg(long)]
        force: bool,
    },
    /// Check superblock, activity log and bitmap, and say what is wrong
    CheckMd(OfflineTarget),
    /// Mark the activity log's extents out of sync in the bitmap, as an attach does after a crash
    ApplyAl(OfflineTarget),
}

/// A disk: a volume of the configuration, or a path.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct OfflineTarget {
    /// Name of a volume in the configuration
    #[arg(required_unless_present = "disk", conflicts_with = "disk")]
    pub volume: Option<String>,
    /// Where the configuration is.
    #[command(flatten)]
    pub file: ConfigurationFile,
    /// The lower disk itself, without a configuration
    #[arg(long, value_name = "PATH")]
    pub disk: Option<PathBuf>,
    /// Its meta-data disk; left out: internal
    #[arg(long, value_name = "PATH", requires = "disk", conflicts_with = "volume")]
    pub meta_disk: Option<PathBuf>,
    /// Answer as JSON, a refusal too
    #[arg(long)]
    pub json: bool,
}

/// The disk that an off-line command works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineDisk {
    /// The lower disk.
    pub disk: PathBuf,
    /// Its meta-data.
    pub meta_disk: MetaDisk,
}

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
pub enum OfflineTargetError {
    /// The configuration is wrong.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// It has no such volume.
    #[error("{}: there is no volume {volume:?}; there are: {known}", file.display())]
    NoSuchVolume {
        /// The configuration file.
        file: PathBuf,
        /// What was asked for.
        volume: String,
        /// The names that are there.
        known: String,
    },
}

impl OfflineTarget {
    /// Finds the disk.
    ///
    /// # Errors
    /// The configuration is wrong, or has no such volume.
    pub fn resolve(&self) -> Result<OfflineDisk, OfflineTargetError> {
        if let Some(disk) = &self.disk {
            let meta_disk = self
                .meta_disk
                .clone()
                .map_or(MetaDisk::Internal, MetaDisk::External);
            return Ok(OfflineDisk {
                disk: disk.clone(),
                meta_disk,
            });
        }
        let configuration = self.file.load()?;
        let name = self.volume.as_deref().unwrap_or_default();
        let volume = configuration
            .volume(name)
            .ok_or_else(|| OfflineTargetError::NoSuchVolume {
                file: self.file.configuration.clone(),
                volume: name.into(),
                known: configuration
                    .volumes
                    .iter()
                    .map(|volume| volume.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            })?;
        Ok(OfflineDisk {
            disk: volume.disk.clone(),
            meta_disk: volume.meta_disk.clone(),
        })
    }
}
