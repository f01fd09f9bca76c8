//! LangGraph, in a process of its own that runs the same graphs when it is asked.

use std::{path::Path, time::Duration};

use buttress_benches::python::{Install, Rival, Script};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::graphs::{Shape, Store};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/langgraph/measure.py");
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/langgraph/requirements.txt");
/// Under cargo's target folder.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/langgraph");

/// The process.
pub(crate) struct LangGraph {
    script: Script,
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
        let folder = TempDir::new().map_err(|error| format!("no temporary folder: {error}"))?;
        let rival = Rival {
            name: "LangGraph",
            requirements: Path::new(REQUIREMENTS),
            folder: Path::new(FOLDER),
            script: Path::new(SCRIPT),
        };
        let mut script = rival.start(install, &folder.path().display().to_string())?;
        let versions = script.answer()?;
        Ok(Self { script, versions, _folder: folder })
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
        let took: Took = self.script.ask(&ask)?;
        Ok(Some(Duration::from_nanos(took.ns)))
    }
}
