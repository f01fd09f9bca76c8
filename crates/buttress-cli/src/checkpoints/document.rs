//! Checkpoints for programs; `docs/cli.md` documents the keys, which stay.

use buttress::{Checkpoint, checkpoint::Payload};
use serde_json::{Value as Json, json};

use crate::period::iso;

/// Writes what a list says: everything but the state.
pub(super) fn summary(checkpoint: &Checkpoint) -> Json {
    json!({
        "workflow_id": checkpoint.key.workflow_id.as_str(),
        "namespace": checkpoint.key.namespace.as_str(),
        "sequence": checkpoint.sequence,
        "parent": checkpoint.parent,
        "phase": checkpoint.phase,
        "timestamp": iso(checkpoint.timestamp),
        "schema_version": checkpoint.schema_version,
        "metadata": checkpoint.metadata,
        "state_bytes": checkpoint.state.len(),
        "writes": checkpoint.writes.len(),
    })
}

/// Writes all of it.
pub(super) fn whole(checkpoint: &Checkpoint) -> Json {
    let mut document = summary(checkpoint);
    document["state"] = payload(&checkpoint.state);
    let writes = checkpoint.writes.iter().map(|write| {
        json!({
            "task": write.task,
            "kind": format!("{:?}", write.kind).to_lowercase(),
            "index": write.index,
            "value": payload(&write.value),
        })
    });
    document["writes"] = writes.collect();
    document
}

/// Writes JSON as it is; text that is none under `$text`, other bytes under `$hex`.
fn payload(payload: &Payload) -> Json {
    if let Ok(json) = serde_json::from_slice(payload) {
        return json;
    }
    match std::str::from_utf8(payload) {
        Ok(text) => json!({ "$text": text }),
        Err(_) => {
            let hex = payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            json!({ "$hex": hex })
        }
    }
}
