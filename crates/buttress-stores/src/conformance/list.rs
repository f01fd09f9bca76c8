//! Cases 31 to 33: what is there.

use std::collections::BTreeSet;

use buttress::{
    CheckpointKey, CheckpointStore, Namespace,
    checkpoint::{Page, Put, Query},
};

use super::{
    Harness,
    chain::{append, at, ensure_linear, fill, head, history, id, key, part, state},
    check::{Checked, ensure, ensure_eq},
    fixture::Fixture,
};

/// Case 31.
pub(super) async fn history_pages<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open_with_history(40).await?;
    let key = key("pages");
    let sequences = fill(&store, &key, 20).await?;
    let newest_first: Vec<u64> = sequences.iter().rev().copied().collect();
    ensure!(store.history(&key, Page::newest(0)).await?.is_empty(), "a page of 0 is not empty");
    for limit in [1, 7, 20, 21, usize::MAX] {
        let page = store.history(&key, Page::newest(limit)).await?;
        let found: Vec<u64> = page.iter().map(|checkpoint| checkpoint.sequence).collect();
        ensure_eq!(found[..], newest_first[..limit.min(20)], "a page of {limit}");
    }
    let below = Page::newest(1).before(sequences[10]);
    ensure_eq!(store.history(&key, below).await?[0].sequence, sequences[9], "before is exclusive");
    let first = Page::newest(9).before(sequences[0]);
    ensure!(store.history(&key, first).await?.is_empty(), "something is before the first");
    for found in history(&store, &key).await? {
        ensure_eq!(found, at(&store, &key, found.sequence).await?, "what history and get find");
    }
    page_beside_a_writer(&store, &key, &newest_first).await?;
    ensure_linear(&history(&store, &key).await?)
}

/// Pages through a chain that grows, and expects every checkpoint of before once.
async fn page_beside_a_writer(
    store: &impl CheckpointStore,
    key: &CheckpointKey,
    newest_first: &[u64],
) -> Checked {
    let (mut seen, mut before) = (Vec::new(), None);
    let mut newest = newest_first.first().copied();
    loop {
        let page = match before {
            None => Page::newest(3),
            Some(sequence) => Page::newest(3).before(sequence),
        };
        let page = store.history(key, page).await?;
        let Some(oldest) = page.last() else { break };
        before = Some(oldest.sequence);
        seen.extend(page.iter().map(|checkpoint| checkpoint.sequence));
        newest = Some(append(store, key, newest, 99).await?);
    }
    ensure_eq!(seen[..], *newest_first, "what paging beside a writer finds");
    Ok(())
}

/// Case 32.
pub(super) async fn finds<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let chains = [
        (key("one"), "red", 1),
        (part("one", "child"), "blue", 1),
        (key("two"), "red", 2),
        (part("two", "child"), "red", 1),
    ];
    for (key, colour, size) in &chains {
        // Only what the head holds counts.
        let old = Put::new(key.clone(), None, state(1, 8)).metadata("colour", "green");
        let parent = Some(store.put(old).await?);
        let put = Put::new(key.clone(), parent, state(2, 8));
        store.put(put.metadata("colour", *colour).metadata("size", *size)).await?;
    }
    let all = || Query::first(10);
    let child = Namespace::new("child")?;
    let red = || all().metadata("colour", "red");
    for (query, expected) in [
        (all(), &[0, 1, 2, 3][..]),
        (all().workflow(id("one")), &[0, 1]),
        (all().workflow(id("on")), &[]),
        (all().namespace(Namespace::default()), &[0, 2]),
        (all().namespace(child.clone()), &[1, 3]),
        (all().workflow(id("two")).namespace(child), &[3]),
        (red(), &[0, 2, 3]),
        (red().metadata("size", 1), &[0, 3]),
        (red().metadata("size", 1).workflow(id("one")), &[0]),
        (red().metadata("size", "1"), &[]),
        (all().metadata("colour", "green"), &[]),
        (all().metadata("taste", "sweet"), &[]),
        (Query::first(0), &[]),
    ] {
        let what = format!("what {query:?} finds");
        let found = store.list(query).await?;
        let found: BTreeSet<_> = found.into_iter().map(|head| head.key).collect();
        let expected = expected.iter().map(|at| chains[*at].0.clone()).collect();
        ensure_eq!(found, expected, "{what}");
    }
    Ok(())
}

/// Case 33.
pub(super) async fn pages<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let keys: BTreeSet<_> = (0..30)
        .map(|n| if n % 3 == 0 { part("one", &format!("{n}")) } else { key(&format!("{n}")) })
        .collect();
    for key in &keys {
        append(&store, key, None, 1).await?;
    }
    let order = page_through(&store, None).await?;
    ensure_eq!(order.iter().cloned().collect::<BTreeSet<_>>(), keys, "chains in pages of 4");
    ensure_eq!(order.len(), keys.len(), "number of chains in pages of 4");
    ensure_eq!(page_through(&store, None).await?, order, "order the second time");
    for key in &keys {
        let parent = Some(head(&store, key).await?.sequence);
        append(&store, key, parent, 2).await?;
    }
    ensure_eq!(page_through(&store, None).await?, order, "order after more puts");
    pages_beside_deletion(&store, &order).await
}

/// Deletes the chain that a page ended with, and one of the next page, and goes on behind it.
async fn pages_beside_deletion(store: &impl CheckpointStore, order: &[CheckpointKey]) -> Checked {
    let page = store.list(Query::first(7)).await?;
    let found: Vec<_> = page.into_iter().map(|head| head.key).collect();
    ensure_eq!(found[..], order[..7], "first page");
    let gone = [&order[6].workflow_id, &order[9].workflow_id];
    for id in gone {
        store.delete(id, None).await?;
    }
    let left = |key: &&CheckpointKey| !gone.contains(&&key.workflow_id);
    let expected: Vec<_> = order[7..].iter().filter(left).cloned().collect();
    let rest = page_through(store, Some(order[6].clone())).await?;
    ensure_eq!(rest, expected, "pages behind a chain that was deleted");
    Ok(())
}

async fn page_through(
    store: &impl CheckpointStore,
    mut after: Option<CheckpointKey>,
) -> Checked<Vec<CheckpointKey>> {
    let mut found = Vec::new();
    loop {
        let query = Query::first(4);
        let page = match after.take() {
            Some(key) => store.list(query.after(key)).await?,
            None => store.list(query).await?,
        };
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.key.clone());
        ensure!(page.len() <= 4, "a page of 4 has {}", page.len());
        ensure!(found.len() < 1000, "paging does not end");
        found.extend(page.into_iter().map(|head| head.key));
    }
}
