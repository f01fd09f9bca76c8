//! Cases, and how long they take: all in turn, round after round, so that noise falls on all.

use std::{any::Any, fmt, time::Duration};

use serde_json::{Value, json};

use crate::processor;

/// The name of the case of each group that has no pattern around its agent.
pub const BARE: &str = "bare";
/// How many calls are made of what is made anew.
const BATCH: usize = 20;

/// One thing to measure.
pub struct Case {
    /// What it is compared within.
    pub group: &'static str,
    name: String,
    /// How many calls a round makes.
    calls: usize,
    /// How many spans a call makes, where that is asked.
    spans: Option<usize>,
    /// Makes what a round has around it.
    around: Box<dyn FnMut() -> Box<dyn Any>>,
    /// Makes so many calls, under a meter.
    run: Box<dyn FnMut(usize, Meter) -> Taken>,
}

/// What is looked at while calls are made: one at a time, as counting takes time itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Meter {
    /// How long calls take.
    Time,
    /// What they allocate.
    Allocations,
}

/// What one call takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    /// Nanoseconds.
    pub ns: f64,
    /// Allocations.
    pub allocs: f64,
    /// Bytes of them.
    pub bytes: f64,
    /// Processor time of all calls, where they are another process's.
    pub cpu: Option<Duration>,
}

/// What was measured.
#[derive(Debug)]
pub struct Row {
    /// What it is compared within.
    pub group: &'static str,
    /// What was measured.
    pub case: String,
    /// The least of all rounds.
    pub ns_min: f64,
    /// That of the round in the middle.
    pub ns_median: f64,
    /// Allocations of one call.
    pub allocs: f64,
    /// Bytes that one call allocates.
    pub bytes: f64,
    /// How many spans a call makes, where that is asked.
    pub spans: Option<usize>,
    /// Processor time of the whole process per call, what happens around a round included; known
    /// where spans are asked for and the system tells.
    pub cpu_ns: Option<f64>,
    /// Of it, that of the thread that calls.
    pub caller_cpu_ns: Option<f64>,
    /// The least time over the least time of the group's bare case.
    pub vs_bare: Option<f64>,
}

// ===== impl Case =====

impl Case {
    /// Makes a case that takes nanoseconds.
    pub fn new(
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
    pub fn many(
        group: &'static str,
        name: impl Into<String>,
        mut run: impl FnMut(usize) + 'static,
    ) -> Self {
        Self::metered(group, name, move |calls, meter| meter.of(calls, || run(calls)))
    }

    /// Makes a case of calls that change what they cost: each few are made of something new, and
    /// making it is not measured.
    pub fn anew<F: FnMut()>(
        group: &'static str,
        name: impl Into<String>,
        mut make: impl FnMut() -> F + 'static,
    ) -> Self {
        let case = Self::metered(group, name, move |calls, meter| {
            let batches = calls.div_ceil(BATCH);
            let batch = |_| {
                let mut one = make();
                meter.of(BATCH, || {
                    for _ in 0..BATCH {
                        one();
                    }
                })
            };
            Taken::mean((0..batches).map(batch))
        });
        case.calls(2_000)
    }

    /// Makes a case that reads the meter itself.
    pub fn metered(
        group: &'static str,
        name: impl Into<String>,
        run: impl FnMut(usize, Meter) -> Taken + 'static,
    ) -> Self {
        Self {
            group,
            name: name.into(),
            calls: 200_000,
            spans: None,
            around: Box::new(|| Box::new(())),
            run: Box::new(run),
        }
    }

    /// Sets how many calls a round makes, for cases that take long.
    #[must_use]
    pub const fn calls(mut self, calls: usize) -> Self {
        self.calls = calls;
        self
    }

    /// Sets how many spans a call makes, so that the cost of one is told.
    #[must_use]
    pub const fn spans(mut self, spans: usize) -> Self {
        self.spans = Some(spans);
        self
    }

    /// Sets what is held during each round, outside of what is timed.
    #[must_use]
    pub fn around<T: 'static>(mut self, mut around: impl FnMut() -> T + 'static) -> Self {
        self.around = Box::new(move || Box::new(around()));
        self
    }

    /// Tells whether a filter of the command line names this case.
    #[must_use]
    pub fn matches(&self, filter: Option<&str>) -> bool {
        filter.is_none_or(|filter| format!("{}/{}", self.group, self.name).contains(filter))
    }

    /// Tells whether this is what its group is compared with.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.name == BARE
    }

    /// Makes so many calls with all that is around them.
    fn round(&mut self, calls: usize, meter: Meter) -> Round {
        let asks = self.spans.is_some() && meter == Meter::Time;
        let look = |clock: fn() -> Option<Duration>| if asks { clock() } else { None };
        let since = |before: Option<Duration>, clock: fn() -> Option<Duration>| {
            Some(clock()?.saturating_sub(before?))
        };
        let before = look(processor::time);
        let around = (self.around)();
        let callers_before = look(processor::time_of_this_thread);
        let taken = (self.run)(calls, meter);
        let callers = since(callers_before, processor::time_of_this_thread);
        drop(around);
        let used = since(before, processor::time);
        match taken.cpu {
            // What this process did beside is not theirs.
            Some(cpu) => Round { taken, used: Some(cpu), callers: None },
            None => Round { taken, used, callers },
        }
    }
}

/// What a round came to.
#[derive(Debug, Clone, Copy)]
struct Round {
    taken: Taken,
    /// Processor time of the process.
    used: Option<Duration>,
    /// Of it, that of this thread, while calls were made.
    callers: Option<Duration>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut case = f.debug_struct("Case");
        case.field("group", &self.group).field("name", &self.name).finish_non_exhaustive()
    }
}

// ===== impl Meter =====

impl Meter {
    /// Makes so many calls and returns what one of them took.
    pub fn of(self, calls: usize, run: impl FnOnce()) -> Taken {
        let calls = count(calls);
        match self {
            Self::Time => Taken { ns: nanos(timed(run)) / calls, ..Taken::default() },
            Self::Allocations => {
                let info = allocation_counter::measure(run);
                let of_one = |all: u64| count(usize::try_from(all).unwrap_or(usize::MAX)) / calls;
                let (allocs, bytes) = (of_one(info.count_total), of_one(info.bytes_total));
                Taken { allocs, bytes, ..Taken::default() }
            }
        }
    }
}

// ===== impl Taken =====

impl Taken {
    /// Returns the mean of some.
    pub fn mean(all: impl ExactSizeIterator<Item = Self>) -> Self {
        let number = count(all.len());
        let sum = all.fold(Self::default(), |sum, one| Self {
            ns: sum.ns + one.ns,
            allocs: sum.allocs + one.allocs,
            bytes: sum.bytes + one.bytes,
            cpu: None,
        });
        let of_one = |all: f64| all / number;
        Self { ns: of_one(sum.ns), allocs: of_one(sum.allocs), bytes: of_one(sum.bytes), cpu: None }
    }
}

/// Runs every case in each of some rounds; `share` scales the number of calls.
pub fn measure(mut cases: Vec<Case>, rounds: usize, share: f64) -> Vec<Row> {
    let calls = |case: &Case| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a number of calls is small"
        )]
        let calls = (case.calls as f64 * share) as usize;
        calls.max(BATCH)
    };
    let mut times = vec![Vec::new(); cases.len()];
    let mut used = vec![[Some(Duration::ZERO); 2]; cases.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (place, case) in cases.iter_mut().enumerate() {
            let now = case.round(calls(case), Meter::Time);
            if round > 0 {
                times[place].push(now.taken.ns);
                for (sum, now) in used[place].iter_mut().zip([now.used, now.callers]) {
                    *sum = sum.zip(now).map(|(sum, now)| sum + now);
                }
            }
        }
    }
    let mut rows = Vec::new();
    for ((case, mut times), used) in cases.iter_mut().zip(times).zip(used) {
        times.sort_by(f64::total_cmp);
        let taken = case.round(calls(case).min(2_000), Meter::Allocations).taken;
        let all = count(rounds * calls(case));
        let [cpu_ns, caller_cpu_ns] = used.map(|used| used.map(|used| nanos(used) / all));
        rows.push(Row {
            group: case.group,
            case: case.name.clone(),
            ns_min: times[0],
            ns_median: times[times.len() / 2],
            allocs: taken.allocs,
            bytes: taken.bytes,
            spans: case.spans,
            cpu_ns,
            caller_cpu_ns,
            vs_bare: None,
        });
    }
    compare(&mut rows);
    rows
}

/// Fills in how many times the bare case of its group each case takes.
fn compare(rows: &mut [Row]) {
    let bare: Vec<(&'static str, f64)> =
        rows.iter().filter(|row| row.case == BARE).map(|row| (row.group, row.ns_min)).collect();
    for row in rows {
        let bare = bare.iter().find(|(group, _)| *group == row.group);
        row.vs_bare = bare.map(|(_, ns)| row.ns_min / ns);
    }
}

// ===== impl Row =====

impl Row {
    /// Returns the least time over the number of spans.
    #[must_use]
    pub fn per_span(&self) -> Option<f64> {
        self.spans.filter(|spans| *spans > 0).map(|spans| self.ns_min / count(spans))
    }

    /// Returns the row for programs: the same keys in each group, and four more where spans are
    /// asked for.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut row = json!({
            "group": self.group,
            "case": self.case,
            "ns_min": rounded(self.ns_min),
            "ns_median": rounded(self.ns_median),
            "allocs": rounded(self.allocs),
            "bytes": rounded(self.bytes),
            "vs_bare": self.vs_bare.map(rounded),
        });
        if self.spans.is_some() {
            row["spans"] = self.spans.into();
            row["ns_min_per_span"] = self.per_span().map(rounded).into();
            row["cpu_ns"] = self.cpu_ns.map(rounded).into();
            row["caller_cpu_ns"] = self.caller_cpu_ns.map(rounded).into();
        }
        row
    }
}

/// Rounds to a hundredth.
#[must_use]
pub fn rounded(number: f64) -> f64 {
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
fn timed(run: impl FnOnce()) -> Duration {
    let start = std::time::Instant::now();
    run();
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn sixteen_bytes() {
        drop(std::hint::black_box(Box::new([0_u64; 2])));
    }

    fn keys(row: &Row) -> Vec<String> {
        let Value::Object(row) = row.to_json() else { unreachable!("a row is an object") };
        row.keys().cloned().collect()
    }

    #[test]
    fn a_row_has_the_keys_of_every_group_and_four_more_where_calls_are_traced() {
        let plain = ["allocs", "bytes", "case", "group", "ns_median", "ns_min", "vs_bare"];
        let rows = measure(vec![Case::new("happy", "bare", sixteen_bytes)], 1, 0.001);
        assert_eq!(keys(&rows[0]), plain);
        let rows = measure(vec![Case::new("traced", "a", || ()).spans(5)], 1, 0.001);
        let more: Vec<String> =
            keys(&rows[0]).into_iter().filter(|key| !plain.contains(&&**key)).collect();
        assert_eq!(more, ["caller_cpu_ns", "cpu_ns", "ns_min_per_span", "spans"]);
    }

    #[test]
    fn allocations_are_those_of_one_call() {
        let cases = vec![
            Case::new("happy", "bare", sixteen_bytes),
            Case::anew("happy", "anew", || {
                sixteen_bytes();
                sixteen_bytes
            }),
        ];
        for row in measure(cases, 1, 0.001) {
            assert_eq!((row.allocs, row.bytes), (1.0, 16.0), "{}", row.case);
            assert!(row.vs_bare.is_some());
        }
    }

    #[test]
    fn what_is_made_anew_sees_few_calls() {
        thread_local! { static MOST: Cell<usize> = const { Cell::new(0) }; }
        let case = Case::anew("window", "a", || {
            let mut calls = 0;
            move || {
                calls += 1;
                MOST.set(MOST.get().max(calls));
            }
        });
        measure(vec![case.calls(200_000)], 1, 1.0);
        assert_eq!(MOST.get(), BATCH);
    }
}
