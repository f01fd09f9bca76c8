//! Where the page stands, what comes with it, and who may act.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use crate::support::{Page, ask, circuit, get, serve, snapshot, text};
use axum::{
    Router,
    http::{HeaderMap, Method, StatusCode},
};
use buttress::{
    CircuitBreakerLayer,
    circuit_breaker::{Circuit, State},
};
use buttress_dashboard::{Dashboard, TokenError};
use tokio::net::TcpListener;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};

const TOKEN: &str = "only-operators-know";

fn breaker(name: &str) -> Circuit {
    CircuitBreakerLayer::new(name).circuit()
}

#[tokio::test]
async fn the_page_stands_wherever_it_is_mounted() {
    let dashboard = Dashboard::new().circuit(breaker("gpt-large"));
    let mounted = [
        (dashboard.router(), vec!["/"], "/events"),
        (
            Router::new().nest("/ops/board", dashboard.router()),
            vec!["/ops/board"],
            "/ops/board/events",
        ),
        (
            Router::new().nest_service("/ops", dashboard.router()),
            vec!["/ops", "/ops/"],
            "/ops/events",
        ),
    ];
    for (app, pages, events) in mounted {
        let address = serve(app).await;
        for path in pages {
            let response = get(address, path).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
            let page = text(response).await;
            // Nothing in it says where it stands.
            assert!(!page.contains("=\"/"), "an absolute address");
        }
        let (name, event) = Page::open(address, events).await.next().await.unwrap();
        assert_eq!(name, "snapshot");
        assert!(circuit(&event, "gpt-large").is_some());
    }
}

#[tokio::test]
async fn nothing_but_the_page_itself_may_run_in_it() {
    let address = serve(Dashboard::new().router()).await;
    let response = get(address, "/").await;
    let header = |headers: &HeaderMap, name: &str| headers[name].to_str().unwrap().to_owned();
    let policy = header(response.headers(), "content-security-policy");
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(header(response.headers(), "x-content-type-options"), "nosniff");
    assert_eq!(header(response.headers(), "cache-control"), "no-store");
    assert_eq!(header(response.headers(), "referrer-policy"), "no-referrer");
}

#[tokio::test]
async fn a_title_is_shown_as_text() {
    let dashboard = Dashboard::new().title("<script>alert(1)</script>");
    let page = text(get(serve(dashboard.router()).await, "/").await).await;
    assert!(page.contains("<h1>&lt;script&gt;alert(1)&lt;/script&gt;</h1>"));
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let address = serve(Dashboard::new().router()).await;
    assert_eq!(get(address, "/nothing").await.status(), StatusCode::NOT_FOUND);
    for path in ["/", "/events"] {
        let answer = ask(address, Method::POST, path, None).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}

#[tokio::test]
async fn readers_are_bounded_and_give_their_place_back() {
    let address = serve(Dashboard::new().most_readers(1).router()).await;
    let mut first = Page::open(address, "/events").await;
    assert!(first.next().await.is_some());
    let refused = get(address, "/events").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "5");
    drop(first);
    // The server learns of it when it writes next.
    while get(address, "/events").await.status() != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_closed_dashboard_lets_its_server_shut_down() {
    let dashboard = Dashboard::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, dashboard.router())
        .with_graceful_shutdown(async move { drop(stopped.await) });
    let server = tokio::spawn(async move { server.await });
    let mut page = Page::open(address, "/events").await;
    assert!(page.next().await.is_some());
    dashboard.close();
    assert!(page.next().await.is_none());
    assert_eq!(get(address, "/events").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}

// ===== control =====

/// Returns where an action on the only circuit is asked for.
async fn path_of(dashboard: &Dashboard, action: &str) -> String {
    let event = snapshot(dashboard).await;
    format!("/control/{}/{action}", circuit(&event, "gpt-large").unwrap()["id"])
}

#[tokio::test]
async fn without_leave_nobody_can_act() {
    let circuit = breaker("gpt-large");
    let dashboard = Dashboard::new().circuit(circuit.clone());
    let address = serve(dashboard.router()).await;
    let bearer = format!("Bearer {TOKEN}");
    for action in ["force-open", "reset", "disable"] {
        let path = path_of(&dashboard, action).await;
        let answer = ask(address, Method::POST, &path, Some(&bearer)).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(get(address, "/control").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(circuit.state(), State::Closed);
    let page = text(get(address, "/").await).await;
    assert!(!page.contains("<button") && !page.contains("<form") && !page.contains("<input"));
}

#[tokio::test]
async fn only_who_has_the_token_can_act() {
    let circuit = breaker("gpt-large");
    let dashboard = Dashboard::new().circuit(circuit.clone()).allow_control(TOKEN).unwrap();
    let address = serve(dashboard.router()).await;
    let path = path_of(&dashboard, "force-open").await;
    let wrong = [
        None,
        Some(String::new()),
        Some("Bearer ".to_owned()),
        Some(TOKEN.to_owned()),
        Some(format!("Basic {TOKEN}")),
        Some(format!("Bearer {TOKEN}x")),
        Some(format!("Bearer {}", &TOKEN[1..])),
        Some(format!("Bearer {}", TOKEN.to_uppercase())),
    ];
    for authorization in wrong {
        let answer = ask(address, Method::POST, &path, authorization.as_deref()).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{authorization:?}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        // Whether a circuit exists is told to nobody else either.
        let elsewhere = ask(address, Method::POST, "/control/0/nothing", authorization.as_deref());
        assert_eq!(elsewhere.await.status(), StatusCode::UNAUTHORIZED);
        let check = ask(address, Method::GET, "/control", authorization.as_deref()).await;
        assert_eq!(check.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(circuit.state(), State::Closed);

    let bearer = format!("bearer {TOKEN}");
    let check = ask(address, Method::GET, "/control", Some(&bearer)).await;
    assert_eq!(check.status(), StatusCode::NO_CONTENT);
    let done =
        [("force-open", State::ForcedOpen), ("disable", State::Disabled), ("reset", State::Closed)];
    for (action, state) in done {
        let path = path_of(&dashboard, action).await;
        let answer = ask(address, Method::POST, &path, Some(&bearer)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let answer: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
        assert_eq!(answer, serde_json::json!({ "circuit": "gpt-large", "state": state.as_str() }));
        assert_eq!(circuit.state(), state);
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_acted_on() {
    let dashboard = Dashboard::new().circuit(breaker("gpt-large")).allow_control(TOKEN).unwrap();
    let address = serve(dashboard.router()).await;
    let bearer = format!("Bearer {TOKEN}");
    let path = path_of(&dashboard, "explode").await;
    for path in [&*path, "/control/999/reset", "/control/gpt-large/reset", "/control/-1/reset"] {
        let answer = ask(address, Method::POST, path, Some(&bearer)).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_page_of_another_origin_cannot_act() {
    let circuit = breaker("gpt-large");
    let dashboard = Dashboard::new().circuit(circuit.clone()).allow_control(TOKEN).unwrap();
    let address = serve(dashboard.router()).await;
    let path = path_of(&dashboard, "force-open").await;
    // A browser asks first whether it may send the header, and nobody says yes.
    let preflight = ask(address, Method::OPTIONS, &path, None).await;
    assert_eq!(preflight.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(preflight.headers().keys().all(|name| !name.as_str().starts_with("access-control-")));
    // What a form or a link can send changes nothing, whatever cookies it carries.
    let bearer = format!("Bearer {TOKEN}");
    let link = ask(address, Method::GET, &path, Some(&bearer)).await;
    assert_eq!(link.status(), StatusCode::METHOD_NOT_ALLOWED);
    let form = ask(address, Method::POST, &path, None).await;
    assert_eq!(form.status(), StatusCode::UNAUTHORIZED);
    assert!(form.headers().get("set-cookie").is_none());
    assert_eq!(circuit.state(), State::Closed);
}

#[test]
fn a_token_that_could_be_guessed_is_refused() {
    let refused = Dashboard::new().allow_control("").unwrap_err();
    assert_eq!(refused, TokenError::TooShort { least: 16 });
    assert_eq!(refused.to_string(), "a control token must have at least 16 bytes");
    let spaces = Dashboard::new().allow_control("a token with spaces in it").unwrap_err();
    assert_eq!(spaces, TokenError::NotVisibleAscii);
    let dashboard = Dashboard::new().allow_control(TOKEN).unwrap();
    assert!(!format!("{dashboard:?}").contains(TOKEN));
}

/// Keeps what events say.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Said(String);
        impl tracing::field::Visit for Said {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        if event.metadata().target().starts_with("buttress_dashboard") {
            let mut said = Said(format!("{} ", event.metadata().level()));
            event.record(&mut said);
            self.0.lock().unwrap().push(said.0);
        }
    }
}

#[tokio::test]
async fn every_action_and_every_wrong_token_is_told() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
    let dashboard = Dashboard::new().circuit(breaker("gpt-large")).allow_control(TOKEN).unwrap();
    let address: SocketAddr = serve(dashboard.router()).await;
    let path = path_of(&dashboard, "force-open").await;
    let wrong = "Bearer the-wrong-token-of-somebody";
    ask(address, Method::POST, &path, Some(wrong)).await;
    ask(address, Method::GET, "/control", Some(wrong)).await;
    ask(address, Method::POST, &path, Some(&format!("Bearer {TOKEN}"))).await;
    let log = log.0.lock().unwrap();
    let [refused, checked, done] = &log[..] else { panic!("{log:?}") };
    for (said, words) in [
        (refused, vec!["WARN", "refused", "action=\"force-open\"", "peer=\"127.0.0.1:"]),
        (checked, vec!["WARN", "wrong control token"]),
        (
            done,
            vec![
                "WARN",
                "circuit=\"gpt-large\"",
                "before=\"closed\"",
                "after=\"forced_open\"",
                "peer=",
            ],
        ),
    ] {
        for word in words {
            assert!(said.contains(word), "{word} is not in {said}");
        }
        assert!(!said.contains(TOKEN) && !said.contains("the-wrong-token"), "{said}");
    }
}
