//! Why nobody answered, in one sentence.

use buttress::{ErrorKind, Failure, FailureKind};

use crate::{
    llm::{Endpoint, HttpError},
    swarm::Missing,
};

/// Says what made every analyst fail.
///
/// Circuits that opened are left out: they say that something failed, not what.
pub(crate) fn of_total_failure(missing: &[Missing], endpoint: &Endpoint) -> String {
    let base_url = endpoint.base_url();
    let failures = root_failures(missing);
    let all_are = |kind| !failures.is_empty() && failures.iter().all(|f| f.kind() == kind);

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
    if let Some(error) = unreachable(missing) {
        return format!("{error}: {}", error.root_cause());
    }
    let reasons: Vec<_> = missing
        .iter()
        .map(|missing| format!("{}: {}", missing.analyst, missing.reason()))
        .collect();
    format!("no analyst got an answer from {base_url} ({})", reasons.join("; "))
}

/// Returns how each model failed each analyst, without open circuits.
fn root_failures(missing: &[Missing]) -> Vec<&Failure> {
    let mut roots = Vec::new();
    for missing in missing {
        match missing.error.as_ref().map(buttress::Error::kind) {
            Some(ErrorKind::FallbackExhausted { failures, .. }) => {
                roots.extend(failures.iter().map(|failed| &failed.failure));
            }
            _ => roots.push(&missing.failure),
        }
    }
    roots.retain(|failure| failure.kind() != FailureKind::CircuitOpen);
    roots
}

/// Finds the error of an endpoint that nobody could connect to.
fn unreachable(missing: &[Missing]) -> Option<&HttpError> {
    let errors: Vec<_> = missing.iter().filter_map(Missing::http_error).collect();
    errors.iter().all(|error| error.is_unreachable()).then(|| errors.first().copied()).flatten()
}

// ===== impl Missing =====

impl Missing {
    /// Returns what went wrong, each model's failure for itself.
    pub(crate) fn reason(&self) -> String {
        match self.error.as_ref().map(buttress::Error::kind) {
            Some(ErrorKind::FallbackExhausted { failures, .. }) => {
                let failures: Vec<_> = failures
                    .iter()
                    .map(|failed| format!("{}: {}", failed.agent, describe(&failed.failure)))
                    .collect();
                failures.join(", ")
            }
            _ => describe(&self.failure),
        }
    }

    fn http_error(&self) -> Option<&HttpError> {
        self.error.as_ref().and_then(buttress::Error::downcast_ref)
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
    use buttress::Error;

    use super::*;
    use crate::analysts::Analyst;

    fn endpoint(key: Option<&str>) -> Endpoint {
        Endpoint::new("http://localhost:1/v1", key, "large".into(), Some("small".into())).unwrap()
    }

    fn missing(kinds: [FailureKind; 4]) -> Vec<Missing> {
        Analyst::ALL
            .into_iter()
            .zip(kinds)
            .map(|(analyst, kind)| {
                let failure = Failure::new(kind);
                Missing { analyst, failure: failure.clone(), error: None }
            })
            .collect()
    }

    #[test]
    fn a_refused_key_is_named_also_behind_open_circuits() {
        use FailureKind::{CircuitOpen, Unauthorized};
        let missing = missing([Unauthorized, CircuitOpen, CircuitOpen, Unauthorized]);
        let refused = of_total_failure(&missing, &endpoint(Some("sk-wrong")));
        assert_eq!(refused, "http://localhost:1/v1 refuses the key in OPENAI_API_KEY");
        let none = of_total_failure(&missing, &endpoint(None));
        assert_eq!(none, "http://localhost:1/v1 wants a key: set OPENAI_API_KEY");
    }

    #[test]
    fn mixed_failures_are_all_told() {
        use FailureKind::{ContextWindowExceeded, Timeout, Transient, Unauthorized};
        let missing = missing([Unauthorized, Timeout, Transient, ContextWindowExceeded]);
        let sentence = of_total_failure(&missing, &endpoint(None));
        assert_eq!(
            sentence,
            "no analyst got an answer from http://localhost:1/v1 (trend: unauthorized; \
             volatility: timeout; drawdown: transient; seasonality: context window exceeded)"
        );
    }

    #[test]
    fn an_error_of_ours_tells_its_failure() {
        let error = Error::new(ErrorKind::timeout(std::time::Duration::from_secs(1)));
        let failure = error.failure().clone();
        let missing = Missing { analyst: Analyst::Trend, failure, error: Some(error) };
        assert_eq!(missing.reason(), "timeout");
    }
}
