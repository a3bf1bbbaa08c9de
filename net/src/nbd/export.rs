//! What a client may attach to, as the negotiation needs to know it.

use super::constants::*;

/// Limits on offsets and lengths of requests, in bytes ("size constraints" of the specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    minimum: u32,
    preferred: u32,
    maximum_payload: u32,
}

impl BlockSizes {
    /// `None` unless `minimum` is a power of two in 1..=65536, `preferred` a power of two of at least 512 and
    /// `minimum`, and `maximum_payload` at least `preferred`.
    pub fn new(minimum: u32, preferred: u32, maximum_payload: u32) -> Option<Self> {
        let valid = minimum.is_power_of_two()
            && minimum <= 1 << 16
            && preferred.is_power_of_two()
            && preferred >= minimum.max(512)
            && maximum_payload >= preferred;
        valid.then_some(Self {
            minimum,
            preferred,
            maximum_payload,
        })
    }

    /// Every offset and length is a multiple of it.
    pub fn minimum(self) -> u32 {
        self.minimum
    }

    /// Multiples of it need no read-modify-write.
    pub fn preferred(self) -> u32 {
        self.preferred
    }

    /// Longest read or write.
    pub fn maximum_payload(self) -> u32 {
        self.maximum_payload
    }
}

impl Default for BlockSizes {
    /// Sectors of 512 bytes, blocks of 4 KiB preferred, 32 MiB in one request.
    fn default() -> Self {
        Self {
            minimum: 512,
            preferred: 4096,
            maximum_payload: MAXIMUM_PAYLOAD_BYTES,
        }
    }
}

/// An export that a client may attach to now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Canonical name: the one in the list, also when the client asked for the default export (empty name).
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Bytes; a multiple of the minimum block size.
    pub size: u64,
    /// `NBD_FLAG_…` transmission flags of what the export really does. The negotiation itself adds
    /// `NBD_FLAG_HAS_FLAGS` and `NBD_FLAG_SEND_DF`. `NBD_FLAG_CAN_MULTI_CONN` is a promise about flushes: see its text.
    pub flags: u16,
    /// Limits on requests.
    pub block_sizes: BlockSizes,
    /// Names of the metadata contexts that block status can report, such as `base:allocation`. May be empty.
    pub contexts: Vec<String>,
}

impl ExportInfo {
    /// The flags as this client sees them.
    pub(super) fn transmission_flags(&self, structured_replies: bool) -> u16 {
        let mut flags = (self.flags | NBD_FLAG_HAS_FLAGS) & !NBD_FLAG_SEND_DF;
        if structured_replies {
            flags |= NBD_FLAG_SEND_DF;
        }
        if flags & NBD_FLAG_SEND_WRITE_ZEROES == 0 {
            flags &= !NBD_FLAG_SEND_FAST_ZERO;
        }
        flags
    }
}

/// One entry of the list of exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedExport {
    /// Name to ask for.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// Why a client may not have an export (or the list), with the reply that the specification has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// No export of that name: `NBD_REP_ERR_UNKNOWN`.
    Unknown,
    /// It exists but may not be served now (Secondary, no up-to-date data, …): `NBD_REP_ERR_POLICY`.
    NotServing,
    /// The node is shutting down: `NBD_REP_ERR_SHUTDOWN`.
    ShuttingDown,
}

/// A refusal that the client's user can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExportRefusal {
    /// Selects the reply type.
    pub kind: RefusalKind,
    /// Cause and what to do next; sent to the client, cut to 4096 bytes.
    pub message: String,
}

impl ExportRefusal {
    /// The `NBD_REP_ERR_…` for this kind.
    pub fn reply_type(&self) -> u32 {
        match self.kind {
            RefusalKind::Unknown => NBD_REP_ERR_UNKNOWN,
            RefusalKind::NotServing => NBD_REP_ERR_POLICY,
            RefusalKind::ShuttingDown => NBD_REP_ERR_SHUTDOWN,
        }
    }
}

/// The exports at one moment. Asked while an option is answered, so it must answer at once (a snapshot).
pub trait ExportDirectory {
    /// All exports to show. Names that are no valid NBD string (over 4096 bytes, or with NUL) are left out.
    fn list(&self) -> Result<Vec<ListedExport>, ExportRefusal>;
    /// The export of that name; the empty name means the default export.
    fn info(&self, name: &str) -> Result<ExportInfo, ExportRefusal>;
}

/// `text` as an NBD string: at most 4096 bytes, nothing from a NUL on.
pub(super) fn nbd_string(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    &text[..text.floor_char_boundary(NBD_MAX_STRING)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_follow_the_specification() {
        assert!(BlockSizes::new(512, 4096, 32 << 20).is_some());
        assert!(BlockSizes::new(1, 512, 512).is_some());
        assert!(BlockSizes::new(0, 512, 4096).is_none());
        assert!(BlockSizes::new(3, 512, 4096).is_none());
        assert!(BlockSizes::new(1 << 17, 1 << 17, 1 << 20).is_none());
        assert!(BlockSizes::new(512, 256, 4096).is_none());
        assert!(BlockSizes::new(4096, 512, 1 << 20).is_none());
        assert!(BlockSizes::new(512, 4096, 2048).is_none());
    }

    #[test]
    fn flags_are_made_consistent() {
        let info = ExportInfo {
            name: "r0".into(),
            description: String::new(),
            size: 4096,
            flags: NBD_FLAG_SEND_FAST_ZERO | NBD_FLAG_SEND_DF | NBD_FLAG_SEND_FLUSH,
            block_sizes: BlockSizes::default(),
            contexts: vec![],
        };
        assert_eq!(
            info.transmission_flags(false),
            NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH
        );
        assert_eq!(
            info.transmission_flags(true),
            NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_DF
        );
    }

    #[test]
    fn strings_are_cut_at_a_character() {
        let long = "ä".repeat(3000);
        assert_eq!(nbd_string(&long).len(), 4096);
        let odd = format!("x{long}");
        assert_eq!(nbd_string(&odd).len(), 4095);
        assert_eq!(nbd_string("a\0b"), "a");
    }
}
