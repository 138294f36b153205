//! A bundle that is a directory: walked without leaving it, bounded while it is read.
//!
//! In: a path and bounds. Out: files with relative names. What must stay true: a link is followed only to a file inside the
//! same directory (Kubernetes mounts ConfigMaps as such links), and names that start with a dot are not part of the bundle,
//! the manifest and signatures apart.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Bounds, File};
use crate::policy::Finding;

/// Reads every file below a directory.
pub(super) fn read(root: &Path, bounds: &Bounds) -> Result<Vec<File>, Vec<Finding>> {
    let mut names = BTreeSet::new();
    let listed = each_entry(root, bounds, &mut |name, metadata| {
        if metadata.is_file() {
            names.insert(name.to_owned());
        }
    });
    let refuse = |path: &Path, error: &io::Error| {
        vec![Finding::whole(&path.display().to_string(), error.to_string(), "a bundle holds plain files of bounded size")]
    };
    listed.map_err(|error| refuse(root, &error))?;
    let mut left = bounds.bytes.0;
    let mut files = Vec::new();
    for name in names {
        let path = root.join(&name);
        let content = read_bounded(&path, left).map_err(|error| refuse(&path, &error))?;
        left = left.saturating_sub(content.len() as u64);
        files.push(File { path: name, content });
    }
    Ok(files)
}

fn read_bounded(path: &Path, left: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(left.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > left {
        return Err(io::Error::other("the bundle holds more bytes than a bundle may"));
    }
    Ok(content)
}

/// Shows every entry of a bundle (or the one file it is), with links resolved.
pub(super) fn each_entry(root: &Path, bounds: &Bounds, visit: &mut dyn FnMut(&str, &Metadata)) -> io::Result<()> {
    let metadata = fs::metadata(root)?;
    visit("", &metadata);
    if !metadata.is_dir() {
        return Ok(());
    }
    let home = fs::canonicalize(root)?;
    let mut left = bounds.files;
    let mut waiting: Vec<(PathBuf, String, usize)> = vec![(root.to_owned(), String::new(), 0)];
    while let Some((directory, prefix, depth)) = waiting.pop() {
        if depth > bounds.depth {
            return Err(io::Error::other(format!("`{prefix}` lies deeper than {} directories", bounds.depth)));
        }
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                return Err(io::Error::other(format!("a name below `{prefix}` is not UTF-8")));
            };
            if hidden(&name) {
                continue;
            }
            left = left.checked_sub(1).ok_or_else(|| io::Error::other(format!("more than {} files", bounds.files)))?;
            let path = format!("{prefix}{name}");
            let metadata = resolved(&entry.path(), &home, &path)?;
            visit(&path, &metadata);
            if metadata.is_dir() {
                waiting.push((entry.path(), format!("{path}/"), depth.saturating_add(1)));
            }
        }
    }
    Ok(())
}

fn hidden(name: &str) -> bool {
    name.starts_with('.') && name != ".manifest" && name != ".signatures.json"
}

fn resolved(path: &Path, home: &Path, shown: &str) -> io::Result<Metadata> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_file() || metadata.is_dir() {
        return Ok(metadata);
    }
    if !metadata.is_symlink() {
        return Err(io::Error::other(format!("`{shown}` is neither a file nor a directory")));
    }
    let target = fs::canonicalize(path)?;
    let metadata = fs::metadata(&target)?;
    if metadata.is_file() && target.starts_with(home) {
        return Ok(metadata);
    }
    Err(io::Error::other(format!("`{shown}` is a link that leaves the bundle, or to a directory")))
}
