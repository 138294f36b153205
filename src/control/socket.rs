//! The control socket: one file, mode 0600, of one living gate.
//!
//! In: its path. Out: a listener. What must stay true: nobody but the owner and root can connect at any moment, and a gate that runs
//! keeps its socket. Bound, restricted, then made to listen: until it listens every connection is refused, so the wider mode that the
//! umask may leave for an instant opens nothing. Changing the umask instead would change it for every thread.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::Config;

/// Callers that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("control.socket: another gate is listening on {}; stop it, or give this one another path", .0.display())]
    Live(PathBuf),
    #[error("control.socket: {} is there and is not a socket; move it away, or choose another path", .0.display())]
    Occupied(PathBuf),
    #[error("control.socket: {} cannot be used: {source}; its directory must exist and be writable to the gate", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Makes the control socket, in the place of one that a dead gate left behind.
///
/// # Errors
/// When another gate listens there, when something else is in its place, or when it cannot be made.
pub fn bind(config: &Config) -> Result<UnixListener, ControlError> {
    let path = config.socket.as_path();
    let failed = |source| ControlError::Io { path: path.to_owned(), source };
    make_room(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Takes away what a dead gate left; whatever else is there stays.
fn make_room(path: &Path) -> Result<(), ControlError> {
    let failed = |source| ControlError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ControlError::Occupied(path.to_owned())),
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    // A gate that hangs does not accept; without this the question whether it lives would hang too.
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
        Ok(()) | Err(_) => Err(ControlError::Live(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &tempfile::TempDir) -> Config {
        Config { socket: folder.path().join("control.sock"), ..Config::default() }
    }

    #[test]
    fn the_socket_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let _listener = bind(&config(&folder)).unwrap();
        let mode = fs::metadata(folder.path().join("control.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_living_gate_keeps_its_socket_and_a_dead_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let living = bind(&config(&folder)).unwrap();
        assert!(matches!(bind(&config(&folder)), Err(ControlError::Live(_))));
        drop(living);
        assert!(bind(&config(&folder)).is_ok());
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("control.sock"), "precious").unwrap();
        assert!(matches!(bind(&config(&folder)), Err(ControlError::Occupied(_))));
        assert_eq!(fs::read_to_string(folder.path().join("control.sock")).unwrap(), "precious");
        let nowhere = Config { socket: folder.path().join("none/control.sock"), ..Config::default() };
        assert!(matches!(bind(&nowhere), Err(ControlError::Io { .. })));
    }
}
