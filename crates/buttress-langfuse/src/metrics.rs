//! The delivery in numbers, for the `metrics` facade.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::Stats;

/// Sets the instruments to what was counted.
pub(crate) fn publish(stats: &Stats) {
    describe_counter!("buttress.langfuse.spans", Unit::Count, "Spans by what became of them.");
    describe_counter!("buttress.langfuse.scores", Unit::Count, "Scores by what became of them.");
    describe_counter!(
        "buttress.langfuse.dropped_eventful",
        Unit::Count,
        "Of the spans that were dropped, those of traces in which something had gone wrong."
    );
    describe_counter!(
        "buttress.langfuse.spool.damaged",
        Unit::Count,
        "Places of the spool that are damaged, and were passed over."
    );
    describe_gauge!("buttress.langfuse.scores.pending", Unit::Count, "Scores that wait.");
    describe_gauge!("buttress.langfuse.pending", Unit::Count, "Spans that wait for delivery.");
    describe_gauge!(
        "buttress.langfuse.spool.depth",
        Unit::Count,
        "Spans that wait on disk only, of this process and of those before."
    );
    for (outcome, spans) in [
        ("delivered", stats.delivered + stats.recovered),
        ("dropped", stats.dropped),
        ("refused", stats.refused),
    ] {
        counter!("buttress.langfuse.spans", "outcome" => outcome).absolute(spans);
    }
    for (outcome, scores) in [
        ("delivered", stats.scores_delivered + stats.scores_recovered),
        ("dropped", stats.scores_dropped),
        ("refused", stats.scores_refused),
    ] {
        counter!("buttress.langfuse.scores", "outcome" => outcome).absolute(scores);
    }
    counter!("buttress.langfuse.dropped_eventful").absolute(stats.dropped_eventful);
    counter!("buttress.langfuse.spool.damaged").absolute(stats.damaged);
    gauge!("buttress.langfuse.scores.pending").set(number(stats.scores_pending));
    gauge!("buttress.langfuse.pending").set(number(stats.pending));
    gauge!("buttress.langfuse.spool.depth").set(number(stats.spooled + stats.to_recover));
}

#[expect(clippy::cast_precision_loss, reason = "nobody waits for as many spans")]
const fn number(count: u64) -> f64 {
    count as f64
}
