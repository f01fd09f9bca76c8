//! What writes: each is one transaction that locks, reads the state of the chain, asks the rules
//! of [`ChainState`], writes and commits.

use std::{
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use buttress::checkpoint::{
    ChainState, CheckpointKey, Lease, Put, PutWrites, StoreError, TaskWrite, WorkflowId,
};
use tokio_postgres::{Row, types::Type};

use super::{
    PostgresStore,
    connection::{Parameter, Transaction},
    error::Failure,
    lock,
    reads::{On, chain, ids},
    record::{Digest, Encoded, encode, key, millis, read, signed, time, unsigned},
};

/// A chain that is locked, and the time by the clock that leases are measured by.
struct Locked {
    /// None where it has no row yet.
    chain: Option<i64>,
    state: ChainState,
    now: SystemTime,
}

// ===== impl PostgresStore =====

impl PostgresStore {
    pub(super) async fn put_once(&self, put: &Put, state: &Digest) -> Result<u64, Failure> {
        let transaction = self.begin(&put.key).await?;
        let done = self.put_in(&transaction, put, state).await;
        transaction.end(done).await
    }

    async fn put_in(
        &self,
        transaction: &Transaction,
        put: &Put,
        state: &Digest,
    ) -> Result<u64, Failure> {
        let mut locked = self.locked(transaction, &put.key).await?;
        let mut admitted = locked.state.admit_put(put, locked.now);
        if admitted.as_ref().is_err_and(StoreError::is_conflict) {
            if let Some(sequence) = self.repeated(transaction, put).await? {
                return Ok(sequence);
            }
            self.forget_damaged_head(transaction, &put.key, &mut locked).await?;
            admitted = locked.state.admit_put(put, locked.now);
        }
        let sequence = admitted?;
        let row = encode(put, state, sequence)?;
        self.insert(transaction, put, sequence, &row, &locked).await?;
        Ok(sequence)
    }

    /// Returns the sequence of what the same put has stored before.
    async fn repeated(&self, transaction: &Transaction, put: &Put) -> Result<Option<u64>, Failure> {
        let write_id = put.write_id.to_string();
        let ids = ids(&put.key);
        let [workflow, namespace] = chain(&ids);
        let parameters = [workflow, namespace, (&write_id as _, Type::TEXT)];
        let rows = transaction.query(&self.0.statements.written, &parameters).await?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let stored = read(row).await?.checkpoint.ok().filter(|stored| put.is_repeat_of(stored));
        if stored.is_some() {
            // A commit that writes waits for the replicas that the first one may not have reached.
            transaction.execute(&self.0.statements.touch, &chain(&ids)).await?;
        }
        Ok(stored.map(|stored| stored.sequence))
    }

    /// Takes the newest checkpoint that can be read for the head, as readers do: or nobody could
    /// ever write behind one that is damaged.
    async fn forget_damaged_head(
        &self,
        transaction: &Transaction,
        key: &CheckpointKey,
        locked: &mut Locked,
    ) -> Result<(), Failure> {
        if locked.state.head.is_none() {
            return Ok(());
        }
        match self.newest(On::Transaction(transaction), key).await {
            Ok(newest) => locked.state.head = newest.map(|newest| newest.sequence),
            // None can be read: the head stays what it is.
            Err(failure) if failure.is_corrupt() => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    async fn insert(
        &self,
        transaction: &Transaction,
        put: &Put,
        sequence: u64,
        row: &Encoded,
        locked: &Locked,
    ) -> Result<(), Failure> {
        let sequence = signed(sequence);
        let state: &[u8] = &put.state;
        let ids = ids(&put.key);
        let [workflow, namespace] = chain(&ids);
        let mut parameters: Vec<Parameter<'_>> = vec![
            workflow,
            namespace,
            (&sequence, Type::INT8),
            (&row.write_id, Type::TEXT),
            (&row.header, Type::TEXT),
            (&state, Type::BYTEA),
            (&row.checksum, Type::BYTEA),
        ];
        let keep = self.0.capabilities.kept.map(|keep| i64::from(keep.get()));
        let sql = match &keep {
            Some(keep) => {
                parameters.push((keep, Type::INT8));
                &self.0.statements.put_and_prune
            }
            None => &self.0.statements.put,
        };
        if transaction.execute(sql, &parameters).await? == 0 {
            // The write id is that of another put.
            let conflict = StoreError::conflict(put.parent, locked.state.head);
            return Err(conflict.in_chain(&put.key).into());
        }
        Ok(())
    }

    pub(super) async fn put_writes_once(
        &self,
        writes: &PutWrites,
        distinct: &[(TaskWrite, Vec<u8>)],
    ) -> Result<(), Failure> {
        let transaction = self.begin(&writes.key).await?;
        let done = self.put_writes_in(&transaction, writes, distinct).await;
        transaction.end(done).await
    }

    async fn put_writes_in(
        &self,
        transaction: &Transaction,
        writes: &PutWrites,
        distinct: &[(TaskWrite, Vec<u8>)],
    ) -> Result<(), Failure> {
        let mut locked = self.locked(transaction, &writes.key).await?;
        let sequence = signed(writes.sequence);
        let mut exists = true;
        if locked.state.head != Some(writes.sequence) {
            self.forget_damaged_head(transaction, &writes.key, &mut locked).await?;
            let ids = ids(&writes.key);
            let [workflow, namespace] = chain(&ids);
            let parameters = [workflow, namespace, (&sequence as _, Type::INT8)];
            exists = !transaction.query(&self.0.statements.get, &parameters).await?.is_empty();
        }
        locked.state.admit_writes(writes, || exists, locked.now)?;
        let chain = locked.chain.ok_or_else(StoreError::not_found)?;
        self.insert_writes(transaction, sequence, distinct, chain).await
    }

    async fn insert_writes(
        &self,
        transaction: &Transaction,
        sequence: i64,
        writes: &[(TaskWrite, Vec<u8>)],
        chain: i64,
    ) -> Result<(), Failure> {
        let each = || writes.iter().map(|(write, _)| write);
        let tasks: Vec<_> = each().map(|write| write.task.as_bytes()).collect();
        let kinds: Vec<_> = each().map(|write| write.kind.as_str()).collect();
        let places: Vec<_> = each().map(|write| i64::from(write.index)).collect();
        let values: Vec<&[u8]> = each().map(|write| &write.value[..]).collect();
        let sums: Vec<_> = writes.iter().map(|(_, sum)| &sum[..]).collect();
        let parameters: [Parameter<'_>; 7] = [
            (&chain, Type::INT8),
            (&sequence, Type::INT8),
            (&tasks, Type::BYTEA_ARRAY),
            (&kinds, Type::TEXT_ARRAY),
            (&places, Type::INT8_ARRAY),
            (&values, Type::BYTEA_ARRAY),
            (&sums, Type::BYTEA_ARRAY),
        ];
        transaction.execute(&self.0.statements.put_writes, &parameters).await?;
        Ok(())
    }

    pub(super) async fn acquire_once(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, Failure> {
        self.lease(key, |locked| locked.state.acquire(key, owner, time, locked.now)).await
    }

    pub(super) async fn renew_once(&self, lease: &Lease, time: Duration) -> Result<Lease, Failure> {
        self.lease(&lease.key, |locked| locked.state.renew(lease, time, locked.now)).await
    }

    /// Writes the lease that the rules give out.
    async fn lease(
        &self,
        key: &CheckpointKey,
        rule: impl Fn(&Locked) -> Result<Lease, StoreError>,
    ) -> Result<Lease, Failure> {
        let transaction = self.begin(key).await?;
        let written = async {
            let lease = rule(&self.locked(&transaction, key).await?)?;
            self.write_lease(&transaction, &lease, true).await?;
            Ok(lease)
        };
        let done = written.await;
        transaction.end(done).await
    }

    pub(super) async fn release_once(&self, lease: &Lease) -> Result<(), Failure> {
        let transaction = self.begin(&lease.key).await?;
        let written = async {
            let locked = self.locked(&transaction, &lease.key).await?;
            locked.state.release(lease)?;
            self.write_lease(&transaction, lease, false).await
        };
        let done = written.await;
        transaction.end(done).await
    }

    async fn write_lease(
        &self,
        transaction: &Transaction,
        lease: &Lease,
        held: bool,
    ) -> Result<(), Failure> {
        let token = signed(lease.token);
        let owner = held.then_some(lease.owner.as_bytes());
        let until = held.then_some(signed(millis(lease.until)));
        let ids = ids(&lease.key);
        let [workflow, namespace] = chain(&ids);
        let parameters = [
            workflow,
            namespace,
            (&token as _, Type::INT8),
            (&owner as _, Type::BYTEA),
            (&until as _, Type::INT8),
        ];
        transaction.execute(&self.0.statements.lease, &parameters).await?;
        Ok(())
    }

    pub(super) async fn delete_once(
        &self,
        id: &WorkflowId,
        lease: Option<&Lease>,
    ) -> Result<(), Failure> {
        let locks = lock::workflow(&self.0.scope, id);
        let first = format!("{}{locks}", self.0.settings);
        let transaction = Transaction::begin(&self.0.pool, &first).await?;
        let done = self.delete_in(&transaction, id, lease).await;
        transaction.end(done).await
    }

    async fn delete_in(
        &self,
        transaction: &Transaction,
        id: &WorkflowId,
        lease: Option<&Lease>,
    ) -> Result<(), Failure> {
        let id = id.as_str();
        let parameters: [Parameter<'_>; 1] = [(&id, Type::TEXT)];
        for row in transaction.query(&self.0.statements.states, &parameters).await? {
            let of = key(row.try_get(7)?, row.try_get(8)?)?;
            let locked = self.state(&row)?;
            locked.state.delete(&of, lease, locked.now)?;
        }
        transaction.execute(&self.0.statements.delete_checkpoints, &parameters).await?;
        transaction.execute(&self.0.statements.delete_heads, &parameters).await?;
        Ok(())
    }

    pub(super) async fn prune_once(
        &self,
        key: &CheckpointKey,
        keep: NonZeroU32,
    ) -> Result<u64, Failure> {
        let transaction = self.begin(key).await?;
        let keep = i64::from(keep.get());
        let ids = ids(key);
        let [workflow, namespace] = chain(&ids);
        let parameters = [workflow, namespace, (&keep as _, Type::INT8)];
        let done = transaction.execute(&self.0.statements.prune, &parameters).await;
        transaction.end(done).await
    }

    /// Begins a transaction that holds the lock of a chain.
    async fn begin(&self, key: &CheckpointKey) -> Result<Transaction, Failure> {
        let locks = lock::chain(&self.0.scope, key);
        Transaction::begin(&self.0.pool, &format!("{}{locks}", self.0.settings)).await
    }

    async fn locked(
        &self,
        transaction: &Transaction,
        key: &CheckpointKey,
    ) -> Result<Locked, Failure> {
        let rows = transaction.query(&self.0.statements.state, &chain(&ids(key))).await?;
        let row = rows.first().ok_or_else(StoreError::not_found)?;
        self.state(row)
    }

    fn state(&self, row: &Row) -> Result<Locked, Failure> {
        let mut state = ChainState::default();
        let now = match &self.0.clock {
            Some(clock) => clock.now(),
            None => time(unsigned(row.try_get(0)?)),
        };
        let chain: Option<i64> = row.try_get(1)?;
        if chain.is_some() {
            state.last = unsigned(row.try_get(2)?);
            state.head = row.try_get::<_, Option<i64>>(3)?.map(unsigned);
            state.token = unsigned(row.try_get(4)?);
            let (owner, until): (Option<&[u8]>, Option<i64>) = (row.try_get(5)?, row.try_get(6)?);
            state.holder = owner.zip(until).map(|(owner, until)| {
                (String::from_utf8_lossy(owner).into_owned(), time(unsigned(until)))
            });
        }
        Ok(Locked { chain, state, now })
    }
}
