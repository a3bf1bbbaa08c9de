//! Bodies of the admin API: requests that a node reads, answers that the commands read.

use crate::target::{Breach, Cap, Probe, Style, Target, ensure};
use mendblock::admin::schema::{
    ConnectRequest, DetachRequest, DisconnectRequest, ErrorBody, Event, KillRequest, PrimaryRequest, Status,
};
use mendblock::configuration::{FaultEntry, FaultRule};
use mendblock_storage::device::fault;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;

/// JSON bodies of both directions.
pub(super) struct Admin;

impl Target for Admin {
    fn name(&self) -> &'static str {
        "admin"
    }

    fn about(&self) -> &'static str {
        "JSON bodies of the admin API, requests and answers"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 8 << 20,
            because: "16 KiB of JSON make at most 8192 elements; the largest, a volume's status, has less than 1 KiB",
        }
    }

    fn longest(&self) -> usize {
        16 << 10
    }

    fn style(&self) -> Style {
        Style::Text
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let texts = [
            r#"{"force":true}"#,
            r#"{"discard_my_data":true}"#,
            r#"{"how":"panic"}"#,
            r#"{"code":-2,"text":"Need access to UpToDate data","hint":"","exit_code":17}"#,
            r#"{"number":1,"at":1.5,"kind":"change","object":"device","fields":[["disk","UpToDate"]]}"#,
            r#"{"kind":"read","first-sector":8,"sectors":8,"error":"EIO","mode":"times=3","delay_ms":0,"hang":false}"#,
            r#"{"number":1,"hits":2,"rule":{"kind":"any","mode":"always"}}"#,
            r#"{"id":1,"kind":"read","range":{"first":204800,"count":8},"effect":{"error":{"errno":5}},"mode":"until-written"}"#,
            r#"{"id":2,"kind":"write","effect":{"delay":{"milliseconds":5}},"mode":{"times":{"count":3}}}"#,
        ];
        let mut seeds: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        let mut status = Status::default();
        status.volumes.push(Default::default());
        status.volumes[0].connections.push(Default::default());
        status.volumes[0].waits.push(Default::default());
        seeds.extend(serde_json::to_vec(&status));
        seeds
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let words = [
            "\"force\"",
            "\"how\"",
            "\"hang\"",
            "\"kind\"",
            "\"mode\"",
            "\"rule\"",
            "\"effect\"",
            "\"zeros\"",
            "\"until-written\"",
            "\"times=0\"",
            "\"times=4294967296\"",
            "\"fields\"",
            "\"volumes\"",
            "\"node\"",
            "\"count\"",
            "\"first\"",
            "\"sectors\"",
            "\"first_sector\"",
            "\"delay_ms\"",
        ];
        words.map(|word| word.as_bytes().to_vec()).into()
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        read::<PrimaryRequest>("primary", input, probe)?;
        read::<DetachRequest>("detach", input, probe)?;
        read::<ConnectRequest>("connect", input, probe)?;
        read::<DisconnectRequest>("disconnect", input, probe)?;
        read::<KillRequest>("kill", input, probe)?;
        read::<ErrorBody>("error", input, probe)?;
        read::<Event>("event", input, probe)?;
        read::<Status>("status", input, probe)?;
        read::<FaultEntry>("entry", input, probe)?;
        if let Some(rule) = read::<FaultRule>("fault", input, probe)? {
            probe.feature(("check", rule.check().err().map(|error| error.to_string())));
        }
        read::<fault::FaultRule>("layer", input, probe).map(drop)
    }
}

/// Reads a body; what can be read means the same after it was written again.
fn read<T>(kind: &'static str, input: &[u8], probe: &mut Probe) -> Result<Option<T>, Breach>
where
    T: DeserializeOwned + Serialize + Debug,
{
    let value: T = match probe.measured(|| serde_json::from_slice(input)) {
        Ok(value) => value,
        Err(error) => {
            probe.feature((kind, format!("{:?}", error.classify())));
            // What is quoted is the input's, not the reader's.
            let text = error.to_string();
            let text: String = text
                .chars()
                .take_while(|letter| !"`\"".contains(*letter))
                .take(18)
                .collect();
            probe.feature((kind, text));
            return Ok(None);
        }
    };
    probe.outline(kind, &value);
    let written = serde_json::to_value(&value).map_err(|error| Breach {
        property: "a body that was read can be written",
        seen: format!("{value:?}: {error}"),
    })?;
    let again = serde_json::from_value::<T>(written.clone()).and_then(serde_json::to_value);
    let same = again.as_ref().is_ok_and(|again| is_same(&written, again));
    ensure(same, "a body means the same after it was written", || {
        format!("{written} and then {again:?}")
    })?;
    Ok(Some(value))
}

/// Equal, but for the last digit of a fraction: times and rates are for people.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| is_same(value, other)))
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(0.0));
            one == other || (one - other).abs() <= one.abs() * 1e-12
        }
        _ => one == other,
    }
}
