//! The commands on a disk that no node uses: `create-md`, `dump-md`, `check-md`, `apply-al`. What they do is in
//! [`mendblock_storage::offline`]; here is what they say, as text or as JSON, and the exit code.

mod report;

use crate::admin::exit;
use crate::cli::{OfflineCommand, OfflineDisk, OfflineTarget, OfflineTargetError};
use crate::configuration::MetaDisk;
use mendblock_storage::offline::{
    CreateOptions, Location, MetaPlacement, OfflineError, Severity, apply_al, check_md, create_md, dump_md,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};

/// Why a command did not end well.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// There is no such disk.
    #[error(transparent)]
    Target(#[from] OfflineTargetError),
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] OfflineError),
    /// Nobody takes the output any more.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl CommandError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(OfflineError::Io {
                action: "write",
                source,
                ..
            })
            | Self::Output(source)
                if source.kind() == io::ErrorKind::BrokenPipe =>
            {
                // `mendblock dump-md | head` is no failure.
                exit::DONE
            }
            Self::Refused(_) => exit::REFUSED,
            Self::Target(_) | Self::Output(_) => exit::USAGE,
        }
    }

    fn to_json(&self) -> Value {
        let found = match self {
            Self::Refused(OfflineError::WouldOverwrite(found)) => json!(found),
            _ => json!([]),
        };
        json!({ "refused": self.to_string(), "next": self.next_step(), "found": found })
    }

    /// What to do, where the text does not say it.
    fn next_step(&self) -> Option<&'static str> {
        let Self::Refused(error) = self else { return None };
        match error {
            OfflineError::WouldOverwrite(_) => Some(
                "Is it the right disk? Back up what is on it; then repeat the command with --force. Nothing was changed.",
            ),
            OfflineError::Unclean(_) => {
                Some("Run mendblock apply-al, or give --force to see the meta-data as they are.")
            }
            OfflineError::InUse(_) => Some(
                "A running node has its disk open: use mendblock detach, or stop the node. For a mount or LVM, release the disk first.",
            ),
            OfflineError::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    Some("Look at `disk` and `meta-disk` of the configuration, or at --disk.")
                }
                io::ErrorKind::PermissionDenied => {
                    Some("Run it as root, or as a user who may read and write the disk.")
                }
                _ => None,
            },
            OfflineError::Superblock { .. } => Some(
                "A disk without meta-data gets them by mendblock create-md. Meta-data that a node has used are better restored from a backup, or by a full resync from the peer after create-md.",
            ),
            _ => None,
        }
    }
}

/// Runs a command; output goes to `out`, refusals to `errors`. The result is the exit code.
pub fn run(command: &OfflineCommand, out: &mut dyn Write, errors: &mut dyn Write) -> u8 {
    let target = target(command);
    let error = match execute(command, target, out).and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => return code,
        Err(error) => error,
    };
    let code = error.exit_code();
    if code != exit::DONE {
        // Messages that nobody can read any more change nothing: the code says it too.
        if target.json {
            let _ = write_json(&error.to_json(), out);
        }
        let _ = writeln!(errors, "mendblock: {error}");
        if let Some(next) = error.next_step() {
            let _ = writeln!(errors, "{next}");
        }
    }
    code
}

fn target(command: &OfflineCommand) -> &OfflineTarget {
    match command {
        OfflineCommand::CreateMd { target, .. }
        | OfflineCommand::DumpMd { target, .. }
        | OfflineCommand::CheckMd(target)
        | OfflineCommand::ApplyAl(target) => target,
    }
}

fn execute(
    command: &OfflineCommand,
    target: &OfflineTarget,
    out: &mut dyn Write,
) -> Result<u8, CommandError> {
    let location = location(target.resolve()?);
    match command {
        OfflineCommand::CreateMd { force, .. } => {
            let options = CreateOptions {
                force: *force,
                ..CreateOptions::default()
            };
            let made = create_md(&location, options)?;
            answer(target, &made, || report::created(&location, &made), out)?;
        }
        OfflineCommand::DumpMd { force, .. } if target.json => {
            let dump = dump_md(&location, *force, &mut io::sink())?;
            write_json(&dump, out)?;
        }
        OfflineCommand::DumpMd { force, .. } => {
            let mut out = BufWriter::new(out);
            dump_md(&location, *force, &mut out)?;
            out.flush()?;
        }
        OfflineCommand::CheckMd(_) => {
            let checked = check_md(&location)?;
            let value = report::CheckAnswer::new(&checked);
            answer(target, &value, || report::checked(&location, &checked), out)?;
            if checked.worst() == Some(Severity::Error) {
                return Ok(exit::REFUSED);
            }
        }
        OfflineCommand::ApplyAl(_) => {
            let applied = apply_al(&location)?;
            answer(target, &applied, || report::applied(&location, &applied), out)?;
        }
    }
    Ok(exit::DONE)
}

fn location(disk: OfflineDisk) -> Location {
    Location {
        data: disk.disk,
        meta: match disk.meta_disk {
            MetaDisk::Internal => MetaPlacement::Internal,
            MetaDisk::External(path) => MetaPlacement::FlexExternal(path),
        },
    }
}

fn answer(
    target: &OfflineTarget,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
    out: &mut dyn Write,
) -> io::Result<()> {
    if target.json {
        write_json(value, out)
    } else {
        out.write_all(text().as_bytes())
    }
}

fn write_json(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}
