//! Reads one table of the file by the key table: each value typed and in range, every mistake noted, unknown keys too.

use super::keys::{self, Key, Kind, Section, Unit};
use super::mistake::{Mistake, Place};
use super::unknown;
use mendblock_net::wire::prelude::MAX_NAME_BYTES;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Component, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Longest piece of a value that a message repeats, in characters.
const VALUE_SHOWN: usize = 60;

/// The file's text with the mistakes found so far.
pub(super) struct Source<'t> {
    pub text: &'t str,
    pub mistakes: Vec<Mistake>,
}

impl Source<'_> {
    /// Line of a byte offset, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        1 + self
            .text
            .bytes()
            .take(offset)
            .filter(|&byte| byte == b'\n')
            .count()
    }

    /// Notes a mistake.
    pub fn refuse(&mut self, place: Place, reason: impl Into<String>, allowed: impl Into<String>) {
        self.mistakes.push(Mistake {
            place,
            reason: reason.into(),
            allowed: allowed.into(),
        });
    }

    fn shown(&self, span: Range<usize>) -> String {
        let value = self
            .text
            .get(span)
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default();
        match value.char_indices().nth(VALUE_SHOWN) {
            Some((end, _)) => format!("{}...", &value[..end]),
            None => value.to_owned(),
        }
    }
}

/// Reads one table.
pub(super) struct Reader<'r, 't> {
    pub source: &'r mut Source<'t>,
    section: Section,
    table: &'r DeTable<'t>,
    /// Line of the table's header, where a missing key is reported.
    line: usize,
    /// What stands before a key in a message: `volume "r0": peer.`.
    prefix: String,
}

impl<'r, 't> Reader<'r, 't> {
    /// A reader of `table`, whose header starts at byte `start`.
    pub fn new(
        source: &'r mut Source<'t>,
        section: Section,
        table: &'r DeTable<'t>,
        start: usize,
        prefix: String,
    ) -> Self {
        let line = source.line(start);
        Self {
            source,
            section,
            table,
            line,
            prefix,
        }
    }

    /// Notes every key that the section does not have.
    pub fn refuse_unknown_keys(&mut self) {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if keys::find(self.section, name).is_some() || self.section.subtables().contains(&name) {
                continue;
            }
            let place = Place {
                line: self.source.line(key.span().start),
                key: format!("{}{name}", self.prefix),
                value: None,
            };
            let (reason, allowed) = unknown::refusal(self.section, name);
            self.source.refuse(place, reason, allowed);
        }
    }

    /// The key's value in the file.
    pub fn value(&self, name: &str) -> Option<&'r Spanned<DeValue<'t>>> {
        self.table.get(name)
    }

    /// Where the key stands, or where it should.
    pub fn place(&self, name: &str) -> Place {
        let key = format!("{}{name}", self.prefix);
        match self.value(name) {
            Some(value) => Place {
                line: self.source.line(value.span().start),
                key,
                value: Some(self.source.shown(value.span())),
            },
            None => Place {
                line: self.line,
                key,
                value: None,
            },
        }
    }

    /// Notes a mistake at the key; what is allowed comes from the key table.
    pub fn refuse(&mut self, name: &str, reason: impl Into<String>) {
        let allowed = keys::find(self.section, name)
            .map(Key::allowed)
            .unwrap_or_default();
        self.source.refuse(self.place(name), reason, allowed);
    }

    /// Notes a mistake whose reason says what is allowed.
    pub fn refuse_plainly(&mut self, name: &str, reason: impl Into<String>) {
        self.source.refuse(self.place(name), reason, "");
    }

    /// The key's entry; notes its absence when it is required.
    fn key(&mut self, name: &str) -> &'static Key {
        let key = keys::find(self.section, name).expect("the reader asks only for keys of the key table");
        if key.required && self.value(name).is_none() {
            self.refuse(name, "is missing");
        }
        key
    }

    /// A whole number in range; the default where the key is absent or refused.
    pub fn integer(&mut self, name: &str) -> Option<u64> {
        let Kind::Integer {
            default,
            min,
            max,
            unit,
        } = self.key(name).kind
        else {
            unreachable!("{name} is an integer key")
        };
        let Some(value) = self.value(name) else {
            return default;
        };
        let number = match value.get_ref() {
            DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix()).ok(),
            DeValue::String(text) => with_suffix(text, unit).map(i128::from),
            _ => None,
        };
        let reason = match number {
            None => "is no whole number here",
            Some(number) if number < i128::from(min) => "is too small",
            Some(number) if number > i128::from(max) => "is too large",
            Some(number) => return u64::try_from(number).ok(),
        };
        self.refuse(name, reason);
        default
    }

    /// A number of seconds.
    pub fn seconds(&mut self, name: &str) -> Duration {
        Duration::from_secs(self.integer(name).unwrap_or(0))
    }

    /// A number of 0.1 s.
    pub fn tenths(&mut self, name: &str) -> Duration {
        Duration::from_millis(100 * self.integer(name).unwrap_or(0))
    }

    /// A rate in KiB/s, as bytes per second.
    pub fn kibibytes(&mut self, name: &str) -> u64 {
        1024 * self.integer(name).unwrap_or(0)
    }

    /// A switch.
    pub fn boolean(&mut self, name: &str) -> bool {
        let Kind::Boolean { default } = self.key(name).kind else {
            unreachable!("{name} is a boolean key")
        };
        match self.value(name).map(Spanned::get_ref) {
            None => default,
            Some(DeValue::Boolean(value)) => *value,
            Some(DeValue::String(text)) if text == "yes" || text == "no" => text == "yes",
            Some(_) => {
                self.refuse(name, "is neither true nor false");
                default
            }
        }
    }

    /// One word of the key's list, as the value of type `T` that serde gives this word.
    pub fn choice<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let Kind::Choice {
            default,
            allowed,
            later,
        } = self.key(name).kind
        else {
            unreachable!("{name} is a choice key")
        };
        let word = match self.value(name).map(Spanned::get_ref) {
            None => default,
            Some(DeValue::String(text)) if allowed.contains(&text.as_ref()) => Some(text.as_ref()),
            Some(DeValue::String(text)) if later.contains(&text.as_ref()) => {
                self.refuse(name, "is not in this release");
                default
            }
            Some(_) => {
                self.refuse(name, "is none of the known words");
                default
            }
        };
        word.map(|word| {
            serde_json::from_value(serde_json::Value::from(word))
                .expect("every word of a choice is a variant of its type")
        })
    }

    /// A string; the default where the key is absent or refused.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let default = match self.key(name).kind {
            Kind::Text { default, .. } | Kind::Path { default } | Kind::Address { default, .. } => default,
            _ => None,
        };
        match self.value(name).map(Spanned::get_ref) {
            None => default.map(str::to_owned),
            Some(DeValue::String(text))
                if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') =>
            {
                Some(text.to_string())
            }
            Some(DeValue::String(_)) => {
                self.refuse(name, "has control characters");
                default.map(str::to_owned)
            }
            Some(_) => {
                self.refuse(name, "is no string");
                default.map(str::to_owned)
            }
        }
    }

    /// A name by DRBD's rules; empty when it is missing or refused.
    pub fn name(&mut self, name: &str) -> String {
        let Some(text) = self.text(name) else {
            return String::new();
        };
        match name_mistake(&text) {
            None => text,
            Some(reason) => {
                self.refuse(name, reason);
                String::new()
            }
        }
    }

    /// An absolute path without `.` and doubled `/`.
    pub fn path(&mut self, name: &str) -> Option<PathBuf> {
        let text = self.text(name)?;
        let path = PathBuf::from(&text);
        if !path.is_absolute() {
            self.refuse(name, "is no absolute path");
            return None;
        }
        if path
            .components()
            .any(|component| component == Component::ParentDir)
        {
            self.refuse_plainly(name, "has \"..\" in it: write the path without it");
            return None;
        }
        Some(path.components().collect())
    }

    /// `IP:PORT`; `None` when absent, off or refused.
    pub fn address(&mut self, name: &str) -> Option<SocketAddr> {
        let Kind::Address { off, .. } = self.key(name).kind else {
            unreachable!("{name} is an address key")
        };
        let text = self.text(name)?;
        if text.is_empty() && off {
            return None;
        }
        let reason = match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => return Some(address),
            Ok(_) => "has port 0",
            Err(_) => "is no IP address with a port (a host name does not do)",
        };
        self.refuse(name, reason);
        None
    }

    /// The table under `name`, if there is one.
    pub fn subtable(&mut self, name: &str) -> Option<(&'r DeTable<'t>, usize)> {
        let value = self.value(name)?;
        match value.get_ref() {
            DeValue::Table(table) => Some((table, value.span().start)),
            _ => {
                self.refuse_plainly(name, format!("must be a table: [volume.{name}]"));
                None
            }
        }
    }

    /// The tables of the array under `name`.
    pub fn subtables(&mut self, name: &str) -> Vec<(&'r DeTable<'t>, usize)> {
        match self.value(name).map(Spanned::get_ref) {
            None => Vec::new(),
            Some(DeValue::Array(array)) if array.iter().all(|item| item.get_ref().is_table()) => array
                .iter()
                .filter_map(|item| Some((item.get_ref().as_table()?, item.span().start)))
                .collect(),
            Some(_) => {
                self.refuse_plainly(name, format!("must be an array of tables: [[volume.{name}]]"));
                Vec::new()
            }
        }
    }

    /// A reader of a table inside this one.
    pub fn inner<'s>(
        &'s mut self,
        section: Section,
        (table, start): (&'s DeTable<'t>, usize),
        name: &str,
    ) -> Reader<'s, 't> {
        let prefix = format!("{}{name}.", self.prefix);
        Reader::new(self.source, section, table, start, prefix)
    }
}

/// Why a text is no name by the rules of DRBD's resource names; `None` when it is one.
pub(super) fn name_mistake(text: &str) -> Option<&'static str> {
    match text {
        "" => Some("is empty"),
        _ if text.len() > MAX_NAME_BYTES => Some("is too long"),
        _ if text.contains('/') => Some("has a \"/\" in it"),
        _ if text.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Some("has whitespace or control characters")
        }
        _ if text.starts_with('-') => Some("starts with \"-\" and would be read as an option"),
        _ => None,
    }
}

/// A number with DRBD's suffix, in the key's unit; fractions of the unit are refused.
fn with_suffix(text: &str, unit: Unit) -> Option<u64> {
    let unit_bytes = match unit {
        Unit::KibibytesPerSecond => 1024,
        Unit::Sectors => 512,
        _ => return None,
    };
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    let shift = match &text[digits.len()..] {
        "" => return Some(number),
        "s" if unit == Unit::Sectors => return Some(number),
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return None,
    };
    let bytes = number.checked_mul(1 << shift)?;
    bytes.is_multiple_of(unit_bytes).then_some(bytes / unit_bytes)
}
