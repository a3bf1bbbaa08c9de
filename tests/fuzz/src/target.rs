//! What a parser must offer to be attacked, and what is said about one execution.

use crate::allocation;
use fastrand::Rng;
use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Most bytes that a decoder may hold at one time, and where the number comes from.
#[derive(Clone, Copy, Debug)]
pub struct Cap {
    /// Bytes.
    pub bytes: usize,
    /// The documented limit behind it.
    pub because: &'static str,
}

/// Which mutations fit the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Bits, bytes, numbers.
    Binary,
    /// Tokens of a text as well.
    Text,
}

/// A parser with the properties that it must keep.
pub trait Target: Sync {
    /// Name on the command line, and of its folder in the corpus.
    fn name(&self) -> &'static str;
    /// What it attacks.
    fn about(&self) -> &'static str;
    /// Most bytes that decoding may hold.
    fn cap(&self) -> Cap;
    /// Longest input worth trying.
    fn longest(&self) -> usize;
    /// Inputs to begin with, made by the encoders: they follow the format when it grows.
    fn seeds(&self) -> Vec<Vec<u8>>;
    /// How many times longer than usual an execution takes: the tests run so many times fewer.
    fn expense(&self) -> u64 {
        1
    }
    /// Decodes the input and checks every property.
    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach>;
    /// Which mutations fit.
    fn style(&self) -> Style {
        Style::Binary
    }
    /// Pieces that are put into inputs: magics, names, numbers that mean something.
    fn words(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
    /// Makes lengths and checksums right again: without that, nothing behind a checksum is ever reached.
    fn seal(&self, _input: &mut Vec<u8>) {}
    /// A mutation that knows the format; `other` is a second input to take parts from.
    fn restructure(&self, _input: &[u8], _other: &[u8], _random: &mut Rng) -> Option<Vec<u8>> {
        None
    }
}

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Names the property, so that shrinking keeps to the same one.
    pub property: &'static str,
    /// What was seen.
    pub seen: String,
}

/// What went wrong with an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The decoder panicked.
    Panic {
        /// Where, as file and line.
        place: String,
        /// Its message.
        message: String,
    },
    /// It held more than the target's cap.
    Allocation {
        /// Most bytes held at one time.
        peak: usize,
        /// The cap.
        cap: usize,
    },
    /// A property does not hold.
    Property(Breach),
    /// It did not come back in time.
    Hang {
        /// Seconds that were given.
        seconds: f64,
    },
}

impl Finding {
    /// Whether both are the same fault, as far as can be told.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Panic { place, .. }, Self::Panic { place: there, .. }) => place == there,
            (Self::Property(breach), Self::Property(other)) => breach.property == other.property,
            (Self::Allocation { .. }, Self::Allocation { .. }) | (Self::Hang { .. }, Self::Hang { .. }) => {
                true
            }
            _ => false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic { place, message } => write!(f, "panic at {place}: {message}"),
            Self::Allocation { peak, cap } => write!(f, "{peak} bytes held at one time, {cap} are allowed"),
            Self::Property(Breach { property, seen }) => write!(f, "{property}: {seen}"),
            Self::Hang { seconds } => write!(f, "no end after {seconds} s"),
        }
    }
}

/// Watches one execution: what it allocates and what it looks like.
pub struct Probe {
    /// Drawn from the input alone, so that a file replays by itself.
    pub random: Rng,
    /// Most bytes that a measured part held.
    pub peak: usize,
    features: Vec<u64>,
}

impl Probe {
    /// A probe for this input.
    pub fn new(input: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        Self {
            random: Rng::with_seed(hasher.finish()),
            peak: 0,
            features: Vec::new(),
        }
    }

    /// Runs a part of the decoder whose memory counts.
    pub fn measured<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (result, peak) = allocation::peak_of(work);
        self.peak = self.peak.max(peak);
        result
    }

    /// Something about the outcome that tells it from others.
    pub fn feature(&mut self, value: impl Hash) {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        self.features.push(hasher.finish());
    }

    /// The outline of a value: which words its `Debug` text has and how often, and of which size its numbers are.
    pub fn outline(&mut self, what: &'static str, value: &impl Debug) {
        let mut outline = Outline::default();
        // Writing to an outline cannot fail; a `Debug` that fails would only lose features.
        let _ = write!(outline, "{value:?}");
        outline.end_word();
        outline.words.sort_unstable();
        for words in outline.words.chunk_by(|a, b| a == b) {
            self.feature((what, words[0], words.len().ilog2()));
        }
    }

    /// All features, without repetitions.
    pub fn into_features(mut self) -> Vec<u64> {
        self.features.sort_unstable();
        self.features.dedup();
        self.features
    }
}

/// Collects the words of a text that is written to it.
#[derive(Default)]
struct Outline {
    word: String,
    /// The last word that was no number: a number means what stands before it.
    label: u64,
    in_text: bool,
    /// The last letter was a backslash inside of a text.
    escaped: bool,
    words: Vec<u64>,
}

impl Outline {
    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let mut hasher = DefaultHasher::new();
        if self.word.starts_with(|letter: char| letter.is_ascii_digit()) {
            (self.label, self.word.len()).hash(&mut hasher);
        } else {
            self.word.hash(&mut hasher);
            self.label = hasher.finish();
        }
        self.words.push(hasher.finish());
        self.word.clear();
    }
}

impl Write for Outline {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            if self.in_text {
                self.in_text = letter != '"' || self.escaped;
                self.escaped = letter == '\\' && !self.escaped;
                continue;
            }
            self.in_text = letter == '"';
            if letter.is_alphanumeric() || letter == '_' {
                self.word.push(letter);
            } else {
                self.end_word();
            }
        }
        Ok(())
    }
}

/// A breach unless `good`.
pub fn ensure(good: bool, property: &'static str, seen: impl FnOnce() -> String) -> Result<(), Breach> {
    if good {
        return Ok(());
    }
    Err(Breach {
        property,
        seen: seen(),
    })
}

/// A breach unless both are equal.
pub fn ensure_equal<T: PartialEq + Debug>(
    property: &'static str,
    expected: &T,
    found: &T,
) -> Result<(), Breach> {
    ensure(expected == found, property, || {
        let cut = |value: &T| format!("{value:?}").chars().take(2000).collect::<String>();
        format!("expected {} but found {}", cut(expected), cut(found))
    })
}
