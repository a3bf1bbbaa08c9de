//! `events` as text: the lines of `drbdsetup events2`.

use crate::admin::schema::{Event, EventKind};

/// The object of the event that ends the dump.
const END_OF_DUMP: &str = "-";

/// `change device name:r0 volume:0 disk:Failed`, without line end.
pub fn render(event: &Event, timestamps: bool) -> String {
    let mut line = match timestamps {
        true => format!("{:.6} ", event.at),
        false => String::new(),
    };
    line += kind(event.kind);
    line.push(' ');
    line += &event.object;
    for (key, value) in &event.fields {
        // A value of several words would not be one field any more.
        let quoted = value.is_empty()
            || value
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == '"');
        line += &if quoted {
            format!(" {key}:{value:?}")
        } else {
            format!(" {key}:{value}")
        };
    }
    line
}

/// Whether everything that there was has been told.
pub fn ends_dump(event: &Event) -> bool {
    event.kind == EventKind::Exists && event.object == END_OF_DUMP
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Exists => "exists",
        EventKind::Create => "create",
        EventKind::Change => "change",
        EventKind::Destroy => "destroy",
        EventKind::Call => "call",
        EventKind::Response => "response",
    }
}
