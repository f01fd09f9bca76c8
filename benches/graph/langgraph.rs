//! LangGraph, in a process of its own that runs the same graphs when it is asked.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::graphs::{Shape, Store};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/langgraph/measure.py");
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/langgraph/requirements.txt");
/// Under cargo's target folder.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/langgraph");

/// Whether it is installed where it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Install {
    Never,
    WhereMissing,
}

/// The process.
pub(crate) struct LangGraph {
    child: Child,
    /// Open until the process is to end.
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    versions: Value,
    /// Where its SQLite file is.
    _folder: TempDir,
}

#[derive(Deserialize)]
struct Took {
    ns: u64,
}

impl LangGraph {
    /// Starts the process; says why where that cannot be.
    pub(crate) fn start(install: Install) -> Result<Self, String> {
        let python = python(install)?;
        let folder = TempDir::new().map_err(|error| format!("no temporary folder: {error}"))?;
        let mut child = Command::new(&python)
            .arg(SCRIPT)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let asks = child.stdin.take();
        let answers = child.stdout.take().ok_or("no standard output")?;
        let answers = BufReader::new(answers);
        let mut started = Self { child, asks, answers, versions: Value::Null, _folder: folder };
        started.versions = started.answer()?;
        Ok(started)
    }

    /// Returns the versions of Python and of LangGraph's packages.
    pub(crate) const fn versions(&self) -> &Value {
        &self.versions
    }

    /// Runs a graph once, as a new workflow; none where it has no such store.
    pub(crate) fn run(&mut self, shape: Shape, store: Store) -> Result<Option<Duration>, String> {
        if store == Store::File {
            return Ok(None);
        }
        let ask = json!({
            "graph": shape.name(),
            "store": store.name(),
            "steps": shape.size(),
        });
        let asks = self.asks.as_mut().ok_or("its standard input is closed")?;
        writeln!(asks, "{ask}").map_err(|error| format!("LangGraph takes no more: {error}"))?;
        let took: Took = self.answer()?;
        Ok(Some(Duration::from_nanos(took.ns)))
    }

    fn answer<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| format!("LangGraph: {error}"))?;
        serde_json::from_str(&line).map_err(|_| format!("{SCRIPT} answered {:?}", line.trim_end()))
    }
}

impl Drop for LangGraph {
    fn drop(&mut self) {
        // Without questions it ends by itself.
        drop(self.asks.take());
        drop(self.child.wait());
    }
}

/// Returns the Python of an environment that has what the requirements say.
fn python(install: Install) -> Result<PathBuf, String> {
    let folder = Path::new(FOLDER);
    let bin = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
    let python = folder.join(bin);
    // Written behind the installation, so that a broken one is made anew.
    let installed = folder.join("installed.txt");
    let wanted =
        fs::read_to_string(REQUIREMENTS).map_err(|error| format!("{REQUIREMENTS}: {error}"))?;
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    if install == Install::Never {
        return Err("it is not installed, and --quick installs nothing".to_owned());
    }
    eprintln!("installing LangGraph into {FOLDER}");
    done(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    done(Command::new(&python).args(pip).arg(REQUIREMENTS))?;
    fs::write(&installed, wanted).map_err(|error| format!("{}: {error}", installed.display()))?;
    Ok(python)
}

/// Runs a command; says which one failed.
fn done(command: &mut Command) -> Result<(), String> {
    // What it says is not a row of ours.
    match command.stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
