//! `list`, `show` and `history`.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use buttress::{
    BoxStore, Checkpoint, CheckpointStore as _,
    checkpoint::{CheckpointKey, Page, Payload, Query},
};
use serde_json::Value as Json;

use super::{HistoryArgs, ListArgs, ShowArgs, document, store::Store};
use crate::{
    color::Color,
    period::{shown, span},
    problem::Problem,
    table::{Side, Table},
    terminal,
    text::{self, escaped},
};

/// How many are asked of a store at once: each comes with its state.
const AT_ONCE: usize = 32;

pub(super) async fn list(store: &Store, args: &ListArgs) -> Result<(), Problem> {
    let open = store.open().await?;
    let first = Query::first(AT_ONCE);
    let first = match &args.workflow {
        Some(id) => first.workflow(id.clone()),
        None => first,
    };
    let mut heads = Vec::new();
    let mut query = Some(first.clone());
    while let Some(next) = query.take() {
        let page = open.list(next).await?;
        let is_full = page.len() == AT_ONCE;
        let last = page.last().map(|head| head.key.clone());
        heads.extend(page.iter().map(Summary::of));
        if let (true, true, Some(last)) = (is_full, heads.len() < args.limit, last) {
            query = Some(first.clone().after(last));
        }
    }
    heads.truncate(args.limit);
    print(store, &heads, args.json, args.workflow.is_none())
}

pub(super) async fn history(store: &Store, args: &HistoryArgs) -> Result<(), Problem> {
    let open = store.open().await?;
    let key = CheckpointKey::new(args.workflow.clone()).in_namespace(args.namespace.clone());
    let mut checkpoints: Vec<Summary> = Vec::new();
    loop {
        let page = match checkpoints.last() {
            Some(last) => Page::newest(AT_ONCE).before(last.sequence),
            None => Page::newest(AT_ONCE),
        };
        let page = open.history(&key, page).await?;
        checkpoints.extend(page.iter().map(Summary::of));
        // A page may be short of what cannot be read; only an empty one is the end.
        if page.is_empty() || checkpoints.len() >= args.limit {
            break;
        }
    }
    checkpoints.truncate(args.limit);
    print(store, &checkpoints, args.json, false)
}

pub(super) async fn show(store: &Store, args: &ShowArgs, color: Color) -> Result<(), Problem> {
    let open = store.open().await?;
    let key = CheckpointKey::new(args.workflow.clone()).in_namespace(args.namespace.clone());
    let found = find(&open, &key, args.sequence).await?;
    let Some(checkpoint) = found else {
        let what = match args.sequence {
            Some(sequence) => format!("checkpoint {sequence}"),
            None => "checkpoint".to_owned(),
        };
        return Err(Problem::Nothing(format!("no {what} of {key} in {store}")));
    };
    if args.json {
        return terminal::print(&text::json(&document::whole(&checkpoint)));
    }
    terminal::print(&drawn(&checkpoint, color))
}

async fn find(
    store: &BoxStore,
    key: &CheckpointKey,
    sequence: Option<u64>,
) -> Result<Option<Checkpoint>, Problem> {
    Ok(match sequence {
        Some(sequence) => store.get(key, sequence).await?,
        None => store.latest(key).await?,
    })
}

/// What a list says of a checkpoint; states are not kept.
pub(super) struct Summary {
    pub(super) document: Json,
    pub(super) key: CheckpointKey,
    pub(super) sequence: u64,
    phase: String,
    timestamp: SystemTime,
    bytes: usize,
}

// ===== impl Summary =====

impl Summary {
    fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            document: document::summary(checkpoint),
            key: checkpoint.key.clone(),
            sequence: checkpoint.sequence,
            phase: checkpoint.phase.clone(),
            timestamp: checkpoint.timestamp,
            bytes: checkpoint.state.len(),
        }
    }
}

fn print(
    store: &Store,
    summaries: &[Summary],
    json: bool,
    is_whole_store: bool,
) -> Result<(), Problem> {
    if json {
        let documents = summaries.iter().map(|one| one.document.clone());
        terminal::print(&text::json(&serde_json::json!({
            "store": store.to_string(),
            "checkpoints": documents.collect::<Json>(),
        })))?;
    } else if !summaries.is_empty() {
        terminal::print(&table(summaries))?;
    }
    if summaries.is_empty() {
        let of = if is_whole_store { "" } else { " of the workflow" };
        return Err(Problem::Nothing(format!("no checkpoints{of} in {store}")));
    }
    Ok(())
}

fn table(summaries: &[Summary]) -> String {
    let has_parts = summaries.iter().any(|one| !one.key.namespace.is_root());
    let part = has_parts.then_some(("PART", Side::Text));
    let mut table = Table::new([("WORKFLOW", Side::Text)].into_iter().chain(part).chain([
        ("N", Side::Right),
        ("PHASE", Side::Text),
        ("SAVED (UTC)", Side::Left),
        ("BYTES", Side::Right),
    ]));
    for one in summaries {
        let part = has_parts.then(|| one.key.namespace.to_string());
        let saved = shown(one.timestamp);
        table.row([one.key.workflow_id.to_string()].into_iter().chain(part).chain([
            one.sequence.to_string(),
            one.phase.clone(),
            saved.trim_end_matches(" UTC").to_owned(),
            one.bytes.to_string(),
        ]));
    }
    table.render(0)
}

/// Draws a checkpoint: what belongs to it, then its state.
fn drawn(checkpoint: &Checkpoint, color: Color) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        _ = writeln!(text, "{}{}", color.bold(&format!("{name:15}")), escaped(value));
    };
    line("workflow", checkpoint.key.workflow_id.as_str());
    if !checkpoint.key.namespace.is_root() {
        line("part", checkpoint.key.namespace.as_str());
    }
    line("sequence", &checkpoint.sequence.to_string());
    if let Some(parent) = checkpoint.parent {
        line("parent", &parent.to_string());
    }
    line("phase", &checkpoint.phase);
    let age = SystemTime::now().duration_since(checkpoint.timestamp).unwrap_or(Duration::ZERO);
    line("saved", &format!("{}, {} ago", shown(checkpoint.timestamp), span(age)));
    line("schema version", &checkpoint.schema_version.to_string());
    for (name, value) in &checkpoint.metadata {
        line(&escaped(name), &value.to_string());
    }
    for write in &checkpoint.writes {
        let value = state(&write.value).unwrap_or_else(|| bytes(&write.value));
        line("write", &format!("{:?} of {}: {}", write.kind, write.task, value.trim_end()));
    }
    line("state", &format!("{} bytes", checkpoint.state.len()));
    text.push('\n');
    match state(&checkpoint.state) {
        Some(json) => text.push_str(&json),
        None => text.push_str(&format!("{}\n", bytes(&checkpoint.state))),
    }
    text
}

/// Writes what is JSON, over several lines.
fn state(payload: &Payload) -> Option<String> {
    serde_json::from_slice(payload).ok().map(|json: Json| text::json(&json))
}

/// Writes what is no JSON: as text where it is, else in hex.
fn bytes(payload: &Payload) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => escaped(text),
        Err(_) => payload.iter().fold(String::from("0x"), |mut hex, byte| {
            _ = write!(hex, "{byte:02x}");
            hex
        }),
    }
}
