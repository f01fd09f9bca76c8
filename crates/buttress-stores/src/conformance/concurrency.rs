//! Cases 52 and 56 to 61: several callers, calls that are dropped, handles that end.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use buttress::{
    BoxStore, CheckpointKey, CheckpointStore,
    checkpoint::{Put, PutWrites, Query},
};
use tokio::{task::JoinSet, time::Instant};

use super::{
    Harness,
    chain::{
        append, ensure_head, ensure_linear, fill, head, history, id, key, part, result, state,
    },
    check::{Checked, ensure, ensure_eq, fail, skip},
    fixture::Fixture,
};

/// Case 52.
pub(super) async fn opening_again<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let mut store = fx.open().await;
    let keys = [key("again"), part("again", "child")];
    for key in &keys {
        fill(&store, key, 3).await?;
    }
    let lease = store.acquire(&keys[0], "owner", fx.lease_time()).await?;
    let before = (history(&store, &keys[0]).await?, history(&store, &keys[1]).await?);
    for _ in 0..20 {
        let reopened = fx.reopen(&store).await?;
        store = reopened;
        let found = (history(&store, &keys[0]).await?, history(&store, &keys[1]).await?);
        ensure!(found == before, "opening again changed what is stored");
    }
    let renewed = store.renew(&lease, fx.lease_time()).await?;
    ensure_eq!(renewed.token, lease.token, "token after opening again");
    fx.inspect(&store).await
}

/// How large a state is whose put is dropped: writing it takes a while.
const DROPPED: usize = 300_000;

/// Case 56.
pub(super) async fn dropped_calls<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("dropped");
    let mut newest = append(&store, &key, None, 0).await?;
    for round in 0..u64::try_from(fx.rounds.of_thousand()).unwrap_or(u64::MAX) {
        let put = Put::new(key.clone(), Some(newest), state(round, DROPPED)).phase("dropped");
        drop_early(store.put(put), round).await;
        newest = go_on(&store, &key, newest, round).await?;
    }
    ensure_linear(&history(&store, &key).await?)?;
    for round in 0..12 {
        drop_early(store.latest(&key), round).await;
        drop_early(store.history(&key, buttress::checkpoint::Page::newest(3)), round).await;
        drop_early(store.list(Query::first(3)), round).await;
        let writes = vec![result("task", 0, "dropped"), result("task", 1, "dropped")];
        drop_early(store.put_writes(PutWrites::new(key.clone(), newest, writes)), round).await;
        let found = head(&store, &key).await?.writes.len();
        ensure!(found == 0 || found == 2, "{found} of 2 writes are there");
        drop_early(store.acquire(&key, "owner", fx.lease_time()), round).await;
        let lease = store.acquire(&key, "owner", fx.lease_time()).await?;
        drop_early(store.release(&lease), round).await;
        let lease = store.acquire(&key, "owner", fx.lease_time()).await?;
        store.release(&lease).await?;
        dropped_delete(&store, round).await?;
    }
    append(&store, &key, Some(newest), 1).await?;
    Ok(())
}

/// Polls a call a few times, or for a short while, and drops it.
async fn drop_early<T>(call: impl Future<Output = T>, round: u64) {
    if round.is_multiple_of(2) {
        let mut left = round / 2 % 5;
        let mut call = pin!(call);
        poll_fn(|cx| {
            if left == 0 || call.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            left -= 1;
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    } else {
        let while_ = Duration::from_micros(fastrand::u64(..3000));
        drop(tokio::time::timeout(while_, call).await);
    }
}

/// Expects the old head or the dropped put's, whole, and puts one more behind it.
async fn go_on(
    store: &impl CheckpointStore,
    key: &CheckpointKey,
    old: u64,
    round: u64,
) -> Checked<u64> {
    for _ in 0..100 {
        let found = head(store, key).await?;
        if found.sequence != old {
            ensure_eq!(found.parent, Some(old), "parent of what a dropped put has left");
            let whole = found.state[..] == state(round, DROPPED)[..] && found.phase == "dropped";
            ensure!(whole, "a dropped put has left half a checkpoint");
        }
        let put = Put::new(key.clone(), Some(found.sequence), state(round, 64));
        match store.put(put).await {
            // The dropped put came in between.
            Err(error) if error.is_conflict() => {}
            answer => return Ok(answer?),
        }
    }
    Err(fail("after a dropped put every put is a conflict"))
}

async fn dropped_delete(store: &impl CheckpointStore, round: u64) -> Checked {
    let keys = [key("doomed"), part("doomed", "child")];
    store.delete(&id("doomed"), None).await?;
    for key in &keys {
        append(store, key, None, 1).await?;
    }
    drop_early(store.delete(&id("doomed"), None), round).await;
    let start = Instant::now();
    loop {
        let there =
            [store.latest(&keys[0]).await?.is_some(), store.latest(&keys[1]).await?.is_some()];
        if there[0] == there[1] {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(5), "a dropped deletion is half done");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Case 57.
pub(super) async fn many_workflows<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let mut slower = String::new();
    // The machine may be busy with something else: one good try of three is enough.
    for attempt in 0..3 {
        let start = Instant::now();
        fill(&store, &key(&format!("alone {attempt}")), 64).await?;
        let alone = start.elapsed();
        let start = Instant::now();
        side_by_side(&store, attempt).await?;
        let together = start.elapsed();
        if together < alone * 3 / 2 + Duration::from_millis(20) {
            return Ok(());
        }
        slower = format!("64 puts take {alone:?} one by one and {together:?} side by side");
    }
    Err(fail(slower))
}

async fn side_by_side<S: CheckpointStore>(store: &Arc<S>, attempt: u64) -> Checked {
    let name = |number: u64| key(&format!("{attempt} {number}"));
    let mut tasks = JoinSet::new();
    for number in 0..64 {
        let put = Put::new(name(number), None, state(number, 64));
        let store = Arc::clone(store);
        tasks.spawn(async move { store.put(put).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| fail(format!("a put panicked: {error}")))??;
    }
    for number in 0..64 {
        let found = head(store, &name(number)).await?;
        ensure!(found.state[..] == state(number, 64)[..], "{number} has another one's state");
    }
    Ok(())
}

/// How long one poll may hold up the thread.
const STALL: Duration = Duration::from_millis(20);

/// Case 58.
pub(super) async fn no_stall<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("stall");
    let size = largest(&*store);
    let (mut newest, mut shortest) = (None, Duration::MAX);
    // The machine may be busy with something else: the best of a few tries counts.
    for number in 0..5 {
        let put = Put::new(key.clone(), newest, state(number, size));
        let (answer, put_stall) = longest_poll(store.put(put)).await;
        newest = Some(answer?);
        let (answer, get_stall) = longest_poll(store.latest(&key)).await;
        answer?;
        shortest = shortest.min(put_stall.max(get_stall));
    }
    ensure!(shortest <= STALL, "a poll with {size} bytes takes {shortest:?} at the least");
    Ok(())
}

/// A state that takes a while to write.
fn largest(store: &impl CheckpointStore) -> usize {
    usize::try_from(store.capabilities().max_state).unwrap_or(usize::MAX).min(8 << 20)
}

/// Returns how long the longest poll of a future held up its thread.
async fn longest_poll<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let (mut future, mut longest) = (pin!(future), Duration::ZERO);
    let answer = poll_fn(|cx| {
        let start = Instant::now();
        let poll = future.as_mut().poll(cx);
        longest = longest.max(start.elapsed());
        poll
    });
    (answer.await, longest)
}

/// How long a small read may take while large states are written.
const READ: Duration = Duration::from_millis(500);

/// Case 59.
pub(super) async fn readers<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let (small, large) = (key("small"), key("large"));
    let sequence = append(&store, &small, None, 1).await?;
    let size = largest(&*store);
    let first = store.put(Put::new(large.clone(), None, state(0, size))).await?;
    let writer = tokio::spawn(write_large(Arc::clone(&store), large.clone(), first, size));
    let mut times = Vec::new();
    while !writer.is_finished() || times.len() < 10 {
        let start = Instant::now();
        ensure_head(&store, &small, Some(sequence), "puts to another chain").await?;
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    writer.await.map_err(|error| fail(format!("the writer panicked: {error}")))??;
    // One slow read may be the machine's; one for each large state is the store's.
    let slow: Vec<_> = times.into_iter().filter(|time| *time > READ).collect();
    ensure!(slow.len() < 2, "while large states are written, reads take {slow:?}");
    let found = head(&store, &large).await?;
    ensure!(found.state[..] == state(LARGE_PUTS, size)[..], "the last large state is not whole");
    Ok(())
}

const LARGE_PUTS: u64 = 4;

/// Writes large states, one behind the other.
async fn write_large<S: CheckpointStore>(
    store: Arc<S>,
    key: CheckpointKey,
    mut newest: u64,
    size: usize,
) -> Result<(), buttress::StoreError> {
    for number in 1..=LARGE_PUTS {
        newest = store.put(Put::new(key.clone(), Some(newest), state(number, size))).await?;
    }
    Ok(())
}

/// Case 60.
pub(super) async fn boxed<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("boxed");
    let shared = BoxStore::new(Arc::clone(&store));
    ensure_eq!(shared.capabilities(), store.capabilities(), "capabilities behind BoxStore");
    let sequence = append(&shared, &key, None, 1).await?;
    shared.put_writes(PutWrites::new(key.clone(), sequence, vec![result("t", 0, "w")])).await?;
    ensure_eq!(head(&store, &key).await?, head(&shared, &key).await?, "what both find");
    let other = shared.clone();
    let elsewhere = key.clone();
    let task = tokio::spawn(async move { other.latest(&elsewhere).await });
    let found = task.await.map_err(|error| fail(format!("a read panicked: {error}")))??;
    ensure_eq!(found.map(|head| head.sequence), Some(sequence), "head that another task finds");
    let reopened = fx.reopen(&store).await?;
    let second = append(&shared, &key, Some(sequence), 2).await?;
    drop((shared, store));
    ensure_head(&reopened, &key, Some(second), "the end of the other handle").await?;
    append(&reopened, &key, Some(second), 3).await?;
    Ok(())
}

/// Case 61.
pub(super) async fn two_handles<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let first = fx.open_with_history(20).await?;
    if !first.capabilities().shared && fx.reopen(&first).await.is_err() {
        return skip("the store refuses a second handle while the first is open");
    }
    let second = fx.reopen(&first).await?;
    let key = key("two handles");
    let mut newest = None;
    for number in 0..20 {
        let (writer, reader) = if number % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let sequence = append(writer, &key, newest, number).await?;
        ensure_head(reader, &key, Some(sequence), "the other handle's put").await?;
        let late = Put::new(key.clone(), newest, state(99, 8));
        let what = "a put through the other handle that has not seen it";
        super::check::conflict(reader.put(late).await, Some(sequence), what)?;
        newest = Some(sequence);
    }
    let lease = first.acquire(&key, "first", fx.lease_time()).await?;
    let taking = second.acquire(&key, "second", fx.lease_time()).await;
    super::check::held(taking, "first", "taking a lease that the other handle has given")?;
    let renewed = second.renew(&lease, fx.lease_time()).await?;
    first.release(&renewed).await?;
    let taken = second.acquire(&key, "second", fx.lease_time()).await?;
    ensure!(taken.token > lease.token, "the handles give tokens of their own");
    ensure_linear(&history(&first, &key).await?)
}
