//! The Langfuse SDK for Python, in a process of its own that makes calls when it is asked.

use std::{cell::RefCell, path::Path, rc::Rc, time::Duration};

use buttress_benches::{
    measure::{Case, Meter, Taken},
    python::{Install, Rival, Script},
};
use serde::Deserialize;
use serde_json::{Value, json};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/measure.py");
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/requirements.txt");
/// Under cargo's target folder.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/langfuse-python");

/// The process.
#[derive(Debug)]
pub(crate) struct Sdk {
    script: Rc<RefCell<Script>>,
    versions: Value,
}

#[derive(Deserialize)]
struct Took {
    ns: u64,
    cpu_ns: u64,
}

impl Sdk {
    /// Starts the process; says why where that cannot be.
    pub(crate) fn start(install: Install, base_url: &str) -> Result<Self, String> {
        let rival = Rival {
            name: "the Langfuse SDK for Python",
            requirements: Path::new(REQUIREMENTS),
            folder: Path::new(FOLDER),
            script: Path::new(SCRIPT),
        };
        let mut script = rival.start(install, base_url)?;
        let versions = script.answer()?;
        Ok(Self { script: Rc::new(RefCell::new(script)), versions })
    }

    /// Returns the versions of Python and the SDK.
    pub(crate) const fn versions(&self) -> &Value {
        &self.versions
    }

    /// Makes a case of calls by the script, with the SDK or without it.
    pub(crate) fn case(
        &self,
        group: &'static str,
        name: &'static str,
        traced: bool,
        fails: bool,
    ) -> Case {
        let script = Rc::clone(&self.script);
        Case::metered(group, name, move |calls, meter| {
            if meter != Meter::Time {
                // Nobody counts what Python allocates.
                return Taken { allocs: f64::NAN, bytes: f64::NAN, ..Taken::default() };
            }
            let ask = json!({ "calls": calls, "traced": traced, "fails": fails });
            let took = script.borrow_mut().ask::<Took>(&ask);
            let took = took.expect("the script answers until its input ends");
            Taken {
                ns: took.ns as f64 / calls as f64,
                cpu: Some(Duration::from_nanos(took.cpu_ns)),
                ..Taken::default()
            }
        })
    }
}
