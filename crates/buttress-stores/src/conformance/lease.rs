//! Cases 18 to 22: leases and their tokens.

use std::time::Duration;

use buttress::{
    CheckpointKey, CheckpointStore,
    checkpoint::{Lease, Put, PutWrites},
};

use super::{
    Harness,
    chain::{append, ensure_head, head, id, key, result, state},
    check::{Checked, ensure, ensure_eq, fenced, held},
    fixture::Fixture,
};

/// Case 18.
pub(super) async fn tokens_grow<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let (key, time) = (key("tokens"), fx.lease_time());
    let first = store.acquire(&key, "one", time).await?;
    ensure_eq!((&first.key, &first.owner[..]), (&key, "one"), "lease that is given");
    let until = held(store.acquire(&key, "two", time).await, "one", "taking a held lease")?;
    ensure_eq!(until, first.until, "end of the lease that Held names");
    let mut last = 0;
    let mut ensure_larger = |lease: &Lease, after: &str| {
        ensure!(lease.token > last, "token {} after {after} follows {last}", lease.token);
        last = lease.token;
        Ok(())
    };
    ensure_larger(&first, "nothing")?;
    let again = store.acquire(&key, "one", time).await?;
    ensure_larger(&again, "taking one's own anew")?;
    store.release(&again).await?;
    let other = store.acquire(&key, "two", time).await?;
    ensure_larger(&other, "a release")?;
    fx.let_lease_run_out().await;
    let third = store.acquire(&key, "three", time).await?;
    ensure_larger(&third, "the end of a lease")?;
    let put = Put::new(key.clone(), None, state(1, 8)).under(&third);
    store.put(put).await?;
    store.delete(&id("tokens"), Some(&third)).await?;
    let fourth = store.acquire(&key, "four", time).await?;
    ensure_larger(&fourth, "a deletion")?;
    store.release(&fourth).await?;
    let reopened = fx.reopen(&store).await?;
    drop(store);
    ensure_larger(&reopened.acquire(&key, "five", time).await?, "a new start")
}

/// Case 19.
pub(super) async fn old_token<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let (key, time) = (key("fence"), fx.lease_time());
    let first = append(&store, &key, None, 1).await?;
    let old = store.acquire(&key, "one", time).await?;
    none_while_held(&store, &key, first).await?;
    let second = store.put(Put::new(key.clone(), Some(first), state(2, 8)).under(&old)).await?;
    fx.let_lease_run_out().await;
    // Nobody took it: whoever had it may still write, and so may others.
    let put = Put::new(key.clone(), Some(second), state(3, 8)).under(&old);
    let third = store.put(put).await?;
    let fourth = append(&store, &key, Some(third), 4).await?;
    let new = store.acquire(&key, "two", time).await?;
    none_of_an_old_token(&store, &old, fourth).await?;
    store.release(&new).await?;
    none_of_an_old_token(&store, &old, fourth).await?;
    none_of_an_old_token(&store, &new, fourth).await?;
    let from_nowhere = Lease::new(key.clone(), "two".to_owned(), new.token + 1, new.until);
    none_of_an_old_token(&store, &from_nowhere, fourth).await?;
    append(&store, &key, Some(fourth), 5).await?;
    let anew = store.acquire(&key, "two", time).await?;
    store.delete(&id("fence"), Some(&anew)).await?;
    let put = Put::new(key.clone(), None, state(6, 8)).under(&anew);
    fenced(store.put(put).await, "a put with a token from before a deletion")?;
    ensure_head(&store, &key, None, "a deletion and a fenced put").await
}

/// Expects that nothing is written without a token while somebody holds the lease.
async fn none_while_held(
    store: &impl CheckpointStore,
    key: &CheckpointKey,
    newest: u64,
) -> Checked {
    let put = Put::new(key.clone(), Some(newest), state(8, 8));
    held(store.put(put).await, "one", "a put without a token")?;
    let writes = PutWrites::new(key.clone(), newest, vec![result("task", 0, "none")]);
    held(store.put_writes(writes).await, "one", "writes without a token")?;
    held(store.delete(&key.workflow_id, None).await, "one", "a deletion without a token")?;
    ensure_unchanged(store, key, newest).await
}

/// Expects that a lease that is somebody else's now writes nothing.
async fn none_of_an_old_token(store: &impl CheckpointStore, lease: &Lease, newest: u64) -> Checked {
    let key = &lease.key;
    let put = Put::new(key.clone(), Some(newest), state(9, 8)).under(lease);
    fenced(store.put(put).await, "a put with an old token")?;
    let writes = PutWrites::new(key.clone(), newest, vec![result("task", 0, "zombie")]);
    fenced(store.put_writes(writes.under(lease)).await, "writes with an old token")?;
    let deleted = store.delete(&key.workflow_id, Some(lease)).await;
    fenced(deleted, "a deletion with an old token")?;
    ensure_unchanged(store, key, newest).await
}

async fn ensure_unchanged(
    store: &impl CheckpointStore,
    key: &CheckpointKey,
    newest: u64,
) -> Checked {
    let found = head(store, key).await?;
    ensure_eq!(found.sequence, newest, "head after writes that were refused");
    ensure!(found.writes.is_empty(), "writes of a task that were refused are there");
    Ok(())
}

/// Case 20.
pub(super) async fn zombie<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let (key, time) = (key("zombie"), fx.lease_time());
    let one = store.acquire(&key, "one", time).await?;
    let first = store.put(Put::new(key.clone(), None, state(1, 8)).under(&one)).await?;
    fx.let_lease_run_out().await;
    let two = store.acquire(&key, "two", time).await?;
    let late = Put::new(key.clone(), Some(first), state(2, 8)).under(&one);
    fenced(store.put(late.clone()).await, "a zombie's put before the new owner's")?;
    let second = store.put(Put::new(key.clone(), Some(first), state(3, 8)).under(&two)).await?;
    fenced(store.put(late).await, "a zombie's put after the new owner's")?;
    fx.let_lease_run_out().await;
    let late = Put::new(key.clone(), Some(second), state(4, 8)).under(&one);
    fenced(store.put(late).await, "a zombie's put when the new owner's lease is over too")?;
    ensure_head(&store, &key, Some(second), "a zombie's puts").await
}

/// Case 21.
pub(super) async fn clock_jumps<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let (key, time) = (key("clock"), fx.lease_time());
    let hour = Duration::from_secs(3600);
    let one = store.acquire(&key, "one", time).await?;
    fx.set_clock_back(hour)?;
    for _ in 0..2 {
        held(store.acquire(&key, "two", time).await, "one", "taking it after the clock went back")?;
    }
    let first = store.put(Put::new(key.clone(), None, state(1, 8)).under(&one)).await?;
    let second = store.put(Put::new(key.clone(), Some(first), state(2, 8)).under(&one)).await?;
    ensure_head(&store, &key, Some(second), "puts while the clock was back").await?;
    for _ in 0..62 {
        fx.let_lease_run_out().await;
    }
    let two = store.acquire(&key, "two", time).await?;
    held(store.acquire(&key, "three", time).await, "two", "taking it when the clock was right")?;
    let put = Put::new(key.clone(), Some(second), state(3, 8)).under(&two);
    let third = store.put(put).await?;
    ensure_head(&store, &key, Some(third), "the clock's way").await
}

/// Case 22.
pub(super) async fn renew<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let (key, time) = (key("heart"), fx.lease_time());
    let mut lease = store.acquire(&key, "one", time).await?;
    for beat in 0..if fx.set_clock_back(Duration::ZERO).is_ok() { 20 } else { 3 } {
        fx.let_half_a_lease_pass().await;
        let renewed = store.renew(&lease, time).await?;
        ensure_eq!(renewed.token, lease.token, "token after beat {beat}");
        ensure!(renewed.until > lease.until, "beat {beat} prolonged nothing");
        lease = renewed;
        let until = held(store.acquire(&key, "two", time).await, "one", "taking a renewed lease")?;
        ensure_eq!(until, lease.until, "end of a renewed lease");
    }
    let first = store.put(Put::new(key.clone(), None, state(1, 8)).under(&lease)).await?;
    fx.let_lease_run_out().await;
    lease = store.renew(&lease, time).await?;
    held(store.acquire(&key, "two", time).await, "one", "taking one that was renewed late")?;
    fx.let_lease_run_out().await;
    let two = store.acquire(&key, "two", time).await?;
    fenced(store.renew(&lease, time).await, "a renewal after a takeover")?;
    fenced(store.release(&lease).await, "a release after a takeover")?;
    store.put(Put::new(key.clone(), Some(first), state(2, 8)).under(&two)).await?;
    store.release(&two).await?;
    fenced(store.renew(&two, time).await, "a renewal after a release")?;
    store.release(&two).await?;
    Ok(())
}
