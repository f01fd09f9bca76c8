use std::{borrow::Borrow, fmt, sync::Arc};

use sha2::{Digest, Sha256};

use super::StoreError;

/// The name of a workflow: any Unicode text a user may send, but for the empty one.
///
/// Two ids are the same when their bytes are; no case is folded and nothing is normalised. Stores
/// encode it, so that no id leaves a folder or meets another.
///
/// ```
/// use buttress::WorkflowId;
///
/// assert_eq!(WorkflowId::new("trades/2026-11-25").unwrap().as_str(), "trades/2026-11-25");
/// assert!(WorkflowId::new("").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkflowId(Arc<str>);

/// A part of a workflow with a chain of checkpoints of its own; the empty one is the workflow's own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

/// What a chain of checkpoints is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct CheckpointKey {
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// The part of it.
    pub namespace: Namespace,
}

// ===== impl WorkflowId =====

impl WorkflowId {
    /// The longest id in bytes of UTF-8.
    pub const MAX_LEN: usize = 1024;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`InvalidId`](super::StoreErrorKind::InvalidId) where it is empty, longer than
    /// [`MAX_LEN`](Self::MAX_LEN) or holds a NUL, which Postgres cannot store.
    pub fn new(id: impl Into<Arc<str>>) -> Result<Self, StoreError> {
        let id = id.into();
        if id.is_empty() {
            return Err(StoreError::invalid_id("a workflow id is empty"));
        }
        check("a workflow id", &id, Self::MAX_LEN)?;
        Ok(Self(id))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns names for two folders that no other id has, one in the other, on any file system: two
    /// digits, so that no folder has all workflows in it, and the id, encoded.
    #[must_use]
    pub fn path_segments(&self) -> [String; 2] {
        [format!("{:02x}", Sha256::digest(self.as_str())[0]), encode("w-", self.as_str())]
    }
}

impl TryFrom<&str> for WorkflowId {
    type Error = StoreError;

    fn try_from(id: &str) -> Result<Self, StoreError> {
        Self::new(id)
    }
}

impl TryFrom<String> for WorkflowId {
    type Error = StoreError;

    fn try_from(id: String) -> Result<Self, StoreError> {
        Self::new(id)
    }
}

impl std::str::FromStr for WorkflowId {
    type Err = StoreError;

    fn from_str(id: &str) -> Result<Self, StoreError> {
        Self::new(id)
    }
}

impl AsRef<str> for WorkflowId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for WorkflowId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for WorkflowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for WorkflowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

// ===== impl Namespace =====

impl Namespace {
    /// The longest name in bytes of UTF-8.
    pub const MAX_LEN: usize = 1024;

    /// Checks a name; the empty one is [`Namespace::default`].
    ///
    /// # Errors
    ///
    /// [`InvalidId`](super::StoreErrorKind::InvalidId) where it is longer than
    /// [`MAX_LEN`](Self::MAX_LEN) or holds a NUL.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, StoreError> {
        let name = name.into();
        check("a namespace", &name, Self::MAX_LEN)?;
        Ok(Self(name))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns a name for a folder that no other namespace has, on any file system.
    #[must_use]
    pub fn path_segment(&self) -> String {
        encode("n-", self.as_str())
    }

    /// Returns the name that is [encoded](Self::path_segment) so; none where that was too long.
    pub(super) fn from_path_segment(segment: &str) -> Option<Self> {
        Self::new(decode(segment.strip_prefix("n-")?)?).ok()
    }

    /// Returns whether it is the workflow's own.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("".into())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

// ===== impl CheckpointKey =====

impl CheckpointKey {
    /// Creates the key of the workflow's own chain.
    #[must_use]
    pub fn new(workflow_id: WorkflowId) -> Self {
        Self { workflow_id, namespace: Namespace::default() }
    }

    /// Sets the part of the workflow.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }
}

impl From<WorkflowId> for CheckpointKey {
    fn from(workflow_id: WorkflowId) -> Self {
        Self::new(workflow_id)
    }
}

impl fmt::Display for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "workflow {:?}", self.workflow_id)?;
        if self.namespace.is_root() {
            return Ok(());
        }
        write!(f, ", namespace {:?}", self.namespace)
    }
}

fn check(what: &str, name: &str, longest: usize) -> Result<(), StoreError> {
    if name.len() > longest {
        let length = name.len();
        return Err(StoreError::invalid_id(format!(
            "{what} has {length} bytes, and {longest} are the most"
        )));
    }
    if name.contains('\0') {
        return Err(StoreError::invalid_id(format!("{what} holds a NUL")));
    }
    Ok(())
}

/// The longest encoded name that is used whole; file systems take 255 bytes.
const LONGEST: usize = 180;
/// How much of a longer name is kept for people.
const KEPT: usize = 100;

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

/// Returns the name that is encoded so; none where it was cut, or is none of ours.
fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut parts = encoded.split('~');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
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
        for name in ["", "A/b.c", "..", "\u{1f980} crab"] {
            assert_eq!(decode(&encode("", name)).unwrap(), name);
        }
        assert_eq!(decode(&encode("", &"x".repeat(400))), None);
        let (long, longer) = ("x".repeat(179), format!("{}~h", "x".repeat(400)));
        assert_eq!(encode("w-", &long).len(), 100 + 2 + 64);
        assert_ne!(encode("w-", &longer), encode("w-", &format!("{longer}y")));
    }
}
