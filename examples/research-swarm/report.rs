//! The report: for people as text, for programs as JSON.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use crate::{
    prices::Prices,
    quality::{Check, Verdict},
    strategy::{Course, Strategy},
    style::{Paint, Style},
    swarm::{Degradation, Finding, Missing},
    text::printable,
    workflow::Case,
};

const WIDTH: usize = 88;

/// What the workflow came to.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) prices: Prices,
    pub(crate) case: &'a Case,
    /// Where there is no survey, who has no answer.
    pub(crate) missing: &'a [Missing],
    /// What went wrong beside the analysts.
    pub(crate) warnings: &'a [String],
}

// ===== impl Report =====

impl Report<'_> {
    /// Returns the report for people.
    pub(crate) fn to_text(&self, style: Style) -> String {
        let mut text = String::new();
        self.write(&mut text, style).expect("a string takes all that is written");
        text
    }

    fn write(&self, text: &mut String, style: Style) -> fmt::Result {
        let (first, last) = self.prices.period();
        let months = self.prices.closes().len();
        let title = style.paint(Paint::Bold, self.prices.ticker());
        writeln!(text, "{title}  {months} monthly closes, {first} to {last}\n")?;
        for finding in self.findings() {
            write_finding(text, finding, style)?;
        }
        for missing in self.missing() {
            write_missing(text, missing, style)?;
        }
        if let Some(strategy) = &self.case.strategy {
            write_strategy(text, strategy, style)?;
        }
        for verdict in &self.case.verdicts {
            write_verdict(text, verdict, style)?;
        }
        if let Some(survey) = &self.case.survey {
            let (degradation, paint) = self.degradation(&survey.degradation);
            writeln!(text, "Degradation: {}", style.paint(paint, degradation))?;
        }
        for warning in self.warnings {
            writeln!(text, "Warning: {}", style.paint(Paint::Yellow, warning))?;
        }
        Ok(())
    }

    fn findings(&self) -> &[Finding] {
        self.case.survey.as_ref().map_or(&[], |survey| &survey.findings)
    }

    fn missing(&self) -> &[Missing] {
        self.case.survey.as_ref().map_or(self.missing, |survey| &survey.missing)
    }

    fn degradation(&self, degradation: &Degradation) -> (String, Paint) {
        let (answered, missing) = (self.findings().len(), self.missing().len());
        let paint = if missing == 0 { Paint::Green } else { Paint::Yellow };
        let total = answered + missing;
        (
            format!("{}, {answered} of {total} analysts answered", printable(&degradation.name)),
            paint,
        )
    }

    /// Returns the report for programs.
    pub(crate) fn to_json(&self) -> Value {
        let (first, last) = self.prices.period();
        let case = self.case;
        json!({
            "ticker": self.prices.ticker(),
            "period": {
                "from": first.to_string(),
                "to": last.to_string(),
                "months": self.prices.closes().len(),
            },
            "endpoint": case.source.as_ref().map(|source| json!({
                "base_url": source.base_url,
                "model": source.model,
                "backup_model": source.backup_model,
                "embedded": case.asked.embedded.map(|faults| json!({
                    "faults": faults.weather().as_str(),
                    "seed": faults.seed(),
                })),
            })),
            "degradation": case.survey.as_ref().map(|survey| &survey.degradation),
            "findings": self.findings().iter().map(finding_json).collect::<Vec<_>>(),
            "missing": self.missing().iter().map(missing_json).collect::<Vec<_>>(),
            "strategy": case.strategy,
            "quality": case.verdicts.iter().map(verdict_json).collect::<Vec<_>>(),
        })
    }
}

fn write_strategy(text: &mut String, strategy: &Strategy, style: Style) -> fmt::Result {
    let title = style.paint(Paint::Bold, "Strategy");
    writeln!(
        text,
        "{title}  {:.1} % in the stock over its 12-month average, {:.1} % below",
        strategy.share * 100.0,
        strategy.share_below * 100.0
    )?;
    for reason in &strategy.reasons {
        writeln!(text, "{}", wrapped(&printable(reason), "  "))?;
    }
    let back_test = &strategy.back_test;
    writeln!(text, "  back-test of {} months:", back_test.months)?;
    for (name, course) in [("strategy", back_test.strategy), ("stock", back_test.stock)] {
        let Course { total_return, return_per_year, worst_drawdown } = course;
        writeln!(
            text,
            "    {name:<8} {:>8.1} % in all, {:>5.1} % a year, worst drawdown {:>5.1} %",
            total_return * 100.0,
            return_per_year * 100.0,
            worst_drawdown * 100.0
        )?;
    }
    writeln!(text)
}

fn write_verdict(text: &mut String, verdict: &Verdict, style: Style) -> fmt::Result {
    let (word, paint) = match verdict.passed() {
        true => ("passed", Paint::Green),
        false => ("failed", Paint::Red),
    };
    let title = style.paint(Paint::Bold, "Quality gate");
    writeln!(text, "{title}  {}", style.paint(paint, word))?;
    for Check { name, passed, measured } in &verdict.checks {
        let mark = if *passed { '+' } else { 'x' };
        writeln!(text, "  {mark} {}: {}", printable(name), printable(measured))?;
    }
    writeln!(text)
}

fn verdict_json(verdict: &Verdict) -> Value {
    json!({ "passed": verdict.passed(), "checks": verdict.checks })
}

/// Writes a finding, which may come from a store that others write too.
fn write_finding(text: &mut String, finding: &Finding, style: Style) -> fmt::Result {
    let name = capitalised(finding.analyst.name());
    let by = finding.model.as_deref().unwrap_or("unknown model");
    let by = style.paint(Paint::Dim, format_args!("phrased by {}", printable(by)));
    writeln!(text, "{}  {by}", style.paint(Paint::Bold, name))?;
    writeln!(text, "{}\n", wrapped(&printable(&finding.text), "  "))
}

fn write_missing(text: &mut String, missing: &Missing, style: Style) -> fmt::Result {
    let name = capitalised(missing.analyst.name());
    writeln!(text, "{}  {}", style.paint(Paint::Bold, name), style.paint(Paint::Red, "missing"))?;
    writeln!(text, "{}\n", wrapped(&printable(&missing.reason), "  "))
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "analyst": finding.analyst.name(),
        "text": finding.text,
        "model": finding.model,
        "facts": finding.facts.numbers(),
    })
}

fn missing_json(missing: &Missing) -> Value {
    json!({
        "analyst": missing.analyst.name(),
        "failure_kind": missing.failure_kind,
        "reason": missing.reason,
    })
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Breaks lines between words and indents each.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = vec![indent.to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        let is_new = line.len() == indent.len();
        if !is_new && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{indent}{word}"));
        } else {
            if !is_new {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        let text = "word ".repeat(40);
        let wrapped = wrapped(&text, "  ");
        assert!(wrapped.lines().count() > 1);
        assert!(wrapped.lines().all(|line| line.starts_with("  word") && line.len() <= WIDTH));
        assert_eq!(wrapped.split_whitespace().count(), 40);
    }

    #[test]
    fn a_word_longer_than_a_line_stays_whole() {
        let long = "x".repeat(120);
        assert_eq!(wrapped(&long, "  "), format!("  {long}"));
    }
}
