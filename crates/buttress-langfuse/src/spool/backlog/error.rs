//! Why a spool cannot be read.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

/// Why a spool cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum BacklogError {
    /// There is no such folder: nothing has ever been left there.
    Missing {
        /// The folder of the spool.
        path: PathBuf,
    },
    /// A folder or a file of it cannot be read.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BacklogError {
    /// Returns the folder or file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path } | Self::Unreadable { path, .. } => path,
        }
    }

    /// Returns whether there is no such folder.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    pub(super) fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), source }
    }
}

impl fmt::Display for BacklogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(f, "there is no spool at {}", path.display()),
            Self::Unreadable { path, .. } => write!(f, "{} cannot be read", path.display()),
        }
    }
}

impl Error for BacklogError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Missing { .. } => None,
            Self::Unreadable { source, .. } => Some(source),
        }
    }
}
