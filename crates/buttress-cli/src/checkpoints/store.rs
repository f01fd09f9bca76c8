//! Which store is meant.

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
use std::time::Duration;
use std::{
    env, fmt,
    path::{Path, PathBuf},
};

use buttress::BoxStore;
#[cfg(feature = "file")]
use buttress::FileStore;
#[cfg(feature = "postgres")]
use buttress_stores::PostgresStore;
#[cfg(feature = "redis")]
use buttress_stores::RedisStore;
#[cfg(feature = "sqlite")]
use buttress_stores::SqliteStore;

use crate::problem::Problem;

const VARIABLE: &str = "BUTTRESS_STORE";

/// How long a store that is busy or away is waited for.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
const PATIENCE: Duration = Duration::from_secs(10);

/// A store that was named and is not open yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Store {
    File(PathBuf),
    Sqlite(PathBuf),
    Postgres(Address),
    Redis(Address),
}

/// An address with a password in it, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address(String);

// ===== impl Store =====

impl Store {
    /// Reads `--store`, or the variable for it.
    pub(super) fn chosen(given: Option<&str>) -> Result<Self, Problem> {
        if let Some(given) = given {
            return Self::parse(given)
                .ok_or_else(|| Problem::Usage(format!("--store must be {CHOICES}")));
        }
        match env::var(VARIABLE).ok().filter(|value| !value.trim().is_empty()) {
            Some(value) => Self::parse(value.trim())
                .ok_or_else(|| Problem::Settings(format!("{VARIABLE} must be {CHOICES}"))),
            None => Err(Problem::Settings(format!(
                "no store is named: --store or {VARIABLE} must be {CHOICES}"
            ))),
        }
    }

    /// Reads the name of a store; what is wrong with it is not shown: it may hold a password.
    fn parse(given: &str) -> Option<Self> {
        let (scheme, rest) = given.split_once(':')?;
        let path = || (!rest.is_empty()).then(|| PathBuf::from(rest));
        let address = || rest.starts_with("//").then(|| Address(given.to_owned()));
        match scheme {
            "file" => path().map(Self::File),
            "sqlite" => path().map(Self::Sqlite),
            "postgres" | "postgresql" => address().map(Self::Postgres),
            "redis" | "rediss" => address().map(Self::Redis),
            _ => None,
        }
    }

    /// Opens what is there, and makes nothing.
    ///
    /// Nothing is pruned: how many checkpoints are kept is for those who write them.
    pub(super) async fn open(&self) -> Result<BoxStore, Problem> {
        match self {
            Self::File(folder) if !folder.is_dir() => Err(missing("folder", folder)),
            Self::Sqlite(file) if !file.exists() => Err(missing("file", file)),
            _ => self.open_there().await,
        }
    }

    async fn open_there(&self) -> Result<BoxStore, Problem> {
        match self {
            #[cfg(feature = "file")]
            Self::File(folder) => Ok(BoxStore::new(FileStore::open(folder).keep(u32::MAX).await?)),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(file) => {
                let store = SqliteStore::open(file).keep_all().busy_timeout(PATIENCE);
                Ok(BoxStore::new(store.await?))
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(Address(url)) => {
                let store = PostgresStore::builder(url).keep_all().call_timeout(PATIENCE);
                Ok(BoxStore::new(store.connect().await?))
            }
            #[cfg(feature = "redis")]
            Self::Redis(Address(url)) => {
                let store = RedisStore::builder(url).keep_all().call_timeout(PATIENCE);
                Ok(BoxStore::new(store.connect().await?))
            }
            #[cfg(not(all(
                feature = "file",
                feature = "sqlite",
                feature = "postgres",
                feature = "redis"
            )))]
            other => Err(Problem::Usage(format!(
                "--store: this buttress was built without the feature {}",
                other.feature()
            ))),
        }
    }

    /// Returns the feature that a build needs for it.
    #[cfg_attr(
        all(feature = "file", feature = "sqlite", feature = "postgres", feature = "redis"),
        expect(dead_code, reason = "every store is there")
    )]
    const fn feature(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
            Self::Redis(_) => "redis",
        }
    }
}

const CHOICES: &str = "file:FOLDER, sqlite:FILE, postgres://HOST/DATABASE or redis://HOST";

fn missing(what: &str, path: &Path) -> Problem {
    Problem::Settings(format!("there is no {what} {}; check --store", path.display()))
}

impl fmt::Display for Store {
    /// Writes it as `--store` takes it, without user, password and parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(address) | Self::Redis(address) => address.fmt(f),
        }
    }
}

// ===== impl Address =====

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or((&self.0, ""));
        // The last @ ends the user: a password may hold one too. One in what follows the host may
        // end a password as well, so that then nothing is shown.
        let before = rest.split(['?', '#']).next().unwrap_or_default();
        let place = before.rsplit_once('@').map_or(before, |(_, place)| place);
        let is_sure = !rest[before.len()..].contains('@') && !has_odd_port(place);
        write!(f, "{scheme}://{}", if is_sure { place } else { ".." })
    }
}

/// Tells whether what stands behind the host's colon is no port, and maybe a password.
fn has_odd_port(place: &str) -> bool {
    let host = place.split('/').next().unwrap_or_default();
    // The colons of an IPv6 address are before its bracket.
    let end = host.rsplit(']').next().unwrap_or_default();
    let port = end.split_once(':').map_or("", |(_, port)| port);
    !port.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_shown_as_it_can_be_named() {
        for given in ["file:/a folder", "sqlite:/a:b.db", "file:relative"] {
            assert_eq!(Store::parse(given).unwrap().to_string(), given);
        }
        for given in ["", "file", "file:", "sqlite:", "ftp://me:secret@host", "postgres:db"] {
            assert_eq!(Store::parse(given), None, "{given}");
        }
    }

    #[test]
    fn an_address_is_shown_without_what_may_be_a_password() {
        for (given, shown) in [
            ("postgres://localhost/agents", "postgres://localhost/agents"),
            ("postgres://me:se/cr@t@db:5432/agents?sslmode=require", "postgres://db:5432/agents"),
            ("postgresql://me:secret@[::1]:5432/agents", "postgresql://[::1]:5432/agents"),
            ("postgres:///agents?host=/run&password=secret", "postgres:///agents"),
            ("postgres://db/agents?password=se@cret", "postgres://.."),
            ("postgres://me:se?cret@db/agents", "postgres://.."),
            ("postgres://me:secret", "postgres://.."),
            ("postgres://me:secret/db", "postgres://.."),
            ("rediss://:secret@cache:6380/1", "rediss://cache:6380/1"),
        ] {
            let store = Store::parse(given).unwrap();
            assert_eq!(store.to_string(), shown, "{given}");
            assert!(!format!("{store:?}").contains("cr"), "{store:?}");
        }
    }
}
