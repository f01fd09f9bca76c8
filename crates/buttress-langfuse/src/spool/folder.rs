//! Folders and files of the spool, as only their owner may read them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    path::Path,
};

/// Creates a folder that only its owner may enter, and those above it; one that is there stays.
pub(super) fn create(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Opens a file to write at its end that only its owner may read; creates it where it is not.
pub(super) fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes what was written to a file outlive a loss of power; takes as long as the disk likes.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    #[cfg(test)]
    tests::note_sync();
    file.sync_data()
}

/// Makes the names in a folder outlive a loss of power, where the system can.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Returns the names in a folder that are text; none where there is no such folder.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::{Cell, RefCell};

    thread_local! {
        static SYNCS: Cell<usize> = const { Cell::new(0) };
        static ON_SYNC: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
    }

    pub(super) fn note_sync() {
        SYNCS.set(SYNCS.get() + 1);
        ON_SYNC.with_borrow(|on_sync| on_sync.iter().for_each(|run| run()));
    }

    /// Runs something while this thread waits for the disk.
    pub(in super::super) fn on_sync(run: impl Fn() + 'static) {
        ON_SYNC.set(Some(Box::new(run)));
    }

    /// Returns how often this thread has waited for the disk.
    pub(in super::super) fn syncs() -> usize {
        SYNCS.get()
    }
}
