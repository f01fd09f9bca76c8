//! Lists that come in pages: by cursor from the newer interface, by number from the older one.

use serde_json::Value as Json;

use super::{ClientError, LangfuseClient, Subject, lenient, score::Score};
use crate::Observation;

/// A list that is read page by page; what it holds may grow at its newer end meanwhile.
#[derive(Debug)]
#[must_use = "a list is read by `next` or `all`"]
pub struct Pages<T> {
    client: LangfuseClient,
    listing: Listing,
    place: Place,
    rows: std::marker::PhantomData<fn() -> T>,
}

/// What is listed, in the words of both interfaces.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub(super) subject: Subject,
    pub(super) new_path: &'static str,
    pub(super) new_query: Vec<(&'static str, String)>,
    pub(super) new_limit: usize,
    pub(super) old_path: &'static str,
    pub(super) old_query: Vec<(&'static str, String)>,
    pub(super) old_limit: usize,
}

/// Where the next page begins.
#[derive(Debug)]
enum Place {
    First,
    Behind(String),
    Page(u64),
    End,
}

/// A row of a list: an [`Observation`] or a [`Score`].
pub trait Row: Sized + private::Read {
    /// Drops the repeats of a row, and keeps the newest.
    #[must_use]
    fn distinct(rows: Vec<Self>) -> Vec<Self>;
}

mod private {
    use serde_json::Value as Json;

    /// Reads a row; none where it cannot be one.
    pub trait Read {
        fn read(row: &Json) -> Option<Self>
        where
            Self: Sized;
    }
}

// ===== impl Pages =====

impl<T: Row> Pages<T> {
    pub(super) fn new(client: LangfuseClient, listing: Listing) -> Self {
        Self { client, listing, place: Place::First, rows: std::marker::PhantomData }
    }

    /// Returns the next page; none behind the last.
    ///
    /// A row may come again, also in a later page: servers show for a while twice what was sent
    /// twice, and what arrives meanwhile moves the pages of the older interface on.
    /// [`all`](Self::all) drops repeats.
    ///
    /// # Errors
    ///
    /// Why Langfuse was not read; the page can be asked for again.
    pub async fn next(&mut self) -> Result<Option<Vec<T>>, ClientError> {
        let (cursor, page) = match &self.place {
            Place::First => (None, 1),
            Place::Behind(cursor) => (Some(cursor.as_str()), 1),
            Place::Page(page) => (None, *page),
            Place::End => return Ok(None),
        };
        let answer = self.client.ask(self.listing.question(cursor, page)).await?;
        let Some(rows) = answer["data"].as_array() else {
            return Err(ClientError::Unreadable { what: "it has no list of data".to_owned() });
        };
        let is_old = self.client.is_old(self.listing.subject);
        let next = behind(&answer["meta"], rows.len(), page, is_old);
        if let (Place::Behind(last), Place::Behind(next)) = (&self.place, &next)
            && last == next
        {
            let what = "the next page is the same again".to_owned();
            return Err(ClientError::Unreadable { what });
        }
        self.place = next;
        Ok(Some(rows.iter().filter_map(T::read).collect()))
    }

    /// Reads every page and drops repeats.
    ///
    /// # Errors
    ///
    /// Why Langfuse was not read.
    pub async fn all(mut self) -> Result<Vec<T>, ClientError> {
        let mut rows = Vec::new();
        while let Some(page) = self.next().await? {
            rows.extend(page);
        }
        Ok(T::distinct(rows))
    }
}

/// Finds where the page behind one begins.
fn behind(meta: &Json, rows: usize, page: u64, is_old: bool) -> Place {
    if rows == 0 {
        return Place::End;
    }
    if is_old {
        let pages = lenient::count(&meta["totalPages"]).unwrap_or(0);
        return if page < pages { Place::Page(page + 1) } else { Place::End };
    }
    match lenient::text(&meta["cursor"]) {
        Some(cursor) => Place::Behind(cursor),
        None => Place::End,
    }
}

impl Row for Observation {
    fn distinct(rows: Vec<Self>) -> Vec<Self> {
        Self::distinct(rows)
    }
}

impl private::Read for Observation {
    fn read(row: &Json) -> Option<Self> {
        Self::read(row)
    }
}

impl Row for Score {
    fn distinct(rows: Vec<Self>) -> Vec<Self> {
        Self::distinct(rows)
    }
}

impl private::Read for Score {
    fn read(row: &Json) -> Option<Self> {
        Self::read(row)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_ends_where_the_server_says_so_and_never_on_a_circle() {
        let is_end = |meta: Json, rows, page, is_old| {
            matches!(behind(&meta, rows, page, is_old), Place::End)
        };
        assert!(is_end(json!({}), 50, 1, false));
        assert!(is_end(json!({"cursor": null}), 50, 1, false));
        assert!(is_end(json!({"cursor": "x"}), 0, 1, false));
        assert!(!is_end(json!({"cursor": "x"}), 1, 1, false));
        assert!(is_end(json!({"page": 2, "totalPages": 2}), 50, 2, true));
        assert!(is_end(json!({"page": 2, "totalPages": 9}), 0, 2, true));
        assert!(!is_end(json!({"page": "1", "totalPages": "2"}), 50, 1, true));
    }
}
