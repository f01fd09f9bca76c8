//! Connections out of the pool, and transactions on them.

use deadpool_postgres::{Object, Pool};
use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

use super::error::{Failure, Lost};

/// A parameter with the type it is sent as: the server is never asked to name a statement.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection that goes back to the pool only when the server has nothing left to do on it.
///
/// One that is dropped in between, since a future was dropped or something failed, is closed: the
/// next user would wait behind the rest of a statement, or be in a transaction of somebody else.
pub(super) struct Lent {
    client: Option<Object>,
    idle: bool,
}

// ===== impl Lent =====

impl Lent {
    pub(super) async fn from(pool: &Pool) -> Result<Self, Failure> {
        Ok(Self { client: Some(pool.get().await?), idle: true })
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is taken out when dropped only")
    }

    /// Runs one statement outside of a transaction.
    pub(super) async fn query(
        mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Failure> {
        self.idle = false;
        let rows = self.client().query_typed(sql, parameters).await?;
        self.idle = true;
        Ok(rows)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.client.take()
            && !self.idle
        {
            drop(Object::take(client));
        }
    }
}

/// A transaction, which is rolled back unless committed.
pub(super) struct Transaction(Lent);

// ===== impl Transaction =====

impl Transaction {
    /// Begins one with statements that need no parameters, in one message.
    pub(super) async fn begin(pool: &Pool, first: &str) -> Result<Self, Failure> {
        let mut lent = Lent::from(pool).await?;
        lent.idle = false;
        // A role's default may be another level, where what waited for a lock reads old rows.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED;";
        lent.client().batch_execute(&format!("{begin}{first}")).await?;
        Ok(Self(lent))
    }

    /// Runs statements that need no parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Failure> {
        Ok(self.0.client().batch_execute(sql).await?)
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Failure> {
        Ok(self.0.client().query_typed(sql, parameters).await?)
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<u64, Failure> {
        Ok(self.0.client().execute_typed(sql, parameters).await?)
    }

    /// Commits; where the answer is lost, nobody knows yet whether it was.
    async fn commit(&mut self) -> Result<(), Failure> {
        // A timeout would end the wait for a replica, and the answer would be that all is done.
        let commit = "SET LOCAL statement_timeout = 0; COMMIT";
        let committed = self.0.client().batch_execute(commit).await;
        committed.map_err(|error| {
            let mut failure = Failure::from(error);
            if failure.lost == Lost::Before {
                failure.lost = Lost::Within;
            }
            failure
        })?;
        self.0.idle = true;
        Ok(())
    }

    /// Commits what was done, or rolls back what was not.
    pub(super) async fn end<T>(mut self, done: Result<T, Failure>) -> Result<T, Failure> {
        if done.is_ok() {
            self.commit().await?;
        } else {
            // Closing the connection does the same.
            self.0.idle = self.0.client().batch_execute("ROLLBACK").await.is_ok();
        }
        done
    }
}
