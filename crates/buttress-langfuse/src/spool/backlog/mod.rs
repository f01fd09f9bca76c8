//! Reading what waits in a spool, without taking it over.
//!
//! [`Backlog::read`] looks at a spool's folder, also while processes write there: no file is
//! changed, and no lock is kept. It tells how much waits for which Langfuse and of which process,
//! and what Langfuse has refused; [`Backlog::observations`] are what [`Statistics`] counts, with no
//! server at all. What a living process has in memory only is not to be seen here, and what it
//! delivers meanwhile may be told though it is gone.
//!
//! [`Statistics`]: crate::Statistics
//!
//! ```
//! use buttress_langfuse::{Statistics, backlog::Backlog};
//!
//! # fn example() -> Result<(), buttress_langfuse::backlog::BacklogError> {
//! let Some(folder) = Backlog::default_folder() else { return Ok(()) };
//! let backlog = match Backlog::read(&folder) {
//!     Err(error) if error.is_missing() => return Ok(()),
//!     backlog => backlog?,
//! };
//! for destination in &backlog.destinations {
//!     println!("{} spans wait for {:?}", destination.waiting().spans, destination.base_url);
//! }
//! let failed = Statistics::of(backlog.observations()?).total.calls.failed;
//! println!("{failed} of the calls that wait failed");
//! # Ok(())
//! # }
//! # example().unwrap();
//! ```

mod error;
mod span;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::Value as Json;

pub use self::{
    error::BacklogError,
    writer::{Waiting, Writer},
};
use super::{REFUSED_FOLDER, default_folder, folder, peer::PEER};
use crate::{LangfuseBuilder, Observation, client::lenient};

/// What waits in a spool; made by [`read`](Self::read).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Backlog {
    /// The folder of the spool.
    pub folder: PathBuf,
    /// Each Langfuse and public key for which there is something.
    pub destinations: Vec<Destination>,
}

/// What waits for one Langfuse and public key.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Destination {
    /// Its folder in the spool.
    pub folder: PathBuf,
    /// The address of Langfuse; none where the file that says it is damaged.
    pub base_url: Option<String>,
    /// The public key.
    pub public_key: Option<String>,
    /// What each process has left, or still writes.
    pub writers: Vec<Writer>,
    /// What Langfuse has refused for good, the oldest first.
    pub refused: Vec<Refused>,
}

/// A span that Langfuse has refused for good.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Refused {
    /// When.
    pub at: Option<SystemTime>,
    /// Langfuse's words.
    pub words: String,
    /// The id of the trace.
    pub trace_id: Option<String>,
    /// The id of the span.
    pub span_id: Option<String>,
    /// The name of the span.
    pub name: Option<String>,
    /// The file with all that the span says.
    pub file: PathBuf,
}

// ===== impl Backlog =====

impl Backlog {
    /// Reads the folder of a spool.
    ///
    /// # Errors
    ///
    /// `Missing` where there is no such folder, which says that nothing was ever left there;
    /// `Unreadable` with the folder or file that this user may not read.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self, BacklogError> {
        let folder = folder.as_ref();
        let mut destinations = Vec::new();
        for name in children(folder)? {
            destinations.extend(Destination::read(&folder.join(name))?);
        }
        Ok(Self { folder: folder.to_owned(), destinations })
    }

    /// Returns the folder that [`Langfuse`](crate::Langfuse) uses where none is set; none where the
    /// system has no place for it.
    #[must_use]
    pub fn default_folder() -> Option<PathBuf> {
        default_folder()
    }

    /// Returns what waits for the Langfuse and the public key of a builder.
    #[must_use]
    pub fn destination_of(&self, builder: &LangfuseBuilder) -> Option<&Destination> {
        let name = builder.peer().name();
        self.destinations.iter().find(|destination| destination.folder.ends_with(&name))
    }

    /// Returns whether there is nothing: nothing waits, nothing is damaged, nothing was refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.destinations.iter().all(Destination::is_empty)
    }

    /// Reads the spans that wait for any Langfuse, as observations, the oldest first.
    ///
    /// A span that never ended is one where its process has ended: `ERROR`, "process ended", as it
    /// will be delivered. What is damaged or refused is left out.
    ///
    /// # Errors
    ///
    /// `Unreadable` with the folder or file that this user may not read.
    pub fn observations(&self) -> Result<Vec<Observation>, BacklogError> {
        let mut observations = Vec::new();
        for writer in self.destinations.iter().flat_map(|destination| &destination.writers) {
            writer.read_observations(&mut observations)?;
        }
        observations.sort_by_key(|one| one.start);
        Ok(observations)
    }
}

// ===== impl Destination =====

impl Destination {
    /// Reads a folder; none where it is of something else, or gone.
    fn read(folder: &Path) -> Result<Option<Self>, BacklogError> {
        let path = folder.join(PEER);
        let peer = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice::<Json>(&bytes).unwrap_or_default()),
            Err(error) if is_gone(&error) => None,
            Err(error) => return Err(BacklogError::unreadable(&path, error)),
        };
        let mut writers = Vec::new();
        let mut refused = Vec::new();
        for name in
            folder::names(folder).map_err(|error| BacklogError::unreadable(folder, error))?
        {
            let path = folder.join(&name);
            if name.starts_with('.') || !path.is_dir() {
                continue;
            }
            if name == REFUSED_FOLDER {
                refused = Refused::read_all(&path)?;
            } else {
                writers.extend(Writer::read(&path)?);
            }
        }
        if peer.is_none() && writers.is_empty() && refused.is_empty() {
            return Ok(None);
        }
        let text = |key: &str| lenient::text(&peer.as_ref()?[key]);
        Ok(Some(Self {
            folder: folder.to_owned(),
            base_url: text("base_url"),
            public_key: text("public_key"),
            writers,
            refused,
        }))
    }

    /// Returns how much waits, of all processes.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.sum(|_| true)
    }

    /// Returns how much waits that processes have left which have ended.
    #[must_use]
    pub fn left(&self) -> Waiting {
        self.sum(|writer| !writer.is_alive)
    }

    fn sum(&self, which: impl Fn(&Writer) -> bool) -> Waiting {
        let writers = self.writers.iter().filter(|writer| which(writer));
        writers.map(Writer::waiting).fold(Waiting::default(), Waiting::and)
    }

    /// Returns how many places are damaged.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.writers.iter().map(|writer| writer.damaged).sum()
    }

    /// Returns whether there is nothing: nothing waits, nothing is damaged, nothing was refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting().is_empty() && self.damaged() == 0 && self.refused.is_empty()
    }
}

// ===== impl Refused =====

impl Refused {
    fn read_all(folder: &Path) -> Result<Vec<Self>, BacklogError> {
        let names =
            folder::names(folder).map_err(|error| BacklogError::unreadable(folder, error))?;
        let mut refused = Vec::new();
        for name in names {
            let file = folder.join(&name);
            match fs::read(&file) {
                Ok(text) => refused.push(Self::of(file, &name, &text)),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(BacklogError::unreadable(&file, error)),
            }
        }
        Ok(refused)
    }

    fn of(file: PathBuf, name: &str, text: &[u8]) -> Self {
        let nanos = name.split('-').next().and_then(|nanos| nanos.parse().ok());
        // What was cut by a full disk still says when.
        let json: Json = serde_json::from_slice(text).unwrap_or_default();
        let of_span = |key: &str| lenient::text(&json["span"][key]);
        Self {
            at: nanos.map(time),
            words: lenient::text(&json["words"]).unwrap_or_default(),
            trace_id: of_span("traceId"),
            span_id: of_span("spanId"),
            name: of_span("name"),
            file,
        }
    }
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The words may repeat what the span says.
        f.debug_struct("Refused")
            .field("at", &self.at)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Returns the names in the folder of a spool.
fn children(folder: &Path) -> Result<Vec<String>, BacklogError> {
    let unreadable = |error| BacklogError::unreadable(folder, error);
    match fs::metadata(folder) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BacklogError::Missing { path: folder.to_owned() });
        }
        Err(error) => return Err(unreadable(error)),
    }
    let mut names = folder::names(folder).map_err(unreadable)?;
    names.retain(|name| !name.starts_with('.') && folder.join(name).is_dir());
    Ok(names)
}

/// Returns whether something is not there any more: others deliver while one looks.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Returns the time of nanoseconds since 1970.
fn time(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}
