//! Faults that are planted on purpose: the check is worth nothing if it does not find them.

/// What is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Planted {
    /// Nothing.
    #[default]
    Nothing,
    /// The target clears the bit of a block that it did not copy.
    ClearWithoutProof,
    /// A superblock keeps the generation that was there before: the loss of the peer is forgotten.
    OldGeneration,
    /// The peer's refusal of a promotion arrives as consent.
    IgnoreThePeer,
    /// The peer's generations arrive with its `current` one step back.
    StaleGenerations,
}

impl Planted {
    /// All faults.
    pub const ALL: [Self; 4] = [
        Self::ClearWithoutProof,
        Self::OldGeneration,
        Self::IgnoreThePeer,
        Self::StaleGenerations,
    ];

    /// By its name on the command line.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|planted| planted.name() == name)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::ClearWithoutProof => "clear-without-proof",
            Self::OldGeneration => "old-generation",
            Self::IgnoreThePeer => "ignore-the-peer",
            Self::StaleGenerations => "stale-generations",
        }
    }
}
