//! Paths of the admin API.
//!
//! | Method | Path | Body | Answer |
//! |---|---|---|---|
//! | GET | `/v1/status` | | [`Status`](super::schema::Status) |
//! | GET | `/v1/events` | | [`Event`](super::schema::Event)s, one JSON line each, without end |
//! | POST | `/v1/volumes/{name}/{command}` | the command's request | `{}` |
//! | GET | `/v1/volumes/{name}/faults` | | a list of [`FaultEntry`](crate::configuration::FaultEntry) |
//! | POST | `/v1/volumes/{name}/faults` | [`FaultRule`](crate::configuration::FaultRule) | the `FaultEntry` |
//! | DELETE | `/v1/volumes/{name}/faults`, `.../faults/{number}` | | `{}` |
//! | POST | `/v1/volumes/{name}/actors/{actor}/kill` | [`KillRequest`](super::schema::KillRequest) | `{}` |
//!
//! A refused request is answered with a status from 400 on and an [`ErrorBody`](super::schema::ErrorBody).

/// State of the node and its volumes.
pub const STATUS: &str = "/v1/status";
/// Stream of events.
pub const EVENTS: &str = "/v1/events";

/// A command on a volume: primary, secondary, attach, detach, connect, disconnect, invalidate.
pub fn command(volume: &str, command: &str) -> String {
    format!("/v1/volumes/{}/{command}", segment(volume))
}

/// The fault rules of a volume, or one of them.
pub fn faults(volume: &str, number: Option<u64>) -> String {
    let faults = command(volume, "faults");
    number.map_or(faults.clone(), |number| format!("{faults}/{number}"))
}

/// The kill switch of an actor.
pub fn kill(volume: &str, actor: &str) -> String {
    format!("{}/{}/kill", command(volume, "actors"), segment(actor))
}

/// A name as one segment of a path, percent-encoded.
fn segment(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => encoded.push(char::from(byte)),
            // A name of dots alone would be taken for a relative path.
            b'.' if !name.bytes().all(|byte| byte == b'.') => encoded.push('.'),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_segment() {
        assert_eq!(command("r0", "primary"), "/v1/volumes/r0/primary");
        assert_eq!(faults("a?b%", Some(3)), "/v1/volumes/a%3Fb%25/faults/3");
        assert_eq!(kill("..", "ä"), "/v1/volumes/%2E%2E/actors/%C3%A4/kill");
        assert_eq!(faults("v1.2", None), "/v1/volumes/v1.2/faults");
    }
}
