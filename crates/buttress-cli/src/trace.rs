//! `buttress trace`.

use std::path::Path;

use buttress_langfuse::{
    LangfuseClient, Observation,
    client::{ObservationQuery, Trace},
};
use serde_json::{Value as Json, json};

use crate::{
    args::TraceArgs, color::Color, period::iso, problem::Problem, spool, stats, terminal, text,
};

pub(crate) async fn run(args: &TraceArgs, color: Color) -> Result<(), Problem> {
    let trace = match &args.spool {
        Some(folder) => spooled(args, folder)?,
        None => {
            let client = stats::client()?;
            client.trace(&id(args, &client).await?).await?
        }
    };
    if args.json {
        return terminal::print(&text::json(&document(&trace)));
    }
    terminal::print(&trace.render(color.is_on()))
}

/// Reads a trace from a spool: what of it waits there.
fn spooled(args: &TraceArgs, folder: &Path) -> Result<Trace, Problem> {
    let mut observations = spool::observations(folder)?;
    let environment = args.environment.as_deref();
    let mut newest = observations.iter().rev();
    let last = newest
        .find(|one| environment.is_none() || one.environment.as_deref() == environment)
        .map(|one| one.trace_id.clone());
    let id = if args.id == "last" { last.unwrap_or_default() } else { args.id.trim().to_owned() };
    observations.retain(|one| one.trace_id == id);
    Trace::new(observations).ok_or_else(|| {
        let folder = folder.display();
        Problem::Nothing(match args.id.as_str() {
            "last" => format!("no data: no trace waits in {folder}"),
            id => format!("no trace {id} waits in {folder}"),
        })
    })
}

/// Returns the id that is asked for; that of the last trace is looked up.
async fn id(args: &TraceArgs, client: &LangfuseClient) -> Result<String, Problem> {
    if args.id != "last" {
        return Ok(args.id.trim().to_owned());
    }
    let mut query = ObservationQuery::new();
    if let Some(environment) = &args.environment {
        query = query.environment(environment);
    }
    let last = client.last_trace_id(query).await?;
    last.ok_or_else(|| Problem::Nothing("no data: Langfuse has no trace".to_owned()))
}

fn document(trace: &Trace) -> Json {
    json!({
        "id": trace.id,
        "name": trace.name,
        "level": trace.level().as_str(),
        "start": trace.start().map(iso),
        "observations": trace.observations.iter().map(observation).collect::<Json>(),
    })
}

fn observation(one: &Observation) -> Json {
    json!({
        "id": one.id,
        "parent_id": one.parent_id,
        "name": one.name,
        "type": one.kind,
        "level": one.level.as_str(),
        "status_message": one.status_message,
        "start": iso(one.start),
        "end": one.end.map(iso),
        "duration_ms": u64::try_from(one.duration().as_millis()).unwrap_or(u64::MAX),
        "environment": one.environment,
        "session_id": one.session_id,
        "user_id": one.user_id,
        "model": one.model,
        "usage": one.usage,
        "cost": one.cost,
        "input": one.input,
        "output": one.output,
        "metadata": one.metadata,
    })
}
