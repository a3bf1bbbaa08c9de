//! The committed inputs: one folder for each target, one file for each input, named after its content.

use crate::execute::execute;
use crate::target::Target;
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// Where the corpus is committed.
pub fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// All inputs of a folder in the order of their names; none if there is no folder.
pub fn load(folder: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.is_file());
    paths.sort();
    paths
        .into_iter()
        .map(|path| fs::read(&path).map(|bytes| (path, bytes)))
        .collect()
}

/// Writes an input; its name says its content, so the same input is the same file.
pub fn save(folder: &Path, prefix: &str, input: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = folder.join(format!("{prefix}{:016x}", hasher.finish()));
    fs::write(&path, input)?;
    Ok(path)
}

/// The few of the inputs that show the most: at each step the one that adds most features for its length.
pub fn best(target: &dyn Target, inputs: Vec<Vec<u8>>, most: usize) -> Vec<Vec<u8>> {
    let mut left: Vec<(Vec<u8>, BTreeSet<u64>)> = inputs
        .into_iter()
        .map(|input| {
            let features = execute(target, &input).features.into_iter().collect();
            (input, features)
        })
        .collect();
    let mut chosen = Vec::new();
    while chosen.len() < most {
        // More for the same length is better; a byte is worth little beside a feature.
        let worth = |(input, new): &(Vec<u8>, BTreeSet<u64>)| new.len() * 4096 / (256 + input.len());
        left.retain(|(_, new)| !new.is_empty());
        let Some(place) = (0..left.len()).max_by_key(|&place| worth(&left[place])) else {
            break;
        };
        let (input, shown) = left.swap_remove(place);
        for (_, new) in &mut left {
            new.retain(|feature| !shown.contains(feature));
        }
        chosen.push(input);
    }
    chosen
}
