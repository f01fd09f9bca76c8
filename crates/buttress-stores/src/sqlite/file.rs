//! The file itself: made with the right rights, looked at before SQLite does, and still there.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{error::Problem, schema};

/// A SQLite file that has been there when it was opened.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    log: PathBuf,
    identity: Option<Identity>,
}

/// What a file stays the same by when others take its name.
type Identity = (u64, u64);

/// What is said when the file is not the one that was opened.
pub(super) const MOVED: &str = "the file has been removed or replaced while it was open";

// ===== impl DatabaseFile =====

impl DatabaseFile {
    /// Makes the file where there is none, and says whether SQLite may open it.
    ///
    /// A file that is not ours is not even opened by SQLite, which would make files beside it.
    pub(super) fn prepare(path: &Path) -> Result<Self, Problem> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            make_folder(folder).map_err(|e| Problem::io("the folder cannot be made", e))?;
        }
        // Absolute, so that it means the same when the process changes its folder.
        let path = std::path::absolute(path)
            .map_err(|error| Problem::io("the path means nothing", error))?;
        match private(OpenOptions::new().write(true).create_new(true)).open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => look(&path)?,
            Err(error) => return Err(Problem::io("the file cannot be made", error)),
        }
        let identity = identity(&path).map_err(|e| Problem::io("the file cannot be seen", e))?;
        let mut log = path.clone().into_os_string();
        log.push("-wal");
        Ok(Self { path, log: log.into(), identity })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Says whether what SQLite has open still has the file's name.
    ///
    /// SQLite goes on with a file that has no name any more, and what it writes there is lost.
    pub(super) fn ensure_there(&self) -> Result<(), Problem> {
        match identity(&self.path) {
            Ok(found) if found == self.identity => Ok(()),
            Ok(_) => Err(Problem::setup(MOVED)),
            Err(error) => Err(Problem::io(MOVED, error)),
        }
    }

    /// Says whether what was just written to the log can be found again.
    pub(super) fn ensure_written(&self) -> Result<(), Problem> {
        self.ensure_there()?;
        match fs::metadata(&self.log) {
            Ok(_) => Ok(()),
            Err(error) => Err(Problem::io("the file's log has been removed", error)),
        }
    }
}

/// Looks at a file's header without changing anything.
fn look(path: &Path) -> Result<(), Problem> {
    let cannot = |error| Problem::io("the file cannot be read", error);
    let mut file = File::open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err(Problem::setup("it is a folder, or something else that is no file"));
    }
    let mut header = Vec::new();
    file.by_ref().take(100).read_to_end(&mut header).map_err(cannot)?;
    schema::check_header(&header)
}

/// Makes a folder for nobody else.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    // A folder is there after a loss of power only when the one around it is synced.
    match folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if cfg!(unix) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Makes a file for nobody else; SQLite gives its log the same rights.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Option<Identity>> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).map(|found| Some((found.dev(), found.ino())))
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn identity(path: &Path) -> io::Result<Option<Identity>> {
    fs::metadata(path).map(|_| None)
}
