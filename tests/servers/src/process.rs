//! A server as a process: started, asked whether it is ready, stopped for certain.

use std::{
    collections::hash_map::RandomState,
    ffi::OsStr,
    fs::{self, File},
    hash::BuildHasher,
    io::Write,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a server may take to answer, or to end, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);

/// Reads which process is the server, an empty line where it was stopped, until whoever writes that
/// is gone, however it went. Then the server goes too, in order where it can, so that it gives back
/// the memory it shares; and then its folder.
const WATCHDOG: &str = r#"
server=
while read -r line; do server=$line; done
if [ -n "$server" ]; then
    # The first is for all; Postgres would wait for its clients, and takes the second.
    kill -TERM "$server"
    kill -QUIT "$server"
    tries=100
    while kill -0 "$server" && [ "$tries" -gt 0 ]; do
        tries=$((tries - 1))
        sleep 0.1
    done
    kill -KILL "$server"
fi
while ! rm -rf "$1"; do sleep 0.1; done
"#;

/// A server with its folder.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    process: Mutex<Option<Child>>,
    watchdog: Mutex<Child>,
    folder: TempDir,
}

// ===== impl Server =====

impl Server {
    /// Creates the folder, which belongs to the user that the server runs as.
    pub(crate) fn new(name: &'static str) -> Self {
        // Short, since a Unix socket in it has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("bt-").tempdir().expect("a folder");
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(folder.path()).stdin(Stdio::piped());
        // A Ctrl-C at the terminal is for the test, and who reads its output waits for its end only.
        watchdog.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog = Mutex::new(watchdog.spawn().expect("sh runs"));
        if let Some(user) = unprivileged() {
            chown(folder.path(), Some(user.id), Some(user.group)).expect("a folder of the server");
        }
        Self { name, process: Mutex::new(None), watchdog, folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file that the server reads.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder().join(name);
        fs::write(&path, content).expect("a file of the server");
        if let Some(user) = unprivileged() {
            chown(&path, Some(user.id), Some(user.group)).expect("a file of the server");
        }
        path
    }

    /// Starts a command and waits until `ready` says yes; false where it ended before.
    pub(crate) fn start(
        &self,
        program: &Path,
        arguments: &[&OsStr],
        ready: impl Fn() -> bool,
    ) -> bool {
        let mut process = lock(&self.process);
        assert!(process.is_none(), "{} runs already", self.name);
        let before = as_user();
        let mut words = before.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).args(arguments).current_dir(self.folder()).process_group(0);
        let log = File::options().create(true).append(true).open(self.folder().join("log"));
        let log = log.expect("the log of the server");
        command.stderr(log.try_clone().expect("the log of the server")).stdout(log);
        let child = process.insert(command.stdin(Stdio::null()).spawn().expect("the server runs"));
        self.tell_watchdog(&child.id().to_string());
        let started = now();
        while !ready() {
            if child.try_wait().expect("a child").is_some() {
                *process = None;
                self.tell_watchdog("");
                return false;
            }
            assert!(started.elapsed() < DEADLINE, "{} does not answer:\n{}", self.name, self.log());
            pause();
        }
        true
    }

    /// Sends a signal and waits until the server is gone; does nothing where it is not there.
    pub(crate) fn stop(&self, signal: &str) {
        let Some(mut child) = lock(&self.process).take() else { return };
        let asked = now();
        let mut kill = Command::new("kill");
        kill.args(["-s", signal, &child.id().to_string()]).stderr(Stdio::null());
        // It may have ended by itself.
        drop(kill.status());
        while child.try_wait().expect("a child").is_none() {
            if asked.elapsed() > DEADLINE {
                drop(child.kill());
            }
            pause();
        }
        self.tell_watchdog("");
    }

    fn tell_watchdog(&self, server: &str) {
        if let Some(pipe) = &mut lock(&self.watchdog).stdin {
            // Where somebody has ended it, the server still goes with its value.
            drop(writeln!(pipe, "{server}"));
        }
    }

    /// Returns what the server has said.
    pub(crate) fn log(&self) -> String {
        fs::read(self.folder().join("log"))
            .map_or_else(|error| error.to_string(), |log| String::from_utf8_lossy(&log).into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop("KILL");
        let mut watchdog = lock(&self.watchdog);
        drop(watchdog.stdin.take());
        drop(watchdog.wait());
    }
}

/// What is locked here is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A user that is not root, which Postgres and pgbouncer refuse to run as.
struct User {
    id: u32,
    group: u32,
}

/// Returns whom servers run as where the test runs as root.
fn unprivileged() -> Option<User> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
    };
    if id(&["-u"])? != 0 {
        return None;
    }
    let of = |name| Some(User { id: id(&["-u", name])?, group: id(&["-g", name])? });
    of("postgres").or_else(|| of("nobody"))
}

/// Returns the words before a command that runs it as that user.
fn as_user() -> Vec<String> {
    unprivileged().map_or_else(Vec::new, |User { id, group }| {
        let (user, group) = (format!("--reuid={id}"), format!("--regid={group}"));
        ["setpriv".into(), user, group, "--clear-groups".into(), "--".into()].into()
    })
}

/// Runs a program to its end as the servers' user and returns what it printed.
pub(crate) fn run(program: &Path, arguments: &[&OsStr]) -> Result<String, String> {
    let before = as_user();
    let mut words = before.iter().map(OsStr::new).chain([program.as_os_str()]);
    let first = words.next().expect("a program");
    let output = Command::new(first)
        .args(words)
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Finds a program in PATH, in the folders for administrators, or where Debian keeps Postgres'.
pub(crate) fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    // The newest is tried first.
    folders.extend(versions.into_iter().rev());
    folders.extend(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file()).unwrap_or_else(
        || panic!("{program} is not installed; tests/all.sh installs what the tests need"),
    )
}

/// Returns a port that is free now.
///
/// It is below those that a kernel gives to clients: while a server is down, nobody takes its port.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let random = RandomState::new();
    (0u64..)
        .map(|attempt| {
            let [low, high, ..] = random.hash_one(attempt).to_le_bytes();
            FIRST + u16::from_le_bytes([low, high]) % COUNT
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Starts a server on a free port; on another where somebody was faster.
pub(crate) fn on_free_port<T>(name: &str, start: impl Fn(u16) -> Result<T, String>) -> T {
    let mut last = String::new();
    for _ in 0..5 {
        match start(free_port()) {
            Ok(server) => return server,
            Err(log) => last = log,
        }
    }
    panic!("{name} does not start:\n{last}");
}

/// Waits a little between two looks at something that cannot tell when it is there.
#[expect(clippy::disallowed_methods, reason = "no runtime is here whose thread it could block")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

#[expect(clippy::disallowed_methods, reason = "processes know nothing of paused clocks")]
fn now() -> Instant {
    Instant::now()
}
