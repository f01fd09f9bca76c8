//! The report: for people as text, for programs as JSON.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use crate::{
    llm::{Faults, Source},
    prices::Prices,
    style::{Paint, Style},
    swarm::{Finding, Missing, Survey},
    text::printable,
};

const WIDTH: usize = 88;

/// What the swarm found about a stock.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) prices: Prices,
    pub(crate) survey: &'a Survey,
    pub(crate) source: &'a Source,
    /// What the embedded server did, where it played the model.
    pub(crate) faults: Option<Faults>,
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
        for finding in &self.survey.findings {
            write_finding(text, finding, style)?;
        }
        for missing in &self.survey.missing {
            write_missing(text, missing, style)?;
        }
        let (degradation, paint) = self.degradation();
        writeln!(text, "Degradation: {}", style.paint(paint, degradation))?;
        for warning in self.warnings {
            writeln!(text, "Warning: {}", style.paint(Paint::Yellow, warning))?;
        }
        Ok(())
    }

    fn degradation(&self) -> (String, Paint) {
        let (answered, missing) = (self.survey.findings.len(), self.survey.missing.len());
        let level = self.survey.degradation();
        let paint = if missing == 0 { Paint::Green } else { Paint::Yellow };
        let total = answered + missing;
        (format!("{}, {answered} of {total} analysts answered", level.as_str()), paint)
    }

    /// Returns the report for programs.
    pub(crate) fn to_json(&self) -> Value {
        let (first, last) = self.prices.period();
        let level = self.survey.degradation();
        json!({
            "ticker": self.prices.ticker(),
            "period": {
                "from": first.to_string(),
                "to": last.to_string(),
                "months": self.prices.closes().len(),
            },
            "endpoint": {
                "base_url": self.source.base_url,
                "model": self.source.model,
                "backup_model": self.source.backup_model,
                "embedded": self.faults.map(|faults| json!({
                    "faults": faults.weather().as_str(),
                    "seed": faults.seed(),
                })),
            },
            "degradation": {
                "level": level.level(),
                "name": level.as_str(),
                "success_rate": self.survey.success_rate(),
            },
            "findings": self.survey.findings.iter().map(finding_json).collect::<Vec<_>>(),
            "missing": self.survey.missing.iter().map(missing_json).collect::<Vec<_>>(),
        })
    }
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
