//! Reading the golden vectors.
use flate2::read::GzDecoder;
use mendblock_storage::format::layout::{DeviceSizes, MetaIndex};
use mendblock_storage::format::{META_BLOCK_BYTES, MetaBlock};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// One snapshot of one vector.
pub struct Snapshot {
    pub case: String,
    pub name: String,
    pub expect: Value,
    pub dump: String,
    /// The meta-data area; `None` when only figures are stored.
    pub area: Option<Vec<u8>>,
}

pub fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(case)
}

pub fn snapshot(case: &str, name: &str) -> Snapshot {
    let path = |ext: &str| folder(case).join(format!("{name}.{ext}"));
    let expect: Value = serde_json::from_slice(&fs::read(path("expect.json")).unwrap()).unwrap();
    let area = fs::File::open(path("bin.gz")).ok().map(|file| {
        let mut bytes = Vec::new();
        GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
        bytes.resize(expect["region_bytes"].as_u64().unwrap() as usize, 0);
        bytes
    });
    let dump = fs::read_to_string(path("dump.txt")).unwrap();
    Snapshot {
        case: case.to_owned(),
        name: name.to_owned(),
        expect,
        dump,
        area,
    }
}

/// All snapshots of all vectors, read once.
pub fn all() -> &'static [Snapshot] {
    static ALL: OnceLock<Vec<Snapshot>> = OnceLock::new();
    ALL.get_or_init(read_all)
}

fn read_all() -> Vec<Snapshot> {
    let mut found = Vec::new();
    for case in fs::read_dir(folder(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if !case.is_dir() {
            continue;
        }
        for file in fs::read_dir(&case)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        {
            if let Some(name) = file.strip_suffix(".expect.json") {
                found.push(snapshot(case.file_name().unwrap().to_str().unwrap(), name));
            }
        }
    }
    assert_eq!(found.len(), 37, "snapshots of the vectors");
    found
}

impl Snapshot {
    pub fn title(&self) -> String {
        format!("{}/{}", self.case, self.name)
    }

    pub fn number(&self, key: &str) -> u64 {
        self.expect[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{}: {key}", self.title()))
    }

    pub fn index(&self) -> MetaIndex {
        match self.expect["index"].as_str().unwrap() {
            "internal" => MetaIndex::Internal,
            "flex-external" => MetaIndex::FlexExternal,
            slot => MetaIndex::Indexed(slot.parse().unwrap()),
        }
    }

    /// External meta-data belong to a data device of 64 MiB.
    pub fn sizes(&self) -> DeviceSizes {
        let meta_bytes = self.number("device_bytes");
        let data_bytes = if self.index() == MetaIndex::Internal {
            meta_bytes
        } else {
            64 << 20
        };
        DeviceSizes {
            data_bytes,
            meta_bytes,
        }
    }

    /// Bytes of the area at an offset of the device.
    pub fn bytes(&self, byte: u64, length: usize) -> &[u8] {
        let from = (byte - self.number("region_start_byte")) as usize;
        &self.area.as_ref().unwrap()[from..from + length]
    }

    pub fn superblock(&self) -> &[u8] {
        self.bytes(self.number("super_block_byte"), META_BLOCK_BYTES)
    }

    pub fn ring(&self, blocks: u32) -> Vec<Option<MetaBlock>> {
        let bytes = self.bytes(self.number("al_byte"), blocks as usize * META_BLOCK_BYTES);
        bytes
            .chunks(META_BLOCK_BYTES)
            .map(|block| Some(block.try_into().unwrap()))
            .collect()
    }

    /// The ring as `ring.json` describes it.
    pub fn ring_description(&self) -> Value {
        serde_json::from_slice(&fs::read(folder(&self.case).join("ring.json")).unwrap()).unwrap()
    }

    /// A sparse file like the device that the snapshot was taken from.
    #[cfg(feature = "devices")]
    pub fn write_device(&self, path: &Path) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(path).unwrap();
        file.set_len(self.number("device_bytes")).unwrap();
        file.write_all_at(self.area.as_ref().unwrap(), self.number("region_start_byte"))
            .unwrap();
    }

    /// The meta-data area of a device as it is now.
    #[cfg(feature = "devices")]
    pub fn read_area(&self, path: &Path) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut area = vec![0; self.number("region_bytes") as usize];
        fs::File::open(path)
            .unwrap()
            .read_exact_at(&mut area, self.number("region_start_byte"))
            .unwrap();
        area
    }

    /// The stored text with the flags that are on disk.
    pub fn true_dump(&self) -> String {
        let flags = self.expect["superblock"]["flags"].as_str().unwrap();
        self.dump.replace("flags 0x00000000;", &format!("flags {flags};"))
    }
}
