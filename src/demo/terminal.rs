//! What the demo prints: numbered steps, sentences, and both nodes' states in a column of fixed width.

use crate::admin::schema::VolumeStatus;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Width of the sentences.
const TEXT_WIDTH: usize = 54;
/// Width in front of them: number and gap.
const INDENT: usize = 4;

/// States of one node as they stand in the column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStates {
    /// Name.
    pub name: &'static str,
    /// Role.
    pub role: String,
    /// Connection state.
    pub connection: String,
    /// Disk state.
    pub disk: String,
}

impl NodeStates {
    /// From a status; `None`: the node does not answer.
    pub fn of(name: &'static str, volume: Option<&VolumeStatus>) -> Self {
        let text = |state: Option<&str>| state.filter(|state| !state.is_empty()).unwrap_or("-").to_owned();
        let connection = volume.and_then(|volume| volume.connections.first());
        Self {
            name,
            role: text(volume.map(|volume| volume.role.as_str())),
            connection: text(connection.map(|connection| connection.state.as_str())),
            disk: text(volume.map(|volume| volume.disk.state.as_str())),
        }
    }

    fn column(&self, colours: bool) -> String {
        let Self {
            name,
            role,
            connection,
            disk,
        } = self;
        let plain = format!("{name:<5} {role:<9} {connection:<14} ");
        match colours {
            true => format!("{plain}{}{disk:<12}\x1b[0m", colour_of(disk)),
            false => format!("{plain}{disk:<12}"),
        }
    }
}

fn colour_of(disk: &str) -> &'static str {
    match disk {
        "UpToDate" => "\x1b[32m",
        "Failed" | "Diskless" => "\x1b[31m",
        "-" => "\x1b[0m",
        _ => "\x1b[33m",
    }
}

/// What changed between two states of both nodes, in words: `alice's disk: UpToDate -> Failed`.
pub fn changes(old: &[NodeStates; 2], new: &[NodeStates; 2]) -> String {
    let mut parts = Vec::new();
    for (old, new) in old.iter().zip(new) {
        let fields = [
            ("role", &old.role, &new.role),
            ("connection", &old.connection, &new.connection),
            ("disk", &old.disk, &new.disk),
        ];
        for (what, before, after) in fields.into_iter().filter(|(_, before, after)| before != after) {
            let from = match before.as_str() {
                "-" => String::new(),
                _ => format!("{before} -> "),
            };
            parts.push(format!("{}'s {what}: {from}{after}", new.name));
        }
    }
    parts.join(", ")
}

/// Where lines go, and whether in colours.
pub struct Terminal {
    out: Box<dyn Write + Send>,
    colours: bool,
}

impl Terminal {
    /// Standard output; colours only on a terminal, and not with `NO_COLOR`.
    pub fn standard() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self::new(Box::new(io::stdout()), wanted && io::stdout().is_terminal())
    }

    /// Any output.
    pub fn new(out: Box<dyn Write + Send>, colours: bool) -> Self {
        Self { out, colours }
    }

    /// The headline of a step.
    pub fn step(&mut self, number: u8, title: &str) {
        let line = match self.colours {
            true => format!("\n\x1b[1m{number:>2}  {title}\x1b[0m\n"),
            false => format!("\n{number:>2}  {title}\n"),
        };
        self.print(&line);
    }

    /// A sentence with the states beside it.
    pub fn say(&mut self, sentence: &str, states: &[NodeStates; 2]) {
        let text = beside(sentence, states, self.colours);
        self.print(&text);
    }

    /// Lines as they are, indented.
    pub fn quote(&mut self, text: &str) {
        let mut quoted = String::new();
        for line in text.lines() {
            // Writing to a string does not fail.
            let _ = writeln!(quoted, "{:INDENT$}| {line}", "");
        }
        self.print(&quoted);
    }

    /// Text as it is.
    pub fn print(&mut self, text: &str) {
        // The story goes on and is verified when nobody reads it any more (`mendblock demo | head`).
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

/// A sentence in lines on the left, one node's states in each of the first two on the right.
fn beside(sentence: &str, states: &[NodeStates; 2], colours: bool) -> String {
    let mut lines = wrap(sentence);
    lines.resize(lines.len().max(2), String::new());
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let column = states
            .get(index)
            .map(|states| states.column(colours))
            .unwrap_or_default();
        let row = format!("{:INDENT$}{line:<TEXT_WIDTH$}  {column}", "");
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

/// Lines of [`TEXT_WIDTH`] characters at most; a longer word gets a line of its own.
fn wrap(sentence: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in sentence.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= TEXT_WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A size for people: `68 KiB`, `8.1 MiB`.
pub fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB if bytes.is_multiple_of(1024) => format!("{} KiB", bytes / 1024),
        0..MIB => format!("{bytes} bytes"),
        _ if bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        _ => format!("{:.1} MiB", bytes as f64 / MIB as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(disk: &str) -> [NodeStates; 2] {
        ["alice", "bob"].map(|name| NodeStates {
            name,
            role: "Secondary".into(),
            connection: "WFConnection".into(),
            disk: disk.into(),
        })
    }

    #[test]
    fn the_states_stand_in_their_column_whatever_the_sentence() {
        let long = "a sentence that is so long that it needs three lines, since the column of the states leaves it no more than this";
        for sentence in ["short", long] {
            let text = beside(sentence, &states("Inconsistent"), false);
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(
                lines[0].find("alice Secondary WFConnection   Inconsistent"),
                Some(60)
            );
            assert_eq!(
                lines[1].find("bob   Secondary WFConnection   Inconsistent"),
                Some(60)
            );
            assert_eq!(lines.len(), if sentence == long { 3 } else { 2 });
            assert!(lines.iter().all(|line| line.len() <= 103 && !line.ends_with(' ')));
        }
    }

    #[test]
    fn colours_are_there_only_when_asked_for() {
        assert!(!beside("x", &states("Failed"), false).contains('\x1b'));
        assert!(beside("x", &states("Failed"), true).contains("\x1b[31mFailed"));
    }

    #[test]
    fn changes_are_told_in_words() {
        let (old, mut new) = (states("UpToDate"), states("UpToDate"));
        assert_eq!(changes(&old, &new), "");
        new[0].disk = "Failed".into();
        new[1].role = "Primary".into();
        assert_eq!(
            changes(&old, &new),
            "alice's disk: UpToDate -> Failed, bob's role: Secondary -> Primary"
        );
        assert_eq!(
            changes(&states("-"), &states("Diskless")),
            "alice's disk: Diskless, bob's disk: Diskless"
        );
    }

    #[test]
    fn a_node_that_does_not_answer_has_no_states() {
        let silent = NodeStates::of("bob", None);
        assert_eq!(
            silent.column(false).trim_end(),
            "bob   -         -              -"
        );
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(
            [4096, 100, 64 << 20, (8 << 20) + 69_632].map(size),
            ["4 KiB", "100 bytes", "64 MiB", "8.1 MiB"]
        );
    }
}
