//! Disks that fail, and one on which others are at work.

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use super::super::disk::{Disk, Local, Stamp};

/// A disk that fails at one call, or at each from one on, as if its process were dead.
pub(super) struct Faulty {
    /// How many calls go well before.
    pub(super) left: AtomicI64,
    error: io::ErrorKind,
    /// Whether every later call fails too.
    is_dead: bool,
    /// How many bytes of a write are written before it fails; then only writes are counted.
    cut: Option<usize>,
    pub(super) calls: AtomicU64,
}

impl Faulty {
    pub(super) fn new(
        left: i64,
        error: io::ErrorKind,
        is_dead: bool,
        cut: Option<usize>,
    ) -> Arc<Self> {
        Arc::new(Self { left: left.into(), error, is_dead, cut, calls: 0.into() })
    }

    fn step(&self) -> io::Result<()> {
        if self.cut.is_some() && self.left.load(Ordering::Relaxed) >= 0 {
            return Ok(());
        }
        self.count()
    }

    fn count(&self) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        if left == 0 || (left < 0 && self.is_dead) {
            return Err(self.error.into());
        }
        Ok(())
    }
}

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.step()?;
        Local.create(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.count() {
            let half = bytes.len() / 2;
            Local.write(file, &bytes[..self.cut.unwrap_or(half).min(bytes.len())])?;
            return Err(error);
        }
        Local.write(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.step()?;
        Local.sync(file)
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        Local.publish(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        Local.replace(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        Local.remove(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        Local.sync_folder(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        Local.create_folder(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.step()?;
        Local.list(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.step()?;
        Local.read(path)
    }

    fn look_at(&self, path: &Path) -> io::Result<Stamp> {
        self.step()?;
        Local.look_at(path)
    }
}

/// A disk on which something happens once, between two steps of ours.
#[derive(Default)]
pub(super) struct Meddling {
    /// Between the publishing of a record and the look behind it.
    pub(super) behind_publish: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Right behind the replacing of the seed's file.
    pub(super) behind_replace: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Disk for Meddling {
    fn create(&self, path: &Path) -> io::Result<File> {
        Local.create(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        Local.write(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        Local.sync(file)
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        Local.publish(from, to)?;
        if let Some(meddle) = self.behind_publish.lock().unwrap().take() {
            meddle();
        }
        Ok(())
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        Local.replace(from, to)?;
        if let Some(meddle) = self.behind_replace.lock().unwrap().take() {
            meddle();
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Local.remove(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        Local.sync_folder(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        Local.create_folder(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        Local.list(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Local.read(path)
    }

    fn look_at(&self, path: &Path) -> io::Result<Stamp> {
        Local.look_at(path)
    }
}
