//! What came of it: tables for people, a document for programs.

use std::fmt::Write as _;

use buttress_benches::{
    latency::Summary,
    measure::{Row, rounded},
};
use buttress_langfuse::Stats;
use serde_json::{Value, json};

use super::{
    cases::{RETRIED, SDK, SUCCEEDS},
    latencies::Compared,
    listener::{DISK, MEMORY, PROCESS},
};

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// How many spans of a call that is retried are journalled.
    pub(crate) journalled: usize,
    pub(crate) latencies: Vec<Compared>,
    pub(crate) delivery: Vec<(&'static str, Stats)>,
    /// Those of Python and its SDK, or why they were left out.
    pub(crate) versions: Result<Value, String>,
}

/// A target, and what was measured for it.
#[derive(Debug)]
struct Target {
    what: &'static str,
    /// By the medians.
    is: f64,
    /// By the least times, where it is one.
    least: Option<f64>,
    at_most: Option<f64>,
    at_least: Option<f64>,
    unit: &'static str,
}

// ===== impl Target =====

impl Target {
    fn holds(&self) -> bool {
        self.at_most.is_none_or(|most| self.is <= most)
            && self.at_least.is_none_or(|least| self.is >= least)
    }

    fn wanted(&self) -> String {
        let bound = |word: &str, bound: Option<f64>| {
            bound.map(|bound| format!("{word} {bound} {}", self.unit))
        };
        let bounds = [bound("at most", self.at_most), bound("at least", self.at_least)];
        bounds.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "is": rounded(self.is),
            "least": self.least.map(rounded),
            "unit": self.unit,
            "at_most": self.at_most,
            "at_least": self.at_least,
            "holds": self.holds(),
        })
    }
}

// ===== impl Report =====

impl Report {
    fn row(&self, group: &str, case: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.group == group && row.case == case)
    }

    /// Returns how many times the processor time of a row the SDK takes for the same call.
    fn sdk_takes(&self, row: &Row) -> Option<f64> {
        Some(self.row(row.group, SDK)?.cpu_ns? / row.cpu_ns?)
    }

    /// Returns the processor time that a journal adds to the caller's, for each span in it.
    fn added_by_journal(&self) -> Option<f64> {
        let callers = |case| self.row(RETRIED, case)?.caller_cpu_ns;
        Some((callers(PROCESS)? - callers(MEMORY)?) / 1e3 / self.journalled as f64)
    }

    /// Returns the time of a call for each of its spans that is journalled.
    fn per_journalled(&self, row: &Row) -> Option<f64> {
        let journals = row.group == RETRIED && [PROCESS, DISK].contains(&&*row.case);
        journals.then(|| row.ns_median / 1e3 / self.journalled as f64)
    }

    fn targets(&self) -> Vec<Target> {
        let (ok, retried) = (self.row(SUCCEEDS, PROCESS), self.row(RETRIED, PROCESS));
        let journalled = self.journalled as f64;
        let time = |row: Option<&Row>, spans: f64| {
            row.map(|row| (row.ns_median / 1e3 / spans, Some(row.ns_min / 1e3 / spans)))
        };
        let ratio = ok.and_then(|row| self.sdk_takes(row)).map(|ratio| (ratio, None));
        let target = |what, is: Option<(f64, Option<f64>)>, at_most, at_least, unit| {
            is.map(|(is, least)| Target { what, is, least, at_most, at_least, unit })
        };
        let targets = [
            target("a call that succeeds, fully traced", time(ok, 1.0), Some(10.0), None, "us"),
            target("processor time of the SDK for it, by ours", ratio, None, Some(200.0), "x"),
            target(
                "a call that is retried, by its journalled spans",
                time(retried, journalled),
                Some(20.0),
                None,
                "us",
            ),
        ];
        targets.into_iter().flatten().collect()
    }

    /// Tells it to programs.
    pub(crate) fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let us = |ns: f64| rounded(ns / 1e3);
            json!({
                "group": row.group,
                "case": row.case,
                "spans": row.spans,
                "us_min": us(row.ns_min),
                "us_median": us(row.ns_median),
                "caller_cpu_us": row.caller_cpu_ns.map(us),
                "cpu_us": row.cpu_ns.map(us),
                "allocs": rounded(row.allocs),
                "bytes": rounded(row.bytes),
                "us_per_journalled_span": self.per_journalled(row).map(rounded),
                "sdk_cpu_vs_this": self.sdk_takes(row).map(rounded),
            })
        });
        let latencies = self.latencies.iter().map(|compared| {
            let us = |summary: Summary| {
                let [p50, p99, p999, max] = summary.figures().map(|ms| rounded(ms * 1e3));
                json!({ "calls": summary.calls, "p50": p50, "p99": p99, "p999": p999, "max": max })
            };
            json!({
                "agent": compared.agent,
                "without_us": us(compared.without),
                "with_us": us(compared.with),
            })
        });
        let delivery = self.delivery.iter().map(|(case, stats)| {
            json!({
                "case": case,
                "accepted": stats.accepted,
                "delivered": stats.delivered,
                "dropped": stats.dropped,
            })
        });
        json!({
            "rows": rows.collect::<Vec<_>>(),
            "journalled_spans": self.journalled,
            "caller_cpu_us_added_per_journalled_span": self.added_by_journal().map(rounded),
            "latencies": latencies.collect::<Vec<_>>(),
            "delivery": delivery.collect::<Vec<_>>(),
            "targets": self.targets().iter().map(Target::to_json).collect::<Vec<_>>(),
            "versions": self.versions.as_ref().ok(),
            "python_skipped": self.versions.as_ref().err(),
        })
    }

    /// Shows it to people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut group = "";
        for row in &self.rows {
            if row.group != group {
                group = row.group;
                _ = writeln!(
                    text,
                    "a call that {group}\n  {:<38} {:>6} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8} {:>9} {:>8}",
                    "us",
                    "spans",
                    "min",
                    "median",
                    "its CPU",
                    "all CPU",
                    "allocs",
                    "bytes",
                    "journal",
                    "SDK is"
                );
            }
            self.draw(row, &mut text);
        }
        _ = writeln!(
            text,
            "its CPU: of the thread that calls; all CPU: of the process, until the last span is \
             delivered\njournal: the median by the {} spans that are journalled; SDK is: its CPU by \
             all of this CPU\n",
            self.journalled
        );
        _ = writeln!(
            text,
            "us of a call, 1 in 10 retried       {:>7} {:>10} {:>10} {:>10} {:>10}",
            "calls", "p50", "p99", "p99.9", "max"
        );
        for compared in &self.latencies {
            for (side, summary) in [("without", compared.without), ("with", compared.with)] {
                let [p50, p99, p999, max] = summary.figures().map(|ms| ms * 1e3);
                let what = format!("{}, {side} Langfuse", compared.agent);
                _ = writeln!(
                    text,
                    "  {what:<33} {:>7} {p50:>10.1} {p99:>10.1} {p999:>10.1} {max:>10.1}",
                    summary.calls
                );
            }
        }
        text.push('\n');
        for target in self.targets() {
            let word = if target.holds() { "holds " } else { "MISSED" };
            let (is, unit) = (target.is, target.unit);
            _ = write!(text, "{word} {}: {is:.1} {unit}", target.what);
            if let Some(least) = target.least {
                _ = write!(text, " ({least:.1} at the least)");
            }
            _ = writeln!(text, ", {}", target.wanted());
        }
        if let Some(added) = self.added_by_journal() {
            _ = writeln!(
                text,
                "the journal adds {added:.1} us of the caller's CPU for each span in it"
            );
        }
        for (case, stats) in &self.delivery {
            let (accepted, delivered, dropped) = (stats.accepted, stats.delivered, stats.dropped);
            _ = writeln!(
                text,
                "{case}: {accepted} spans taken, {delivered} delivered, {dropped} dropped"
            );
        }
        match &self.versions {
            Ok(versions) => {
                let version = |name: &str| versions[name].as_str().unwrap_or("?").to_owned();
                let (python, sdk) = (version("python"), version("langfuse"));
                _ = writeln!(text, "Langfuse SDK {sdk}, Python {python}");
            }
            Err(reason) => _ = writeln!(text, "the SDK for Python was left out: {reason}"),
        }
        text
    }

    fn draw(&self, row: &Row, text: &mut String) {
        let shown = |figure: Option<f64>, digits: usize| match figure {
            Some(figure) if figure.is_finite() => format!("{figure:.digits$}"),
            _ => "-".to_owned(),
        };
        let us = |ns: Option<f64>| shown(ns.map(|ns| ns / 1e3), 2);
        _ = writeln!(
            text,
            "  {:<38} {:>6} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8} {:>9} {:>8}",
            row.case,
            row.spans.unwrap_or_default(),
            us(Some(row.ns_min)),
            us(Some(row.ns_median)),
            us(row.caller_cpu_ns),
            us(row.cpu_ns),
            shown(Some(row.allocs), 1),
            shown(Some(row.bytes), 0),
            shown(self.per_journalled(row), 2),
            shown(self.sdk_takes(row).filter(|_| row.case != SDK), 0),
        );
    }
}
