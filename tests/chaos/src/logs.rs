//! What a node's log must not say: an actor panicked without an order, or was given up.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// What the kill switch says when an actor panics by order.
const ORDERED: &str = "killed by order";
/// What Rust says when anything panics.
const PANICKED: &str = "panicked at";
/// What nothing excuses.
const NEVER: [&str; 2] = ["actor given up", "the process ends"];

/// Reads a log that grows.
pub struct Log {
    path: PathBuf,
    read: u64,
    rest: String,
}

impl Log {
    /// From its beginning.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: 0,
            rest: String::new(),
        }
    }

    /// Bad news since the last time.
    pub fn news(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_end(&mut bytes)
        });
        self.read += read.unwrap_or_default() as u64;
        self.rest += &String::from_utf8_lossy(&bytes);
        // The last line may be unfinished, and the one before it is judged together with it.
        let lines: Vec<&str> = self.rest.split('\n').collect();
        let whole = lines.len().saturating_sub(2);
        let pairs = lines.windows(2).take(whole);
        let news = pairs.filter_map(|pair| judge(pair[0], pair[1])).collect();
        let left = lines[whole..].join("\n");
        self.rest = left;
        news
    }
}

fn judge(line: &str, next: &str) -> Option<String> {
    if NEVER.iter().any(|text| line.contains(text)) {
        Some(line.to_owned())
    } else if line.contains(PANICKED) && !next.contains(ORDERED) {
        Some(format!("{line} {next}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_panic_without_an_order_is_news_however_the_log_is_cut() {
        let text = "one\nthread 'a' panicked at x.rs:1:\nkilled by order: disk panics\n\
                    thread 'b' panicked at y.rs:2:\nindex out of bounds\nWARN actor given up\nlast\nend\n";
        for cut in 0..text.len() {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let mut log = Log::new(file.path().into());
            let mut news = Vec::new();
            for piece in [&text[..cut], &text[cut..]] {
                file.write_all(piece.as_bytes()).unwrap();
                news.extend(log.news());
            }
            assert_eq!(news.len(), 2, "cut at {cut}: {news:?}");
            assert!(news[0].contains("index out of bounds"));
            assert!(news[1].contains("given up"));
        }
    }
}
