//! Why there is no survey, in one sentence.

use buttress::{Error, ErrorKind, Failure, FailureKind, SwarmFailure, checkpoint::MemoisedFailure};
use buttress_graph::GraphError;

use crate::{
    analysts::Analyst,
    llm::{CallFailure, Endpoint},
    swarm::Missing,
};

/// Says what made the calls fail.
pub(crate) fn of_a_failed_swarm(
    missing: &[Missing],
    failures: &[CallFailure],
    endpoint: &Endpoint,
) -> String {
    let base_url = endpoint.base_url();
    // Calls that were given up say nothing.
    let answered = failures.iter().filter(|f| f.kind != FailureKind::Cancelled);
    let all_are = |kind| answered.clone().count() > 0 && answered.clone().all(|f| f.kind == kind);

    if all_are(FailureKind::Unauthorized) {
        return if endpoint.authorization().is_some() {
            format!("{base_url} refuses the key in OPENAI_API_KEY")
        } else {
            format!("{base_url} wants a key: set OPENAI_API_KEY")
        };
    }
    if all_are(FailureKind::NotFound) {
        let model = endpoint.model();
        return format!(
            "{base_url} has no model {model:?} or no chat completions: check OPENAI_MODEL and OPENAI_BASE_URL"
        );
    }
    if all_are(FailureKind::QuotaExhausted) {
        return format!("the account at {base_url} has nothing left to spend");
    }
    // Where nobody was asked, all had failed before.
    let reasons = match failures.is_empty() {
        true => counted(missing.iter().map(|missing| missing.reason.as_str())),
        false => counted(failures.iter().map(|failure| failure.reason.as_str())),
    };
    let names: Vec<_> = missing.iter().map(|missing| missing.analyst.name()).collect();
    format!("no answer from {base_url} for {}: {reasons}", names.join(", "))
}

/// Lists each reason once, with how often it came up.
fn counted<'a>(failures: impl Iterator<Item = &'a str>) -> String {
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for failure in failures {
        match reasons.iter_mut().find(|(reason, _)| *reason == failure) {
            Some((_, times)) => *times += 1,
            None => reasons.push((failure, 1)),
        }
    }
    let told: Vec<_> = reasons
        .into_iter()
        .map(|(reason, times)| match times {
            1 => reason.to_owned(),
            _ => format!("{reason} ({times} times)"),
        })
        .collect();
    told.join("; ")
}

// ===== impl Missing =====

impl Missing {
    /// Lists what the error of a swarm names.
    pub(crate) fn of(error: &GraphError) -> Vec<Self> {
        match error.cause().map(Error::kind) {
            Some(ErrorKind::CriticalDegradation { failures, .. }) => Self::all(failures),
            _ => Vec::new(),
        }
    }

    /// Lists those that have failed.
    pub(crate) fn all(failures: &[SwarmFailure]) -> Vec<Self> {
        let known = |failed: &SwarmFailure| {
            let analyst = Analyst::ALL.into_iter().find(|known| known.name() == failed.agent())?;
            Some(Self::new(analyst, failed.error()))
        };
        failures.iter().filter_map(known).collect()
    }

    pub(crate) fn new(analyst: Analyst, error: &Error) -> Self {
        let failure_kind = error.failure().kind().as_str().to_owned();
        Self { analyst, failure_kind, reason: reason(error) }
    }
}

/// Returns what went wrong, each model's failure for itself.
fn reason(error: &Error) -> String {
    if let Some(kept) = error.downcast_ref::<MemoisedFailure>() {
        return format!("{} before: {kept}", describe(error.failure()));
    }
    match error.kind() {
        ErrorKind::FallbackExhausted { failures, .. } => {
            let failures: Vec<_> = failures
                .iter()
                .map(|failed| format!("{}: {}", failed.agent, describe(&failed.failure)))
                .collect();
            failures.join(", ")
        }
        _ => describe(error.failure()),
    }
}

fn describe(failure: &Failure) -> String {
    match failure.message() {
        Some(message) => message.to_owned(),
        None => failure.kind().as_str().replace('_', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::CallFailure;

    fn endpoint(key: Option<&str>) -> Endpoint {
        Endpoint::new("http://localhost:1/v1", key, "large".into(), Some("small".into())).unwrap()
    }

    fn failures(kinds: &[(FailureKind, &str)]) -> Vec<CallFailure> {
        let failure =
            |(kind, reason): &(_, &str)| CallFailure { kind: *kind, reason: (*reason).to_owned() };
        kinds.iter().map(failure).collect()
    }

    #[test]
    fn a_refused_key_is_named() {
        let failures = failures(&[
            (FailureKind::Unauthorized, "HTTP 401 Unauthorized"),
            (FailureKind::Cancelled, "no answer"),
        ]);
        let refused = of_a_failed_swarm(&[], &failures, &endpoint(Some("sk-wrong")));
        assert_eq!(refused, "http://localhost:1/v1 refuses the key in OPENAI_API_KEY");
        let none = of_a_failed_swarm(&[], &failures, &endpoint(None));
        assert_eq!(none, "http://localhost:1/v1 wants a key: set OPENAI_API_KEY");
    }

    #[test]
    fn mixed_failures_are_told_once_each() {
        let failures = failures(&[
            (FailureKind::Unauthorized, "HTTP 401 Unauthorized"),
            (FailureKind::Transient, "HTTP 502 Bad Gateway"),
            (FailureKind::Cancelled, "no answer"),
            (FailureKind::Cancelled, "no answer"),
        ]);
        let error = Error::new(ErrorKind::timeout(std::time::Duration::from_secs(1)));
        let missing = [Analyst::Trend, Analyst::Drawdown].map(|a| Missing::new(a, &error));
        assert_eq!(
            of_a_failed_swarm(&missing, &failures, &endpoint(None)),
            "no answer from http://localhost:1/v1 for trend, drawdown: HTTP 401 Unauthorized; \
             HTTP 502 Bad Gateway; no answer (2 times)"
        );
    }

    #[test]
    fn an_error_of_ours_tells_its_failure() {
        let error = Error::new(ErrorKind::timeout(std::time::Duration::from_secs(1)));
        let missing = Missing::new(Analyst::Trend, &error);
        assert_eq!((&*missing.failure_kind, &*missing.reason), ("timeout", "timeout"));
    }
}
