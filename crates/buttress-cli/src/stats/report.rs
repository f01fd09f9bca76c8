//! The figures for people, in 80 columns.

use std::fmt::Write as _;

use buttress_langfuse::statistics::{
    CallFigures, CircuitFigures, DegradationFigures, FallbackFigures, Figures, RetryFigures,
    TimeoutFigures,
};

use super::Counted;
use crate::{
    args::By,
    color::Color,
    period::{shown, span},
    table::{Side, Table, WIDTH},
    text::{cut, escaped},
};

/// What stands where a figure has nothing to be made of.
const NO_DATA: &str = "no data";
/// The states that have a column of their own.
const STATES: [&str; 3] = ["closed", "open", "half_open"];
/// Where the values of a section stand.
const VALUES: usize = 26;

/// A report that grows section by section.
struct Report {
    text: String,
    color: Color,
}

pub(super) fn of(counted: &Counted, by: Option<By>, color: Color) -> String {
    let statistics = &counted.statistics;
    let mut report = Report { text: String::new(), color };
    report.head(counted);
    let total = &statistics.total;
    report.calls(&total.calls);
    report.retry(&total.retry);
    report.fallback(&total.fallback);
    report.timeouts(&total.timeout);
    report.degradation(&total.degradation);
    report.circuits(total);
    report.failures(total);
    if by == Some(By::Agent) {
        report.agents(statistics.by_agent.iter().map(|(agent, of)| (agent.as_str(), of)));
    }
    report.text
}

impl Report {
    fn head(&mut self, counted: &Counted) {
        let (since, until) = (shown(counted.since), shown(counted.until));
        let observations = counted.statistics.observations;
        _ = writeln!(self.text, "from {since} to {until}, {observations} observations");
        if let Some(folder) = &counted.spool {
            let line = format!("waiting for delivery in {}", folder.display());
            _ = writeln!(self.text, "{}", cut(&escaped(&line), WIDTH));
        }
        if counted.is_cut {
            _ = writeln!(self.text, "there are more: these are the newest; --limit reads more");
        }
        if counted.statistics.is_sampled {
            _ = writeln!(self.text, "some traces stand for others that were not kept");
        }
    }

    fn section(&mut self, name: &str) {
        _ = writeln!(self.text, "\n{}", self.color.bold(name));
    }

    /// Writes a figure; one that is too long goes on below.
    fn line(&mut self, name: &str, value: &str) {
        let mut name = name;
        for part in wrapped(value, WIDTH - VALUES - 2) {
            _ = writeln!(self.text, "  {name:VALUES$}{part}");
            name = "";
        }
    }

    fn table(&mut self, table: &Table) {
        self.text.push_str(&table.render(2));
    }

    fn calls(&mut self, calls: &CallFigures) {
        self.section("Calls");
        self.line("availability", &share(calls.availability(), calls.answered, calls.all, "calls"));
        self.line(
            "not answered",
            &listed(&[
                ("failed", calls.failed),
                ("rejected", calls.rejected),
                ("panicked", calls.panicked),
                ("cancelled", calls.cancelled),
                ("unfinished", calls.unfinished),
            ]),
        );
    }

    fn retry(&mut self, retry: &RetryFigures) {
        self.section("Retry");
        let rate = share(retry.success_rate(), retry.rescued, retry.retried, "retried series");
        self.line("success rate", &rate);
        self.line("attempts needed", &average(retry.average_attempts_needed()));
        self.line(
            "series",
            &listed(&[
                ("in all", retry.series),
                ("succeeded at once", retry.first_try),
                ("failed", retry.failed),
            ]),
        );
    }

    fn fallback(&mut self, fallback: &FallbackFigures) {
        self.section("Fallback");
        let rate = share(fallback.rate(), fallback.rescued, fallback.chains, "chains");
        self.line("fallback rate", &rate);
        for (level, times) in &fallback.levels {
            let name = match level {
                0 => "answered by primary".to_owned(),
                level => format!("answered by fallback {level}"),
            };
            self.line(&name, &whole(*times));
        }
        self.line("exhausted", &value(fallback.exhausted, fallback.chains));
    }

    fn timeouts(&mut self, timeout: &TimeoutFigures) {
        self.section("Timeouts");
        let rate = share(timeout.rate(), timeout.timed_out, timeout.calls, "calls with a limit");
        self.line("timed out", &rate);
    }

    fn degradation(&mut self, degradation: &DegradationFigures) {
        self.section("Degradation");
        let runs = degradation.runs;
        let less = degradation.degraded + degradation.minimal + degradation.critical;
        self.line("not at full level", &share(degradation.rate(), less, runs, "swarm calls"));
        if runs == 0.0 {
            return;
        }
        self.line(
            "levels",
            &listed(&[
                ("full", degradation.full),
                ("degraded", degradation.degraded),
                ("minimal", degradation.minimal),
                ("critical", degradation.critical),
            ]),
        );
        self.line("agents that succeeded", &percent(degradation.average_success_rate()));
        if degradation.failed_agents.is_empty() {
            return;
        }
        let mut table = Table::new([("FAILED AGENT", Side::Text), ("TIMES", Side::Right)]);
        for (agent, times) in &degradation.failed_agents {
            table.row([agent.clone(), whole(*times)]);
        }
        self.table(&table);
    }

    fn circuits(&mut self, figures: &Figures) {
        self.section("Circuit breakers");
        if figures.circuits.is_empty() {
            return self.line("states", NO_DATA);
        }
        let mut table = Table::new([
            ("CIRCUIT", Side::Text),
            ("STATE", Side::Left),
            ("OPENED", Side::Right),
            ("CALLS", Side::Right),
            ("REJECTED", Side::Right),
        ]);
        for (name, circuit) in &figures.circuits {
            table.row([
                name.clone(),
                circuit.state.clone().unwrap_or_else(|| "-".to_owned()),
                whole(circuit.opened()),
                whole(circuit.calls),
                whole(circuit.rejected),
            ]);
        }
        self.table(&table);
        self.times(figures.circuits.iter());
        self.transitions(figures.circuits.iter());
    }

    /// Tells for how long circuits were in each state; those that were in no other than closed
    /// are left out.
    fn times<'a>(&mut self, circuits: impl Iterator<Item = (&'a String, &'a CircuitFigures)>) {
        let mut table = Table::new([
            ("CIRCUIT", Side::Text),
            ("CLOSED", Side::Right),
            ("OPEN", Side::Right),
            ("HALF OPEN", Side::Right),
            ("OTHER", Side::Right),
        ]);
        let mut is_empty = true;
        for (name, circuit) in circuits {
            if circuit.time_in.keys().all(|state| state == "closed") {
                continue;
            }
            let time_in = |state: &str| circuit.time_in.get(state).map(|time| span(*time));
            let others = circuit.time_in.iter().filter(|(state, _)| !STATES.contains(&&state[..]));
            let other = others.map(|(_, time)| *time).reduce(|one, other| one + other).map(span);
            let times = STATES.map(time_in).into_iter().chain([other]);
            let times = times.map(|time| time.unwrap_or_else(|| "-".to_owned()));
            table.row([name.clone()].into_iter().chain(times));
            is_empty = false;
        }
        if !is_empty {
            self.text.push('\n');
            self.table(&table);
        }
    }

    fn transitions<'a>(
        &mut self,
        circuits: impl Iterator<Item = (&'a String, &'a CircuitFigures)>,
    ) {
        let mut table = Table::new([
            ("CIRCUIT", Side::Text),
            ("TRANSITION", Side::Left),
            ("TIMES", Side::Right),
        ]);
        let mut is_empty = true;
        for (name, circuit) in circuits {
            for (transition, times) in &circuit.transitions {
                table.row([name.clone(), transition.clone(), whole(*times)]);
                is_empty = false;
            }
        }
        if !is_empty {
            self.text.push('\n');
            self.table(&table);
        }
    }

    fn failures(&mut self, figures: &Figures) {
        self.section("Failures");
        if figures.failures.is_empty() {
            return self.line("kinds", "none");
        }
        let mut table = Table::new([
            ("KIND", Side::Text),
            ("SEEN BY CALLERS", Side::Right),
            ("OF ATTEMPTS", Side::Right),
        ]);
        for (kind, failures) in &figures.failures {
            table.row([kind.clone(), whole(failures.calls), whole(failures.attempts)]);
        }
        self.table(&table);
    }

    fn agents<'a>(&mut self, agents: impl Iterator<Item = (&'a str, &'a Figures)>) {
        self.section("Agents");
        let mut table = Table::new([
            ("AGENT", Side::Text),
            ("CALLS", Side::Right),
            ("ANSWERED", Side::Right),
            ("RETRY OK", Side::Right),
            ("ATTEMPTS", Side::Right),
            ("FALLBACK", Side::Right),
            ("TIMEOUTS", Side::Right),
        ]);
        for (agent, figures) in agents {
            let timeouts = &figures.timeout;
            table.row([
                if agent.is_empty() { "-" } else { agent }.to_owned(),
                whole(figures.calls.all),
                percent(figures.calls.availability()),
                percent(figures.retry.success_rate()),
                average(figures.retry.average_attempts_needed()),
                percent(figures.fallback.rate()),
                value(timeouts.timed_out, timeouts.calls),
            ]);
        }
        self.table(&table);
    }
}

/// Writes a share with what it is made of.
fn share(rate: Option<f64>, part: f64, all: f64, of: &str) -> String {
    match rate {
        Some(_) => format!("{} ({} of {} {of})", percent(rate), whole(part), whole(all)),
        None => NO_DATA.to_owned(),
    }
}

fn percent(rate: Option<f64>) -> String {
    rate.map_or_else(|| NO_DATA.to_owned(), |rate| format!("{:.1} %", rate * 100.0))
}

fn average(average: Option<f64>) -> String {
    average.map_or_else(|| NO_DATA.to_owned(), |average| format!("{average:.1}"))
}

/// Writes a count, a very large one in millions.
fn whole(count: f64) -> String {
    if count < 1e7 { format!("{count:.0}") } else { format!("{:.1}M", count / 1e6) }
}

/// Writes a count, where there is something that could have been counted.
fn value(count: f64, all: f64) -> String {
    if all > 0.0 { whole(count) } else { NO_DATA.to_owned() }
}

/// Lists what there is any of.
fn listed(counts: &[(&str, f64)]) -> String {
    let words = counts.iter().filter(|(_, count)| *count > 0.0);
    let words: Vec<_> = words.map(|(name, count)| format!("{} {name}", whole(*count))).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// Breaks a line between words.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use buttress_langfuse::Statistics;

    use super::*;
    use crate::{args::When, text::width};

    fn counted() -> Counted {
        let (since, until) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
        Counted { since, until, statistics: Statistics::default(), is_cut: true, spool: None }
    }

    #[test]
    fn figures_of_nothing_say_so() {
        let text = of(&counted(), Some(By::Agent), Color::of(When::Never));
        for line in [
            "  availability              no data\n",
            "  success rate              no data\n",
            "  attempts needed           no data\n",
            "  fallback rate             no data\n",
            "  exhausted                 no data\n",
            "  timed out                 no data\n",
            "  not at full level         no data\n",
            "  states                    no data\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("NaN") && !text.contains(" -0"), "{text}");
    }

    #[test]
    fn the_report_fits_80_columns_whatever_is_named() {
        let mut counted = counted();
        let total = &mut counted.statistics.total;
        let long = "\u{1b}[2J".repeat(50);
        total.circuits.entry(long.clone()).or_default().state = Some("metrics_only".to_owned());
        let circuit = total.circuits.entry(long.clone()).or_default();
        circuit.transitions.insert("metrics_only -> forced_open".to_owned(), 1e9);
        circuit.time_in.insert("closed".to_owned(), std::time::Duration::from_secs(86_400 * 20));
        circuit.calls = 1e9;
        circuit.rejected = 1e9;
        total.failures.entry(long.clone()).or_default().calls = 1e9;
        total.degradation.runs = 1e9;
        total.degradation.full = 1e9;
        total.degradation.failed_agents.insert(long.clone(), 1.0);
        total.calls.failed = 1e9;
        total.calls.rejected = 1e9;
        total.calls.panicked = 1e9;
        total.calls.cancelled = 1e9;
        counted.statistics.by_agent.insert(long, Figures::default());
        let text = of(&counted, Some(By::Agent), Color::of(When::Never));
        for line in text.lines() {
            assert!(width(line) <= 80, "{} columns: {line}", width(line));
        }
        assert!(!text.contains('\u{1b}'));
    }
}
