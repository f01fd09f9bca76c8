//! Many spans: a trace of one root and its children, handed over to a delivery.

use buttress_langfuse::{Durability, Langfuse};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::measure::{Effort, Table, count};

pub(crate) fn table(effort: Effort) -> Table {
    eprintln!(
        "scale: nobody takes the spans of the last table, so delivery says that it is refused, and \
         what it gives up"
    );
    let mut table = Table::new("spans of a trace", &["ns per span"]);
    for spans in effort.of(&[1, 10, 100, 1_000, 10_000], 100) {
        table.row(spans, [nanos(effort, spans)]);
    }
    table
}

/// Returns the time that one span takes on the thread that makes it; nobody takes what is
/// delivered, and the queue holds all of it.
fn nanos(effort: Effort, spans: usize) -> f64 {
    let traces = (10_000 / spans).max(1);
    let langfuse = Langfuse::builder()
        .public_key("pk")
        .secret_key("sk")
        // Nothing listens on the port of tcpmux.
        .base_url("http://127.0.0.1:1")
        .queue_spans(1_000_000)
        .queue_bytes(1 << 30)
        .durability(Durability::Memory)
        .start();
    let Ok(langfuse) = langfuse else { return f64::NAN };
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    let took = tracing::subscriber::with_default(subscriber, || {
        effort.nanos(traces, || {
            let root = tracing::info_span!(target: "buttress", "agent");
            root.in_scope(|| {
                for _ in 1..spans {
                    tracing::info_span!(target: "buttress", "retry_attempt").in_scope(|| ());
                }
            });
        })
    });
    // What waits is given up, which is what was asked for.
    drop(langfuse.shutdown(std::time::Duration::ZERO));
    took / count(spans)
}
