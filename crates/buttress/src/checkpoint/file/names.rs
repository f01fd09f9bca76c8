//! Names of folders and files, so that no id leaves the folder or meets another.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::{CheckpointKey, Namespace, WorkflowId};

/// The longest encoded name that is used whole; file systems take 255 bytes.
const LONGEST: usize = 180;
/// How much of a longer name is kept for people.
const KEPT: usize = 100;
/// What the names of files begin with that are not published yet.
pub(super) const TEMPORARY: &str = ".tmp-";
/// What the seed puts behind the id.
const SEED: &str = "_latest.json";
const SEQUENCE_DIGITS: usize = 20;

/// Returns the folder of a workflow: two hexadecimal digits, so that no folder has them all, then
/// the encoded id.
pub(super) fn workflow_folder(root: &Path, id: &WorkflowId) -> PathBuf {
    root.join(shard(id)).join(encode("w-", id.as_str()))
}

/// Returns the folder of a chain.
pub(super) fn chain_folder(root: &Path, key: &CheckpointKey) -> PathBuf {
    workflow_folder(root, &key.workflow_id).join(namespace_folder(&key.namespace))
}

pub(super) fn namespace_folder(namespace: &Namespace) -> String {
    encode("n-", namespace.as_str())
}

pub(super) fn shard(id: &WorkflowId) -> String {
    format!("{:02x}", Sha256::digest(id.as_str())[0])
}

/// Returns the name of a record.
pub(super) fn record(sequence: u64) -> String {
    format!("{sequence:0SEQUENCE_DIGITS$}.json")
}

/// Returns the sequence in the name of a record.
pub(super) fn sequence(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    (digits.len() == SEQUENCE_DIGITS).then(|| digits.parse().ok())?
}

/// Returns the name of the seed's file, where the id is a file name on every system.
pub(super) fn seed_file(id: &WorkflowId) -> Option<String> {
    let id = id.as_str();
    let is_safe = |char: char| !char.is_control() && !r#"/\:*?"<>|"#.contains(char);
    (id.chars().all(is_safe) && id.len() + SEED.len() <= 255).then(|| format!("{id}{SEED}"))
}

/// Returns the id in the name of one of the seed's files.
pub(super) fn seed_workflow(name: &str) -> Option<WorkflowId> {
    WorkflowId::new(name.strip_suffix(SEED)?).ok()
}

/// Encodes a name: `[a-z0-9_-]` stay, every other byte becomes `~XX`, upper case too, since some
/// file systems fold it. The prefix keeps out `.`, `..`, `con` and names that begin with `-`.
///
/// A long name is cut and gets its hash, behind a mark that no encoding has.
fn encode(prefix: &str, name: &str) -> String {
    use std::fmt::Write as _;

    let mut encoded = String::with_capacity(prefix.len() + name.len());
    encoded.push_str(prefix);
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => encoded.push(char::from(byte)),
            _ => _ = write!(encoded, "~{byte:02X}"),
        }
    }
    if encoded.len() > LONGEST {
        encoded.truncate(KEPT);
        encoded.push_str("~h");
        for byte in Sha256::digest(name) {
            _ = write!(encoded, "{byte:02x}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_apart() {
        assert_eq!(encode("w-", "A/b.c"), "w-~41~2Fb~2Ec");
        assert_eq!(encode("w-", ".."), "w-~2E~2E");
        assert_eq!(encode("n-", ""), "n-");
        assert_ne!(encode("w-", "A"), encode("w-", "a"));
        let (long, longer) = ("x".repeat(179), format!("{}~h", "x".repeat(400)));
        assert_eq!(encode("w-", &long).len(), 100 + 2 + 64);
        assert_ne!(encode("w-", &longer), encode("w-", &format!("{longer}y")));
    }

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
