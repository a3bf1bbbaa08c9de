//! The admin API (HTTP and JSON on a unix socket) and the metrics page.

use super::{Node, events, faults, status};
use crate::admin::exit;
use crate::admin::schema::{
    ConnectRequest, DetachRequest, DisconnectRequest, ErrorBody, Kill, KillRequest, PrimaryRequest,
};
use crate::configuration::FaultRule;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use mendblock_actors::service::Service;
use mendblock_actors::shell::Death;
use mendblock_actors::volume::VolumeHandle;
use mendblock_core::part::PartName;
use mendblock_core::volume::machine::{Command, CommandAnswer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

type Shared = Arc<Node>;

/// Routes of the admin API.
pub fn admin(node: Shared) -> Router {
    Router::new()
        .route("/v1/status", get(show_status))
        .route("/v1/events", get(stream_events))
        .route(
            "/v1/volumes/{name}/faults",
            get(list_faults).post(add_fault).delete(clear_faults),
        )
        .route("/v1/volumes/{name}/faults/{number}", delete(remove_fault))
        .route("/v1/volumes/{name}/actors/{actor}/kill", post(kill))
        .route("/v1/volumes/{name}/{command}", post(command))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(node)
}

/// Routes of the metrics page.
pub fn metrics(node: Shared) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .with_state(node)
}

async fn show_metrics(State(node): State<Shared>) -> Response {
    node.metrics.tick(&node.volumes);
    (
        [(header::CONTENT_TYPE, mendblock_metrics::Exporter::CONTENT_TYPE)],
        node.metrics.render(),
    )
        .into_response()
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn refused(status: StatusCode, code: i32, text: impl Into<String>, hint: impl Into<String>) -> Response {
    json(
        status,
        &ErrorBody {
            code,
            text: text.into(),
            hint: hint.into(),
            exit_code: exit::of_code(code),
        },
    )
}

fn done() -> Response {
    json(StatusCode::OK, &serde_json::json!({}))
}

async fn unknown() -> Response {
    refused(
        StatusCode::NOT_FOUND,
        127,
        "there is no such path or method",
        "see docs/operation.md for the admin API",
    )
}

/// A body, or the default where there is none; refused with the reason where it is none of ours.
fn body<T: DeserializeOwned + Default>(bytes: &Bytes) -> Result<T, Box<Response>> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    strict(bytes)
}

fn strict<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Box<Response>> {
    serde_json::from_slice(bytes).map_err(|error| {
        Box::new(refused(
            StatusCode::BAD_REQUEST,
            126,
            format!("the request's body is not understood: {error}"),
            "",
        ))
    })
}

fn find<'n>(node: &'n Node, name: &str) -> Result<&'n VolumeHandle, Box<Response>> {
    node.volumes
        .iter()
        .find(|volume| volume.name() == name)
        .ok_or_else(|| {
            let known: Vec<&str> = node.volumes.iter().map(VolumeHandle::name).collect();
            Box::new(refused(
                StatusCode::NOT_FOUND,
                127,
                format!("there is no volume {name:?} here"),
                format!("there are: {}", known.join(", ")),
            ))
        })
}

async fn show_status(State(node): State<Shared>) -> Response {
    json(StatusCode::OK, &status::status(&node))
}

async fn command(
    State(node): State<Shared>,
    Path((name, command)): Path<(String, String)>,
    bytes: Bytes,
) -> Response {
    let volume = match find(&node, &name) {
        Ok(volume) => volume,
        Err(response) => return *response,
    };
    let order = match order(&command, &bytes) {
        Ok(Some(order)) => order,
        Ok(None) => return unknown().await,
        Err(response) => return *response,
    };
    if volume.serving.now() != Service::Open {
        return refused(
            StatusCode::CONFLICT,
            0,
            "the node is stopping",
            "start it again, then repeat the command",
        );
    }
    answer(&volume.command(order).await)
}

fn order(command: &str, bytes: &Bytes) -> Result<Option<Command>, Box<Response>> {
    Ok(Some(match command {
        "primary" => Command::Primary {
            force: body::<PrimaryRequest>(bytes)?.force,
        },
        "secondary" => Command::Secondary,
        "attach" => Command::Attach { new_disk: false },
        "detach" => Command::Detach {
            force: body::<DetachRequest>(bytes)?.force,
        },
        "connect" => Command::Connect {
            discard_my_data: body::<ConnectRequest>(bytes)?.discard_my_data,
        },
        "disconnect" => Command::Disconnect {
            force: body::<DisconnectRequest>(bytes)?.force,
        },
        "invalidate" => Command::Invalidate,
        _ => return Ok(None),
    }))
}

fn answer(answer: &CommandAnswer) -> Response {
    if (1..=100).contains(&answer.code) && answer.exit_code == 0 {
        return done();
    }
    let body = ErrorBody {
        code: answer.code,
        text: answer.text.clone(),
        hint: answer.hint.clone().unwrap_or_default(),
        exit_code: answer.exit_code,
    };
    json(StatusCode::CONFLICT, &body)
}

async fn list_faults(State(node): State<Shared>, Path(name): Path<String>) -> Response {
    match find(&node, &name) {
        Ok(volume) => json(StatusCode::OK, &faults::list(&volume.setup.faults)),
        Err(response) => *response,
    }
}

async fn add_fault(State(node): State<Shared>, Path(name): Path<String>, bytes: Bytes) -> Response {
    let volume = match find(&node, &name) {
        Ok(volume) => volume,
        Err(response) => return *response,
    };
    let rule: FaultRule = match strict(&bytes) {
        Ok(rule) => rule,
        Err(response) => return *response,
    };
    if let Err(contradiction) = rule.check() {
        return refused(StatusCode::BAD_REQUEST, 126, contradiction.to_string(), "");
    }
    tracing::warn!(volume = name, ?rule, "fault injected by order");
    match faults::add(&volume.setup.faults, &rule) {
        Some(entry) => json(StatusCode::OK, &entry),
        None => refused(
            StatusCode::BAD_REQUEST,
            126,
            "the fault layer refuses this rule",
            "see docs/failure-guide.md",
        ),
    }
}

async fn clear_faults(State(node): State<Shared>, Path(name): Path<String>) -> Response {
    match find(&node, &name) {
        Ok(volume) => {
            volume.setup.faults.clear();
            tracing::warn!(volume = name, "faults cleared by order");
            done()
        }
        Err(response) => *response,
    }
}

async fn remove_fault(State(node): State<Shared>, Path((name, number)): Path<(String, u64)>) -> Response {
    let volume = match find(&node, &name) {
        Ok(volume) => volume,
        Err(response) => return *response,
    };
    let removed = u32::try_from(number)
        .ok()
        .is_some_and(|number| volume.setup.faults.remove(number).is_ok());
    if removed {
        done()
    } else {
        refused(
            StatusCode::NOT_FOUND,
            127,
            format!("there is no fault {number}"),
            "list them first",
        )
    }
}

async fn kill(
    State(node): State<Shared>,
    Path((name, actor)): Path<(String, String)>,
    bytes: Bytes,
) -> Response {
    let volume = match find(&node, &name) {
        Ok(volume) => volume,
        Err(response) => return *response,
    };
    if !node.allow_kill {
        return refused(
            StatusCode::FORBIDDEN,
            152,
            "this node does not let actors be killed",
            "start it with --allow-kill",
        );
    }
    let request: KillRequest = match strict(&bytes) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    let Some(part) = PartName::ALL.into_iter().find(|part| part.as_str() == actor) else {
        let known: Vec<&str> = PartName::ALL.iter().map(|part| part.as_str()).collect();
        return refused(
            StatusCode::NOT_FOUND,
            127,
            format!("there is no actor {actor:?}"),
            format!("there are: {}", known.join(", ")),
        );
    };
    let death = match request.how {
        Kill::Panic => Death::Panic,
        Kill::Stop => Death::Stop,
        Kill::Hang => Death::Hang,
    };
    if volume.kill(part, death).await {
        done()
    } else {
        refused(
            StatusCode::CONFLICT,
            152,
            format!("no {actor} actor lives at the moment"),
            "try again",
        )
    }
}

/// One JSON line per event, without end; a reader that lags behind is told that it missed some.
async fn stream_events(State(node): State<Shared>) -> Response {
    let receiver = node.events.subscribe();
    let mut first = Vec::new();
    for event in events::dump(&node) {
        append_line(&mut first, &event);
    }
    let state = (receiver, node, 0u64, Some(first));
    let stream = futures_util::stream::unfold(state, |(mut receiver, node, mut number, first)| async move {
        if let Some(first) = first {
            return Some((
                Ok::<_, std::convert::Infallible>(first),
                (receiver, node, number, None),
            ));
        }
        loop {
            let mut lines = Vec::new();
            match receiver.recv().await {
                Ok(happened) => {
                    let peer = node
                        .volumes
                        .iter()
                        .find(|volume| *volume.name() == *happened.volume);
                    let peer = peer
                        .map_or("", |volume| volume.setup.configuration.peer_name.as_str())
                        .to_owned();
                    for event in events::of(&happened, &peer, &mut number) {
                        append_line(&mut lines, &event);
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    let text = serde_json::json!({"number": number, "at": status::seconds(std::time::SystemTime::now()), "kind": "change", "object": "resource", "fields": [["missed-events", missed.to_string()]]});
                    append_line(&mut lines, &text);
                }
                Err(RecvError::Closed) => return None,
            }
            if !lines.is_empty() {
                return Some((Ok(lines), (receiver, node, number, None)));
            }
        }
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(stream),
    )
        .into_response()
}

fn append_line(lines: &mut Vec<u8>, value: &impl Serialize) {
    // An event holds strings and numbers only: it can always be written.
    if serde_json::to_writer(&mut *lines, value).is_ok() {
        lines.push(b'\n');
    }
}
