//! Tables, and how they come to be.

use buttress::checkpoint::StoreError;
use deadpool_postgres::Pool;
use tokio_postgres::types::Type;

use super::{
    connection::{Lent, Transaction},
    error::Failure,
};

/// Steps of the tables, each from one version to the next; `{p}` stands before their names.
///
/// Ids are compared by their bytes whatever the order of the database. What a user may name with a
/// NUL in it, which `text` cannot hold, is `bytea` or escaped JSON.
const STEPS: [&str; 1] = ["
    CREATE TABLE {p}chains (
        chain bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
        workflow_id text COLLATE \"C\" NOT NULL,
        namespace text COLLATE \"C\" NOT NULL,
        last bigint NOT NULL DEFAULT 0,
        head bigint,
        token bigint NOT NULL DEFAULT 0,
        owner bytea,
        until bigint,
        PRIMARY KEY (workflow_id, namespace)
    );
    CREATE TABLE {p}checkpoints (
        chain bigint NOT NULL REFERENCES {p}chains (chain),
        sequence bigint NOT NULL,
        write_id text COLLATE \"C\" NOT NULL,
        header text NOT NULL,
        state bytea NOT NULL,
        checksum bytea NOT NULL,
        PRIMARY KEY (chain, sequence),
        UNIQUE (chain, write_id)
    );
    CREATE TABLE {p}writes (
        chain bigint NOT NULL,
        sequence bigint NOT NULL,
        task bytea NOT NULL,
        kind text NOT NULL,
        place bigint NOT NULL,
        value bytea NOT NULL,
        checksum bytea NOT NULL,
        FOREIGN KEY (chain, sequence) REFERENCES {p}checkpoints ON DELETE CASCADE
    );
    CREATE UNIQUE INDEX ON {p}writes (chain, sequence, sha256(task), kind, place);
"];

/// The names of a store's tables.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    schema: Option<String>,
    prefix: String,
}

// ===== impl Tables =====

impl Tables {
    /// Checks the names: a longer one would be cut off by the server, and might meet another.
    pub(super) fn new(schema: Option<String>, prefix: String) -> Result<Self, StoreError> {
        let longest =
            schema.as_ref().map_or(0, String::len).max(prefix.len() + "checkpoints".len());
        let odd = schema.iter().any(String::is_empty)
            || schema.iter().chain([&prefix]).any(|name| name.contains(['\0', '{']));
        if longest > 63 || odd {
            return Err(StoreError::setup("the schema or the prefix of the tables cannot be one"));
        }
        Ok(Self { schema, prefix })
    }

    /// Writes a statement for these tables: `{p}name` is the table of that name.
    pub(super) fn sql(&self, sql: &str) -> String {
        let mut parts = sql.split("{p}");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            out.extend([&self.table(name), rest]);
        }
        out
    }

    fn table(&self, name: &str) -> String {
        let table = quoted(&format!("{}{name}", self.prefix));
        match &self.schema {
            Some(schema) => format!("{}.{table}", quoted(schema)),
            None => table,
        }
    }

    /// Returns what tells the locks of one store from those of another.
    pub(super) fn scope(&self) -> String {
        self.table("")
    }

    /// Brings the tables to the newest version; leaves a newer one untouched.
    pub(super) async fn migrate(&self, pool: &Pool, settings: &str) -> Result<(), Failure> {
        let lock = super::lock::of_schema(&self.scope());
        let first = format!("{settings} SELECT pg_advisory_xact_lock({lock});");
        let transaction = Transaction::begin(pool, &first).await?;
        let done = self.migrate_in(&transaction).await;
        transaction.end(done).await
    }

    async fn migrate_in(&self, transaction: &Transaction) -> Result<(), Failure> {
        let version = self.version(transaction).await?;
        let steps = STEPS.get(version..).unwrap_or_default();
        if version == 0 {
            transaction.batch(&self.create()).await?;
        }
        for step in steps {
            transaction.batch(&self.sql(step)).await?;
        }
        if !steps.is_empty() {
            let newest = STEPS.len();
            let sql = format!("UPDATE {{p}}version SET version = {newest}");
            transaction.batch(&self.sql(&sql)).await?;
        }
        Ok(())
    }

    /// Reads the version that is there; 0 where there are no tables yet.
    async fn version(&self, transaction: &Transaction) -> Result<usize, Failure> {
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        let rows = transaction.query(sql, &[(&self.table("version"), Type::TEXT)]).await?;
        if !rows.iter().any(|row| row.get(0)) {
            return Ok(0);
        }
        let rows = transaction.query(&self.sql("SELECT version FROM {p}version"), &[]).await?;
        let version: i32 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        let newest = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
        if version > newest {
            let [found, supported] = [version, newest].map(i32::unsigned_abs);
            return Err(StoreError::too_new(found, supported).into());
        }
        Ok(usize::try_from(version).unwrap_or_default())
    }

    fn create(&self) -> String {
        // The right to create schemas is asked for only where there is none.
        let schema = self.schema.as_ref().map_or_else(String::new, |schema| {
            let (literal, name) = (schema.replace('\'', "''"), quoted(schema));
            format!(
                "DO $do$ BEGIN IF NOT EXISTS \
                 (SELECT FROM pg_namespace WHERE nspname = E'{}') \
                 THEN CREATE SCHEMA {name}; END IF; END $do$;",
                literal.replace('\\', "\\\\"),
            )
        });
        let version = "CREATE TABLE {p}version (version integer NOT NULL);
            INSERT INTO {p}version VALUES (0);";
        schema + &self.sql(version)
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Refuses a server that would change ids, or that lacks what the statements need.
pub(super) async fn check_server(pool: &Pool) -> Result<(), Failure> {
    let sql = "SELECT current_setting('server_encoding'),
        current_setting('server_version_num')::integer";
    let rows = Lent::from(pool).await?.query(sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (encoding, version): (&str, i32) = (row.try_get(0)?, row.try_get(1)?);
    if encoding != "UTF8" {
        let reason = format!("the database is encoded in {encoding}, and must be in UTF8");
        return Err(StoreError::setup(reason).into());
    }
    if version < 120_000 {
        let major = version / 10_000;
        return Err(StoreError::setup(format!("Postgres {major} is older than 12")).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let tables = Tables::new(Some("a\"b".into()), "p_".into()).unwrap();
        let sql = tables.sql("SELECT * FROM {p}chains s, {p}writes");
        assert_eq!(sql, r#"SELECT * FROM "a""b"."p_chains" s, "a""b"."p_writes""#);
        let tables = Tables::new(None, "P".into()).unwrap();
        assert_eq!(tables.sql("{p}chains."), r#""Pchains"."#);
    }
}
