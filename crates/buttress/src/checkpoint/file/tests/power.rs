//! The power fails at any moment: what a workload has asked of the disk is recorded, and after each
//! of its steps every tree that a disk may hold then is made and opened.
//!
//! The model is harsher than file systems are. A name is on the disk once its folder was synced
//! after it; before that it may be there or not, whatever became of other names. What is in a file
//! is on the disk once the file was synced; before that the file may be empty, torn or whole.
#![cfg(unix)]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    fs::{File, FileTimes},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::MetadataExt as _,
};

use super::{
    super::disk::{Disk, Local, Stamp},
    *,
};

/// How many trees after one step are all made; of more, as many are drawn.
const TREES: usize = 64;

/// What stands under a name.
#[derive(Clone, Copy)]
enum Node {
    Folder,
    /// A file, by its number: it may have several names.
    File(usize),
}

/// What was asked of the disk.
#[derive(Clone)]
enum Op {
    /// Names of one folder that come and go at once.
    Name(PathBuf, Vec<(PathBuf, Option<Node>)>),
    Write(usize, Vec<u8>),
    Sync(usize),
    SyncFolder(PathBuf),
}

/// A disk that records what changes it; it never waits for the device.
#[derive(Default)]
struct Recorder(Mutex<Record>);

#[derive(Default)]
struct Record {
    ops: Vec<Op>,
    /// Files by their inodes, which are used again once a file has no name.
    files: HashMap<u64, usize>,
    names: HashMap<PathBuf, Node>,
    count: usize,
}

impl Recorder {
    fn record(&self, op: impl FnOnce(&mut Record) -> Op) {
        let mut record = self.0.lock().unwrap();
        let op = op(&mut record);
        if let Op::Name(_, changes) = &op {
            for (path, node) in changes {
                match node {
                    Some(node) => record.names.insert(path.clone(), *node),
                    None => record.names.remove(path),
                };
            }
        }
        record.ops.push(op);
    }

    fn with_file(&self, file: &File, op: impl FnOnce(usize) -> Op) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        self.record(|record| op(record.files[&inode]));
        Ok(())
    }
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(names::TEMPORARY))
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap().to_owned()
}

impl Disk for Recorder {
    fn create(&self, path: &Path) -> io::Result<File> {
        let file = Local.create(path)?;
        let inode = file.metadata()?.ino();
        self.record(|record| {
            record.count += 1;
            record.files.insert(inode, record.count);
            let node = Node::File(record.count);
            Op::Name(folder_of(path), vec![(path.to_owned(), Some(node))])
        });
        Ok(file)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        Local.write(file, bytes)?;
        self.with_file(file, |file| Op::Write(file, bytes.to_vec()))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.with_file(file, Op::Sync)
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        Local.publish(from, to)?;
        self.record(|record| {
            Op::Name(folder_of(to), vec![(to.to_owned(), Some(record.names[from]))])
        });
        self.record(|_| Op::Name(folder_of(from), vec![(from.to_owned(), None)]));
        Ok(())
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        Local.replace(from, to)?;
        self.record(|record| {
            let changes = vec![(to.to_owned(), Some(record.names[from])), (from.to_owned(), None)];
            Op::Name(folder_of(to), changes)
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Local.remove(path)?;
        self.record(|_| Op::Name(folder_of(path), vec![(path.to_owned(), None)]));
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.record(|_| Op::SyncFolder(path.to_owned()));
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        Local.create_folder(path)?;
        let changes = vec![(path.to_owned(), Some(Node::Folder))];
        self.record(|_| Op::Name(folder_of(path), changes));
        Ok(())
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

// ===== The workload =====

/// What was on the disk before, and what was asked of it since.
struct Workload {
    base: PathBuf,
    ops: Vec<Op>,
    /// Behind which step a checkpoint or a token is safe, and which.
    acknowledged: Vec<(usize, Promise)>,
    /// The state of every checkpoint.
    states: BTreeMap<u64, String>,
}

/// The least that has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Promise {
    head: u64,
    token: u64,
}

const BY_PYTHON: &str = r#"{"workflow_id": "Trade 7", "timestamp": "2026-01-02T03:04:05.678901",
    "phase": "p", "state": "python's"}"#;
const SEED_FILE: &str = "Trade 7_latest.json";

fn write_by_python(root: &Path) {
    let path = root.join(SEED_FILE);
    fs::write(&path, BY_PYTHON).unwrap();
    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
    File::options().append(true).open(path).unwrap().set_times(times).unwrap();
}

async fn open_recorded(root: &Path, disk: &Arc<Recorder>, clock: Clock) -> FileStore {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    FileStore::open(root).keep(2).clock(clock).open_on(disk).await.unwrap()
}

impl Workload {
    /// Puts, takes leases and opens again, behind what Python has written.
    async fn run() -> Self {
        let scratch = Scratch::new();
        let root = scratch.0.join("root");
        fs::create_dir(&root).unwrap();
        write_by_python(&root);
        let disk = Arc::new(Recorder::default());
        let mut own = Self {
            base: scratch.0.clone(),
            ops: Vec::new(),
            acknowledged: Vec::new(),
            states: BTreeMap::new(),
        };
        let python = Op::Name(root.clone(), vec![(root.join(SEED_FILE), Some(Node::File(0)))]);
        let root_name = Op::Name(own.base.clone(), vec![(root.clone(), Some(Node::Folder))]);
        let before = [
            root_name,
            Op::SyncFolder(own.base.clone()),
            python,
            Op::Write(0, BY_PYTHON.into()),
            Op::Sync(0),
            Op::SyncFolder(root.clone()),
        ];
        disk.0.lock().unwrap().ops.extend(before);

        let mut store = open_recorded(&root, &disk, Clock::SYSTEM).await;
        let mut promise = Promise { head: 0, token: 0 };
        let hour = Duration::from_secs(3600);
        let head = store.latest(&key()).await.unwrap().unwrap();
        promise.head = head.sequence;
        own.states.insert(head.sequence, "\"python's\"".to_owned());
        own.safe(&disk, promise);
        for n in 0..7 {
            if n == 4 {
                store = open_recorded(&root, &disk, Clock::SYSTEM).await;
            }
            let lease = match n {
                2 | 5 => Some(store.acquire(&key(), "worker", hour).await.unwrap()),
                _ => None,
            };
            settle(&store).await;
            if let Some(lease) = &lease {
                promise.token = lease.token;
                own.safe(&disk, promise);
            }
            let state = format!("\"{n}\"");
            let mut next = put(Some(promise.head), &state);
            if let Some(lease) = &lease {
                next = next.under(lease);
            }
            promise.head = store.put(next).await.unwrap();
            settle(&store).await;
            own.states.insert(promise.head, state);
            own.safe(&disk, promise);
            if let Some(lease) = &lease {
                store.release(lease).await.unwrap();
                settle(&store).await;
            }
        }
        own.ops = std::mem::take(&mut disk.0.lock().unwrap().ops);
        own
    }

    /// Notes what is safe. It was answered right behind the last sync of a folder: what follows is
    /// the cleaning up.
    fn safe(&mut self, disk: &Recorder, promise: Promise) {
        let record = disk.0.lock().unwrap();
        let synced = record.ops.iter().rposition(|op| matches!(op, Op::SyncFolder(_))).unwrap();
        self.acknowledged.push((synced + 1, promise));
    }

    /// Leaves out steps of the record, as a store does that never asks for them.
    fn without(&self, is_forgotten: impl Fn(&Op) -> bool) -> Self {
        let forget = |op: &Op| match is_forgotten(op) {
            // Nothing, so that the places of the others stay.
            true => Op::Name(self.base.clone(), Vec::new()),
            false => op.clone(),
        };
        // What was there before the store was opened is on the disk.
        let (before, ops) = self.ops.split_at(6);
        let ops = before.iter().cloned().chain(ops.iter().map(forget)).collect();
        let (acknowledged, states) = (self.acknowledged.clone(), self.states.clone());
        Self { base: self.base.clone(), ops, acknowledged, states }
    }

    /// Opens every tree that a disk may hold after each step; returns how many there were.
    async fn fail_everywhere(&self) -> Result<usize, String> {
        let mut random = fastrand::Rng::with_seed(46);
        let mut seen = HashSet::new();
        for end in 6..=self.ops.len() {
            let promised = self.acknowledged.iter().take_while(|(at, _)| *at <= end).last();
            // Python's own save was whole on the disk.
            let promise = promised.map_or(Promise { head: 1, token: 0 }, |(_, promise)| *promise);
            for chosen in choices(&self.unsynced(end), &mut random) {
                let tree = self.tree(end, &chosen);
                // Temporary files make no difference: nobody reads them.
                let is_read = |(path, _): &(&PathBuf, _)| !is_temporary(path);
                let mut hash = DefaultHasher::new();
                (promise, tree.iter().filter(is_read).collect::<Vec<_>>()).hash(&mut hash);
                if seen.insert(hash.finish()) {
                    let checked = self.check(&tree, promise).await;
                    checked.map_err(|what| format!("after step {end}, {chosen:?}: {what}"))?;
                }
            }
        }
        Ok(seen.len())
    }

    /// Returns for each of the first steps what may have become of it: in how many ways it may be
    /// on the disk.
    fn unsynced(&self, end: usize) -> Vec<usize> {
        let steps = &self.ops[..end];
        let ways = steps.iter().enumerate().map(|(at, op)| {
            let later = &steps[at..];
            match op {
                Op::Name(_, changes) if changes.is_empty() => 1,
                Op::Name(folder, _) => {
                    let is_sync = |op: &Op| matches!(op, Op::SyncFolder(of) if of == folder);
                    if later.iter().any(is_sync) { 1 } else { 2 }
                }
                Op::Write(file, _) => {
                    let is_sync = |op: &Op| matches!(op, Op::Sync(of) if of == file);
                    if later.iter().any(is_sync) { 1 } else { 3 }
                }
                Op::Sync(_) | Op::SyncFolder(_) => 1,
            }
        });
        ways.collect()
    }

    /// Returns what is on the disk: files by their names, folders as none.
    fn tree(&self, end: usize, chosen: &[usize]) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let ways = self.unsynced(end);
        let mut names = BTreeMap::new();
        let mut contents: HashMap<usize, Vec<u8>> = HashMap::new();
        for ((op, ways), chosen) in self.ops[..end].iter().zip(ways).zip(chosen) {
            match op {
                // The last of the ways is that all of it is there.
                Op::Name(_, changes) if ways == chosen + 1 => {
                    for (path, node) in changes {
                        match node {
                            Some(node) => names.insert(path.clone(), *node),
                            None => names.remove(path),
                        };
                    }
                }
                Op::Write(file, bytes) => {
                    let length = bytes.len() * (chosen + 3 - ways) / 2;
                    contents.entry(*file).or_default().extend_from_slice(&bytes[..length]);
                }
                Op::Name(..) | Op::Sync(_) | Op::SyncFolder(_) => {}
            }
        }
        let is_reached = |path: &PathBuf| {
            let above = path.ancestors().skip(1).take_while(|above| *above != self.base);
            above.into_iter().all(|above| names.contains_key(above))
        };
        let reached = names.iter().filter(|(path, _)| is_reached(path));
        let tree = reached.map(|(path, node)| {
            let path = path.strip_prefix(&self.base).unwrap().to_owned();
            match node {
                Node::Folder => (path, None),
                Node::File(file) => (path, Some(contents.get(file).cloned().unwrap_or_default())),
            }
        });
        tree.collect()
    }

    /// Makes a tree, opens it and goes on with it.
    async fn check(
        &self,
        tree: &BTreeMap<PathBuf, Option<Vec<u8>>>,
        promise: Promise,
    ) -> Result<(), String> {
        let scratch = Scratch::new();
        for (path, content) in tree {
            let path = scratch.0.join(path);
            match content {
                None => fs::create_dir(path).unwrap(),
                Some(content) if content == BY_PYTHON.as_bytes() => {
                    write_by_python(&scratch.0.join("root"));
                }
                Some(content) => fs::write(path, content).unwrap(),
            }
        }
        // A day later, when no lease is held any more.
        let later = Clock::new(|| SystemTime::now() + Duration::from_secs(86400));
        let disk = Arc::new(Recorder::default());
        let store = open_recorded(&scratch.0.join("root"), &disk, later).await;
        let found = store.latest(&key()).await.map_err(|error| format!("{error:?}"))?;
        let found = found.ok_or("all is gone")?;
        if found.sequence < promise.head {
            return Err(format!("{} is the head, and {promise:?}", found.sequence));
        }
        if self.states.get(&found.sequence).is_none_or(|state| state != text(&found)) {
            return Err(format!("{} is {:?}", found.sequence, text(&found)));
        }
        let next = store.put(put(Some(found.sequence), "\"next\"")).await;
        let next = next.map_err(|error| format!("the next put: {error:?}"))?;
        settle(&store).await;
        let head = store.latest(&key()).await.map_err(|error| format!("{error:?}"))?;
        if head.is_none_or(|head| head.sequence != next || text(&head) != "\"next\"") {
            return Err("the next put is not the head".to_owned());
        }
        let lease = store.acquire(&key(), "next", Duration::from_secs(9)).await;
        let lease = lease.map_err(|error| format!("the next lease: {error:?}"))?;
        settle(&store).await;
        if lease.token <= promise.token {
            return Err(format!("token {} is given out again, {promise:?}", lease.token));
        }
        Ok(())
    }
}

/// Returns ways in which steps may be on the disk: all, or where there are many the ends, those one
/// step away from them, and some that are drawn.
fn choices(ways: &[usize], random: &mut fastrand::Rng) -> Vec<Vec<usize>> {
    let count = ways.iter().try_fold(1_usize, |count, ways| count.checked_mul(*ways));
    if let Some(count) = count.filter(|count| *count <= TREES) {
        let nth = |mut n: usize| {
            let digit = |ways: &usize| (n % ways, n /= ways).0;
            ways.iter().map(digit).collect()
        };
        return (0..count).map(nth).collect();
    }
    let none = vec![0; ways.len()];
    let all: Vec<_> = ways.iter().map(|ways| ways - 1).collect();
    let mut chosen = Vec::new();
    for end in [none, all] {
        for (at, &ways) in ways.iter().enumerate() {
            for way in (0..ways).filter(|way| *way != end[at]) {
                let mut near = end.clone();
                near[at] = way;
                chosen.push(near);
            }
        }
        chosen.push(end);
    }
    let drawn = (0..TREES).map(|_| ways.iter().map(|ways| random.usize(..ways)).collect());
    chosen.extend(drawn);
    chosen
}

#[tokio::test]
async fn after_a_power_failure_at_any_moment_what_was_acknowledged_is_there() {
    let workload = Workload::run().await;
    let trees = workload.fail_everywhere().await.unwrap_or_else(|what| panic!("{what}"));
    assert!(trees > 250, "{trees} trees");
}

/// The model can fail: it finds each sync that is left out of the record.
#[tokio::test]
async fn a_store_that_forgets_a_sync_does_not_outlive_a_power_failure() {
    let workload = Workload::run().await;
    let chain = names::chain_folder(&workload.base.join("root"), &key());
    let of_folders = workload.without(|op| matches!(op, Op::SyncFolder(_)));
    let of_chain = workload.without(|op| matches!(op, Op::SyncFolder(path) if *path == chain));
    let of_above = workload
        .without(|op| matches!(op, Op::SyncFolder(path) if chain.parent() == Some(path.as_path())));
    let of_files = workload.without(|op| matches!(op, Op::Sync(_)));
    for (what, faulty) in [
        ("any folder", of_folders),
        ("the chain's folder", of_chain),
        ("the folder above", of_above),
        ("files", of_files),
    ] {
        let failed = faulty.fail_everywhere().await;
        assert!(failed.is_err(), "nobody misses the sync of {what}");
    }
}

/// A writer ended between publishing its record and syncing any folder, the root's too.
#[tokio::test]
async fn whoever_opens_and_repeats_syncs_what_a_dead_writer_did_not() {
    let scratch = Scratch::new();
    let root = scratch.0.join("root");
    let own = put(None, "{}");
    let dead = FileStore::open(&root).await.unwrap();
    let first = dead.put(own.clone()).await.unwrap();
    settle(&dead).await;

    let disk = Arc::new(Recorder::default());
    let store = open_recorded(&root, &disk, Clock::SYSTEM).await;
    assert_eq!(store.put(own).await.unwrap(), first);
    settle(&store).await;
    let chain = names::chain_folder(&root, &key());
    for folder in chain.ancestors().take_while(|above| above.starts_with(&scratch.0)) {
        let is_sync = |op: &Op| matches!(op, Op::SyncFolder(path) if path == folder);
        assert!(disk.0.lock().unwrap().ops.iter().any(is_sync), "{}", folder.display());
    }
}
