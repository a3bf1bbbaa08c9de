//! What is wrong with a configuration: every mistake with its file, line, key, value, reason and what is allowed.

use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line in the file, counted from 1.
    pub line: usize,
    /// The key with its table: `volume "r0": peer.timeout`.
    pub key: String,
    /// The value as written; `None` where a key is missing.
    pub value: Option<String>,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// Why the value is refused.
    pub reason: String,
    /// What may stand there instead; empty where the reason says it.
    pub allowed: String,
}

/// Why a node's configuration is refused. Each mistake is a line of the text.
#[derive(Debug, Error)]
pub enum ConfigurationError {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration: {source}; name the file with --config", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is read and is wrong.
    #[error("{}", lines(file, mistakes))]
    Refused {
        /// The file.
        file: PathBuf,
        /// All mistakes found, in the order of their lines; never empty.
        mistakes: Vec<Mistake>,
    },
}

impl ConfigurationError {
    /// The mistakes in the file's text; empty when it could not be read.
    pub fn mistakes(&self) -> &[Mistake] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Refused { mistakes, .. } => mistakes,
        }
    }
}

fn lines(file: &std::path::Path, mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes
        .iter()
        .map(|mistake| format!("{}:{mistake}", file.display()))
        .collect();
    lines.join("\n")
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, key, value } = &self.place;
        write!(f, "{line}: ")?;
        match (key.is_empty(), value) {
            (true, _) => {}
            (false, Some(value)) => write!(f, "{key} = {value}: ")?,
            (false, None) => write!(f, "{key}: ")?,
        }
        f.write_str(&self.reason)?;
        if !self.allowed.is_empty() {
            write!(f, " (allowed: {})", self.allowed)?;
        }
        Ok(())
    }
}

/// A value with the place where it stands, for checks across tables.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub value: T,
    pub place: Place,
}
