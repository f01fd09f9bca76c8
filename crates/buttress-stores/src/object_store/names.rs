//! Where objects are: `<prefix>/<shard>/w-<workflow>/n-<namespace>/<sequence>`.

use std::fmt::Write as _;

use ::object_store::path::Path;
use buttress::checkpoint::{CheckpointKey, WorkflowId};
use sha2::{Digest, Sha256};

/// The longest encoded name that is used whole.
const LONGEST: usize = 180;
/// How much of a longer name is kept for people.
const KEPT: usize = 100;
/// The digits of a sequence, so that the order of names is that of numbers.
const DIGITS: usize = 20;

/// Returns the shard of a workflow: two hexadecimal digits.
pub(super) fn shard_of(id: &WorkflowId) -> String {
    format!("{:02x}", Sha256::digest(id.as_str())[0])
}

/// Returns the folder of a workflow.
pub(super) fn workflow(base: &str, id: &WorkflowId) -> Path {
    path(base, &format!("{}/{}", shard_of(id), encode("w-", id.as_str())))
}

/// Returns the folder of a chain.
pub(super) fn chain(base: &str, key: &CheckpointKey) -> Path {
    let namespace = encode("n-", key.namespace.as_str());
    path(workflow(base, &key.workflow_id).as_ref(), &namespace)
}

/// Returns the place of a record.
pub(super) fn record(chain: &Path, sequence: u64) -> Path {
    path(chain.as_ref(), &format!("{sequence:0DIGITS$}"))
}

/// Returns the sequence of a record; none where it is something else.
pub(super) fn sequence(path: &Path) -> Option<u64> {
    let name = path.filename()?;
    (name.len() == DIGITS).then(|| name.parse().ok())?
}

/// Joins two paths of names that need no encoding.
pub(super) fn path(base: &str, rest: &str) -> Path {
    let both = if base.is_empty() { rest.to_owned() } else { format!("{base}/{rest}") };
    Path::parse(both).expect("encoded names are parts of a path")
}

/// Encodes a name: `[a-z0-9_-]` stay, every other byte becomes `~XX`, upper case too, since some
/// file systems fold it. The prefix keeps out `.`, `..`, `con` and names that begin with `-`.
///
/// A long name is cut and gets its hash, behind a mark that no encoding has.
fn encode(prefix: &str, name: &str) -> String {
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
    use buttress::checkpoint::Namespace;

    use super::*;

    #[test]
    fn places_are_in_order_and_apart() {
        let key = |id: &str| CheckpointKey::new(WorkflowId::new(id).unwrap());
        let own = chain("base", &key("A/b.c"));
        assert_eq!(own.as_ref(), "base/a4/w-~41~2Fb~2Ec/n-");
        assert_eq!(record(&own, 7).as_ref(), format!("{own}/00000000000000000007"));
        assert_eq!(sequence(&record(&own, 7)), Some(7));
        assert_eq!(sequence(&own), None);
        assert_ne!(own, chain("base", &key("a/b.c")));
        assert!(chain("", &key("..")).as_ref().ends_with("/w-~2E~2E/n-"));
        let part = key("A/b.c").in_namespace(Namespace::new("x".repeat(1024)).unwrap());
        assert_eq!(chain("base", &part).filename().unwrap().len(), KEPT + 2 + 64);
    }
}
