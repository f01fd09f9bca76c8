//! What reads checkpoints; each is one statement, so none is ever seen half.

use buttress::checkpoint::{Checkpoint, CheckpointKey, Page, Query};
use tokio_postgres::{Row, types::Type};

use super::{
    PostgresStore,
    connection::{Lent, Parameter, Transaction},
    error::Failure,
    record::{Found, read, signed},
};

/// How many heads are read at once at most, as some of them may not be asked for.
const BATCH: usize = 32;

/// What statements are run on: a connection for each, or one transaction.
#[derive(Clone, Copy)]
pub(super) enum On<'a> {
    Pool,
    Transaction(&'a Transaction),
}

// ===== impl PostgresStore =====

impl PostgresStore {
    pub(super) async fn latest_once(
        &self,
        key: &CheckpointKey,
    ) -> Result<Option<Checkpoint>, Failure> {
        self.newest(On::Pool, key).await
    }

    pub(super) async fn get_once(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, Failure> {
        let sequence = signed(sequence);
        let ids = ids(key);
        let [workflow, namespace] = chain(&ids);
        let parameters = [workflow, namespace, (&sequence as _, Type::INT8)];
        let rows = self.query(On::Pool, &self.0.statements.get, &parameters).await?;
        match rows.into_iter().next() {
            Some(row) => Ok(Some(read(row).await?.checkpoint?)),
            None => Ok(None),
        }
    }

    pub(super) async fn history_once(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, Failure> {
        let mut found = Vec::new();
        let mut before = page.before.unwrap_or(u64::MAX);
        while found.len() < page.limit {
            let wanted = page.limit - found.len();
            let rows = self.below(On::Pool, key, before, wanted).await?;
            let full = rows.len() == wanted;
            for row in rows {
                let row = read(row).await?;
                before = row.sequence;
                found.extend(readable_or_warn(row));
            }
            if !full {
                break;
            }
        }
        Ok(found)
    }

    pub(super) async fn list_once(&self, query: &Query) -> Result<Vec<Checkpoint>, Failure> {
        let mut found = Vec::new();
        let mut after = query.after.clone();
        // States may be large: no more are read than are wanted, unless few of them match.
        let mut batch = query.limit.clamp(1, BATCH);
        while found.len() < query.limit {
            let rows = self.heads(query, after.as_ref(), batch).await?;
            let full = rows.len() == batch;
            batch = (2 * batch).min(BATCH);
            for row in rows {
                let row = read(row).await?;
                after = Some(row.key.clone());
                let Some(head) = self.or_older(On::Pool, row).await?.ok() else { continue };
                if found.len() < query.limit && query.matches(&head) {
                    found.push(head);
                }
            }
            if !full {
                break;
            }
        }
        Ok(found)
    }

    /// Reads the newest checkpoint that can be read.
    pub(super) async fn newest(
        &self,
        on: On<'_>,
        key: &CheckpointKey,
    ) -> Result<Option<Checkpoint>, Failure> {
        let rows = self.query(on, &self.0.statements.latest, &chain(&ids(key))).await?;
        match rows.into_iter().next() {
            Some(row) => Ok(Some(self.or_older(on, read(row).await?).await??)),
            None => Ok(None),
        }
    }

    /// Goes back from a checkpoint that cannot be read to one that can.
    async fn or_older(
        &self,
        on: On<'_>,
        found: Found,
    ) -> Result<Result<Checkpoint, Failure>, Failure> {
        let Found { key, mut sequence, checkpoint } = found;
        let error = match checkpoint {
            Ok(checkpoint) => return Ok(Ok(checkpoint)),
            Err(error) => error,
        };
        tracing::warn!(%error, "a checkpoint cannot be read, an older one is looked for");
        loop {
            let rows = self.below(on, &key, sequence, 1).await?;
            let Some(row) = rows.into_iter().next() else { return Ok(Err(error.into())) };
            let older = read(row).await?;
            sequence = older.sequence;
            if let Some(checkpoint) = readable_or_warn(older) {
                return Ok(Ok(checkpoint));
            }
        }
    }

    async fn below(
        &self,
        on: On<'_>,
        key: &CheckpointKey,
        before: u64,
        limit: usize,
    ) -> Result<Vec<Row>, Failure> {
        let before = signed(before);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let ids = ids(key);
        let [workflow, namespace] = chain(&ids);
        let parameters =
            [workflow, namespace, (&before as _, Type::INT8), (&limit as _, Type::INT8)];
        self.query(on, &self.0.statements.history, &parameters).await
    }

    async fn heads(
        &self,
        query: &Query,
        after: Option<&CheckpointKey>,
        batch: usize,
    ) -> Result<Vec<Row>, Failure> {
        let behind = after.map(|key| (key.workflow_id.as_str(), key.namespace.as_str()));
        let (workflow, namespace) = behind.unzip();
        let of = query.workflow_id.as_ref().map(|id| id.as_str());
        let part = query.namespace.as_ref().map(|name| name.as_str());
        let limit = i64::try_from(batch).unwrap_or(i64::MAX);
        let parameters: [Parameter<'_>; 5] = [
            (&workflow, Type::TEXT),
            (&namespace, Type::TEXT),
            (&of, Type::TEXT),
            (&part, Type::TEXT),
            (&limit, Type::INT8),
        ];
        self.query(On::Pool, &self.0.statements.list, &parameters).await
    }

    pub(super) async fn query(
        &self,
        on: On<'_>,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Failure> {
        match on {
            On::Pool => Lent::from(&self.0.pool).await?.query(sql, parameters).await,
            On::Transaction(transaction) => transaction.query(sql, parameters).await,
        }
    }
}

/// The names that a chain is found by.
pub(super) fn ids(key: &CheckpointKey) -> [&str; 2] {
    [key.workflow_id.as_str(), key.namespace.as_str()]
}

/// The names as parameters.
pub(super) fn chain<'a>([workflow, namespace]: &'a [&'a str; 2]) -> [Parameter<'a>; 2] {
    [(workflow, Type::TEXT), (namespace, Type::TEXT)]
}

/// Leaves out what cannot be read, and says so.
fn readable_or_warn(found: Found) -> Option<Checkpoint> {
    found.checkpoint.inspect_err(|error| tracing::warn!(%error, "a checkpoint cannot be read")).ok()
}
