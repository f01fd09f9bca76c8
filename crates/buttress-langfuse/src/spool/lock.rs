//! Whose a process's folder is: the file `lock` in it is locked by who has it.

use std::{
    fs::{File, TryLockError},
    io, thread,
};

/// The file that is locked.
pub(super) const LOCK: &str = "lock";
/// How often a folder is tried that somebody looks at: a look takes less than one of these.
const TRIES: usize = 10_000;

/// Locks a folder for good; false where a living process has it.
pub(super) fn take(lock: &File) -> io::Result<bool> {
    for _ in 0..TRIES {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // What can be shared is held by somebody who only looks.
        match lock.try_lock_shared() {
            Ok(()) => lock.unlock()?,
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        thread::yield_now();
    }
    Ok(false)
}

/// Returns whether a living process has a folder: the one that writes, or one that took it over.
///
/// The folder is held for a moment, which whoever takes over waits for.
#[cfg(feature = "client")]
pub(super) fn is_taken(folder: &std::path::Path) -> io::Result<bool> {
    let lock = match File::open(folder.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match lock.try_lock_shared() {
        Ok(()) => lock.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(all(test, feature = "client"))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn who_looks_keeps_nobody_from_taking_over() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(LOCK);
        File::create(&path).unwrap();
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_done.load(Ordering::Relaxed) {
                        is_taken(folder.path()).unwrap();
                    }
                });
            }
            for _ in 0..300 {
                let lock = File::options().write(true).open(&path).unwrap();
                assert!(take(&lock).unwrap());
                assert!(is_taken(folder.path()).unwrap());
                let other = File::options().write(true).open(&path).unwrap();
                assert!(!take(&other).unwrap());
            }
            is_done.store(true, Ordering::Relaxed);
        });
        assert!(!is_taken(folder.path()).unwrap());
        assert!(!is_taken(&folder.path().join("gone")).unwrap());
    }
}
