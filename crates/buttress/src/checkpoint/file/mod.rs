//! Checkpoints in files: a folder for each chain, a JSON file for each record.

mod append;
mod disk;
mod folder;
mod format;
mod list;
mod names;
mod seed;
#[cfg(test)]
mod tests;
mod writers;

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, oneshot},
};

use self::{
    append::{Appended, Known, Read},
    disk::{Disk, Local},
    folder::{Folder, lost, warn},
    format::Entry,
    seed::SeenFiles,
};
use super::{
    Capabilities, ChainState, Checkpoint, CheckpointKey, CheckpointStore, Clock, Durable, Lease,
    Page, Place, Put, PutWrites, Query, StoreError, WorkflowId,
};

/// How many locks of chains are held before those that nobody uses are let go.
const LOCKS: usize = 1024;

/// Keeps checkpoints in files, where no crash, full disk or second process loses one.
///
/// Each checkpoint is a JSON file of its own. It is written under a temporary name, synced,
/// published under a name that must be free, and the folder is synced; then the put is answered.
/// So of two writers, also in two processes, one wins each sequence, and a kill at any moment
/// leaves the old checkpoint or the new one. A record that is damaged is passed over with a WARN
/// line, and the newest that is whole answers; where none is, that is an error and never an empty
/// answer.
///
/// Beside the records stands the seed's file, `{workflow_id}_latest.json`, for people and for the
/// seed's Python, which may write it too: what it writes becomes the next checkpoint. What Python
/// has written and nobody can read (half of a file, NaN, a state over `max_state`) stays where it
/// is for a minute; then the next put keeps it as `{workflow_id}_latest.json.unreadable-{sequence}`.
///
/// Clones share the store. Files are read and written on tokio's blocking threads.
///
/// # Defaults
///
/// - `keep`: the last 10 checkpoints of a chain
/// - `max_state`: 64 MiB
/// - `seed_file`: yes
/// - `clock`: the system's
///
/// # Cancellation
///
/// A put whose future is dropped goes on in the background or does not begin.
///
/// # Errors
///
/// Every error of the file system names the path. `Setup`: a missing right, a read-only file
/// system, a file where a folder should be. `Unavailable`: a full disk, a folder that has vanished,
/// a runtime of tokio that is not there.
///
/// Where Python's file cannot be taken up, a put fails, since it may go behind the wrong
/// checkpoint; reading warns, and answers what is there.
///
/// # Examples
///
/// ```
/// use buttress::{CheckpointStore, FileStore, WorkflowId, checkpoint::Put};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("buttress-doc-{}", std::process::id()));
/// let store = FileStore::open(&folder).await?;
/// let key = WorkflowId::new("trades/2026-11-25")?.into();
/// let first = store.put(Put::new(WorkflowId::new("trades/2026-11-25")?, None, *b"{}")).await?;
/// assert_eq!(store.latest(&key).await?.map(|head| head.sequence), Some(first));
/// # std::fs::remove_dir_all(folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FileStore {
    folder: Arc<Folder>,
    writers: Arc<Mutex<HashMap<CheckpointKey, Writer>>>,
}

/// A [`FileStore`] that is to be opened, by `.await`; made by [`FileStore::open`].
///
/// The folder is created, for its owner alone, where only its last part is missing. What a dead
/// writer has left in the folder is removed, and what it has left of a chain after the next write to
/// that. A folder that can only be read is opened too.
///
/// # Errors
///
/// `Setup` where it is no folder, or its file system has neither hard links nor a rename that
/// replaces nothing; `Unavailable` where it cannot be read.
#[derive(Debug, Clone)]
#[must_use = "a store is opened by awaiting it"]
pub struct OpenFileStore {
    folder: PathBuf,
    capabilities: Capabilities,
    seed_file: bool,
    clock: Clock,
}

/// Whoever holds it is the only writer of a chain in this process.
type Writer = Arc<AsyncMutex<Known>>;

// ===== impl FileStore =====

impl FileStore {
    /// Opens a folder, once it is awaited.
    pub fn open(folder: impl Into<PathBuf>) -> OpenFileStore {
        let keep = NonZeroU32::new(10);
        let capabilities = Capabilities::new(Durable::Always).shared(true).kept(keep);
        OpenFileStore { folder: folder.into(), capabilities, seed_file: true, clock: Clock::SYSTEM }
    }

    /// Returns the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder.root
    }

    /// Returns the seed's file of a workflow, which is written where the id is a safe file name.
    #[must_use]
    pub fn seed_file(&self, id: &WorkflowId) -> Option<PathBuf> {
        self.folder.seed_path(&CheckpointKey::new(id.clone()))
    }

    fn writer(&self, key: &CheckpointKey) -> Writer {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if writers.len() >= LOCKS && !writers.contains_key(key) {
            // One in use is held by its users too.
            writers.retain(|_, writer| Arc::strong_count(writer) > 1);
        }
        Arc::clone(writers.entry(key.clone()).or_default())
    }

    /// Runs blocking work on tokio's threads for it.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let folder = Arc::clone(&self.folder);
        match runtime.spawn_blocking(move || work(&folder)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::unavailable(error)),
        }
    }

    /// Appends to a chain as its only writer in this process and returns the chain with it.
    ///
    /// The answer comes before the cleaning up, which the next writer of the chain waits for.
    async fn append<D>(&self, key: &CheckpointKey, decide: D) -> Result<ChainState, StoreError>
    where
        D: FnMut(&Folder, ChainState, SystemTime) -> Result<(Entry, ChainState), StoreError>
            + Send
            + 'static,
    {
        self.append_to(key, Folder::read_chain, decide).await
    }

    /// As [`append`](Self::append), to a chain that is read so.
    async fn append_to<D>(
        &self,
        key: &CheckpointKey,
        read: Read,
        mut decide: D,
    ) -> Result<ChainState, StoreError>
    where
        D: FnMut(&Folder, ChainState, SystemTime) -> Result<(Entry, ChainState), StoreError>
            + Send
            + 'static,
    {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let mut known = self.writer(key).lock_owned().await;
        let (folder, key) = (Arc::clone(&self.folder), key.clone());
        let (answer, answered) = oneshot::channel();
        let work = runtime.spawn_blocking(move || {
            let decide = |chain, now| decide(&folder, chain, now);
            match folder.append(&key, &mut known, read, decide) {
                Ok(appended) => {
                    // Whoever asked may be gone; the record is there all the same.
                    drop(answer.send(Ok(appended.record.chain.clone())));
                    clean_up(&folder, &key, &mut known, &appended);
                }
                Err(error) => {
                    known.forget();
                    drop(answer.send(Err(error)));
                }
            }
        });
        match answered.await {
            Ok(result) => result,
            // It panicked, or the runtime ended before it began.
            Err(_) => Err(match work.await {
                Err(error) => StoreError::unavailable(error),
                Ok(()) => StoreError::unavailable("the request was not answered"),
            }),
        }
    }

    /// Writes what a lease has become.
    async fn grant(
        &self,
        key: &CheckpointKey,
        decide: impl Fn(&ChainState, SystemTime) -> Result<Lease, StoreError> + Send + 'static,
    ) -> Result<Lease, StoreError> {
        let at = key.clone();
        let chain = self
            .append(key, move |_, mut chain, now| {
                let lease = decide(&chain, now)?;
                chain.last = chain.next(&at)?;
                chain.token = lease.token;
                chain.holder = Some((lease.owner, lease.until));
                Ok((Entry::Lease, chain))
            })
            .await?;
        let (owner, until) = chain.holder.unwrap_or((String::new(), SystemTime::UNIX_EPOCH));
        Ok(Lease::new(key.clone(), owner, chain.token, until))
    }

    /// Deletes the chains of a workflow once every one of them may be.
    async fn delete_chains(&self, id: WorkflowId, lease: Option<Lease>) -> Result<(), StoreError> {
        let (own, at) = (lease.clone(), id.clone());
        let keys = self
            .blocking(move |folder| {
                let keys = folder.chains_of(&at)?;
                for key in &keys {
                    let chain = folder.read_any_chain(key)?.state;
                    chain.delete(key, own.as_ref(), folder.clock.now())?;
                }
                Ok(keys)
            })
            .await?;
        // First, so that nobody takes up what Python has written once there is no head.
        let root = CheckpointKey::new(id);
        let at = root.clone();
        self.blocking(move |folder| folder.remove_seed(&at)).await?;
        for key in keys {
            let (own, at) = (lease.clone(), key.clone());
            self.append_to(&key, Folder::read_any_chain, move |_, mut chain, now| {
                chain.delete(&at, own.as_ref(), now)?;
                chain.last = chain.next(&at)?;
                chain.head = None;
                chain.deleted = chain.last;
                chain.holder = None;
                Ok((Entry::Deleted, chain))
            })
            .await?;
        }
        self.blocking(move |folder| folder.remove_seed(&root)).await
    }

    /// Takes up what Python has written since this process last looked.
    async fn import_seed(&self, key: &CheckpointKey) -> Result<(), StoreError> {
        if self.folder.seed_path(key).is_none() {
            return Ok(());
        }
        let at = key.clone();
        if !self.blocking(move |folder| folder.has_news(&at)).await? {
            return Ok(());
        }
        let mut known = self.writer(key).lock_owned().await;
        let key = key.clone();
        self.blocking(move |folder| {
            let stamp = folder.seed_stamp(&key);
            let is_readable = folder.import_seed(&key, &mut known, stamp)?;
            folder.has_seen(&key, stamp, is_readable);
            Ok(())
        })
        .await
    }

    /// As [`import_seed`](Self::import_seed), for a reader: what cannot be taken up must not hide
    /// what is there.
    async fn try_to_import_seed(&self, key: &CheckpointKey) {
        if let Err(error) = self.import_seed(key).await {
            warn(&error);
        }
    }

    /// Takes up what Python has written of any workflow.
    async fn import_seeds(&self) -> Result<(), StoreError> {
        let news = self.blocking(|folder| {
            let mut keys = folder.seed_chains()?;
            keys.retain(|key| {
                folder.has_news(key).unwrap_or_else(|error| {
                    warn(&error);
                    false
                })
            });
            Ok(keys)
        });
        for key in news.await? {
            self.try_to_import_seed(&key).await;
        }
        Ok(())
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore")
            .field("path", &self.folder.root)
            .field("capabilities", &self.folder.capabilities)
            .finish_non_exhaustive()
    }
}

impl CheckpointStore for FileStore {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.folder.capabilities.admit(&put.key, &put.state)?;
        self.import_seed(&put.key).await?;
        let key = put.key.clone();
        let repeat = put.clone();
        let appended = self.append(&key, move |_, mut chain, now| {
            chain.last = chain.admit_put(&put, now)?;
            chain.head = Some(chain.last);
            let checkpoint = put.clone().into_checkpoint(chain.last);
            Ok((Entry::Checkpoint(put.write_id, Box::new(checkpoint)), chain))
        });
        match appended.await {
            Ok(chain) => Ok(chain.last),
            Err(error) if error.is_conflict() => {
                let found = self.blocking(move |folder| folder.find_repeat(&repeat)).await?;
                found.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        self.try_to_import_seed(key).await;
        let key = key.clone();
        self.blocking(move |folder| Ok(folder.read_chain(&key)?.head)).await
    }

    async fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let key = key.clone();
        self.blocking(move |folder| folder.get(&key, sequence)).await
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        self.try_to_import_seed(key).await;
        let key = key.clone();
        let below = page.before.unwrap_or(u64::MAX);
        self.blocking(move |folder| folder.history(&key, below, page.limit)).await
    }

    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        // Later pages go on with what the first has found.
        if query.after.is_none() {
            self.import_seeds().await?;
        }
        self.blocking(move |folder| folder.heads(&query)).await
    }

    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        for write in &writes.writes {
            self.folder.capabilities.admit(&writes.key, &write.value)?;
        }
        let key = writes.key.clone();
        self.append(&key, move |folder, mut chain, now| {
            let exists = || matches!(folder.get(&writes.key, writes.sequence), Ok(Some(_)));
            chain.admit_writes(&writes, exists, now)?;
            chain.last = chain.next(&writes.key)?;
            Ok((Entry::Writes(writes.sequence, writes.writes.clone()), chain))
        })
        .await?;
        Ok(())
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        let (owner, at) = (owner.to_owned(), key.clone());
        self.grant(key, move |chain, now| chain.acquire(&at, &owner, time, now)).await
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        let own = lease.clone();
        self.grant(&lease.key, move |chain, now| chain.renew(&own, time, now)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let own = lease.clone();
        self.append(&lease.key, move |_, mut chain, _| {
            chain.release(&own)?;
            chain.last = chain.next(&own.key)?;
            chain.holder = None;
            Ok((Entry::Lease, chain))
        })
        .await?;
        Ok(())
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let (store, id, lease) = (self.clone(), id.clone(), lease.cloned());
        // In a task of its own: dropped half-way it would leave some of the chains.
        match runtime.spawn(async move { store.delete_chains(id, lease).await }).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::unavailable(error)),
        }
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        let mut known = self.writer(key).lock_owned().await;
        let key = key.clone();
        self.blocking(move |folder| {
            let sequences = folder.sequences(&key)?;
            Ok(folder.prune(&key, &mut known, &sequences, keep.get()))
        })
        .await
    }

    fn capabilities(&self) -> Capabilities {
        self.folder.capabilities
    }

    fn place(&self, key: &CheckpointKey, sequence: u64) -> Place {
        Place::File(names::chain_folder(self.folder.real(), key).join(names::record(sequence)))
    }
}

// ===== impl OpenFileStore =====

impl OpenFileStore {
    /// Sets how many checkpoints of a chain stay.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[track_caller]
    pub fn keep(mut self, checkpoints: u32) -> Self {
        let keep = NonZeroU32::new(checkpoints).expect("at least one checkpoint is kept");
        self.capabilities = self.capabilities.kept(Some(keep));
        self
    }

    /// Sets the largest state in bytes.
    pub const fn max_state(mut self, bytes: u64) -> Self {
        self.capabilities = self.capabilities.max_state(bytes);
        self
    }

    /// Sets whether the seed's file is kept beside the records, and what Python writes there
    /// imported.
    pub const fn seed_file(mut self, kept: bool) -> Self {
        self.seed_file = kept;
        self
    }

    /// Sets the clock that leases are measured by.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    async fn open_on(self, disk: Arc<dyn Disk>) -> Result<FileStore, StoreError> {
        // It stays there when the process goes elsewhere.
        let root = std::path::absolute(&self.folder).map_err(|error| lost(&self.folder, error))?;
        let folder = Folder {
            root,
            real: OnceLock::new(),
            disk,
            clock: self.clock,
            capabilities: self.capabilities,
            seed_file: self.seed_file,
            seen: SeenFiles::default(),
        };
        let store = FileStore { folder: Arc::new(folder), writers: Arc::default() };
        store.blocking(Folder::open).await?;
        Ok(store)
    }
}

impl IntoFuture for OpenFileStore {
    type Output = Result<FileStore, StoreError>;
    /// Boxed, since a future of an async function has no name; a store is opened once.
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open_on(Arc::new(Local)))
    }
}

/// Removes what is not needed any more and shows the new head to people.
fn clean_up(folder: &Folder, key: &CheckpointKey, known: &mut Known, appended: &Appended) {
    let keep = folder.capabilities.kept.map_or(u32::MAX, NonZeroU32::get);
    folder.prune(key, known, &appended.sequences, keep);
    folder.write_seed(key, appended);
}
