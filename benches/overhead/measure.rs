//! Cases, and how long they take: all in turn, round after round, so that noise falls on all.

use std::{any::Any, time::Duration};

use serde_json::{Value, json};

/// One thing to measure.
pub(crate) struct Case {
    group: &'static str,
    name: String,
    /// How many calls a round makes.
    calls: usize,
    /// How many calls are made once, before the first round.
    before: usize,
    /// How many spans a call makes, where that is asked.
    spans: Option<usize>,
    /// Makes what a round has around it.
    around: Box<dyn FnMut() -> Box<dyn Any>>,
    /// Makes so many calls.
    run: Box<dyn FnMut(usize)>,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) group: &'static str,
    pub(crate) case: String,
    pub(crate) ns_min: f64,
    pub(crate) ns_median: f64,
    /// Allocations of one call.
    pub(crate) allocs: f64,
    /// Bytes that one call allocates.
    pub(crate) bytes: f64,
    /// How many spans a call makes, where that is asked.
    pub(crate) spans: Option<usize>,
    /// The least time over the least time of the group's bare case; none where there is none.
    pub(crate) vs_bare: Option<f64>,
}

impl Case {
    /// Makes a case that takes nanoseconds.
    pub(crate) fn new(
        group: &'static str,
        name: impl Into<String>,
        mut one: impl FnMut() + 'static,
    ) -> Self {
        let run = move |calls| {
            for _ in 0..calls {
                one();
            }
        };
        Self::many(group, name, run)
    }

    /// Makes a case that says itself how to make many calls.
    pub(crate) fn many(
        group: &'static str,
        name: impl Into<String>,
        run: impl FnMut(usize) + 'static,
    ) -> Self {
        Self {
            group,
            name: name.into(),
            calls: 200_000,
            before: 0,
            spans: None,
            around: Box::new(|| Box::new(())),
            run: Box::new(run),
        }
    }

    /// Sets how many calls a round makes, for cases that take long.
    pub(crate) const fn calls(mut self, calls: usize) -> Self {
        self.calls = calls;
        self
    }

    /// Sets how many calls are made once, before anything is measured: they fill what is measured.
    pub(crate) const fn before(mut self, calls: usize) -> Self {
        self.before = calls;
        self
    }

    /// Sets how many spans a call makes, so that the cost of one is told.
    pub(crate) const fn spans(mut self, spans: usize) -> Self {
        self.spans = Some(spans);
        self
    }

    /// Sets what is held during each round, outside of what is timed.
    pub(crate) fn around<T: 'static>(mut self, mut around: impl FnMut() -> T + 'static) -> Self {
        self.around = Box::new(move || Box::new(around()));
        self
    }

    /// Tells whether a filter of the command line names this case.
    pub(crate) fn matches(&self, filter: Option<&str>) -> bool {
        filter.is_none_or(|filter| format!("{}/{}", self.group, self.name).contains(filter))
    }
}

/// Runs every case in each of some rounds; `share` scales the number of calls.
pub(crate) fn measure(mut cases: Vec<Case>, rounds: usize, share: f64) -> Vec<Row> {
    let calls = |case: &Case| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a number of calls is small"
        )]
        let calls = (case.calls as f64 * share) as usize;
        calls.max(20)
    };
    for case in &mut cases {
        (case.run)(case.before);
    }
    let mut times = vec![Vec::new(); cases.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (case, times) in cases.iter_mut().zip(&mut times) {
            let calls = calls(case);
            let around = (case.around)();
            let took = timed(|| (case.run)(calls));
            drop(around);
            if round > 0 {
                times.push(nanos(took) / count(calls));
            }
        }
    }
    let mut rows: Vec<Row> = cases
        .iter_mut()
        .zip(times)
        .map(|(case, mut times)| {
            times.sort_by(f64::total_cmp);
            let calls = calls(case).min(2_000);
            let around = (case.around)();
            let info = allocation_counter::measure(|| (case.run)(calls));
            drop(around);
            Row {
                group: case.group,
                case: case.name.clone(),
                ns_min: times[0],
                ns_median: times[times.len() / 2],
                allocs: count(usize::try_from(info.count_total).unwrap_or(usize::MAX))
                    / count(calls),
                bytes: count(usize::try_from(info.bytes_total).unwrap_or(usize::MAX))
                    / count(calls),
                spans: case.spans,
                vs_bare: None,
            }
        })
        .collect();
    compare(&mut rows);
    rows
}

/// Fills in how many times the bare case of its group each case takes.
fn compare(rows: &mut [Row]) {
    let bare: Vec<(&'static str, f64)> =
        rows.iter().filter(|row| row.case == "bare").map(|row| (row.group, row.ns_min)).collect();
    for row in rows {
        let bare = bare.iter().find(|(group, _)| *group == row.group);
        row.vs_bare = bare.map(|(_, ns)| row.ns_min / ns);
    }
}

impl Row {
    /// Returns the least time over the number of spans.
    pub(crate) fn per_span(&self) -> Option<f64> {
        self.spans.filter(|spans| *spans > 0).map(|spans| self.ns_min / count(spans))
    }

    /// Returns the row for programs.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "group": self.group,
            "case": self.case,
            "ns_min": rounded(self.ns_min),
            "ns_median": rounded(self.ns_median),
            "allocs": rounded(self.allocs),
            "bytes": rounded(self.bytes),
            "spans": self.spans,
            "ns_min_per_span": self.per_span().map(rounded),
            "vs_bare": self.vs_bare.map(rounded),
        })
    }
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
const fn count(number: usize) -> f64 {
    number as f64
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[expect(clippy::disallowed_methods, reason = "a measurement runs on real time")]
pub(crate) fn timed(run: impl FnOnce()) -> Duration {
    let start = std::time::Instant::now();
    run();
    start.elapsed()
}
