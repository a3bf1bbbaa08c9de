//! A node's configuration: a TOML file in, typed values or *all* its mistakes out. The keys are the table in [`keys`];
//! the manual is `docs/configuration.md`.

mod conflicts;
mod fault;
pub mod keys;
mod mistake;
mod node;
mod peer;
mod reader;
#[cfg(test)]
mod tests;
mod unknown;
mod volume;

pub use fault::{
    FaultContradiction, FaultEffect, FaultEntry, FaultError, FaultKind, FaultMode, FaultRule,
    UnknownFaultMode,
};
pub use mistake::{ConfigurationError, Mistake, Place};
pub use node::{DEFAULT_ADMIN_SOCKET, NodeConfiguration};
pub use peer::{PeerConfiguration, Protocol};
pub use volume::{
    Handlers, IoBackend, MetaDisk, OnIoError, OnNoDataAccessible, ResyncRate, VolumeConfiguration,
};

use conflicts::Claims;
use keys::Section;
use reader::{Reader, Source};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// A node's whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// `[node]`
    pub node: NodeConfiguration,
    /// `[[volume]]`, at least one, in the file's order.
    pub volumes: Vec<VolumeConfiguration>,
}

impl Configuration {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, or it has mistakes: all that could be found.
    pub fn load(file: &Path) -> Result<Self, ConfigurationError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigurationError::Unreadable {
            file: file.into(),
            source,
        })?;
        Self::parse(&text, file)
    }

    /// Checks a text; `file` is what messages name.
    ///
    /// # Errors
    /// The text has mistakes: all that could be found.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigurationError> {
        let mut source = Source {
            text,
            mistakes: Vec::new(),
        };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = source.line(error.span().map_or(0, |span| span.start));
            let place = Place {
                line,
                key: String::new(),
                value: None,
            };
            source.refuse(
                place,
                format!("no valid TOML: {}", error.message().replace('\n', ", ")),
                "",
            );
        }
        // What follows a syntax error is guesswork, and its mistakes would hide the real one.
        let configuration = errors.is_empty().then(|| read(&mut source, document.get_ref()));
        match configuration {
            Some(Some(configuration)) if source.mistakes.is_empty() => Ok(configuration),
            _ => {
                let mut mistakes = source.mistakes;
                mistakes.sort_by_key(|mistake| mistake.place.line);
                mistakes.dedup();
                Err(ConfigurationError::Refused {
                    file: file.into(),
                    mistakes,
                })
            }
        }
    }

    /// The volume of that name.
    pub fn volume(&self, name: &str) -> Option<&VolumeConfiguration> {
        self.volumes.iter().find(|volume| volume.name == name)
    }
}

/// Reads the document; `None` when a whole section is missing. Mistakes are in `source`.
fn read<'t>(source: &mut Source<'t>, document: &DeTable<'t>) -> Option<Configuration> {
    refuse_unknown_tables(source, document);
    let mut claims = Claims::default();
    let node = read_node(source, document, &mut claims);
    let volumes = read_volumes(source, document, &mut claims);
    claims.check(source);
    let node = node?;
    if node.listen.is_none() && volumes.iter().any(|volume| volume.peer.is_some()) {
        let line = document
            .get("node")
            .map_or(1, |value| source.line(value.span().start));
        let place = Place {
            line,
            key: "node: listen".into(),
            value: None,
        };
        source.refuse(
            place,
            "is missing: a volume has a peer, which must be able to connect here",
            "\"IP:PORT\"",
        );
    }
    (!volumes.is_empty()).then_some(Configuration { node, volumes })
}

fn refuse_unknown_tables(source: &mut Source<'_>, document: &DeTable<'_>) {
    for (key, _) in document {
        let name = key.get_ref().as_ref();
        if name != "node" && name != "volume" {
            let place = Place {
                line: source.line(key.span().start),
                key: name.into(),
                value: None,
            };
            source.refuse(place, "unknown table or key", "[node], [[volume]]");
        }
    }
}

fn read_node<'t>(
    source: &mut Source<'t>,
    document: &DeTable<'t>,
    claims: &mut Claims,
) -> Option<NodeConfiguration> {
    let (table, start) = match document.get("node") {
        Some(value) => (value.get_ref().as_table(), value.span().start),
        None => (None, 0),
    };
    let Some(table) = table else {
        let place = Place {
            line: source.line(start),
            key: "node".into(),
            value: None,
        };
        source.refuse(place, "is missing or no table", "one table [node]");
        return None;
    };
    let mut reader = Reader::new(source, Section::Node, table, start, "node: ".into());
    let node = NodeConfiguration::read(&mut reader);
    claims.node(&node, &reader);
    Some(node)
}

fn read_volumes<'t>(
    source: &mut Source<'t>,
    document: &DeTable<'t>,
    claims: &mut Claims,
) -> Vec<VolumeConfiguration> {
    let value = document.get("volume");
    let tables: Vec<_> = match value.map(|value| value.get_ref()) {
        Some(DeValue::Array(array)) => array
            .iter()
            .filter_map(|item| Some((item.get_ref().as_table()?, item.span().start)))
            .collect(),
        _ => Vec::new(),
    };
    let all_tables = matches!(value.map(|value| value.get_ref()), Some(DeValue::Array(array)) if array.len() == tables.len());
    if tables.is_empty() || !all_tables {
        let line = value.map_or(1, |value| source.line(value.span().start));
        let place = Place {
            line,
            key: "volume".into(),
            value: None,
        };
        source.refuse(
            place,
            "there is no volume, or it is no array of tables",
            "one or more [[volume]]",
        );
    }
    let mut volumes = Vec::new();
    for (index, (table, start)) in tables.into_iter().enumerate() {
        let prefix = match table.get("name").map(|name| name.get_ref()) {
            Some(DeValue::String(name)) => format!("volume {name:?}: "),
            _ => format!("volume[{index}]: "),
        };
        let mut reader = Reader::new(source, Section::Volume, table, start, prefix);
        let volume = VolumeConfiguration::read(&mut reader, index);
        claims.volume(&volume, &mut reader);
        volumes.push(volume);
    }
    volumes
}
