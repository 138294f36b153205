//! Bundles that were fetched and activated, kept for a start while their service is away.
//!
//! In: a bundle's name, its archive and the ETag it came with. Out: the same after a restart. Plain files, `bundles/NAME/bundle.tar.gz`
//! as OPA keeps them, and not rows of the database: operators look into them with `tar`, and 64 MiB would be copied at each write.
//! What must stay true: a file is whole or it is the one before; and an ETag is given only together with the very bytes it stands
//! for, or a service that says "unchanged" would vouch for others. After a crash between the two files there is no ETag, and the
//! bundle is fetched anew; and nobody says when it was confirmed last. What an operator went back from is not forgotten for that.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::units::Size;

const ARCHIVE: &str = "bundle.tar.gz";
const NOTE: &str = "bundle.json";

/// A bundle as it was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub archive: Vec<u8>,
    pub etag: Option<String>,
    /// What stays out of force although its service gives it.
    pub held: Option<Held>,
    /// When its service last said that it is the newest, in seconds since 1970.
    pub confirmed: Option<u64>,
}

/// A version an operator went back from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Of its archive.
    pub sha256: String,
    /// Seconds since 1970.
    pub since: u64,
}

/// What stands beside an archive.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    sha256: String,
    etag: Option<String>,
    #[serde(default)]
    held: Option<Held>,
    #[serde(default)]
    confirmed: Option<u64>,
}

/// Where a bundle is kept below the state's directory. What cannot be in a file name, or means a directory, is written as `%2F`.
pub fn folder(state: &Path, bundle: &str) -> PathBuf {
    let mut name = String::new();
    for byte in bundle.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if name.starts_with(|first: char| first != '%') => name.push('.'),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
    }
    state.join("bundles").join(name)
}

/// What is kept of a bundle, if anything is.
///
/// # Errors
/// There is something, and it cannot be read.
pub fn read(state: &Path, bundle: &str, most: Size) -> io::Result<Option<Kept>> {
    let folder = folder(state, bundle);
    let Some(archive) = load(&folder.join(ARCHIVE), most)? else { return Ok(None) };
    let note = noted(&folder);
    let held = note.as_ref().and_then(|note| note.held.clone());
    let note = note.filter(|note| note.sha256 == digest(&archive));
    let (etag, confirmed) = note.map_or((None, None), |note| (note.etag, note.confirmed));
    Ok(Some(Kept { archive, etag, held, confirmed }))
}

fn noted(folder: &Path) -> Option<Note> {
    let text = load(&folder.join(NOTE), Size::kib(64)).ok().flatten()?;
    serde_json::from_slice(&text).ok()
}

/// Keeps a bundle in place of what was kept of it.
///
/// # Errors
/// The disk does not take it; what was kept before is whole, but may have lost its ETag.
pub fn write(state: &Path, bundle: &str, kept: &Kept) -> io::Result<()> {
    let folder = folder(state, bundle);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    replace(&folder, ARCHIVE, &kept.archive)?;
    let note = Note { sha256: digest(&kept.archive), etag: kept.etag.clone(), held: kept.held.clone(), confirmed: kept.confirmed };
    replace(&folder, NOTE, &serde_json::to_vec(&note).map_err(io::Error::other)?)
}

/// Notes that the service has confirmed what is kept.
///
/// # Errors
/// Nothing is kept, or the disk does not take it.
pub fn confirm(state: &Path, bundle: &str, at: u64) -> io::Result<()> {
    let folder = folder(state, bundle);
    let note = noted(&folder).ok_or_else(|| io::Error::other("nothing is kept of it"))?;
    let note = Note { confirmed: Some(at), ..note };
    replace(&folder, NOTE, &serde_json::to_vec(&note).map_err(io::Error::other)?)
}

fn load(file: &Path, most: Size) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(most.0.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most.0 {
        return Err(io::Error::other(format!("it is larger than {most}")));
    }
    Ok(Some(bytes))
}

/// Writes a file beside the one it replaces, and takes its place once it is on the disk.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = folder.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// The SHA-256 of an archive, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_an_etag_only_with_its_own_bytes() {
        let state = tempfile::tempdir().unwrap();
        let most = Size::kib(1);
        assert_eq!(read(state.path(), "authz", most).unwrap(), None);
        let held = Some(Held { sha256: digest(b"three"), since: 7 });
        let of = |archive: &[u8], etag: Option<&str>, confirmed| Kept {
            archive: archive.to_vec(),
            etag: etag.map(str::to_owned),
            held: held.clone(),
            confirmed,
        };
        assert!(confirm(state.path(), "authz", 1).is_err());
        write(state.path(), "authz", &of(b"one", Some("\"1\""), Some(1))).unwrap();
        write(state.path(), "authz", &of(b"two", Some("\"2\""), Some(2))).unwrap();
        confirm(state.path(), "authz", 3).unwrap();
        assert_eq!(read(state.path(), "authz", most).unwrap(), Some(of(b"two", Some("\"2\""), Some(3))));
        let file = folder(state.path(), "authz").join(ARCHIVE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // As after a crash between the archive and its note.
        std::fs::write(&file, b"three").unwrap();
        assert_eq!(read(state.path(), "authz", most).unwrap(), Some(of(b"three", None, None)));
        assert!(read(state.path(), "authz", Size(4)).is_err());
    }

    #[test]
    fn no_name_leaves_the_folder() {
        let state = Path::new("/state");
        for (bundle, name) in
            [("authz", "authz"), ("a/../../b", "a%2F..%2F..%2Fb"), ("..", "%2E%2E"), ("v1.2", "v1.2"), ("é", "%C3%A9")]
        {
            assert_eq!(folder(state, bundle), Path::new("/state/bundles").join(name));
        }
    }
}
