//! Where checkpoints are kept.

use std::{
    env,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use buttress::{BoxStore, FileStore, StoreError};
use buttress_stores::{PostgresStore, RedisStore, SqliteStore};

use crate::{problem::Problem, terminal::tell};

const CHOICES: &str = "--store must be file, file:PATH, sqlite, sqlite:PATH, \
    postgres://HOST/DATABASE, redis://HOST or none";

/// How long a store that is busy or away holds up a run.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store that was chosen and is not open yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    kind: Kind,
    /// Whether its folders may have to be made.
    is_ours: bool,
    /// Whether nobody asked for it, so that a run goes on where it cannot be used.
    is_default: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    File(PathBuf),
    Sqlite(PathBuf),
    Postgres(Address),
    Redis(Address),
}

/// An address with a password in it, which is never shown.
#[derive(Clone, PartialEq, Eq)]
struct Address(String);

// ===== impl Store =====

impl Store {
    /// Reads `--store`; none where no checkpoints are wanted or there is nowhere to keep them.
    ///
    /// What is wrong with it is told without showing it, since it may hold a password.
    pub(crate) fn chosen(given: Option<&str>) -> Result<Option<Self>, Problem> {
        let folder = data_folder(env::consts::OS, |name| env::var_os(name));
        let Some(given) = given else {
            if folder.is_none() {
                tell("no checkpoints: there is no home folder; --store file:PATH names another");
            }
            return Ok(folder.map(|folder| Self { is_default: true, ..Self::file_in(&folder) }));
        };
        let ours = |make: fn(&Path) -> Self| match &folder {
            Some(folder) => Ok(Some(make(folder))),
            None => Err(Problem::WrongUse(format!(
                "there is no home folder; --store {given}:PATH names another"
            ))),
        };
        let named = |kind: fn(PathBuf) -> Kind, path: &str| {
            let path = std::path::absolute(path).map_err(|_| wrong())?;
            Ok(Some(Self::named(kind(path))))
        };
        let address = || Address(given.to_owned());
        match (given, given.split_once(':')) {
            ("none", _) => Ok(None),
            ("file", _) => ours(Self::file_in),
            ("sqlite", _) => ours(Self::sqlite_in),
            (_, Some(("file", path))) => named(Kind::File, path),
            (_, Some(("sqlite", path))) => named(Kind::Sqlite, path),
            (_, Some(("postgres" | "postgresql", rest))) if rest.starts_with("//") => {
                Ok(Some(Self::named(Kind::Postgres(address()))))
            }
            (_, Some(("redis" | "rediss", rest))) if rest.starts_with("//") => {
                Ok(Some(Self::named(Kind::Redis(address()))))
            }
            _ => Err(wrong()),
        }
    }

    const fn named(kind: Kind) -> Self {
        Self { kind, is_ours: false, is_default: false }
    }

    fn file_in(folder: &Path) -> Self {
        let kind = Kind::File(folder.join("research-swarm"));
        Self { kind, is_ours: true, is_default: false }
    }

    fn sqlite_in(folder: &Path) -> Self {
        let kind = Kind::Sqlite(folder.join("research-swarm.db"));
        Self { kind, is_ours: true, is_default: false }
    }

    /// Returns whether nobody asked for it.
    pub(crate) const fn is_default(&self) -> bool {
        self.is_default
    }

    /// Opens it, and makes the folders of the default ones.
    pub(crate) async fn open(&self) -> Result<BoxStore, Problem> {
        if let Kind::File(path) | Kind::Sqlite(path) = &self.kind
            && let Some(folder) = path.parent().filter(|_| self.is_ours)
        {
            make(folder).map_err(|error| {
                Problem::Store(format!("cannot make {}: {error}", folder.display()))
            })?;
        }
        let opened: Result<_, StoreError> = match &self.kind {
            Kind::File(folder) => FileStore::open(folder).await.map(BoxStore::new),
            Kind::Sqlite(file) => {
                SqliteStore::open(file).busy_timeout(PATIENCE).await.map(BoxStore::new)
            }
            Kind::Postgres(Address(url)) => {
                let store = PostgresStore::builder(url).call_timeout(PATIENCE);
                store.connect().await.map(BoxStore::new)
            }
            Kind::Redis(Address(url)) => {
                let store = RedisStore::builder(url).call_timeout(PATIENCE);
                store.connect().await.map(BoxStore::new)
            }
        };
        opened.map_err(|error| Problem::from(&error))
    }
}

impl fmt::Display for Store {
    /// Writes it as `--store` takes it, without user, password and parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::File(path) => write!(f, "file:{}", path.display()),
            Kind::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Kind::Postgres(address) | Kind::Redis(address) => address.fmt(f),
        }
    }
}

// ===== impl Address =====

impl Address {
    /// Returns host, port and path, unless they may be a piece of a password.
    fn place(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once("://")?;
        let parameters = rest.find(['?', '#']).unwrap_or(rest.len());
        let begin = rest.rfind('@').map_or(0, |at| at + 1);
        let place = rest.get(begin..parameters)?;
        let host = place.split('/').next()?;
        // The colons of an IPv6 address are before its bracket.
        let end = host.rsplit(']').next()?;
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        let is_whole = end.split_once(':').is_none_or(|(_, port)| is_port(port));
        is_whole.then_some(place)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.split(':').next().unwrap_or_default();
        write!(f, "{scheme}://{}", self.place().unwrap_or(".."))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

fn wrong() -> Problem {
    Problem::WrongUse(CHOICES.to_owned())
}

/// Returns where programs keep what is the user's own.
fn data_folder(os: &str, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let data = match os {
        "windows" => folder("LOCALAPPDATA"),
        "macos" => folder("HOME").map(|home| home.join("Library/Application Support")),
        _ => folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share"))),
    };
    data.map(|data| data.join("buttress"))
}

fn make(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_default_is_where_the_system_keeps_what_is_the_users_own() {
        let folder = |os: &str, set: &[(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(known, _)| *known == name);
            data_folder(os, |name| value(name).map(|(_, value)| value.into()))
        };
        let home = ("HOME", "/home/me");
        assert_eq!(folder("linux", &[home]), Some("/home/me/.local/share/buttress".into()));
        let xdg = ("XDG_DATA_HOME", "/data");
        assert_eq!(folder("linux", &[home, xdg]), Some("/data/buttress".into()));
        // As the specification has it: relative ones are ignored.
        let relative = ("XDG_DATA_HOME", "data");
        assert_eq!(folder("linux", &[relative]), None);
        assert_eq!(folder("linux", &[("HOME", "")]), None);
        let mac = "/home/me/Library/Application Support/buttress";
        assert_eq!(folder("macos", &[home]), Some(mac.into()));
        assert_eq!(folder("windows", &[home]), None);
    }

    #[test]
    fn a_store_is_shown_as_it_can_be_given() {
        for given in ["file:/a folder", "sqlite:/a:b.db"] {
            assert_eq!(Store::chosen(Some(given)).unwrap().unwrap().to_string(), given);
        }
        assert_eq!(Store::chosen(Some("none")).unwrap(), None);
    }

    #[test]
    fn an_address_is_shown_without_what_may_be_a_password() {
        for (given, shown) in [
            ("postgres://localhost/agents", "postgres://localhost/agents"),
            ("postgres://me:se/cr@t@db:5432/agents?sslmode=require", "postgres://db:5432/agents"),
            ("postgresql://me:secret@[::1]:5432/agents", "postgresql://[::1]:5432/agents"),
            ("postgres://me:secret@a:1,b:2/agents", "postgres://.."),
            ("postgres:///agents?host=/run&password=secret", "postgres:///agents"),
            ("postgres://db/agents?password=se@cret", "postgres://.."),
            ("postgres://me:se?cret@db/agents", "postgres://.."),
            ("postgres://me:secret", "postgres://.."),
            ("postgres://me:secret/db", "postgres://.."),
            ("rediss://:secret@cache:6380/1", "rediss://cache:6380/1"),
        ] {
            let store = Store::chosen(Some(given)).unwrap().unwrap();
            assert_eq!(store.to_string(), shown, "{given}");
            assert!(!format!("{store:?}").contains("cr"), "{store:?}");
        }
    }

    #[test]
    fn what_is_no_store_is_not_shown() {
        for given in ["", "fiel", "file:", "ftp://me:secret@host/x", "secret"] {
            let problem = Store::chosen(Some(given)).unwrap_err().to_string();
            assert_eq!(problem, format!("error: {CHOICES}"), "{given}");
        }
    }
}
