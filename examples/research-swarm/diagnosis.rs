//! Why nobody answered, in one sentence.

use buttress::{Error, ErrorKind, Failure, FailureKind, checkpoint::MemoisedFailure};

use crate::{
    analysts::Analyst,
    llm::Endpoint,
    swarm::{Missing, Survey},
};

/// Says what made every call fail.
pub(crate) fn of_total_failure(survey: &Survey, endpoint: &Endpoint) -> String {
    let failures = &survey.failures;
    let base_url = endpoint.base_url();
    let all_are = |kind| !failures.is_empty() && failures.iter().all(|f| f.kind == kind);

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
        true => counted(survey.missing.iter().map(|missing| missing.reason.as_str())),
        false => counted(failures.iter().map(|failure| failure.reason.as_str())),
    };
    format!("no analyst got an answer from {base_url}: {reasons}")
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

    fn failures(kinds: &[(FailureKind, &str)]) -> Survey {
        let failure =
            |(kind, reason): &(_, &str)| CallFailure { kind: *kind, reason: (*reason).to_owned() };
        Survey { failures: kinds.iter().map(failure).collect(), ..Survey::default() }
    }

    #[test]
    fn a_refused_key_is_named() {
        let failures = failures(&[(FailureKind::Unauthorized, "HTTP 401 Unauthorized"); 2]);
        let refused = of_total_failure(&failures, &endpoint(Some("sk-wrong")));
        assert_eq!(refused, "http://localhost:1/v1 refuses the key in OPENAI_API_KEY");
        let none = of_total_failure(&failures, &endpoint(None));
        assert_eq!(none, "http://localhost:1/v1 wants a key: set OPENAI_API_KEY");
    }

    #[test]
    fn mixed_failures_are_told_once_each() {
        let failures = failures(&[
            (FailureKind::Unauthorized, "HTTP 401 Unauthorized"),
            (FailureKind::Timeout, "no answer in time"),
            (FailureKind::Timeout, "no answer in time"),
        ]);
        assert_eq!(
            of_total_failure(&failures, &endpoint(None)),
            "no analyst got an answer from http://localhost:1/v1: HTTP 401 Unauthorized; \
             no answer in time (2 times)"
        );
    }

    #[test]
    fn an_error_of_ours_tells_its_failure() {
        let error = Error::new(ErrorKind::timeout(std::time::Duration::from_secs(1)));
        let missing = Missing::new(Analyst::Trend, &error);
        assert_eq!((&*missing.failure_kind, &*missing.reason), ("timeout", "timeout"));
    }
}
