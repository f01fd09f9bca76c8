//! What gRPC statuses mean, in headers, in trailers and in errors.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{error::Error as _, io, sync::Arc, time::Duration};

use buttress::{
    AgentFailure, AnyError, BudgetLimit, Classify, Error, ErrorKind, Failure, FailureKind,
    FallbackService, GrpcClassifier, Outcome, Swarm,
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
    // Clients take nothing but the digits of a code for one.
    for unknown in ["x", "", "00", "+0", "014", "-1", "99999999999999999999"] {
        let unknown = failure(classify(200, &[("grpc-status", unknown)]));
        assert_eq!(unknown.message(), Some("gRPC UNKNOWN"));
    }
    for none_of_grpcs in [204, 302] {
        assert_eq!(failure(classify(none_of_grpcs, &[])).kind(), FailureKind::Permanent);
    }
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
    // A signed number of 32 bits (gRFC A6).
    assert_eq!(classify("2147483647").retry_after(), Some(Duration::from_millis(2_147_483_647)));
    for never in ["-1", "soon", "", "2147483648"] {
        assert!(!classify(never).is_retryable(), "{never:?}");
    }
}

/// `google.rpc.Status` with a `RetryInfo` of 1.25 s, by the wire format of protobuf.
fn details() -> Vec<u8> {
    let url = b"type.googleapis.com/google.rpc.RetryInfo";
    let delay = [0x08, 1, 0x10, 0x80, 0xe5, 0x9a, 0x77];
    let info = [&[0x0a, 7][..], &delay].concat();
    let any = [&[0x0a, 40][..], url, &[0x12, 9], &info].concat();
    [&[0x08, 8, 0x1a, 53][..], &any].concat()
}

#[test]
fn a_retry_info_is_a_wait_unless_there_is_a_pushback() {
    let wait = Some(Duration::from_millis(1_250));
    let status = |metadata: &[(&'static str, &str)]| {
        let mut status = Status::with_details(Code::ResourceExhausted, "", details().into());
        for (name, value) in metadata {
            status.metadata_mut().insert(*name, value.parse().unwrap());
        }
        status
    };
    let of_status = |status: &Status| failure(Classify::<(), _>::classify(&AnyError, Err(status)));
    let of_headers = |status: &Status| {
        let response: Response<()> = Status::with_details_and_metadata(
            status.code(),
            "",
            status.details().to_vec().into(),
            status.metadata().clone(),
        )
        .into_http();
        failure(GrpcClassifier::new().classify_head(StatusCode::OK, response.headers()))
    };
    let plain = status(&[]);
    assert_eq!((of_status(&plain).retry_after(), of_headers(&plain).retry_after()), (wait, wait));
    assert!(of_status(&plain).is_retryable());
    let pushed = status(&[("grpc-retry-pushback-ms", "40")]);
    let wait = Some(Duration::from_millis(40));
    assert_eq!((of_status(&pushed).retry_after(), of_headers(&pushed).retry_after()), (wait, wait));
    let never = status(&[("grpc-retry-pushback-ms", "-1")]);
    assert!(!of_status(&never).is_retryable() && !of_headers(&never).is_retryable());
    assert_eq!(of_status(&never).retry_after(), None);
}

#[test]
fn a_time_limit_of_tonics_is_a_timeout_and_deadline_exceeded() {
    // Of a channel, before there is a status; as the status that tonic makes of it; and from a server.
    let expired: tower::BoxError = Box::new(tonic::TimeoutExpired(()));
    let kind = |outcome| failure(outcome).kind();
    assert_eq!(kind(Classify::<(), _>::classify(&AnyError, Err(&expired))), FailureKind::Timeout);
    let error = Error::from_service(expired, |error| {
        failure(Classify::<(), tower::BoxError>::classify(&AnyError, Err(error)))
    });
    assert_eq!(error.to_grpc_status().code(), Code::DeadlineExceeded);
    assert!(error.downcast_ref::<tonic::TimeoutExpired>().is_some());
    // Who knows nothing of us gets the code from the chain.
    assert_eq!(Status::from_error(Box::new(error)).code(), Code::DeadlineExceeded);

    let made = Status::from_error(Box::new(tonic::TimeoutExpired(())));
    assert_eq!(made.code(), Code::Cancelled, "tonic has changed its mind: the special case may go");
    assert_eq!(kind(Classify::<(), _>::classify(&AnyError, Err(&made))), FailureKind::Timeout);
    let sent: Response<()> = Status::from_error(Box::new(tonic::TimeoutExpired(()))).into_http();
    let sent = GrpcClassifier::new().classify_head(StatusCode::OK, sent.headers());
    assert_eq!(kind(sent), FailureKind::Timeout);
    let passed_on = Error::from_service(made, |status| {
        failure(Classify::<(), _>::classify(&AnyError, Err(status)))
    });
    assert_eq!(passed_on.to_grpc_status().code(), Code::DeadlineExceeded);

    // What has a status already keeps it, whatever caused it.
    let mut caused = Status::unavailable("the proxy");
    caused.set_source(Arc::new(tonic::TimeoutExpired(())));
    let error = Error::from_service(caused, |_| Failure::new(FailureKind::Transient));
    assert_eq!(error.to_grpc_status().message(), "the proxy");
    // A caller that went away is one still.
    let gone = Error::from_service(Status::cancelled("the caller went away"), |status| {
        failure(Classify::<(), _>::classify(&AnyError, Err(status)))
    });
    assert_eq!(gone.failure().kind(), FailureKind::Cancelled);
    assert_eq!(gone.to_grpc_status().message(), "the caller went away");
}

#[tokio::test]
async fn the_status_of_several_agents_is_that_of_the_one_that_stands_for_all() {
    let fails = |code: Code, text: &'static str| {
        tower::service_fn(move |_: &'static str| {
            std::future::ready(Err::<(), _>(Error::from_service(
                Status::new(code, text),
                |status| failure(Classify::<(), _>::classify(&AnyError, Err(status))),
            )))
        })
    };
    let told = |error: Error, kind: FailureKind| {
        assert_eq!(error.failure().kind(), kind);
        let status = error.to_grpc_status();
        let by_chain = Status::from_error(Box::new(error));
        assert_eq!((by_chain.code(), by_chain.message()), (status.code(), status.message()));
        (status.code(), status.message().to_owned())
    };
    let chain = FallbackService::new(fails(Code::Unavailable, "busy"))
        .or("medium", fails(Code::Internal, "broken"))
        .or("small", fails(Code::NotFound, "no such model"));
    let error = tower::ServiceExt::oneshot(chain, "AAPL").await.unwrap_err();
    assert_eq!(told(error, FailureKind::Transient), (Code::Internal, "broken".into()));

    let swarm = Swarm::builder("research_swarm")
        .required("technical", fails(Code::DeadlineExceeded, "late"))
        .required("news", fails(Code::NotFound, "no such model"))
        .optional("sentiment", fails(Code::Unavailable, "busy"));
    let error = swarm.critical_failure_rate(0.9).build().unwrap().invoke("AAPL").await.unwrap_err();
    assert!(error.is_critical_degradation());
    assert_eq!(told(error, FailureKind::Timeout), (Code::DeadlineExceeded, "late".into()));
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
    // A proxy's answer, which its head has told of.
    let proxy = GrpcClassifier::new().reader(StatusCode::BAD_GATEWAY, &HeaderMap::new());
    assert_eq!(proxy.end(), None);
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
    // What another try does not help says so, and what has its time says when.
    let pushback = |error: &Error| {
        let status = error.to_grpc_status();
        status
            .metadata()
            .get("grpc-retry-pushback-ms")
            .map(|wait| wait.to_str().unwrap().to_owned())
    };
    let of = |failure| Error::new(ErrorKind::Panicked).with_failure(failure);
    assert_eq!(pushback(&of(Failure::new(FailureKind::Transient))), None);
    assert_eq!(pushback(&of(Failure::new(FailureKind::InvalidRequest))), Some("-1".into()));
    assert_eq!(pushback(&of(Failure::new(FailureKind::CircuitOpen))), Some("-1".into()));
    let wait = Duration::from_micros(1_500);
    let open = Failure::new(FailureKind::CircuitOpen).with_retry_after(wait);
    assert_eq!(pushback(&of(open)), Some("2".into()));
    // Nothing is tried again once part of an answer was there, whatever the wait.
    let cut = Failure::new(FailureKind::Overloaded).with_retry_after(wait);
    assert_eq!(pushback(&of(cut.with_after_output(true))), Some("-1".into()));
    let long = Failure::new(FailureKind::Overloaded).with_retry_after(Duration::MAX);
    assert_eq!(pushback(&of(long)), Some("2147483647".into()));
    let budget = buttress::CallBudget::new().deadline(Duration::ZERO);
    assert_eq!(budget.check(), Err(BudgetLimit::Deadline));
    // Words of the agent stay inside.
    let secret = Error::from_service(io::Error::other("the key sk-1"), |_| {
        Failure::new(FailureKind::Transient).with_message("the key sk-1")
    });
    let status = secret.to_grpc_status();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "transient"));
}

/// A client's retry stands around its calls, and sees the status that tonic made of an error of ours.
#[test]
fn a_status_that_an_error_of_ours_caused_says_what_that_error_says() {
    let classify = |error: Error| {
        let status = Status::from_error(Box::new(error));
        let boxed: tower::BoxError = Box::new(Status::from_error(Box::new(status)));
        failure(Classify::<(), _>::classify(&AnyError, Err(&boxed)))
    };
    let open = Failure::new(FailureKind::CircuitOpen).with_unprocessed(true);
    assert_eq!(classify(Error::new(ErrorKind::Panicked).with_failure(open.clone())), open);
    let cut = Failure::new(FailureKind::Timeout).with_after_output(true);
    assert!(!classify(Error::new(ErrorKind::interrupted(1)).with_failure(cut)).is_retryable());
    // By `Status::from` too, which asks nobody for the chain.
    let status = Status::from(Error::new(ErrorKind::Panicked).with_failure(open.clone()));
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(failure(Classify::<(), _>::classify(&AnyError, Err(&status))), open);
}

/// tonic's channel has a type of its own for errors, which says nothing by itself.
#[test]
fn what_hides_in_a_foreign_error_is_read_when_a_layer_makes_an_error_of_it() {
    #[derive(Debug)]
    struct Transport<E>(E);
    impl<E> std::fmt::Display for Transport<E> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("transport error")
        }
    }
    impl<E: std::error::Error + 'static> std::error::Error for Transport<E> {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let late = || Transport(tonic::TimeoutExpired(()));
    let of = |failure: Failure| Error::from_service(late(), |_| failure).failure().kind();
    assert_eq!(of(FailureKind::Transient.into()), FailureKind::Timeout);
    // What a classifier knows better stays.
    assert_eq!(of(FailureKind::Overloaded.into()), FailureKind::Overloaded);
    assert_eq!(of(Failure::new(FailureKind::Transient).with_message("x")), FailureKind::Transient);
    let unsent = Transport(tonic::ConnectError("refused".into()));
    let unsent = Error::from_service(unsent, |_| FailureKind::Transient.into());
    assert!(unsent.failure().unprocessed());
}

#[test]
fn a_failure_that_is_set_late_is_what_the_chain_ends_in() {
    let error = Error::new(ErrorKind::Panicked);
    assert!(error.source().is_some());
    let error = error.with_failure(FailureKind::RateLimited.into());
    let end = error.source().unwrap().downcast_ref::<Status>().unwrap();
    assert_eq!((end.code(), end.message()), (Code::ResourceExhausted, "rate_limited"));
}

#[test]
fn the_length_of_a_body_is_not_passed_on_without_it() {
    let mut status = Status::unavailable("a proxy");
    for (name, value) in [("content-length", "95"), ("x-region", "eu")] {
        status.metadata_mut().insert(name, value.parse().unwrap());
    }
    let error = Error::from_service(status, |_| FailureKind::Transient.into());
    let answer: Response<()> = error.to_grpc_status().into_http();
    assert_eq!(answer.headers()["x-region"], "eu");
    assert!(!answer.headers().contains_key("content-length"));
}

/// tonic shows the cause of a status by its `Debug`.
#[test]
fn the_cause_of_a_status_is_not_shown_by_its_debug() {
    #[derive(Debug)]
    struct Refused {
        _request: &'static str,
    }
    impl std::fmt::Display for Refused {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("refused")
        }
    }
    impl std::error::Error for Refused {}
    let mut status = Status::internal("broken");
    status.set_source(Arc::new(Refused { _request: "sk-1" }));
    assert!(status.to_string().contains("sk-1"), "tonic has changed its mind");
    let error = Error::from_service(status, |_| FailureKind::Transient.into());
    let shown = format!("{error:?}");
    assert!(shown.contains("broken") && !shown.contains("sk-1"), "{shown}");
    let failed = AgentFailure::new("a".into(), FailureKind::Transient.into(), Some(error.into()));
    assert!(!format!("{failed:?} {failed}").contains("sk-1"));
}
