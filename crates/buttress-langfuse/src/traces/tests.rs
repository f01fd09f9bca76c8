use super::*;

fn started(trace: u128, span: u64, parent: u64) -> Started<'static> {
    Started {
        trace: TraceId::from(trace),
        span: SpanId::from(span),
        parent: SpanId::from(parent),
        parent_is_remote: false,
        sent: true,
        name: "span 1",
        is_agent: false,
        at: None,
        says: None,
        scope: None,
        is_unwanted: false,
    }
}

fn name(ended: &Ended) -> Option<&str> {
    ended.trace.as_ref()?.name.as_deref()
}

#[test]
fn a_trace_is_forgotten_with_its_last_span() {
    let traces = Traces::new();
    drop(traces.start(started(1, 1, 0)));
    drop(traces.start(started(1, 2, 1)));
    let child = traces.end(TraceId::from(1), SpanId::from(2), None);
    assert_eq!((name(&child), child.above), (Some("span 1"), Some(SpanId::from(1))));
    assert_eq!(name(&traces.end(TraceId::from(1), SpanId::from(1), None)), Some("span 1"));
    assert!(traces.shards.iter().all(|shard| shard.lock().unwrap().traces.is_empty()));
    assert!(!traces.end(TraceId::from(1), SpanId::from(1), None).known);
}

#[test]
fn a_child_that_starts_after_its_parent_ended_still_hangs_below_it() {
    let traces = Traces::new();
    drop(traces.start(started(1, 1, 0)));
    drop(traces.start(started(1, 2, 1)));
    traces.end(TraceId::from(1), SpanId::from(1), None);
    drop(traces.start(started(1, 3, 1)));
    assert_eq!(traces.end(TraceId::from(1), SpanId::from(3), None).above, Some(SpanId::from(1)));
}

#[test]
fn the_oldest_traces_are_forgotten_when_there_are_too_many() {
    let traces = Traces::with_capacity(SHARDS * 2);
    // All ids end in the same byte, so that they share a shard.
    for trace in 1..=3_u128 {
        drop(traces.start(started(trace << 8, 1, 0)));
    }
    let known = |trace: u128| traces.end(TraceId::from(trace << 8), SpanId::from(1), None).known;
    assert_eq!([known(1), known(2), known(3)], [false, true, true]);
}

#[test]
fn of_a_key_said_twice_only_the_last_value_is_kept() {
    let traces = Traces::new();
    drop(traces.start(started(1, 1, 0)));
    for attempt in 0..1_000 {
        let attribute = KeyValue::new("attempt", attempt);
        traces.update(TraceId::from(1), SpanId::from(1), attribute);
    }
    let ended = traces.end(TraceId::from(1), SpanId::from(1), None);
    assert_eq!(ended.updates, [KeyValue::new("attempt", 999)]);
}

fn held(at: u64) -> Held {
    let encoded = Encoded::new(|_| ());
    Held {
        span: SpanId::from(9),
        above: None,
        encoded,
        is_dispensable: false,
        is_unwanted: false,
        at,
    }
}

#[test]
fn a_trace_that_takes_long_is_sent_unless_its_caller_does_not_want_it() {
    let traces = Traces::new();
    drop(traces.start(started(1, 1, 0)));
    drop(traces.start(Started { is_unwanted: true, ..started(2, 1, 0) }));
    for (trace, sent) in [(1, 2), (2, 0)] {
        let trace = TraceId::from(trace);
        assert!(traces.hold(trace, held(1), sent > 0).is_empty());
        assert_eq!(traces.hold(trace, held(LONG + 2), sent > 0).len(), sent);
        assert_eq!(traces.is_unwanted(trace), sent == 0);
    }
}

#[test]
fn the_starts_of_open_spans_know_their_caller_and_what_stands_around_them() {
    let traces = Traces::new();
    let scope = Some(Arc::new(Scope::default()));
    let outermost = Started { sent: false, parent_is_remote: true, scope, ..started(1, 1, 7) };
    drop(traces.start(outermost));
    drop(traces.start(Started { at: Some(1), ..started(1, 2, 1) }));
    let (starts, _) = traces.starts_above(TraceId::from(1), Some(SpanId::from(2)));
    assert_eq!(starts.len(), 1);
    assert_eq!((starts[0].parent, starts[0].is_outermost), (SpanId::from(7), true));
    assert!(starts[0].scope.is_some());
    let out = traces.goes_out(TraceId::from(1), SpanId::from(1)).unwrap();
    assert_eq!((out.parent, out.is_sent), (SpanId::from(7), false));
    let ended = traces.end(TraceId::from(1), SpanId::from(2), Some("span 2"));
    assert_eq!((ended.parent, ended.went_out), (Some(SpanId::from(7)), false));
}

#[test]
fn the_list_of_ages_does_not_grow_with_traces_that_ended() {
    let traces = Traces::new();
    for trace in 1..=10_000_u128 {
        drop(traces.start(started(trace << 8, 1, 0)));
        traces.end(TraceId::from(trace << 8), SpanId::from(1), None);
    }
    assert!(traces.shards.iter().all(|shard| shard.lock().unwrap().ages.len() <= 66));
}

/// What is held back of open traces is bounded, and no span of the share is lost for that.
#[test]
fn a_hundred_thousand_open_traces_hold_back_no_more_bytes_than_they_may() {
    const OPEN: u128 = 100_000;
    let traces = Traces::new();
    let encoded = Encoded::new(|into| into.text(5, &"x".repeat(500)));
    let (mut sent, mut most) = (0, 0);
    for trace in 1..=OPEN {
        sent += traces.start(started(trace, 1, 0)).len();
        let held = Held { encoded: encoded.clone(), ..held(1) };
        sent += traces.hold(TraceId::from(trace), held, true).len();
        most = most.max(traces.held_bytes.load(Ordering::Relaxed));
    }
    // One more may be on its way in.
    assert!(most <= HELD_BYTES + encoded.0.len(), "{most}");
    let left = (1..=OPEN).filter_map(|trace| {
        traces.end(TraceId::from(trace), SpanId::from(1), None).held.map(|held| held.len())
    });
    let left: usize = left.sum();
    assert!(sent > 30_000, "{sent}");
    assert_eq!((sent + left, traces.held_bytes.load(Ordering::Relaxed)), (OPEN as usize, 0));
}

#[test]
fn names_are_kept_once_and_not_without_end() {
    let traces = Traces::new();
    for span in 1..=1_000 {
        let name = if span % 2 == 0 { "same" } else { &*format!("name {span}") };
        drop(traces.start(Started { at: Some(1), name, ..started(1, span, 0) }));
    }
    let shard = traces.shard(TraceId::from(1));
    assert!(shard.names.len() <= NAMES, "{}", shard.names.len());
    let name = |span: u64| &shard.traces[&TraceId::from(1)].spans[&SpanId::from(span)].began;
    let [Some(one), Some(other)] = [name(998), name(1000)] else { panic!("they have begun") };
    assert!(Arc::ptr_eq(&one.name, &other.name));
}
