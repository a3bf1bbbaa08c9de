//! Checks across tables: names, numbers, paths and addresses that stand there twice or do not fit together.

use super::keys::Section;
use super::mistake::{Located, Place};
use super::node::NodeConfiguration;
use super::reader::{Reader, Source};
use super::volume::{MetaDisk, VolumeConfiguration};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

/// What the tables claim, each with its place. Refused values claim nothing.
#[derive(Default)]
pub(super) struct Claims {
    own_id: Option<Located<u8>>,
    own_name: Option<Located<String>>,
    listen: Option<SocketAddr>,
    state_dir: Option<Located<PathBuf>>,
    /// Addresses on which this node listens.
    addresses: Vec<Located<SocketAddr>>,
    /// Lower disks, meta-data disks, sockets.
    paths: Vec<Located<PathBuf>>,
    names: Vec<Located<String>>,
    minors: Vec<Located<u32>>,
    peers: Vec<PeerClaim>,
}

struct PeerClaim {
    id: Located<u8>,
    name: Located<String>,
    address: Located<SocketAddr>,
}

impl Claims {
    /// Takes what `[node]` claims.
    pub fn node(&mut self, node: &NodeConfiguration, reader: &Reader<'_, '_>) {
        self.own_id = located(reader, "id", node.id);
        self.own_name = located(reader, "name", node.name.clone());
        self.state_dir = located(reader, "state-dir", node.state_dir.clone());
        for (key, address) in [
            ("listen", node.listen),
            ("metrics-listen", node.metrics_listen),
            ("nbd-tcp", node.nbd_tcp),
        ] {
            self.addresses
                .extend(address.and_then(|address| located(reader, key, address)));
        }
        self.listen = node.listen;
        for (key, path) in [
            ("admin-socket", Some(&node.admin_socket)),
            ("nbd-unix", node.nbd_unix.as_ref()),
        ] {
            self.paths
                .extend(path.and_then(|path| located(reader, key, path.clone())));
        }
    }

    /// Takes what a `[[volume]]` claims.
    pub fn volume(&mut self, volume: &VolumeConfiguration, reader: &mut Reader<'_, '_>) {
        self.names.extend(located(reader, "name", volume.name.clone()));
        self.minors.extend(located(reader, "minor", volume.minor));
        self.paths.extend(located(reader, "disk", volume.disk.clone()));
        if let MetaDisk::External(path) = &volume.meta_disk {
            self.paths.extend(located(reader, "meta-disk", path.clone()));
        }
        let (Some(peer), Some(table)) = (&volume.peer, reader.subtable("peer")) else {
            return;
        };
        let inner = reader.inner(Section::Peer, table, "peer");
        let id = located(&inner, "node-id", peer.node_id);
        let name = located(&inner, "name", peer.name.clone());
        let address = located(&inner, "address", peer.address);
        if let (Some(id), Some(name), Some(address)) = (id, name, address) {
            self.peers.push(PeerClaim { id, name, address });
        }
    }

    /// Notes every conflict.
    pub fn check(&self, source: &mut Source<'_>) {
        self.check_twice(source);
        self.check_state_dir(source);
        self.check_peers(source);
        self.check_files(source);
    }

    fn check_twice(&self, source: &mut Source<'_>) {
        twice(source, &self.names, "name");
        twice(source, &self.minors, "minor number");
        twice(source, &self.paths, "path");
        twice(source, &self.addresses, "address");
    }

    fn check_state_dir(&self, source: &mut Source<'_>) {
        let Some(state_dir) = &self.state_dir else { return };
        for path in &self.paths {
            if state_dir.value.starts_with(&path.value) {
                let reason = format!(
                    "lies on the path of {}; health files need a directory that is on none of the lower disks",
                    at(&path.place)
                );
                source.refuse(state_dir.place.clone(), reason, "");
            }
        }
    }

    fn check_peers(&self, source: &mut Source<'_>) {
        let mut by_id: BTreeMap<u8, &PeerClaim> = BTreeMap::new();
        for peer in &self.peers {
            if self.own_id.as_ref().is_some_and(|own| own.value == peer.id.value) {
                source.refuse(
                    peer.id.place.clone(),
                    "is this node's own id: write the peer's [node] id",
                    "0..31",
                );
            }
            if self
                .own_name
                .as_ref()
                .is_some_and(|own| own.value == peer.name.value)
            {
                source.refuse(
                    peer.name.place.clone(),
                    "is this node's own name: write the peer's [node] name",
                    "",
                );
            }
            if self.listen == Some(peer.address.value) {
                source.refuse(
                    peer.address.place.clone(),
                    "is where this node itself listens: write the peer's [node] listen",
                    "",
                );
            }
            let first = *by_id.entry(peer.id.value).or_insert(peer);
            same_peer(source, &peer.name, &first.name, peer.id.value);
            same_peer(source, &peer.address, &first.address, peer.id.value);
        }
        for (id, peer) in &by_id {
            for (other_id, other) in by_id.range(..id) {
                if other.name.value == peer.name.value || other.address.value == peer.address.value {
                    let reason = format!(
                        "has the name or the address of node {other_id} in {}",
                        at(&other.id.place)
                    );
                    source.refuse(peer.id.place.clone(), reason, "");
                }
            }
        }
    }

    /// What only the file system knows: two paths to one file or device, a state-dir on a file system of a lower disk.
    /// Paths that do not exist (yet) are left to the attach.
    fn check_files(&self, source: &mut Source<'_>) {
        let mut first: BTreeMap<(bool, u64, u64), &Located<PathBuf>> = BTreeMap::new();
        for path in &self.paths {
            let Ok(metadata) = std::fs::metadata(&path.value) else {
                continue;
            };
            let device = metadata.file_type().is_block_device();
            let identity = if device {
                (true, metadata.rdev(), 0)
            } else {
                (false, metadata.dev(), metadata.ino())
            };
            let before = *first.entry(identity).or_insert(path);
            if before.value != path.value {
                source.refuse(
                    path.place.clone(),
                    format!("is the same file or device as {}", at(&before.place)),
                    "",
                );
            }
            self.check_state_dir_device(source, device.then_some(metadata.rdev()), path);
        }
    }

    fn check_state_dir_device(&self, source: &mut Source<'_>, device: Option<u64>, path: &Located<PathBuf>) {
        let Some(state_dir) = &self.state_dir else { return };
        let holds = std::fs::metadata(&state_dir.value)
            .map(|metadata| metadata.dev())
            .ok();
        if device.is_some() && device == holds {
            let reason = format!(
                "is in the file system on {}; health files must not lie on a lower disk",
                at(&path.place)
            );
            source.refuse(state_dir.place.clone(), reason, "");
        }
    }
}

/// The value with its place; `None` where the key was refused (or is required and missing).
fn located<T>(reader: &Reader<'_, '_>, name: &str, value: T) -> Option<Located<T>> {
    let place = reader.place(name);
    let refused = reader
        .source
        .mistakes
        .iter()
        .any(|mistake| mistake.place == place);
    (!refused).then_some(Located { value, place })
}

fn at(place: &Place) -> String {
    format!("{} in line {}", place.key, place.line)
}

fn twice<T: Ord>(source: &mut Source<'_>, claims: &[Located<T>], what: &str) {
    let mut first: BTreeMap<&T, &Place> = BTreeMap::new();
    for claim in claims {
        if let Some(before) = first.get(&claim.value) {
            source.refuse(
                claim.place.clone(),
                format!("is the same {what} as {}", at(before)),
                "",
            );
        } else {
            first.insert(&claim.value, &claim.place);
        }
    }
}

fn same_peer<T: PartialEq>(source: &mut Source<'_>, claim: &Located<T>, first: &Located<T>, id: u8) {
    if claim.value != first.value {
        let reason = format!("differs from {}, and both speak of node {id}", at(&first.place));
        source.refuse(claim.place.clone(), reason, "");
    }
}
