//! The documents for programs; `docs/cli.md` documents the keys, which stay.

use buttress_langfuse::backlog::{Backlog, Destination, Refused, Waiting, Writer};
use serde_json::{Value as Json, json};

use crate::period::iso;

pub(super) fn status(backlog: &Backlog) -> Json {
    json!({
        "spool": backlog.folder.display().to_string(),
        "destinations": backlog.destinations.iter().map(destination).collect::<Json>(),
    })
}

fn destination(destination: &Destination) -> Json {
    let mut document = named(destination);
    document["damaged"] = destination.damaged().into();
    document["writers"] = destination.writers.iter().map(writer).collect();
    document["refused"] = destination.refused.iter().map(refused).collect();
    document
}

/// Whose it is, and how much waits.
pub(super) fn named(destination: &Destination) -> Json {
    json!({
        "folder": destination.folder.display().to_string(),
        "base_url": destination.base_url,
        "public_key": destination.public_key,
        "waiting": waiting(destination.waiting()),
    })
}

pub(super) fn waiting(waiting: Waiting) -> Json {
    json!({
        "spans": waiting.spans,
        "scores": waiting.scores,
        "starts": waiting.starts,
        "bytes": waiting.bytes,
    })
}

fn writer(writer: &Writer) -> Json {
    json!({
        "folder": writer.folder.display().to_string(),
        "pid": writer.pid,
        "alive": writer.is_alive,
        "eventful": waiting(writer.eventful),
        "uneventful": waiting(writer.uneventful),
        "damaged": writer.damaged,
        "oldest": writer.oldest.map(iso),
        "newest": writer.newest.map(iso),
    })
}

fn refused(refused: &Refused) -> Json {
    json!({
        "time": refused.at.map(iso),
        "words": refused.words,
        "name": refused.name,
        "trace_id": refused.trace_id,
        "span_id": refused.span_id,
        "file": refused.file.display().to_string(),
    })
}
