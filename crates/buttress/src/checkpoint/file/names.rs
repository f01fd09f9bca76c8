//! Names of folders and files, so that no id leaves the folder or meets another.

use std::path::{Path, PathBuf};

use super::super::{ChainState, CheckpointKey, WorkflowId};

/// What the names of files begin with that are not published yet.
pub(super) const TEMPORARY: &str = ".tmp-";
/// What the seed puts behind the id.
const SEED: &str = "_latest.json";
/// What is put behind the name of a seed's file that nobody can read.
const UNREADABLE: &str = ".unreadable-";
const SEQUENCE_DIGITS: usize = 20;

/// Returns the folder of a workflow.
pub(super) fn workflow_folder(root: &Path, id: &WorkflowId) -> PathBuf {
    let [shard, workflow] = id.path_segments();
    root.join(shard).join(workflow)
}

/// Returns the folder of a chain.
pub(super) fn chain_folder(root: &Path, key: &CheckpointKey) -> PathBuf {
    workflow_folder(root, &key.workflow_id).join(key.namespace.path_segment())
}

pub(super) fn shard(id: &WorkflowId) -> String {
    let [shard, _] = id.path_segments();
    shard
}

/// Returns the name of a record.
pub(super) fn record(sequence: u64) -> String {
    format!("{sequence:0SEQUENCE_DIGITS$}.json")
}

/// Returns the sequence in the name of a record.
pub(super) fn sequence(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let sequence = (digits.len() == SEQUENCE_DIGITS).then(|| digits.parse().ok())?;
    sequence.filter(|sequence| *sequence <= ChainState::LAST)
}

/// Returns the name of the seed's file, where the id is a file name on every system.
pub(super) fn seed_file(id: &WorkflowId) -> Option<String> {
    let id = id.as_str();
    let is_safe = |char: char| !char.is_control() && !r#"/\:*?"<>|"#.contains(char);
    let is_ours = id.starts_with(TEMPORARY);
    (!is_ours && id.chars().all(is_safe) && id.len() + SEED.len() <= 255)
        .then(|| format!("{id}{SEED}"))
}

/// Returns the name that a seed's file gets which nobody can read.
pub(super) fn unreadable(seed_file: &str, sequence: u64) -> String {
    format!("{seed_file}{UNREADABLE}{sequence}")
}

/// Returns whether a name is one of a seed's file that nobody could read.
pub(super) fn is_unreadable(name: &str, seed_file: &str) -> bool {
    name.strip_prefix(seed_file)
        .and_then(|name| name.strip_prefix(UNREADABLE))
        .is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Returns the id in the name of one of the seed's files.
pub(super) fn seed_workflow(name: &str) -> Option<WorkflowId> {
    WorkflowId::new(name.strip_suffix(SEED)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_file_has_the_raw_id_where_that_is_safe() {
        let file = |id: &str| seed_file(&WorkflowId::new(id).unwrap());
        assert_eq!(file("Trade 7").unwrap(), "Trade 7_latest.json");
        assert_eq!(file("..").unwrap(), ".._latest.json");
        assert_eq!(file("a/b"), None);
        assert_eq!(file("C:x"), None);
        assert_eq!(file(&"x".repeat(244)), None);
        assert_eq!(seed_workflow("Trade 7_latest.json").unwrap().as_str(), "Trade 7");
        assert!(seed_workflow("_latest.json").is_none());
    }

    #[test]
    fn a_record_is_named_by_its_sequence() {
        assert_eq!(record(7), "00000000000000000007.json");
        assert_eq!(sequence("00000000000000000007.json"), Some(7));
        assert_eq!(sequence("7.json"), None);
        assert_eq!(sequence(".tmp-1"), None);
    }
}
