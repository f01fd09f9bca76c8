//! The locks that writers of one chain wait for.
//!
//! Writers of a chain share the lock of its workflow and hold that of the chain; who deletes a
//! workflow holds that of the workflow. The order is always this one, so nobody waits in a circle.

use buttress::checkpoint::{CheckpointKey, WorkflowId};
use twox_hash::XxHash3_128;

/// Returns the statements that lock a chain until the end of a transaction.
pub(super) fn chain(scope: &str, key: &CheckpointKey) -> String {
    let workflow = of_workflow(scope, &key.workflow_id);
    let chain = of(&[scope, "chain", key.workflow_id.as_str(), key.namespace.as_str()]);
    format!(
        "SELECT pg_advisory_xact_lock_shared({workflow}); SELECT pg_advisory_xact_lock({chain});"
    )
}

/// Returns the statement that locks all chains of a workflow.
pub(super) fn workflow(scope: &str, id: &WorkflowId) -> String {
    format!("SELECT pg_advisory_xact_lock({});", of_workflow(scope, id))
}

/// Returns the lock of who creates or changes tables.
pub(super) fn of_schema(scope: &str) -> i64 {
    of(&[scope, "schema"])
}

fn of_workflow(scope: &str, id: &WorkflowId) -> i64 {
    of(&[scope, "workflow", id.as_str()])
}

/// Hashes words, which hold no NUL; two that meet only wait for each other.
///
/// Every program that uses the tables must get the same, so this never changes.
fn of(words: &[&str]) -> i64 {
    let hash = XxHash3_128::oneshot(words.join("\0").as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = hash.to_le_bytes();
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use buttress::checkpoint::Namespace;

    use super::*;

    #[test]
    fn the_locks_of_a_chain_never_change() {
        let key = CheckpointKey::new(WorkflowId::new("trades").unwrap());
        let locked = chain("\"buttress_\"", &key);
        assert_eq!(
            locked,
            "SELECT pg_advisory_xact_lock_shared(4208528568623554651); \
             SELECT pg_advisory_xact_lock(7717294720978019579);"
        );
        let other = key.in_namespace(Namespace::new("child").unwrap());
        assert_ne!(chain("\"buttress_\"", &other), locked);
    }
}
