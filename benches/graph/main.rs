//! What a step of a state graph costs, with each store, beside LangGraph on the same graphs.
//!
//! ```sh
//! cargo bench -p buttress-benches --bench graph
//! cargo bench -p buttress-benches --bench graph -- --json
//! cargo bench -p buttress-benches --bench graph -- --quick
//! cargo bench -p buttress-benches --bench graph -- --no-langgraph
//! ```
//!
//! Runs are taken round-robin, ours and LangGraph's of each graph in turn, so that noise falls on
//! all. LangGraph runs in a process of its own, `benches/langgraph/measure.py`, which times itself;
//! pip installs it into a virtual environment under cargo's target folder. Files are in the
//! temporary folder: `TMPDIR` chooses the disk.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod graphs;
mod langgraph;
mod measure;

use std::process::ExitCode;

use buttress_benches::python::Install;

use self::{langgraph::LangGraph, measure::Effort};

const HELP: &str = "\
Usage: graph [--json] [--quick] [--no-langgraph]

  --json           one JSON document
  --quick          few runs: what runs, not how fast; installs nothing
  --no-langgraph   ours alone";

fn main() -> ExitCode {
    let (mut json, mut effort, mut with_langgraph) = (false, Effort::Full, true);
    for argument in std::env::args().skip(1) {
        match &*argument {
            "--json" => json = true,
            "--quick" => effort = Effort::Quick,
            "--no-langgraph" => with_langgraph = false,
            // What `cargo bench` adds.
            "--bench" => {}
            "--help" | "-h" => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            _ => {
                eprintln!("{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    let install = if effort == Effort::Quick { Install::Never } else { Install::WhereMissing };
    let mut langgraph = match with_langgraph {
        true => LangGraph::start(install),
        false => Err("--no-langgraph".to_owned()),
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let rows = match runtime {
        Ok(runtime) => runtime.block_on(measure::rows(effort, langgraph.as_mut().ok())),
        Err(error) => Err(format!("no runtime: {error}")),
    };
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let beside = langgraph.as_ref().map(LangGraph::versions).map_err(|reason| &**reason);
    if json {
        println!("{:#}", measure::to_json(&rows, beside));
    } else {
        print!("{}", measure::table(&rows, beside));
    }
    ExitCode::SUCCESS
}
