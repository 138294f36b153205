//! A bundle that is a `.tar.gz`: inflated into bounded memory and read there.
//!
//! In: bytes, from a file or a service, and bounds. Out: files with relative names. What must stay true: whatever could make two readers see two
//! bundles (links, PAX sizes, a name twice, bytes after the end) is refused, so that what a signature will cover is what is
//! loaded. A single leading `/` or `./` is stripped, because `opa build` writes such names and nothing is ever unpacked.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use flate2::bufread::GzDecoder;
use tar::EntryType;

use super::{Bounds, File};
use crate::policy::Finding;

/// Reads every file of an archive.
pub(super) fn read(shown: &str, compressed: &[u8], bounds: &Bounds) -> Result<Vec<File>, Vec<Finding>> {
    inflate(compressed, bounds).and_then(|tar| unpack(&tar, bounds)).map_err(|message| wrong(shown, message))
}

fn wrong(shown: &str, message: String) -> Vec<Finding> {
    vec![Finding::whole(shown, message, "build the bundle anew with `opa build -b`")]
}

/// The bytes of an archive that is a file.
pub(super) fn load(path: &Path, bounds: &Bounds) -> Result<Vec<u8>, Vec<Finding>> {
    bytes(path, bounds).map_err(|message| wrong(&path.display().to_string(), message))
}

fn bytes(path: &Path, bounds: &Bounds) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("the archive cannot be read: {error}");
    let limit = bounds.bytes.0;
    let mut compressed = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err("neither a directory nor a plain file".to_owned());
    }
    file.take(limit.saturating_add(1)).read_to_end(&mut compressed).map_err(unreadable)?;
    Ok(compressed)
}

fn inflate(compressed: &[u8], bounds: &Bounds) -> Result<Vec<u8>, String> {
    let limit = bounds.bytes.0;
    if compressed.len() as u64 > limit {
        return Err(format!("the archive is larger than {}", bounds.bytes));
    }
    // Headers and padding come on top of the files themselves.
    let headers = 2048u64.saturating_mul(bounds.files as u64);
    let fair = (compressed.len() as u64).saturating_mul(bounds.ratio).max(1 << 20);
    let most = limit.saturating_add(headers).min(fair);
    let mut rest = compressed;
    let mut tar = Vec::new();
    GzDecoder::new(&mut rest)
        .take(most.saturating_add(1))
        .read_to_end(&mut tar)
        .map_err(|error| format!("not a gzip archive: {error}"))?;
    if tar.len() as u64 > most {
        return Err(format!("the archive inflates to more than {most} bytes, the most its size allows"));
    }
    if !rest.is_empty() {
        return Err("bytes follow the end of the gzip stream".to_owned());
    }
    Ok(tar)
}

fn unpack(tar: &[u8], bounds: &Bounds) -> Result<Vec<File>, String> {
    let broken = |error: std::io::Error| format!("not a tar archive: {error}");
    let mut archive = tar::Archive::new(tar);
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    let mut left = bounds.bytes.0;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let raw = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        if let Some(extensions) = entry.pax_extensions().map_err(broken)? {
            for extension in extensions {
                if extension.map_err(broken)?.key_bytes() == b"size" {
                    return Err("a PAX header gives a file a second size".to_owned());
                }
            }
        }
        let name = clean(&raw)?;
        match kind {
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            EntryType::Regular | EntryType::Continuous => {}
            other => return Err(format!("`{name}` is a {other:?}, and a bundle holds plain files only")),
        }
        if !seen.insert(name.clone()) {
            return Err(format!("`{name}` is there twice"));
        }
        if seen.len() > bounds.files {
            return Err(format!("more than {} files", bounds.files));
        }
        let mut content = Vec::new();
        entry.by_ref().take(left.saturating_add(1)).read_to_end(&mut content).map_err(broken)?;
        left =
            left.checked_sub(content.len() as u64).ok_or_else(|| format!("the files hold more than {} together", bounds.bytes))?;
        if content.len() as u64 != entry.size() {
            return Err(format!("`{name}` is cut short"));
        }
        files.push(File { path: name, content });
    }
    // Some readers go on after the end; what they would find there was not looked at here.
    if archive.into_inner().iter().any(|byte| *byte != 0) {
        return Err("bytes follow the end of the tar archive".to_owned());
    }
    Ok(files)
}

fn clean(raw: &[u8]) -> Result<String, String> {
    let name = std::str::from_utf8(raw).map_err(|_| "a file name is not UTF-8".to_owned())?;
    let relative = name.strip_prefix("./").or_else(|| name.strip_prefix('/')).unwrap_or(name);
    let relative = relative.strip_suffix('/').unwrap_or(relative);
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']);
    if relative.is_empty() || relative == "." || relative.split('/').all(plain) {
        Ok(relative.to_owned())
    } else {
        Err(format!("`{}` is not a plain relative name", name.escape_debug()))
    }
}
