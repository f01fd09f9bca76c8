//! Whose spool it is, and where spools are.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::folder;

/// The file that says whose spool it is.
pub(super) const PEER: &str = "peer.json";

/// Where spans go: a spool for one is none for another.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) base_url: String,
    pub(crate) public_key: Option<String>,
}

// ===== impl Peer =====

impl Peer {
    /// Returns a name for the folder: the host for people, and a hash of all that counts.
    pub(crate) fn name(&self) -> String {
        let host = self.base_url.split_once("://").map_or(&*self.base_url, |(_, rest)| rest);
        let host = host.split(['/', '?', '#']).next().unwrap_or_default();
        let is_plain = |char: &char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.');
        let host: String =
            host.chars().take(64).map(|char| if is_plain(&char) { char } else { '_' }).collect();
        let whole =
            format!("{}\n{}", self.base_url, self.public_key.as_deref().unwrap_or_default());
        let hash = Sha256::digest(whole.as_bytes());
        let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{hash}", host.trim_start_matches('.'))
    }

    /// Says in the folder whose it is.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let path = folder.join(PEER);
        if path.exists() {
            return Ok(());
        }
        let text = json!({ "base_url": self.base_url, "public_key": self.public_key });
        let temporary = folder.join(format!(".{PEER}-{:016x}", fastrand::u64(..)));
        folder::append_to(&temporary)?.write_all(text.to_string().as_bytes())?;
        fs::rename(temporary, path)
    }
}

/// Returns where programs keep what is the user's own and not worth a backup.
pub(crate) fn default_folder() -> Option<PathBuf> {
    folder_on(std::env::consts::OS, |name| std::env::var_os(name))
}

pub(super) fn folder_on(os: &str, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // As the XDG specification has it: relative ones are ignored.
    let folder = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let state = match os {
        "windows" => folder("LOCALAPPDATA"),
        "macos" => folder("HOME").map(|home| home.join("Library/Application Support")),
        _ => folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state"))),
    };
    state.map(|state| state.join("buttress").join("langfuse"))
}
