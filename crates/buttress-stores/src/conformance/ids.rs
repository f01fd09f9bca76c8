//! Cases 7 to 9: names.

use std::collections::BTreeSet;

use buttress::{
    CheckpointKey, CheckpointStore, Namespace, StoreErrorKind, WorkflowId,
    checkpoint::{Put, Query},
};

use super::{
    Harness,
    chain::{append, ensure_head, head, history, id, key, part, state},
    check::{Checked, ensure, ensure_eq, fail},
    fixture::Fixture,
};

/// Case 7.
pub(super) async fn workflows<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let names = ["a", "a/b", "ab", "a\u{1}b", "a%", "a_", "b"];
    for name in names {
        append(&store, &key(name), None, 1).await?;
    }
    let changed =
        append(&store, &key("a"), Some(head(&store, &key("a")).await?.sequence), 2).await?;
    ensure_head(&store, &key("a"), Some(changed), "a put").await?;
    for name in &names[1..] {
        let found = history(&store, &key(name)).await?;
        ensure_eq!(found.len(), 1, "checkpoints of {name:?} after a put to \"a\"");
        let listed = store.list(Query::first(10).workflow(id(name))).await?;
        ensure_eq!(listed.len(), 1, "chains that are listed of {name:?}");
    }
    store.delete(&id("a"), None).await?;
    for name in &names[1..] {
        head(&store, &key(name)).await?;
    }
    Ok(())
}

/// Case 8.
pub(super) async fn namespaces<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let (own, child) = (key("parent"), part("parent", "child:1"));
    ensure_eq!(part("parent", ""), own, "the empty namespace");
    let first = append(&store, &own, None, 1).await?;
    ensure!(store.latest(&child).await?.is_none(), "a put shows in another namespace");
    let of_child = append(&store, &child, None, 2).await?;
    let second = append(&store, &own, Some(first), 3).await?;
    ensure_head(&store, &own, Some(second), "a put to the child").await?;
    ensure_head(&store, &child, Some(of_child), "a put to the parent").await?;
    ensure!(head(&store, &child).await?.state[..] == state(2, 64)[..], "states are mixed");
    let lease = store.acquire(&own, "owner", fx.lease_time()).await?;
    append(&store, &child, Some(of_child), 4).await?;
    store.put(Put::new(own, Some(second), state(5, 8)).under(&lease)).await?;
    Ok(())
}

/// Case 9.
pub(super) async fn odd_names<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    refused_names()?;
    let store = fx.open().await;
    let keys = odd_keys();
    for (number, key) in (0..).zip(&keys) {
        append(&store, key, None, number).await?;
    }
    for (number, key) in (0..).zip(&keys) {
        let found = head(&store, key).await?;
        ensure_eq!(found.key, *key, "key that is found");
        ensure!(found.state[..] == state(number, 64)[..], "{key} has another one's state");
        let length = history(&store, key).await?.len();
        ensure_eq!(length, 1, "checkpoints of {key}");
    }
    let listed = store.list(Query::first(1000)).await?;
    let count = listed.len();
    let listed: BTreeSet<_> = listed.into_iter().map(|head| head.key).collect();
    ensure_eq!(listed, keys.iter().cloned().collect::<BTreeSet<_>>(), "chains that are listed");
    ensure_eq!(count, keys.len(), "number of chains that are listed");
    fx.inspect(&store).await
}

/// Names that no store is asked for.
fn refused_names() -> Checked {
    let long = "x".repeat(WorkflowId::MAX_LEN + 1);
    for name in ["", "a\0b", &long] {
        let Err(error) = WorkflowId::new(name) else {
            return Err(fail(format!("{name:?} is an id")));
        };
        let refused = matches!(error.kind(), StoreErrorKind::InvalidId { .. });
        ensure!(refused, "{name:?} is refused with {error}");
    }
    ensure!(Namespace::new("a\0b").is_err(), "a namespace may hold a NUL");
    Ok(())
}

/// Keys that meet where a store is careless with names.
fn odd_keys() -> Vec<CheckpointKey> {
    let long = ["x".repeat(255), "x".repeat(256), "x".repeat(1024), "\u{1f680}".repeat(256)];
    let names = [
        ".",
        "..",
        "../x",
        "x",
        "/abs",
        "abs",
        "a/b",
        "a\\b",
        "C:\\x",
        "con",
        "CON",
        "a:b",
        "aux.json",
        "nul",
        "%2e%2e",
        "%2E%2E",
        "%",
        "%25",
        "\u{1f680}",
        "\u{10ffff}",
        "\u{e9}",
        "e\u{301}",
        "A",
        "a",
        "a.",
        "a ",
        " a",
        "a~",
        "~",
        "-",
        "--help",
        "a\nb",
        "\u{7f}",
        "*",
        "?",
        "'; drop table records; --",
        "a,b",
        "{a}",
        "{a}b",
        "[a]",
        "$base64",
        "_latest",
        "1.json",
        "lock",
        ".lock",
        "\u{202e}",
        "\u{feff}a",
        "i",
        "\u{131}",
        "\u{130}",
    ];
    let mut keys: Vec<_> = names.into_iter().map(key).collect();
    keys.extend(long.iter().map(|name| key(name)));
    keys.extend(names.into_iter().map(|name| part("spaces", name)));
    keys.extend(long.iter().map(|name| part("spaces", name)));
    let pairs = [("a", "b/c"), ("a/b", "c"), ("a:b", "c"), ("a", "b:c"), ("a%2Fb", "c")];
    keys.extend(pairs.into_iter().map(|(id, namespace)| part(id, namespace)));
    keys
}
