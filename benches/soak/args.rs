//! The command line.

use std::{str::FromStr, time::Duration};

use crate::load::LoadPlan;

pub(crate) const HELP: &str = "\
Usage: soak [--minutes N] [--rps R] [--langfuse-ms M] [--json] [--quick]

  --minutes N      how long the load lasts, such as 2 or 0.5 [default: 2; with --quick 0.05]
  --rps R          calls per second on each of the two routes [default: 500; with --quick 100]
  --langfuse-ms M  how long Langfuse waits before each answer, as one far away [default: 0]
  --json           one JSON object with every sample
  --quick          a run of seconds: what holds, not how fast

Exit codes: 0 every check holds, 1 one does not, 2 wrong use, 130 interrupted with Ctrl-C.
";

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Soak(Plan, Format),
    /// The load, in a process of its own.
    Load(LoadPlan),
    /// Langfuse, in a process of its own.
    Receive {
        delay: Duration,
    },
}

/// What a run is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    pub(crate) time: Duration,
    /// Calls per second on each route.
    pub(crate) rps: u32,
    /// How long Langfuse waits before each answer.
    pub(crate) langfuse_delay: Duration,
}

/// Who reads the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
}

/// More than a day is a mistake, and so are more calls than one generator can start.
const LONGEST_MINUTES: f64 = 1440.0;
const HIGHEST_RPS: u32 = 20_000;

// ===== impl Command =====

impl Command {
    /// Reads the arguments after the program's name.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut minutes, mut rps, mut langfuse_ms) = (None, None, 0_u16);
        let (mut format, mut quick) = (Format::Table, false);
        while let Some(argument) = arguments.next() {
            match &*argument {
                "--json" => format = Format::Json,
                "--quick" => quick = true,
                "--help" | "-h" => return Ok(Self::Help),
                "--minutes" => minutes = Some(number(&argument, arguments.next())?),
                "--rps" => rps = Some(number(&argument, arguments.next())?),
                "--langfuse-ms" => langfuse_ms = number(&argument, arguments.next())?,
                "load" => {
                    let plan = arguments.next().unwrap_or_default();
                    let plan = serde_json::from_str(&plan);
                    return plan.map(Self::Load).map_err(|error| format!("load: {error}"));
                }
                "langfuse" => {
                    let millis: u16 = number(&argument, arguments.next())?;
                    return Ok(Self::Receive { delay: Duration::from_millis(millis.into()) });
                }
                unknown => return Err(format!("{unknown} is not an option of soak")),
            }
        }
        let minutes: f64 = minutes.unwrap_or(if quick { 0.05 } else { 2.0 });
        let rps = rps.unwrap_or(if quick { 100 } else { 500 });
        if !(minutes > 0.0 && minutes <= LONGEST_MINUTES) {
            return Err(format!(
                "--minutes must be above 0 and at most {LONGEST_MINUTES}, not {minutes}"
            ));
        }
        if !(1..=HIGHEST_RPS).contains(&rps) {
            return Err(format!("--rps must be from 1 to {HIGHEST_RPS}, not {rps}"));
        }
        let time = Duration::from_secs_f64(minutes * 60.0);
        let langfuse_delay = Duration::from_millis(langfuse_ms.into());
        Ok(Self::Soak(Plan { time, rps, langfuse_delay }, format))
    }
}

fn number<T: FromStr>(option: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{option} needs a number after it"))?;
    value.parse().map_err(|_| format!("{option} needs a number, not {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Command, String> {
        Command::parse(arguments.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_run_is_told_by_minutes_and_calls_per_second() {
        let (time, langfuse_delay) = (Duration::from_secs(90), Duration::from_millis(40));
        let plan = Plan { time, rps: 20, langfuse_delay };
        assert_eq!(
            parse("--minutes 1.5 --rps 20 --json --langfuse-ms 40"),
            Ok(Command::Soak(plan, Format::Json))
        );
    }

    #[test]
    fn what_cannot_be_run_is_refused_in_a_sentence() {
        for (arguments, sentence) in [
            ("--minutes", "--minutes needs a number after it"),
            ("--minutes ten", "--minutes needs a number, not ten"),
            ("--minutes 0", "--minutes must be above 0 and at most 1440, not 0"),
            ("--minutes NaN", "--minutes must be above 0 and at most 1440, not NaN"),
            ("--rps 0", "--rps must be from 1 to 20000, not 0"),
            ("--rps -3", "--rps needs a number, not -3"),
            ("--langfuse-ms -1", "--langfuse-ms needs a number, not -1"),
            ("--fast", "--fast is not an option of soak"),
        ] {
            assert_eq!(parse(arguments), Err(sentence.to_owned()));
        }
    }
}
