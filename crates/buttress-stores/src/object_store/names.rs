//! Where objects are: `<prefix>/<shard>/w-<workflow>/n-<namespace>/<sequence>`.

use ::object_store::path::Path;
use buttress::checkpoint::{CheckpointKey, WorkflowId};

/// The digits of a sequence, so that the order of names is that of numbers.
const DIGITS: usize = 20;

/// Returns the shard of a workflow: two hexadecimal digits.
pub(super) fn shard_of(id: &WorkflowId) -> String {
    let [shard, _] = id.path_segments();
    shard
}

/// Returns the folder of a workflow.
pub(super) fn workflow(base: &str, id: &WorkflowId) -> Path {
    path(base, &id.path_segments().join("/"))
}

/// Returns the folder of a chain.
pub(super) fn chain(base: &str, key: &CheckpointKey) -> Path {
    path(workflow(base, &key.workflow_id).as_ref(), &key.namespace.path_segment())
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
        assert_eq!(chain("base", &part).filename().unwrap().len(), 100 + 2 + 64);
    }
}
