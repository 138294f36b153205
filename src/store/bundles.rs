//! Bundles that were fetched and activated, kept for a start while their service is away.
//!
//! In: a bundle's name, its archive and the ETag it came with. Out: the same after a restart. Plain files, `bundles/NAME/bundle.tar.gz`
//! as OPA keeps them, and not rows of the database: operators look into them with `tar`, and 64 MiB would be copied at each write.
//! What must stay true: a file is whole or it is the one before; and an ETag is given only together with the very bytes it stands
//! for, or a service that says "unchanged" would vouch for others. After a crash between the two files there is no ETag, and the
//! bundle is fetched anew.

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub archive: Vec<u8>,
    pub etag: Option<String>,
}

/// What stands beside an archive.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    sha256: String,
    etag: Option<String>,
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
    let note = load(&folder.join(NOTE), Size::kib(64)).ok().flatten();
    let note: Option<Note> = note.and_then(|text| serde_json::from_slice(&text).ok());
    let etag = note.filter(|note| note.sha256 == digest(&archive)).and_then(|note| note.etag);
    Ok(Some(Kept { archive, etag }))
}

/// Keeps a bundle in place of what was kept of it.
///
/// # Errors
/// The disk does not take it; what was kept before is whole, but may have lost its ETag.
pub fn write(state: &Path, bundle: &str, archive: &[u8], etag: Option<&str>) -> io::Result<()> {
    let folder = folder(state, bundle);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    replace(&folder, ARCHIVE, archive)?;
    let note = Note { sha256: digest(archive), etag: etag.map(str::to_owned) };
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

fn digest(bytes: &[u8]) -> String {
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
        write(state.path(), "authz", b"one", Some("\"1\"")).unwrap();
        write(state.path(), "authz", b"two", Some("\"2\"")).unwrap();
        let kept = |archive: &[u8], etag: Option<&str>| Kept { archive: archive.to_vec(), etag: etag.map(str::to_owned) };
        assert_eq!(read(state.path(), "authz", most).unwrap(), Some(kept(b"two", Some("\"2\""))));
        let file = folder(state.path(), "authz").join(ARCHIVE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // As after a crash between the archive and its note.
        std::fs::write(&file, b"three").unwrap();
        assert_eq!(read(state.path(), "authz", most).unwrap(), Some(kept(b"three", None)));
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
