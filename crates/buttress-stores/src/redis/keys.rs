//! What the keys of a store are called.

use std::fmt::Write as _;

use buttress::checkpoint::{CheckpointKey, Namespace, StoreError, WorkflowId};

/// The digits of a sequence, so that the order of names is that of numbers.
const DIGITS: usize = 20;
/// Between workflow and namespace in the index: neither holds it, and nothing sorts before it.
const BETWEEN: char = '\0';

/// The keys of one chain; those of a workflow are in one slot of a cluster.
pub(super) struct Keys {
    /// The states of the workflow's chains, by namespace.
    pub(super) chains: String,
    /// The names of the chain's records, in order.
    pub(super) index: String,
    /// The chain's records, by name.
    pub(super) data: String,
}

// ===== impl Keys =====

impl Keys {
    pub(super) fn new(prefix: &str, key: &CheckpointKey) -> Self {
        let chains = chains(prefix, &key.workflow_id);
        let namespace = encode(key.namespace.as_str());
        let index = format!("{chains}:index:{namespace}");
        let data = format!("{chains}:data:{namespace}");
        Self { chains, index, data }
    }
}

/// Returns the key of the states of a workflow's chains. What stands in braces decides the slot.
pub(super) fn chains(prefix: &str, id: &WorkflowId) -> String {
    format!("{prefix}:{{{}}}", encode(id.as_str()))
}

/// Returns the key of the names of all chains.
pub(super) fn index(prefix: &str) -> String {
    format!("{prefix}:index")
}

/// Returns the key of the version of all others.
pub(super) fn version(prefix: &str) -> String {
    format!("{prefix}:version")
}

/// Refuses a prefix that would decide the slot of all keys.
pub(super) fn check(prefix: &str) -> Result<(), StoreError> {
    if prefix.contains(['{', '}']) {
        return Err(StoreError::setup("the prefix of keys holds a brace"));
    }
    Ok(())
}

/// Returns the name of a chain in the index.
pub(super) fn listed(key: &CheckpointKey) -> String {
    format!("{}{BETWEEN}{}", key.workflow_id, key.namespace)
}

/// Reads a name of the index.
pub(super) fn unlisted(name: &[u8]) -> Option<CheckpointKey> {
    let (id, namespace) = str::from_utf8(name).ok()?.split_once(BETWEEN)?;
    let key = CheckpointKey::new(WorkflowId::new(id).ok()?);
    Some(key.in_namespace(Namespace::new(namespace).ok()?))
}

/// Returns the range of the index that is behind a chain, of one workflow or of all.
pub(super) fn behind(after: Option<&CheckpointKey>, of: Option<&WorkflowId>) -> [String; 2] {
    let first = of.map_or_else(|| "-".to_owned(), |id| format!("[{id}{BETWEEN}"));
    let end = of.map_or_else(|| "+".to_owned(), |id| format!("({id}\u{1}"));
    let after = after.map(listed);
    match (after, of) {
        (Some(after), Some(id)) if after < format!("{id}{BETWEEN}") => [first, end],
        (Some(after), _) => [format!("({after}"), end],
        (None, _) => [first, end],
    }
}

/// Returns a sequence as it is part of names.
pub(super) fn sequence(sequence: u64) -> String {
    format!("{sequence:0DIGITS$}")
}

/// Returns the greatest and the least name of a checkpoint, newest first.
pub(super) fn any() -> [String; 2] {
    ["(d".to_owned(), "[c".to_owned()]
}

/// Returns the greatest and the least name of checkpoints below a sequence.
pub(super) fn below(before: u64) -> [String; 2] {
    [format!("(c{}", sequence(before)), "[c".to_owned()]
}

/// Returns the greatest and the least name of one checkpoint, whatever its write id.
pub(super) fn exactly(at: u64) -> [String; 2] {
    let at = sequence(at);
    [format!("[c{at}g"), format!("[c{at}")]
}

/// Keeps what is no part of a name's syntax; every other byte becomes `%XX`.
fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, namespace: &str) -> CheckpointKey {
        let key = CheckpointKey::new(WorkflowId::new(id).unwrap());
        key.in_namespace(Namespace::new(namespace).unwrap())
    }

    #[test]
    fn no_name_has_a_brace_of_its_own() {
        let keys = Keys::new("buttress", &key("a{b}:c", "d:{}"));
        assert_eq!(keys.chains, "buttress:{a%7Bb%7D%3Ac}");
        assert_eq!(keys.data, "buttress:{a%7Bb%7D%3Ac}:data:d%3A%7B%7D");
        assert!(check("a{").is_err());
    }

    #[test]
    fn the_index_is_in_the_order_of_keys() {
        let keys = [key("a", ""), key("a", "b"), key("a\u{1}", ""), key("ab", ""), key("b", "")];
        let names: Vec<_> = keys.iter().map(listed).collect();
        assert!(names.is_sorted());
        assert_eq!(unlisted(names[1].as_bytes()), Some(keys[1].clone()));
        assert_eq!(unlisted(b"\xff"), None);
        let of = WorkflowId::new("a").unwrap();
        assert_eq!(behind(None, None), ["-", "+"]);
        assert_eq!(behind(None, Some(&of)), ["[a\0", "(a\u{1}"]);
        assert_eq!(behind(Some(&keys[1]), Some(&of)), ["(a\0b", "(a\u{1}"]);
        let before = WorkflowId::new("b").unwrap();
        assert_eq!(behind(Some(&keys[1]), Some(&before)), ["[b\0", "(b\u{1}"]);
    }
}
