//! The routes, all relative to where they are mounted.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, Path, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response, sse::Sse},
    routing::{get, post},
};
use buttress::circuit_breaker::Circuit;
use serde_json::json;

use crate::{events::events, page, shared::Shared, text, token::Token};

/// Tells nginx not to collect events.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What the routes know.
#[derive(Debug)]
struct Site {
    shared: Arc<Shared>,
    page: Bytes,
    policy: HeaderValue,
    token: Option<Token>,
}

/// What an operator may do to a circuit.
#[derive(Debug, Clone, Copy)]
enum Action {
    ForceOpen,
    Reset,
    Disable,
}

pub(crate) fn router(shared: Arc<Shared>, title: &str, token: Option<Token>) -> Router {
    let policy = HeaderValue::from_str(&page::policy()).expect("a policy is of visible ASCII");
    let page = page::page(title, token.is_some()).into();
    let with_control = token.is_some();
    let site = Arc::new(Site { shared, page, policy, token });
    let mut router = Router::new().route("/", get(show)).route("/events", get(stream));
    if with_control {
        router =
            router.route("/control", get(check)).route("/control/{circuit}/{action}", post(act));
    }
    router.with_state(site)
}

async fn show(State(site): State<Arc<Site>>) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, site.policy.clone()),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, site.page.clone()).into_response()
}

async fn stream(State(site): State<Arc<Site>>) -> Response {
    let place = site.shared.settings().readers.try_acquire_owned();
    let Some(place) = place.ok().filter(|_| !site.shared.is_closed()) else {
        let again = [(RETRY_AFTER, HeaderValue::from_static("5"))];
        return (StatusCode::SERVICE_UNAVAILABLE, again, "no place for a further reader\n")
            .into_response();
    };
    let headers = [
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, Sse::new(events(Arc::clone(&site.shared), place))).into_response()
}

/// Tells whether a token is the right one.
async fn check(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    if site.allows(&headers) {
        (StatusCode::NO_CONTENT, [(CACHE_CONTROL, HeaderValue::from_static("no-store"))])
            .into_response()
    } else {
        tracing::warn!("A wrong control token was offered");
        unauthorized()
    }
}

async fn act(
    State(site): State<Arc<Site>>,
    Path((circuit, action)): Path<(String, String)>,
    request: Request,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.to_string());
    let peer = peer.as_deref();
    // Before anything else, so that who may not act learns nothing.
    if !site.allows(request.headers()) {
        let [circuit, action] = [circuit, action].map(|said| text::shown(&said, text::NAME));
        tracing::warn!(circuit, action, peer, "A control action was refused: wrong token");
        return unauthorized();
    }
    let found = circuit.parse().ok().and_then(|id| site.shared.circuit(id));
    let (Some(circuit), Some(action)) = (found, Action::of(&action)) else {
        return answer(StatusCode::NOT_FOUND, &json!({ "error": "no such circuit or action" }));
    };
    let before = circuit.state().as_str();
    action.run(&circuit);
    let after = circuit.state().as_str();
    let name = &**circuit.name();
    tracing::warn!(
        circuit = name,
        action = action.as_str(),
        before,
        after,
        peer,
        "A control action was done"
    );
    answer(StatusCode::OK, &json!({ "circuit": name, "state": after }))
}

fn unauthorized() -> Response {
    let mut response =
        answer(StatusCode::UNAUTHORIZED, &json!({ "error": "the control token is wrong" }));
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn answer(status: StatusCode, json: &serde_json::Value) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, json.to_string()).into_response()
}

// ===== impl Site =====

impl Site {
    /// Returns whether a request carries the token, in a header that no foreign page can send.
    fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return false };
        let offered = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, offered) = offered.split_at(offered.len().min("Bearer ".len()));
        scheme.eq_ignore_ascii_case(b"Bearer ") && token.is(offered)
    }
}

// ===== impl Action =====

impl Action {
    const ALL: [Self; 3] = [Self::ForceOpen, Self::Reset, Self::Disable];

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::ForceOpen => "force-open",
            Self::Reset => "reset",
            Self::Disable => "disable",
        }
    }

    fn run(self, circuit: &Circuit) {
        match self {
            Self::ForceOpen => circuit.force_open(),
            Self::Reset => circuit.reset(),
            Self::Disable => circuit.disable(),
        }
    }
}
