//! The command line.

use buttress::Order;
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{
    llm::{Faults, Settings},
    prices::Prices,
    problem::Problem,
    workflow::{Asked, Step},
};

/// What follows the options in `--help`.
const MORE: &str = "\
Environment:
  OPENAI_BASE_URL       An OpenAI-compatible endpoint, such as http://localhost:11434/v1
                        [default: https://api.openai.com/v1 where OPENAI_API_KEY is set]
  OPENAI_API_KEY        Its key, where it wants one
  OPENAI_MODEL          The model to ask [default: gpt-4.1]
  OPENAI_BACKUP_MODEL   The model to fall back to
                        [default: gpt-4.1-mini; none where OPENAI_MODEL is set]
  LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY
                        Send the traces to Langfuse; without both they stay here
  LANGFUSE_BASE_URL     Where Langfuse is [default: https://cloud.langfuse.com];
                        LANGFUSE_HOST is its older name
  LANGFUSE_TRACING_ENABLED, LANGFUSE_TRACING_ENVIRONMENT, LANGFUSE_RELEASE,
  LANGFUSE_SAMPLE_RATE, LANGFUSE_FLUSH_AT, LANGFUSE_FLUSH_INTERVAL, LANGFUSE_TIMEOUT,
  LANGFUSE_OTEL_TRACES_EXPORT_PATH, OTEL_SDK_DISABLED
                        As in Langfuse's own SDKs
  NO_COLOR, TERM        No escape codes where NO_COLOR is set to anything or TERM is dumb
  COLUMNS               The width that live progress is cut to
  XDG_DATA_HOME         Where the default store is [default: ~/.local/share]

Without OPENAI_BASE_URL and OPENAI_API_KEY, or with --faults or --seed, an embedded server on a
local port plays the language model and fails on purpose. It needs no network.

A run keeps a checkpoint of each step and of each analyst's answer, for --resume. A password in the
address of a store is never shown.

Exit codes:
  0    a report was written, if need be with findings missing
  1    something unexpected went wrong
  2    wrong use: a flag, a ticker, a setting or the id of a workflow
  3    the model endpoint cannot be used: unreachable, wrong key, or a required analyst failed
  4    the store cannot be used, or somebody else is working on the workflow
  130  interrupted with Ctrl-C or SIGTERM; a second one does not wait for Langfuse";

/// Five analysts look at a stock and ask a language model to phrase what they found; a strategy is
/// made of that, and checked.
///
/// Each is an agent of its own with retries, a timeout, a circuit breaker shared by all who call
/// the same model, and a weaker model to fall back to. Three are required, two may be missing. The
/// report says what is missing, the trace what went wrong on the way.
#[derive(Debug, Parser)]
#[command(name = "research-swarm", after_help = MORE, after_long_help = MORE, max_term_width = 100)]
pub(crate) struct Cli {
    /// The stock to look at: AAPL, AMZN, GOOG, IBM or MSFT [default: AAPL].
    pub(crate) ticker: Option<String>,

    /// How often the embedded server fails [default: some].
    #[arg(long, value_name = "WEATHER")]
    pub(crate) faults: Option<Weather>,

    /// The seed of the embedded server's faults [default: 7].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,

    /// How the layers of each agent nest [default: default].
    #[arg(long, value_enum, value_name = "ORDER")]
    pub(crate) order: Option<Nesting>,

    /// Where checkpoints go: file or file:PATH, sqlite or sqlite:PATH, postgres://.., redis://.. or none [default: file].
    ///
    /// Without a PATH that is in the user's data folder; the PATH of `file` is a folder. A server is
    /// `postgres://USER:PASSWORD@HOST/DATABASE` or `redis://USER:PASSWORD@HOST`.
    #[arg(long, value_name = "STORE")]
    pub(crate) store: Option<String>,

    /// Name the new workflow, instead of an id that is printed.
    #[arg(long, value_name = "ID", conflicts_with = "resume")]
    pub(crate) workflow: Option<String>,

    /// Go on with a workflow: who has answered is not asked again.
    ///
    /// What was asked comes from its checkpoint. A finished one prints its report.
    #[arg(long, value_name = "ID")]
    pub(crate) resume: Option<String>,

    /// End the process there with SIGKILL, once the step is saved: to see --resume work.
    #[arg(long, value_enum, value_name = "NODE")]
    pub(crate) kill_after: Option<Step>,

    /// Print the report, the trace and what went wrong as one JSON document.
    ///
    /// It has `report`, `trace`, `links`, `workflow_id`, `store`, `resumed_from`, `warnings` and
    /// `error`; without a problem `error` is null.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How often the embedded server fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Weather {
    /// Never.
    None,
    /// Now and then.
    #[default]
    Some,
    /// The first model nearly always, the backup model often.
    Storm,
}

/// How the layers of each agent nest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Nesting {
    /// Fallback chain, and in it for each model retry, breaker, timeout.
    #[default]
    Default,
    /// Breaker, retry, timeout, fallback chain: what the design that buttress came from has.
    Seed,
}

const DEFAULT_TICKER: &str = "AAPL";
const DEFAULT_SEED: u64 = 7;

// ===== impl Cli =====

impl Cli {
    /// Returns what is asked of a new workflow.
    pub(crate) fn asked(&self) -> Result<Asked, Problem> {
        let prices = Prices::of(self.ticker.as_deref().unwrap_or(DEFAULT_TICKER))?;
        let is_embedded =
            self.wants_embedded_server() || Settings::from_env().endpoint()?.is_none();
        Ok(Asked {
            ticker: prices.ticker().to_owned(),
            embedded: is_embedded.then(|| self.faults()),
            order: self.order.unwrap_or_default(),
        })
    }

    /// Checks that what was given by hand is what a workflow was asked.
    pub(crate) fn agrees_with(&self, asked: &Asked) -> Result<(), Problem> {
        let differs = |what: &str, given: &str, was: &str| {
            Err(Problem::WrongUse(format!(
                "the workflow was asked with {what} {was}, not {given}; --resume needs no {what}"
            )))
        };
        if let Some(given) = &self.ticker {
            let given = Prices::of(given)?.ticker();
            if given != asked.ticker {
                return differs("ticker", given, &asked.ticker);
            }
        }
        let (weather, seed) =
            (asked.embedded.map(Faults::weather), asked.embedded.map(Faults::seed));
        if let Some(given) = self.faults.filter(|given| Some(*given) != weather) {
            return differs("--faults", given.as_str(), weather.map_or("unset", Weather::as_str));
        }
        if let Some(given) = self.seed.filter(|given| Some(*given) != seed) {
            let was = seed.map_or("unset".to_owned(), |seed| seed.to_string());
            return differs("--seed", &given.to_string(), &was);
        }
        if let Some(given) = self.order.filter(|given| *given != asked.order) {
            return differs("--order", given.as_str(), asked.order.as_str());
        }
        Ok(())
    }

    const fn wants_embedded_server(&self) -> bool {
        self.faults.is_some() || self.seed.is_some()
    }

    fn faults(&self) -> Faults {
        Faults::new(self.faults.unwrap_or_default(), self.seed.unwrap_or(DEFAULT_SEED))
    }
}

// ===== impl Nesting =====

impl Nesting {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Seed => "seed",
        }
    }
}

impl From<Nesting> for Order {
    fn from(nesting: Nesting) -> Self {
        match nesting {
            Nesting::Default => Self::Default,
            Nesting::Seed => Self::Seed,
        }
    }
}

// ===== impl Weather =====

impl Weather {
    /// Returns the word of the command line.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Some => "some",
            Self::Storm => "storm",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_seed_alone_asks_for_the_embedded_server() {
        assert!(!Cli::parse_from(["research-swarm", "MSFT"]).wants_embedded_server());
        assert!(Cli::parse_from(["research-swarm", "--seed", "3"]).wants_embedded_server());
    }

    #[test]
    fn what_is_given_by_hand_has_to_be_what_was_asked() {
        let embedded = Some(Faults::new(Weather::Storm, 3));
        let asked = Asked { ticker: "MSFT".to_owned(), embedded, order: Nesting::Default };
        let check = |arguments: &[&str]| {
            let arguments = [&["research-swarm", "--resume", "x"], arguments].concat();
            Cli::parse_from(arguments).agrees_with(&asked).map_err(|problem| problem.to_string())
        };
        for same in [&[][..], &["msft"], &["--seed", "3", "--faults", "storm"]] {
            assert_eq!(check(same), Ok(()), "{same:?}");
        }
        for other in [&["AAPL"][..], &["--seed", "4"], &["--faults", "some"], &["--order", "seed"]]
        {
            let problem = check(other).unwrap_err();
            assert!(problem.starts_with("error: the workflow was asked with "), "{problem}");
        }
    }

    #[test]
    fn help_names_every_ticker_and_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        let codes = ["\n  0 ", "\n  1 ", "\n  2 ", "\n  3 ", "\n  4 ", "\n  130 "];
        for word in crate::prices::tickers().into_iter().chain(codes) {
            assert!(help.contains(word), "{word} is missing");
        }
    }
}
