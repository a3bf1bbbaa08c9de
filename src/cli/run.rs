//! Runs the commands to a running node: asks, prints, and says with which code to exit.

use super::client::{Client, ClientError};
use super::{AdminCommand, Connection, FaultCommand, Target, events, status};
use crate::admin::schema::{
    ConnectRequest, DetachRequest, DisconnectRequest, Event, KillRequest, PrimaryRequest, Status,
};
use crate::admin::{exit, paths};
use crate::configuration::{FaultContradiction, FaultEffect, FaultEntry};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// Why a command did not end well.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The node did not do it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The node has no such volume.
    #[error("Failure: (127) there is no volume {volume:?} here; there are: {known}")]
    NoSuchVolume {
        /// What was asked for.
        volume: String,
        /// The names that are there.
        known: String,
    },
    /// The fault rule makes no sense.
    #[error("{0}")]
    Fault(#[from] FaultContradiction),
    /// Nobody takes the output any more.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl CommandError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::NoSuchVolume { .. } => exit::REFUSED,
            // `mendblock events | head` is no failure.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => exit::DONE,
            Self::Fault(_) | Self::Output(_) => exit::USAGE,
        }
    }
}

/// Runs a command; output goes to `out`, refusals to `errors` in DRBD's form. The result is the exit code.
pub async fn run(command: &AdminCommand, out: &mut impl Write, errors: &mut impl Write) -> u8 {
    let Err(error) = execute(command, out).await else {
        return exit::DONE;
    };
    let code = error.exit_code();
    if code != exit::DONE {
        // A message that nobody can read any more changes nothing: the code says it too.
        let _ = writeln!(errors, "{}: {error}", object(command));
        if let CommandError::Client(error) = &error
            && let Some(hint) = error.hint()
        {
            let _ = writeln!(errors, "{hint}");
        }
    }
    code
}

/// What a refusal names first: the volume, or the program.
fn object(command: &AdminCommand) -> &str {
    match command {
        AdminCommand::Status { .. } | AdminCommand::Events { .. } => "mendblock",
        AdminCommand::Secondary(target) | AdminCommand::Attach(target) | AdminCommand::Invalidate(target) => {
            &target.volume
        }
        AdminCommand::Primary { target, .. }
        | AdminCommand::Detach { target, .. }
        | AdminCommand::Connect { target, .. }
        | AdminCommand::Disconnect { target, .. }
        | AdminCommand::Kill { target, .. } => &target.volume,
        AdminCommand::Fault(
            FaultCommand::List(target)
            | FaultCommand::Add { target, .. }
            | FaultCommand::Clear { target, .. },
        ) => &target.volume,
    }
}

async fn execute(command: &AdminCommand, out: &mut impl Write) -> Result<(), CommandError> {
    match command {
        AdminCommand::Status {
            volume,
            json,
            connection,
        } => print_status(connection, volume.as_deref(), *json, out).await,
        AdminCommand::Primary { target, force } => {
            post(target, "primary", &PrimaryRequest { force: *force }).await
        }
        AdminCommand::Secondary(target) => post(target, "secondary", &json!({})).await,
        AdminCommand::Attach(target) => post(target, "attach", &json!({})).await,
        AdminCommand::Detach { target, force } => {
            post(target, "detach", &DetachRequest { force: *force }).await
        }
        AdminCommand::Connect {
            target,
            discard_my_data,
        } => {
            post(
                target,
                "connect",
                &ConnectRequest {
                    discard_my_data: *discard_my_data,
                },
            )
            .await
        }
        AdminCommand::Disconnect { target, force } => {
            post(target, "disconnect", &DisconnectRequest { force: *force }).await
        }
        AdminCommand::Invalidate(target) => post(target, "invalidate", &json!({})).await,
        AdminCommand::Events {
            json,
            now,
            timestamps,
            connection,
        } => {
            print_events(
                connection,
                Form {
                    json: *json,
                    timestamps: *timestamps,
                },
                *now,
                out,
            )
            .await
        }
        AdminCommand::Fault(command) => fault(command, out).await,
        AdminCommand::Kill { target, actor, how } => {
            let path = paths::kill(&target.volume, actor);
            let _: Value = client(&target.connection)
                .post(&path, &KillRequest { how: *how })
                .await?;
            Ok(())
        }
    }
}

fn client(connection: &Connection) -> Client {
    Client::new(&connection.socket, Duration::from_secs(connection.timeout))
}

async fn post(target: &Target, command: &str, body: &impl Serialize) -> Result<(), CommandError> {
    let _: Value = client(&target.connection)
        .post(&paths::command(&target.volume, command), body)
        .await?;
    Ok(())
}

async fn print_status(
    connection: &Connection,
    only: Option<&str>,
    json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let mut status: Status = client(connection).get(paths::STATUS).await?;
    if let Some(name) = only
        && status.volumes.iter().all(|volume| volume.name != name)
    {
        let known: Vec<&str> = status.volumes.iter().map(|volume| volume.name.as_str()).collect();
        return Err(CommandError::NoSuchVolume {
            volume: name.into(),
            known: known.join(", "),
        });
    }
    if json {
        status
            .volumes
            .retain(|volume| only.is_none_or(|name| name == volume.name));
        serde_json::to_writer_pretty(&mut *out, &status).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        out.write_all(status::render(&status, only).as_bytes())?;
    }
    Ok(out.flush()?)
}

#[derive(Clone, Copy)]
struct Form {
    json: bool,
    timestamps: bool,
}

async fn print_events(
    connection: &Connection,
    form: Form,
    now: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let mut lines = client(connection).lines(paths::EVENTS).await?;
    while let Some(line) = lines.next().await? {
        let event: Event = serde_json::from_str(&line)
            .map_err(|error| ClientError::Unintelligible(format!("{error} in {line}")))?;
        match form.json {
            true => writeln!(out, "{line}")?,
            false => writeln!(out, "{}", events::render(&event, form.timestamps))?,
        }
        out.flush()?;
        if now && events::ends_dump(&event) {
            break;
        }
    }
    Ok(())
}

async fn fault(command: &FaultCommand, out: &mut impl Write) -> Result<(), CommandError> {
    match command {
        FaultCommand::List(target) => {
            let entries: Vec<FaultEntry> = client(&target.connection)
                .get(&paths::faults(&target.volume, None))
                .await?;
            for entry in &entries {
                writeln!(out, "{}: {}", entry.number, fault_text(entry))?;
            }
        }
        FaultCommand::Add { target, rule } => {
            let path = paths::faults(&target.volume, None);
            let rule = rule.rule();
            rule.check()?;
            let entry: FaultEntry = client(&target.connection).post(&path, &rule).await?;
            writeln!(out, "{}: {}", entry.number, fault_text(&entry))?;
        }
        FaultCommand::Clear { target, number } => {
            let _: Value = client(&target.connection)
                .delete(&paths::faults(&target.volume, *number))
                .await?;
        }
    }
    Ok(())
}

/// `read of sectors 800+8 ends with EIO (until-written), hit 2 times`.
pub(super) fn fault_text(entry: &FaultEntry) -> String {
    let rule = &entry.rule;
    let kind = format!("{:?}", rule.kind).to_lowercase();
    let place = rule.range().map_or(String::new(), |(first, count)| {
        format!(" of sectors {first}+{count}")
    });
    let effect = match rule.effect() {
        FaultEffect::Hang => "hangs".into(),
        FaultEffect::Delay(milliseconds) => format!("is delayed by {milliseconds} ms"),
        FaultEffect::Error(error) => format!("ends with {}", format!("{error:?}").to_uppercase()),
    };
    format!("{kind}{place} {effect} ({}), hit {} times", rule.mode, entry.hits)
}
