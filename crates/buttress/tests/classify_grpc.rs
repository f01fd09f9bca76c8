//! What gRPC statuses mean, in headers, in trailers and in errors.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{error::Error as _, io, time::Duration};

use buttress::{
    AnyError, BudgetLimit, Classify, Error, ErrorKind, Failure, FailureKind, GrpcClassifier,
    Outcome,
    classify::{ClassifyBody as _, ReadBody as _},
};
use http::{HeaderMap, Response, StatusCode};
use tonic::{Code, Status};

fn headers(headers: &[(&'static str, &str)]) -> HeaderMap {
    headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failure(failure) => failure,
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn every_code_has_its_kind_in_headers_and_as_an_error() {
    let kinds = [
        (Code::Cancelled, FailureKind::Cancelled),
        (Code::Unknown, FailureKind::Transient),
        (Code::InvalidArgument, FailureKind::InvalidRequest),
        (Code::DeadlineExceeded, FailureKind::Timeout),
        (Code::NotFound, FailureKind::NotFound),
        (Code::AlreadyExists, FailureKind::InvalidRequest),
        (Code::PermissionDenied, FailureKind::Unauthorized),
        (Code::ResourceExhausted, FailureKind::RateLimited),
        (Code::FailedPrecondition, FailureKind::InvalidRequest),
        (Code::Aborted, FailureKind::Transient),
        (Code::OutOfRange, FailureKind::InvalidRequest),
        (Code::Unimplemented, FailureKind::Permanent),
        (Code::Internal, FailureKind::Transient),
        (Code::Unavailable, FailureKind::Transient),
        (Code::DataLoss, FailureKind::Permanent),
        (Code::Unauthenticated, FailureKind::Unauthorized),
    ];
    for (code, kind) in kinds {
        let code_text = i32::from(code).to_string();
        let found = headers(&[("grpc-status", &code_text), ("grpc-message", "the prompt")]);
        let in_headers = failure(GrpcClassifier::new().classify_head(StatusCode::OK, &found));
        assert_eq!(in_headers.kind(), kind, "{code:?}");
        let message = in_headers.message().unwrap();
        assert!(message.starts_with("gRPC ") && !message.contains("prompt"), "{message}");
        // Also in a boxed error, for any classifier.
        let error: tower::BoxError = Box::new(Status::new(code, "the prompt"));
        assert_eq!(failure(Classify::<(), _>::classify(&AnyError, Err(&error))), in_headers);
    }
    let aborted =
        GrpcClassifier::new().classify_head(StatusCode::OK, &headers(&[("grpc-status", "10")]));
    assert!(!failure(aborted).trips());
}

#[test]
fn a_head_without_a_status_goes_by_its_http_status() {
    let classify = |status: u16, pairs: &[(&'static str, &str)]| {
        GrpcClassifier::new().classify_head(StatusCode::from_u16(status).unwrap(), &headers(pairs))
    };
    assert_eq!(classify(200, &[]), Outcome::Success);
    assert_eq!(classify(200, &[("grpc-status", "0")]), Outcome::Success);
    assert_eq!(failure(classify(200, &[("grpc-status", "77")])).kind(), FailureKind::Transient);
    assert_eq!(failure(classify(200, &[("grpc-status", "x")])).kind(), FailureKind::Transient);
    assert_eq!(failure(classify(302, &[])).kind(), FailureKind::Permanent);
    let busy = failure(classify(503, &[("retry-after", "7")]));
    assert_eq!(
        (busy.kind(), busy.retry_after()),
        (FailureKind::Overloaded, Some(Duration::from_secs(7)))
    );
    let response = Response::builder().header("grpc-status", "14").body(()).unwrap();
    let outcome = Classify::<_, io::Error>::classify(&GrpcClassifier::new(), Ok(&response));
    assert_eq!(failure(outcome).kind(), FailureKind::Transient);
}

#[test]
fn a_pushback_is_a_wait_or_forbids_another_try() {
    let classify = |wait: &str| {
        let headers = headers(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", wait)]);
        let from_headers = failure(GrpcClassifier::new().classify_head(StatusCode::OK, &headers));
        let mut status = Status::unavailable("");
        status.metadata_mut().insert("grpc-retry-pushback-ms", wait.parse().unwrap());
        let from_status = failure(Classify::<(), _>::classify(&AnyError, Err(&status)));
        assert_eq!(from_headers, from_status);
        from_headers
    };
    assert_eq!(classify("250").retry_after(), Some(Duration::from_millis(250)));
    assert!(classify("250").is_retryable());
    for never in ["-1", "soon", ""] {
        assert!(!classify(never).is_retryable(), "{never:?}");
    }
}

#[test]
fn trailers_end_a_body_and_their_absence_is_a_failure() {
    let reader = |pairs| GrpcClassifier::new().reader(StatusCode::OK, &headers(pairs));
    let mut ok = reader(&[]);
    assert!(!ok.has_begun() && ok.end().is_some());
    assert_eq!(ok.data(b"\0\0\0\0\0"), None);
    assert!(ok.has_begun());
    assert_eq!(ok.end().unwrap().message(), Some("the answer ends without a gRPC status"));
    assert_eq!(ok.trailers(&headers(&[("grpc-status", "0")])), None);
    assert_eq!(ok.end(), None);
    let failed = reader(&[]).trailers(&headers(&[("grpc-status", "8")])).unwrap();
    assert_eq!(failed.kind(), FailureKind::RateLimited);
    // Trailers-Only: the head was all.
    assert_eq!(reader(&[("grpc-status", "0")]).end(), None);
}

#[test]
fn an_error_is_the_status_that_caused_it_or_one_of_its_own() {
    let code = |error: &Error| error.to_grpc_status().code();
    let caused = Error::from_service(Status::out_of_range("no such day"), |_| {
        Failure::new(FailureKind::InvalidRequest)
    });
    let status = caused.to_grpc_status();
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, "no such day"));
    assert!(caused.source().unwrap().is::<Status>());

    let timeout = Error::new(ErrorKind::timeout(Duration::from_secs(1)));
    assert_eq!(code(&timeout), Code::DeadlineExceeded);
    let end = timeout.source().unwrap().downcast_ref::<Status>().unwrap();
    assert_eq!((end.code(), end.message()), (Code::DeadlineExceeded, "timeout"));
    for kind in FailureKind::ALL {
        let error = Error::new(ErrorKind::Panicked).with_failure(Failure::new(kind));
        assert_eq!(error.to_grpc_status().message(), kind.as_str());
        assert_ne!(code(&error), Code::Ok);
        assert_ne!(code(&error), Code::Unknown);
    }
    let budget = buttress::CallBudget::new().deadline(Duration::ZERO);
    assert_eq!(budget.check(), Err(BudgetLimit::Deadline));
    // Words of the agent stay inside.
    let secret = Error::from_service(io::Error::other("the key sk-1"), |_| {
        Failure::new(FailureKind::Transient).with_message("the key sk-1")
    });
    let status = secret.to_grpc_status();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "transient"));
}
