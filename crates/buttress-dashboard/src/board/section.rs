//! A collection of which a reader gets what has changed since it last read.

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// Numbers every change of everything that is shown.
#[derive(Debug, Default)]
pub(crate) struct Versions(u64);

/// Things by id. Each carries the version of its last change, so that no reader needs a queue.
#[derive(Debug)]
pub(crate) struct Section<T> {
    entries: Vec<Entry<T>>,
    /// When an entry was last added or removed.
    members: u64,
}

#[derive(Debug)]
struct Entry<T> {
    id: u64,
    version: u64,
    value: T,
}

/// What has changed of a section since a version: its changed items, and all its ids if they did.
#[derive(Debug)]
pub(crate) struct Changes<'a, T> {
    section: &'a Section<T>,
    since: Option<u64>,
}

#[derive(Serialize)]
struct Item<'a, T> {
    id: u64,
    #[serde(flatten)]
    value: &'a T,
}

// ===== impl Versions =====

impl Versions {
    pub(crate) const fn current(&self) -> u64 {
        self.0
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

// ===== impl Section =====

impl<T> Section<T> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&T> {
        self.entries.iter().find(|entry| entry.id == id).map(|entry| &entry.value)
    }

    /// Adds a thing under an id that is not there.
    pub(crate) fn add(&mut self, id: u64, value: T, versions: &mut Versions) {
        let version = versions.next();
        self.entries.push(Entry { id, version, value });
        self.members = version;
    }

    /// Changes the first thing that fits; returns whether there is one.
    pub(crate) fn change(
        &mut self,
        fits: impl Fn(&T) -> bool,
        change: impl FnOnce(&mut T),
        versions: &mut Versions,
    ) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|entry| fits(&entry.value)) else {
            return false;
        };
        change(&mut entry.value);
        entry.version = versions.next();
        true
    }

    /// Removes what is not kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(u64) -> bool, versions: &mut Versions) {
        let before = self.entries.len();
        self.entries.retain(|entry| keep(entry.id));
        if self.entries.len() != before {
            self.members = versions.next();
        }
    }

    /// Removes the thing with the least key.
    pub(crate) fn remove_least<O: Ord>(&mut self, key: impl Fn(&T) -> O, versions: &mut Versions) {
        let least = self.entries.iter().min_by_key(|entry| key(&entry.value)).map(|entry| entry.id);
        if let Some(least) = least {
            self.retain(|id| id != least, versions);
        }
    }

    /// Returns what has changed since a version; everything where there is none.
    pub(crate) const fn since(&self, since: Option<u64>) -> Changes<'_, T> {
        Changes { section: self, since }
    }
}

impl<T: PartialEq> Section<T> {
    /// Puts a thing under its id, which is no change where it is there as it is.
    pub(crate) fn put(&mut self, id: u64, value: T, versions: &mut Versions) {
        match self.entries.iter_mut().find(|entry| entry.id == id) {
            Some(entry) if entry.value == value => {}
            Some(entry) => {
                entry.value = value;
                entry.version = versions.next();
            }
            None => self.add(id, value, versions),
        }
    }
}

impl<T> Default for Section<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), members: 0 }
    }
}

// ===== impl Changes =====

impl<T> Changes<'_, T> {
    fn is_new(&self, version: u64) -> bool {
        self.since.is_none_or(|since| version > since)
    }
}

impl<T: Serialize> Serialize for Changes<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = &self.section.entries;
        let items: Vec<_> = entries
            .iter()
            .filter(|entry| self.is_new(entry.version))
            .map(|entry| Item { id: entry.id, value: &entry.value })
            .collect();
        let mut part = serializer.serialize_struct("Changes", 2)?;
        part.serialize_field("items", &items)?;
        if self.is_new(self.section.members) {
            let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
            part.serialize_field("ids", &ids)?;
        } else {
            part.skip_field("ids")?;
        }
        part.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, PartialEq, Serialize)]
    struct Thing {
        said: u8,
    }

    fn since(section: &Section<Thing>, since: Option<u64>) -> Value {
        serde_json::to_value(section.since(since)).unwrap()
    }

    #[test]
    fn a_reader_gets_what_changed_since_it_last_read_and_no_more() {
        let (mut section, mut versions) = (Section::default(), Versions::default());
        section.add(1, Thing { said: 1 }, &mut versions);
        section.add(2, Thing { said: 2 }, &mut versions);
        let all =
            json!({ "items": [{ "id": 1, "said": 1 }, { "id": 2, "said": 2 }], "ids": [1, 2] });
        assert_eq!(since(&section, None), all);

        let seen = versions.current();
        assert_eq!(since(&section, Some(seen)), json!({ "items": [] }));
        // A value that stays as it is is no change.
        section.put(1, Thing { said: 1 }, &mut versions);
        section.put(2, Thing { said: 3 }, &mut versions);
        assert_eq!(since(&section, Some(seen)), json!({ "items": [{ "id": 2, "said": 3 }] }));
    }

    #[test]
    fn a_reader_learns_what_is_gone_by_the_ids_that_are_left() {
        let (mut section, mut versions) = (Section::default(), Versions::default());
        section.add(1, Thing { said: 1 }, &mut versions);
        section.add(2, Thing { said: 2 }, &mut versions);
        let seen = versions.current();
        section.remove_least(|thing| thing.said, &mut versions);
        assert_eq!(since(&section, Some(seen)), json!({ "items": [], "ids": [2] }));
    }
}
