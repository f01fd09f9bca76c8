use std::{
    fs,
    future::Future,
    pin::Pin,
    sync::{atomic::AtomicUsize, atomic::Ordering, mpsc},
};

use buttress::{Error, TimeoutLayer};
use http::{Request, Response, StatusCode, header};
use tempfile::TempDir;
use tokio::time::Instant;
use tower::{Layer as _, service_fn};

use super::{problem::Problem, state::Pause, *};
use crate::{
    notice::captured,
    spool::{Durability, Peer},
};

/// What a scripted sender does with a batch.
pub(super) type Script = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Answer>>> + Send>;

const PATIENCE: Duration = Duration::from_secs(20);

fn shared() -> Arc<Shared> {
    Arc::new(Shared::new(Limits::default(), "Langfuse", Secrets::default(), None))
}

fn span() -> Encoded {
    Encoded(Bytes::from_static(b"span"))
}

fn answer(status: StatusCode, retry_after: Option<&'static str>) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = status;
    if let Some(text) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(text));
    }
    answer
}

/// Persists against a server that gives one answer and takes the batch then; `during` happens
/// while the first try is under way. Returns the time between the two.
async fn pause_after(
    shared: &Shared,
    first: Response<Bytes>,
    during: impl Fn() + Clone,
) -> Duration {
    let tries = AtomicUsize::new(0);
    let start = Instant::now();
    let exchange = service_fn(|_: Request<Bytes>| {
        let is_first = tries.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first {
            during();
        }
        let answer = if is_first { first.clone() } else { answer(StatusCode::OK, None) };
        std::future::ready(Ok::<_, Error>(answer))
    });
    let taken = shared.persist(exchange, Request::new(Bytes::new()), |_| false).await.unwrap();
    assert_eq!((taken.status(), tries.load(Ordering::Relaxed)), (StatusCode::OK, 2));
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_years_is_obeyed_for_ten_minutes() {
    for asked in ["315359999", "Fri, 31 Dec 2032 23:59:59 GMT"] {
        let first = answer(StatusCode::TOO_MANY_REQUESTS, Some(asked));
        let pause = pause_after(&shared(), first, || ()).await;
        // A tenth more spreads the clients that were told the same.
        assert!((600..=660).contains(&pause.as_secs()), "{asked}: {pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_begins_to_wait_during_a_try_gets_another_at_once_unless_the_server_forbids_it() {
    for (status, retry_after, at_once) in [
        (StatusCode::UNAUTHORIZED, None, true),
        (StatusCode::BAD_GATEWAY, None, true),
        (StatusCode::FORBIDDEN, Some("100"), false),
        (StatusCode::SERVICE_UNAVAILABLE, Some("100"), false),
    ] {
        let shared = shared();
        accept(&shared);
        let waits = || drop(shared.flush(&Countdown::start(Duration::ZERO)));
        let pause = pause_after(&shared, answer(status, retry_after), waits).await;
        assert_eq!(pause.is_zero(), at_once, "{status}: {pause:?}");
    }
    let pause = pause_after(&shared(), answer(StatusCode::UNAUTHORIZED, None), || ()).await;
    assert!(pause >= Duration::from_secs(60), "{pause:?}");
}

fn accept(shared: &Shared) {
    shared.accept(&[], Waiting::span(span().0), Class::Uneventful);
}

#[test]
fn a_panic_of_the_thread_is_noticed_by_who_waits() {
    let script: Script = Box::new(|| Box::pin(async { panic!("a fault in the delivery") }));
    let delivery = Delivery::launch(shared(), Sender::Scripted(script)).unwrap();
    delivery.accept(&[], span(), Class::Uneventful);
    let error = delivery.flush(PATIENCE).unwrap_err();
    assert!(matches!(error, FlushError::Undelivered { pending: 1, .. }), "{error:?}");
    assert_eq!((delivery.stats().pending, delivery.stats().dropped), (0, 1));
    delivery.accept(&[], span(), Class::Uneventful);
    assert_eq!(delivery.stats().dropped, 2);
    // There is no end left to wait for.
    assert_eq!(delivery.shutdown(Duration::MAX), Err(error));
}

#[test]
fn a_panic_of_the_thread_is_one_line() {
    let shared = shared();
    accept(&shared);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ending = Ending(&shared);
        panic!("a fault in the delivery");
    }));
    assert!(panicked.is_err());
    let said = captured::take();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("1 spans are given up") && said[0].contains("panicked"), "{said:?}");
}

#[test]
fn a_look_up_that_hangs_does_not_hold_a_shutdown() {
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    // As hyper looks a name up: on a thread that nothing can stop.
    let script: Script = Box::new(move || {
        let held = Arc::clone(&held);
        Box::pin(async move {
            let look_up = move || held.lock().unwrap().recv().is_err();
            assert!(tokio::task::spawn_blocking(look_up).await.unwrap());
            Answer::Taken { refused: 0 }
        })
    });
    let delivery = Delivery::launch(shared(), Sender::Scripted(script)).unwrap();
    delivery.accept(&[], span(), Class::Uneventful);
    let error = delivery.shutdown(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error, FlushError::TimedOut { pending: 1 });
    let stats = delivery.stats();
    assert_eq!((stats.accepted, stats.pending, stats.dropped), (1, 0, 1));
    assert_eq!(
        captured::take(),
        ["delivery has ended and 1 spans are given up: the time was over"]
    );
    assert_eq!(delivery.shutdown(PATIENCE), Err(error));
    assert_eq!(captured::take(), [""; 0]);
    drop(release);
}

#[test]
fn a_shutdown_that_delivers_everything_joins_the_thread_and_says_nothing() {
    let script: Script = Box::new(|| Box::pin(async { Answer::Taken { refused: 0 } }));
    let delivery = Delivery::launch(shared(), Sender::Scripted(script)).unwrap();
    delivery.accept(&[], span(), Class::Uneventful);
    assert_eq!(delivery.shutdown(PATIENCE), Ok(()));
    assert!(delivery.shared.ends_within(&Countdown::start(Duration::ZERO)));
    assert_eq!(delivery.stats(), Stats { accepted: 1, delivered: 1, ..Stats::default() });
    assert_eq!((delivery.shutdown(PATIENCE), delivery.flush(PATIENCE)), (Ok(()), Ok(())));
    assert_eq!(captured::take(), [""; 0]);
}

/// A server some way off takes few requests in a second: what waits must not be bounded by them.
#[tokio::test(start_paused = true)]
async fn a_backlog_goes_in_one_request_up_to_its_limit_of_bytes() {
    let shared = Shared::new(
        Limits { flush_at: 3, ..Limits::default() },
        "Langfuse",
        Secrets::default(),
        None,
    );
    (0..1_000).for_each(|_| accept(&shared));
    assert_eq!(shared.next_batch().await.len(), 1_000);
    let mebibyte = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..5 {
        shared.accept(&[], Waiting::span(mebibyte.clone()), Class::Uneventful);
    }
    assert_eq!(shared.next_batch().await.len(), 3);
    assert_eq!(shared.next_batch().await.len(), 2);
}

#[test]
fn the_thread_is_woken_by_the_first_span_and_by_what_is_due() {
    let limits = |limits: Limits| Shared::new(limits, "Langfuse", Secrets::default(), None);
    let wakes = |shared: &Shared, spans: usize| -> Vec<bool> {
        (0..spans)
            .map(|_| shared.accept(&[], Waiting::span(span().0), Class::Uneventful).wakes)
            .collect()
    };
    let usual = Limits { flush_at: 3, ..Limits::default() };
    assert_eq!(wakes(&limits(usual), 5), [true, false, true, false, false]);
    let few = Limits { queue_spans: 6, ..Limits::default() };
    assert_eq!(wakes(&limits(few), 4), [true, false, true, false]);
    let small = Limits { queue_bytes: 4 * span().0.len(), ..Limits::default() };
    assert_eq!(wakes(&limits(small), 3), [true, true, false]);
}

/// Requests that are too slow are made smaller at once, so it is the circuit that waits.
#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nothing_is_left_alone_for_a_while() {
    let shared = shared();
    shared.state().is_divisible = true;
    let tries = AtomicUsize::new(0);
    let hangs = service_fn(|_: Request<Bytes>| {
        tries.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<Result<Response<Bytes>, Error>>()
    });
    let exchange = TimeoutLayer::new(Duration::from_secs(1)).layer(hangs);
    let start = Instant::now();
    for _ in 0..5 {
        let answer = shared.persist(exchange.clone(), Request::new(Bytes::new()), |_| false).await;
        assert!(answer.unwrap_err().is_timeout());
    }
    assert_eq!((start.elapsed().as_secs(), tries.load(Ordering::Relaxed)), (5, 5));
    // The sixth waits until the circuit lets a probe through.
    let answer = shared.persist(exchange.clone(), Request::new(Bytes::new()), |_| false).await;
    assert!(answer.unwrap_err().is_timeout());
    assert_eq!(tries.load(Ordering::Relaxed), 6);
    assert!(start.elapsed() >= Duration::from_millis(5_000 + 7_500), "{:?}", start.elapsed());
    // Whoever waits for delivery does not wait for that.
    shared.state().waiting = 1;
    let start = Instant::now();
    let answer = shared.persist(exchange, Request::new(Bytes::new()), |_| false).await;
    assert!(answer.unwrap_err().is_timeout());
    assert_eq!(start.elapsed().as_secs(), 1);
}

/// A spool with spans of a process that has ended, and the scripted delivery that takes it over.
fn recovering(folder: &TempDir, spans: u64) -> Arc<Shared> {
    let spool = || {
        let peer = Peer { base_url: "http://lf.example".to_owned(), public_key: None };
        Spool::new(folder.path(), peer, 1 << 20, Durability::Process)
    };
    let before = spool();
    for id in 0..spans {
        let span = Encoded::new(|into| {
            into.bytes(1, &[1; 16]);
            into.bytes(2, &id.to_be_bytes());
        });
        before.append(&[], Waiting::span(span.0), Class::Eventful, true);
    }
    drop(before);
    Arc::new(Shared::new(Limits::default(), "Langfuse", Secrets::default(), Some(spool())))
}

fn is_left(folder: &TempDir) -> bool {
    let mut destinations = fs::read_dir(folder.path()).unwrap();
    destinations.any(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count() > 1)
}

#[test]
fn who_recovers_waits_until_what_was_left_is_delivered_or_refused() {
    let folder = TempDir::new().unwrap();
    let script: Script = Box::new(|| Box::pin(async { Answer::Taken { refused: 1 } }));
    let delivery = Delivery::launch(recovering(&folder, 5), Sender::Scripted(script)).unwrap();
    delivery.recover(PATIENCE).unwrap();
    let stats = delivery.stats();
    assert_eq!((stats.recovered, stats.refused, stats.to_recover), (4, 1, 0), "{stats:?}");
    assert_eq!((stats.accepted, stats.delivered, stats.pending), (0, 0, 0), "{stats:?}");
    // What was refused of others is none of this process's own.
    accept(&delivery.shared);
    assert!(delivery.flush(Duration::ZERO).is_err());
    delivery.shutdown(PATIENCE).unwrap();
    assert!(!is_left(&folder));
    assert_eq!(delivery.recover(PATIENCE), Ok(()));
}

#[test]
fn who_recovers_is_told_what_is_left_and_nothing_is_lost() {
    let folder = TempDir::new().unwrap();
    let script: Script = Box::new(|| Box::pin(std::future::pending()));
    let delivery = Delivery::launch(recovering(&folder, 3), Sender::Scripted(script)).unwrap();
    let error = delivery.recover(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error, FlushError::TimedOut { pending: 3 });
    assert_eq!(delivery.stats().to_recover, 3);
    delivery.shutdown(PATIENCE).unwrap();
    assert!(is_left(&folder));
}

#[test]
fn who_recovers_does_not_wait_for_a_person() {
    let folder = TempDir::new().unwrap();
    let shared = recovering(&folder, 2);
    let refuses = Arc::clone(&shared);
    let script: Script = Box::new(move || {
        // As a try that is answered by 401.
        refuses.begin_try();
        refuses.say(&Problem::Misconfigured("HTTP 401".to_owned()));
        refuses.pause(Pause::Misconfigured);
        Box::pin(std::future::pending())
    });
    let delivery = Delivery::launch(shared, Sender::Scripted(script)).unwrap();
    let error = delivery.recover(PATIENCE).unwrap_err();
    let FlushError::Misconfigured { pending: 2, reason } = error else { panic!("{error:?}") };
    assert!(reason.contains("keys") && reason.contains("HTTP 401"), "{reason}");
    assert!(
        Delivery::launch(
            self::shared(),
            Sender::Scripted(Box::new(|| { Box::pin(std::future::pending()) }))
        )
        .unwrap()
        .recover(PATIENCE)
        .is_ok()
    );
}
