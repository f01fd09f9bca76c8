//! Rivals in Python: a script in a process of its own, with packages in a folder of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::Deserialize;
use serde_json::Value;

/// Whether packages are installed where they are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is nothing between them")]
pub enum Install {
    /// The rival is left out.
    Never,
    /// pip asks the network.
    WhereMissing,
}

/// What a script needs.
#[derive(Debug, Clone, Copy)]
pub struct Rival<'a> {
    /// For people.
    pub name: &'a str,
    /// A file that pins every package.
    pub requirements: &'a Path,
    /// Where they are installed.
    pub folder: &'a Path,
    /// The program.
    pub script: &'a Path,
}

/// A script that runs: it answers each line of its input with one of its output.
#[derive(Debug)]
pub struct Script {
    name: String,
    child: Child,
    /// Open until the process is to end.
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

// ===== impl Rival =====

impl Rival<'_> {
    /// Starts the script with one argument.
    ///
    /// # Errors
    ///
    /// Says why it cannot be started, or what could not be installed.
    pub fn start(&self, install: Install, argument: &str) -> Result<Script, String> {
        let python = self.python(install)?;
        // The caller's own settings are for the caller's own programs.
        let theirs = |name: &String| name.starts_with("LANGFUSE_") || name.starts_with("OTEL_");
        let mut command = Command::new(&python);
        for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()) {
            if theirs(&name) {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg(self.script)
            .arg(argument)
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let asks = child.stdin.take();
        let answers = child.stdout.take().ok_or("no standard output")?;
        Ok(Script { name: self.name.to_owned(), child, asks, answers: BufReader::new(answers) })
    }

    /// Returns the Python of an environment that has what the requirements say.
    fn python(&self, install: Install) -> Result<PathBuf, String> {
        let Self { name, requirements, folder, .. } = self;
        let bin = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
        let python = folder.join(bin);
        // Written behind the installation, so that a broken one is made anew.
        let installed = folder.join("installed.txt");
        let wanted = fs::read_to_string(requirements)
            .map_err(|error| format!("{}: {error}", requirements.display()))?;
        if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
            return Ok(python);
        }
        if install == Install::Never {
            return Err("it is not installed, and a short run installs nothing".to_owned());
        }
        tell(&format!("installing {name} into {}", folder.display()));
        done(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        done(Command::new(&python).args(pip).arg(requirements))?;
        fs::write(&installed, wanted)
            .map_err(|error| format!("{}: {error}", installed.display()))?;
        Ok(python)
    }
}

// ===== impl Script =====

impl Script {
    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    ///
    /// Fails when the script has ended or says something else.
    pub fn ask<T: for<'de> Deserialize<'de>>(&mut self, ask: &Value) -> Result<T, String> {
        let asks = self.asks.as_mut().ok_or("its standard input is closed")?;
        writeln!(asks, "{ask}").map_err(|error| format!("{} takes no more: {error}", self.name))?;
        self.answer()
    }

    /// Waits for an answer.
    ///
    /// # Errors
    ///
    /// Fails when the script has ended or says something else.
    pub fn answer<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| format!("{}: {error}", self.name))?;
        serde_json::from_str(&line)
            .map_err(|_| format!("{} answered {:?}", self.name, line.trim_end()))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Without questions it ends by itself.
        drop(self.asks.take());
        drop(self.child.wait());
    }
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

fn tell(text: &str) {
    // Where this fails, there is nobody to tell.
    drop(writeln!(std::io::stderr(), "{text}"));
}
