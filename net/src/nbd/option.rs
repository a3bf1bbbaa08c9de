//! Bodies of options and of their replies. A body is complete and at most [`MAXIMUM_OPTION_BYTES`] long here.
//!
//! | option header | bytes | | reply header | bytes |
//! |---|---|---|---|---|
//! | 0 | 8 | `IHAVEOPT` | 0 | 8: `NBD_REP_MAGIC` |
//! | 8 | 4 | option | 8 | 4: option |
//! | 12 | 4 | length of the body | 12 | 4: reply type |
//! | 16 | n | body | 16 | 4: length, then the body |

use super::constants::*;
use super::export::{ExportInfo, ListedExport, nbd_string};

/// Bytes of an option's header.
pub(super) const OPTION_HEADER_BYTES: usize = 16;
/// Longest body of an option that is read; a longer one is skipped and refused.
pub(super) const MAXIMUM_OPTION_BYTES: u32 = 64 << 10;
/// Most queries in one meta context option.
const MAXIMUM_META_QUERIES: u32 = 256;

/// Why a body was refused: reply type and text.
pub(super) type BodyError = (u32, &'static str);

/// Reads a body front to back.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BodyError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or((NBD_REP_ERR_INVALID, "the option is shorter than its fields say"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, BodyError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, BodyError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&mut self) -> Result<&'a str, BodyError> {
        let length = self.u32()? as usize;
        string(self.take(length)?)
    }

    fn end(self) -> Result<(), BodyError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err((NBD_REP_ERR_INVALID, "the option has bytes behind its last field")),
        }
    }
}

/// The bytes as an NBD string: UTF-8, at most 4096 bytes, no NUL.
pub(super) fn string(bytes: &[u8]) -> Result<&str, BodyError> {
    if bytes.len() > NBD_MAX_STRING {
        return Err((NBD_REP_ERR_TOO_BIG, "a string is longer than 4096 bytes"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err((NBD_REP_ERR_INVALID, "a string is not UTF-8 without NUL")),
    }
}

/// Body of `NBD_OPT_INFO` and `NBD_OPT_GO`: name, and which optional information is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoBody<'a> {
    pub name: &'a str,
    wanted: u8,
}

impl<'a> InfoBody<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BodyError> {
        let mut body = Body(bytes);
        let name = body.string()?;
        let mut wanted = 0;
        for _ in 0..body.u16()? {
            let kind = body.u16()?;
            if kind <= NBD_INFO_BLOCK_SIZE {
                wanted |= 1 << kind;
            }
        }
        body.end()?;
        Ok(Self { name, wanted })
    }

    pub fn wants(&self, kind: u16) -> bool {
        self.wanted & (1 << kind) != 0
    }
}

/// Body of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MetaContextBody<'a> {
    pub name: &'a str,
    queries: Vec<&'a str>,
}

impl<'a> MetaContextBody<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BodyError> {
        let mut body = Body(bytes);
        let name = body.string()?;
        let count = body.u32()?;
        if count > MAXIMUM_META_QUERIES {
            return Err((NBD_REP_ERR_TOO_BIG, "more than 256 queries for metadata contexts"));
        }
        let queries = (0..count).map(|_| body.string()).collect::<Result<_, _>>()?;
        body.end()?;
        Ok(Self { name, queries })
    }

    /// For the list: no query at all means everything, a bare namespace (`base:`) all of it.
    pub fn lists(&self, context: &str) -> bool {
        self.queries.is_empty()
            || self
                .queries
                .iter()
                .any(|query| *query == context || (query.ends_with(':') && context.starts_with(query)))
    }

    /// For the selection: only a full name selects.
    pub fn selects(&self, context: &str) -> bool {
        self.queries.contains(&context)
    }
}

/// Appends one reply to `option`, its body in parts.
pub(super) fn reply(out: &mut Vec<u8>, option: u32, reply_type: u32, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&NBD_REP_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply_type.to_be_bytes());
    out.extend_from_slice(&(length as u32).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends an error reply with its text.
pub(super) fn reply_error(out: &mut Vec<u8>, option: u32, reply_type: u32, message: &str) {
    reply(out, option, reply_type, &[nbd_string(message).as_bytes()]);
}

/// Appends an `NBD_REP_SERVER`, unless the name is no NBD string.
pub(super) fn reply_server(out: &mut Vec<u8>, export: &ListedExport) {
    if nbd_string(&export.name) != export.name {
        return;
    }
    let length = (export.name.len() as u32).to_be_bytes();
    let description = nbd_string(&export.description).as_bytes();
    reply(
        out,
        NBD_OPT_LIST,
        NBD_REP_SERVER,
        &[&length, export.name.as_bytes(), description],
    );
}

/// Appends the `NBD_REP_INFO` replies of a successful `NBD_OPT_INFO` or `NBD_OPT_GO`, without the final ack.
pub(super) fn reply_info(
    out: &mut Vec<u8>,
    option: u32,
    body: &InfoBody<'_>,
    export: &ExportInfo,
    flags: u16,
) {
    let mut info = |kind: u16, parts: [&[u8]; 3]| {
        let kind = kind.to_be_bytes();
        reply(out, option, NBD_REP_INFO, &[&kind, parts[0], parts[1], parts[2]]);
    };
    info(
        NBD_INFO_EXPORT,
        [&export.size.to_be_bytes(), &flags.to_be_bytes(), &[]],
    );
    if body.wants(NBD_INFO_NAME) {
        info(NBD_INFO_NAME, [nbd_string(&export.name).as_bytes(), &[], &[]]);
    }
    if body.wants(NBD_INFO_DESCRIPTION) && !export.description.is_empty() {
        info(
            NBD_INFO_DESCRIPTION,
            [nbd_string(&export.description).as_bytes(), &[], &[]],
        );
    }
    if body.wants(NBD_INFO_BLOCK_SIZE) {
        let sizes = export.block_sizes;
        info(
            NBD_INFO_BLOCK_SIZE,
            [
                &sizes.minimum().to_be_bytes(),
                &sizes.preferred().to_be_bytes(),
                &sizes.maximum_payload().to_be_bytes(),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_body_reads_name_and_wishes() {
        let body = InfoBody::parse(b"\0\0\0\x02r0\0\x03\0\x03\0\x01\x12\x34").unwrap();
        assert_eq!(body.name, "r0");
        assert!(body.wants(NBD_INFO_BLOCK_SIZE) && body.wants(NBD_INFO_NAME));
        assert!(!body.wants(NBD_INFO_DESCRIPTION));
    }

    #[test]
    fn malformed_bodies_are_invalid() {
        for bytes in [
            &b""[..],
            b"\0\0\0\x05r0\0\0",
            b"\xff\xff\xff\xffr0\0\0",
            b"\0\0\0\x02r0\0\x02\0\0",
            b"\0\0\0\x02r0\0\x01\0\0\0",
            b"\0\0\0\x02\xff\xfe\0\0",
            b"\0\0\0\x02r\0\0\0",
        ] {
            assert_eq!(
                InfoBody::parse(bytes).unwrap_err().0,
                NBD_REP_ERR_INVALID,
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn queries_match_by_name_and_namespace() {
        let body = MetaContextBody::parse(b"\0\0\0\0\0\0\0\x02\0\0\0\x05base:\0\0\0\x03x:y").unwrap();
        assert!(body.lists("base:allocation") && body.lists("x:y") && !body.lists("x:z"));
        assert!(!body.selects("base:allocation") && body.selects("x:y"));
        let none = MetaContextBody::parse(b"\0\0\0\0\0\0\0\0").unwrap();
        assert!(none.lists("base:allocation") && !none.selects("base:allocation"));
        let many = MetaContextBody::parse(b"\0\0\0\0\xff\xff\xff\xff").unwrap_err();
        assert_eq!(many.0, NBD_REP_ERR_TOO_BIG);
    }
}
