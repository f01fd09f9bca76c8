//! Cases 70 and 71: what errors say, and what nothing says.

use std::{error::Error as _, num::NonZeroU32};

use buttress::{
    CheckpointKey, CheckpointStore, StoreError,
    checkpoint::{Lease, Page, Put, PutWrites, TaskWrite, WriteKind},
};

use super::{
    Harness,
    chain::{fill, head, part, result, state},
    check::{Checked, ensure, ensure_eq, refused},
    fixture::Fixture,
};

/// Case 70.
pub(super) async fn all_say_enough<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = part("errors", "child");
    let sequences = fill(&store, &key, 2).await?;
    let (errors, lease) = provoke(fx, &store, &key, &sequences).await?;
    for (what, error, retryable) in errors {
        ensure_eq!(error.is_retryable(), retryable, "{what}: whether a repeat helps");
        let workflow = error.workflow_id();
        ensure_eq!(workflow, Some(&key.workflow_id), "{what}: workflow of the error");
        let text = error.to_string();
        ensure!(text.contains("errors"), "{what}: {text:?} does not name the workflow");
        ensure!(!text.contains('\n'), "{what}: {text:?} has more than one line");
    }
    let writes = PutWrites::new(key.clone(), sequences[1] + 5, vec![result("t", 0, "w")]);
    let error = refused(store.put_writes(writes.under(&lease)).await, "writes to nothing")?;
    ensure_eq!(error.sequence(), Some(sequences[1] + 5), "sequence of the error");
    let limited = fx.open_for_states(10).await?;
    let error = refused(limited.put(Put::new(key.clone(), None, state(1, 11))).await, "11 bytes")?;
    ensure!(!error.is_retryable(), "a repeat of what is too large is said to help");
    ensure_eq!(error.workflow_id(), Some(&key.workflow_id), "workflow of what is too large");
    Ok(())
}

type Provoked = Vec<(&'static str, StoreError, bool)>;

/// Makes the store refuse in every way it can be made to, with whether a repeat may help.
async fn provoke<H: Harness>(
    fx: &Fixture<'_, H>,
    store: &impl CheckpointStore,
    key: &CheckpointKey,
    sequences: &[u64],
) -> Checked<(Provoked, Lease)> {
    let mut errors = Vec::new();
    let (old, newest) = (sequences[0], sequences[1]);
    let secret = || TaskWrite::new("task", WriteKind::Result, 0, SECRET.as_bytes());
    let put = |parent| Put::new(key.clone(), Some(parent), SECRET.as_bytes());
    let mut add = |what, answer: Result<(), StoreError>, retryable| {
        errors.push((what, refused(answer, what)?, retryable));
        Checked::Ok(())
    };
    add("a conflict", store.put(put(old)).await.map(drop), false)?;
    let writes = || PutWrites::new(key.clone(), newest + 9, vec![secret()]);
    add("writes to nothing", store.put_writes(writes()).await, false)?;
    let time = fx.lease_time();
    let first = store.acquire(key, "one", time).await?;
    add("a held lease", store.acquire(key, "two", time).await.map(drop), true)?;
    add("a put without a token", store.put(put(newest)).await.map(drop), true)?;
    add("a deletion without a token", store.delete(&key.workflow_id, None).await, true)?;
    let second = store.acquire(key, "one", time).await?;
    add("a fenced put", store.put(put(newest).under(&first)).await.map(drop), false)?;
    add("fenced writes", store.put_writes(writes().under(&first)).await, false)?;
    add("a fenced renewal", store.renew(&first, time).await.map(drop), false)?;
    add("a fenced release", store.release(&first).await, false)?;
    add("a fenced deletion", store.delete(&key.workflow_id, Some(&first)).await, false)?;
    Ok((errors, second))
}

/// What a state holds and nothing may show.
const SECRET: &str = "hunter2-the-state";

/// Case 71.
pub(super) async fn nothing_shows<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = part("errors", "child");
    let sequences = fill(&store, &key, 2).await?;
    let (errors, lease) = provoke(fx, &store, &key, &sequences).await?;
    let put = Put::new(key.clone(), Some(sequences[1]), SECRET.as_bytes()).under(&lease);
    show(fx, "the store", &fx.debug(&store))?;
    show(fx, "a put", &format!("{put:?}"))?;
    let sequence = store.put(put).await?;
    let writes = vec![TaskWrite::new("task", WriteKind::Result, 0, SECRET.as_bytes())];
    let writes = PutWrites::new(key.clone(), sequence, writes).under(&lease);
    show(fx, "writes", &format!("{writes:?}"))?;
    store.put_writes(writes).await?;
    let found = head(&store, &key).await?;
    ensure_eq!(found.state[..], *SECRET.as_bytes(), "the state");
    show(fx, "a checkpoint", &format!("{found:?}"))?;
    show(fx, "a history", &format!("{:?}", store.history(&key, Page::newest(9)).await?))?;
    show(fx, "capabilities", &format!("{:?}", store.capabilities()))?;
    for (what, error, _) in errors {
        let source = error.source().map(ToString::to_string);
        show(fx, what, &format!("{error} {error:?} {source:?}"))?;
    }
    store.prune(&key, NonZeroU32::MIN).await?;
    show(fx, "the store", &fx.debug(&store))
}

/// Fails where a text shows what it must not.
fn show<H: Harness>(fx: &Fixture<'_, H>, what: &str, text: &str) -> Checked {
    let bytes = format!("{:?}", SECRET.as_bytes());
    let bytes = bytes.trim_matches(['[', ']']);
    ensure!(!text.contains(SECRET) && !text.contains(bytes), "{what} shows the state");
    for secret in fx.secrets() {
        ensure!(!text.contains(&secret), "{what} shows a secret");
    }
    Ok(())
}
