//! The service as clients, load balancers and Prometheus meet it, over sockets.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use buttress_tests::langfuse_server::LangfuseServer;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

/// The service in a process of its own.
struct Service {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
    base_url: String,
    client: Client,
}

impl Service {
    fn start() -> Self {
        Self::start_with(|command| command)
    }

    fn start_with(set: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_axum-agent"));
        command.arg("127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::piped());
        for variable in ["LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"] {
            command.env_remove(variable);
        }
        let mut child = set(&mut command).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()));
        let base_url = format!("http://{}", address.unwrap());
        Self { child, lines: Box::new(lines), base_url, client: Client::new() }
    }

    fn post(&self, path: &str, prompt: &str) -> RequestBuilder {
        let body = json!({ "prompt": prompt }).to_string();
        let request = self.client.post(format!("{}{path}", self.base_url));
        request.header("content-type", "application/json").body(body)
    }

    async fn ask(&self, prompt: &str) -> (u16, Value) {
        let answer = self.post("/agent", prompt).send().await.unwrap();
        (answer.status().as_u16(), json_of(answer).await)
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.base_url)).send().await.unwrap()
    }

    /// Sends the beginning of a request, and no more of it.
    fn begin(&self, text: &str) -> TcpStream {
        let address = self.base_url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn json_of(answer: Response) -> Value {
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn an_answer_comes_through_retries_and_fallbacks() {
    let service = Service::start();
    for (prompt, model) in [
        ("AAPL", "large"),
        ("AAPL [503x2]", "large"),
        ("AAPL [hang]", "small"),
        ("A [quota]", "small"),
    ] {
        let (status, answer) = service.ask(prompt).await;
        assert_eq!((status, &answer["model"]), (200, &json!(model)), "{prompt} {answer}");
    }
}

#[tokio::test]
async fn each_failure_has_its_status_by_either_way() {
    let service = Service::start();
    for path in ["/agent", "/agent/guarded"] {
        for (prompt, status, kind) in [
            ("A [all:hang]", 504, "fallback_exhausted"),
            ("A [all:429]", 429, "fallback_exhausted"),
            ("A [all:context]", 413, "fallback_exhausted"),
        ] {
            let answer = service.post(path, prompt).send().await.unwrap();
            assert_eq!(answer.status(), status, "{path} {prompt}");
            let waits = answer.headers().contains_key("retry-after");
            assert_eq!(waits, status == 429, "{path} {prompt}");
            assert_eq!(json_of(answer).await["error"]["type"], kind, "{path} {prompt}");
        }
    }
    // What never reaches the agent.
    let large = service.post("/agent", &"x".repeat(70_000)).send().await.unwrap();
    assert_eq!(large.status(), 413);
    let wrong = service.post("/agent", "A").body("{\"promt\":1}").send().await.unwrap();
    assert_eq!(wrong.status(), 422);
}

#[tokio::test]
async fn open_circuits_reject_at_once_and_health_and_numbers_say_so() {
    let service = Service::start();
    assert_eq!(service.get("/ready").await.status(), 200);
    for _ in 0..5 {
        assert_ne!(service.ask("A [all:500]").await.0, 200);
    }
    let answer = service.post("/agent", "A").send().await.unwrap();
    assert_eq!(answer.status(), 503);
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");

    let ready = service.get("/ready").await;
    assert_eq!(ready.status(), 503);
    let health = service.get("/health").await;
    assert_eq!(health.status(), 200);
    let health = json_of(health).await;
    assert_eq!(health["circuits"][0]["state"], "open", "{health}");
    assert!(health["circuits"][0]["retry_after_seconds"].as_f64().unwrap() > 0.0, "{health}");

    let numbers = service.get("/metrics").await.text().await.unwrap();
    for line in [
        r#"buttress_circuit_breaker_state{circuit="large"} 2"#,
        r#"buttress_circuit_breaker_state{circuit="small"} 2"#,
        r#"buttress_fallback_calls{agent="research",outcome="failure",level="none"} 5"#,
        "# TYPE buttress_agent_duration histogram",
        r#"buttress_agent_duration_bucket{agent="research",outcome="failure",le="+Inf"} 5"#,
        r#"buttress_retry_series{agent="research",result="failed",stop="attempts"} 1"#,
        r#"buttress_retry_series{agent="research",result="not_retried",stop="not_retryable"} 5"#,
        "buttress_langfuse_spool_depth 0",
    ] {
        assert!(numbers.lines().any(|known| known == line), "no {line} in\n{numbers}");
    }
}

#[tokio::test]
async fn the_live_page_shows_circuits_and_failures_and_is_read_only_without_a_token() {
    let service = Service::start();
    for _ in 0..2 {
        service.ask("A [all:500]").await;
    }
    for path in ["/dashboard", "/dashboard/"] {
        let page = service.get(path).await;
        assert!(page.headers().contains_key("content-security-policy"), "{path}");
        assert!(page.text().await.unwrap().contains("axum-agent"));
    }
    let mut events = service.get("/dashboard/events").await;
    let first = String::from_utf8(events.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(first.contains("event: snapshot"), "{first}");
    for said in ["\"large\"", "\"small\"", "HTTP 500"] {
        assert!(first.contains(said), "{said}: {first}");
    }
    assert_eq!(service.get("/dashboard/control").await.status(), 404);
}

#[tokio::test]
async fn ctrl_c_ends_it_too_and_the_live_page_with_it() {
    let mut service = Service::start();
    let mut events = service.get("/dashboard/events").await;
    assert!(events.chunk().await.unwrap().is_some());
    service.signal("-INT");
    assert_eq!(service.lines.next().as_deref(), Some("every call has ended"));
    assert!(service.child.wait().unwrap().success());
}

#[tokio::test]
async fn circuits_that_somebody_forced_open_are_no_readiness() {
    let token = "a-token-of-the-test";
    let service = Service::start_with(|command| command.env("DASHBOARD_TOKEN", token));
    for (circuit, ready) in [(1, 200), (2, 503)] {
        let url = format!("{}/dashboard/control/{circuit}/force-open", service.base_url);
        let done = service.client.post(url).bearer_auth(token).send().await.unwrap();
        assert_eq!(done.status(), 200, "{circuit}");
        assert_eq!(service.get("/ready").await.status(), ready, "{circuit}");
    }
}

#[tokio::test]
async fn a_circuit_around_the_route_counts_its_answers() {
    let service = Service::start();
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let answer = service.post("/agent/guarded", "A [all:500]").send().await.unwrap();
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses.last(), Some(&503), "{statuses:?}");
    let health = json_of(service.get("/health").await).await;
    let route = health["circuits"].as_array().unwrap().iter().find(|one| one["name"] == "route");
    assert_eq!(route.unwrap()["state"], "open", "{health}");
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_not_asked_for_the_embedded_model() {
    let service = Service::start_with(|command| {
        for variable in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
            command.env(variable, "http://127.0.0.1:1");
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy")
    });
    assert_eq!(service.ask("AAPL").await.0, 200);
}

#[test]
fn what_it_cannot_do_is_told_on_stderr() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, code, told) in [
        (&["--help"][..], 2, "usage: axum-agent [ADDRESS]"),
        (&["127.0.0.1:0", "more"], 2, "usage: axum-agent [ADDRESS]"),
        (&["nowhere"], 1, "axum-agent: nowhere: "),
        (&[&taken], 1, &format!("axum-agent: {taken}: ")),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_axum-agent")).args(arguments).output().unwrap();
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), &output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(code), ""), "{arguments:?}");
        let wrong = String::from_utf8_lossy(wrong);
        assert!(wrong.contains(told), "{arguments:?}: {wrong}");
    }
}

#[tokio::test]
async fn more_calls_than_there_is_room_for_are_turned_away() {
    let service = Service::start();
    // They hang for a second: the others find every place taken.
    let calls: Vec<_> = (0..80)
        .map(|number| {
            // One limit for both routes.
            let path = if number % 2 == 0 { "/agent" } else { "/agent/guarded" };
            tokio::spawn(service.post(path, &format!("{number} [all:hang]")).send())
        })
        .collect();
    let mut turned_away = 0;
    for call in calls {
        let answer = call.await.unwrap().unwrap();
        if answer.status() == 503 && answer.headers().contains_key("retry-after") {
            turned_away += usize::from(answer.text().await.unwrap().contains("too many calls"));
        }
    }
    assert!(turned_away >= 80 - 64, "{turned_away}");
    assert_eq!(service.get("/health").await.status(), 200);
}

const SLOW: &str = "POST /agent HTTP/1.1\r\nhost: agent\r\ncontent-type: application/json\r\n\
    content-length: 100\r\n\r\n{\"prompt\":";

#[tokio::test]
async fn who_sends_slowly_takes_no_place_of_a_call_and_is_told_to_be_quick() {
    let service = Service::start();
    let mut slow: Vec<_> = (0..70).map(|_| service.begin(SLOW)).collect();
    let (status, answer) = service.ask("AAPL").await;
    assert_eq!((status, &answer["model"]), (200, &json!("large")));
    for stream in &mut slow {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

#[tokio::test]
async fn who_never_sends_the_rest_holds_up_the_end_for_a_while_only() {
    let mut service = Service::start();
    let _half_a_head = service.begin("POST /agent HTTP/1.1\r\nhost: ag");
    let half_a_body = service.begin(SLOW);
    // Both are with the service by the time that it has answered this.
    assert_eq!(service.ask("AAPL").await.0, 200);
    service.terminate();
    let said = service.lines.next();
    assert_eq!(said.as_deref(), Some("calls that did not end were given up"));
    assert!(service.child.wait().unwrap().success());
    drop(half_a_body);
}

#[tokio::test]
async fn while_langfuse_is_away_the_service_ends_well() {
    let spool = tempfile::TempDir::new().unwrap();
    let mut service = Service::start_with(|command| {
        command
            .env("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
            .env("LANGFUSE_SECRET_KEY", "sk-lf-1")
            .env("LANGFUSE_BASE_URL", "http://127.0.0.1:1")
            .env("BUTTRESS_SPOOL_DIR", spool.path())
            .stderr(Stdio::null())
    });
    assert_ne!(service.ask("A [all:500]").await.0, 200);
    service.terminate();
    assert_eq!(service.lines.next().as_deref(), Some("every call has ended"));
    assert!(service.child.wait().unwrap().success());
}

#[tokio::test]
async fn a_call_that_is_under_way_is_ended_before_the_service_and_its_trace_delivered() {
    let server = LangfuseServer::start_blocking();
    let spool = tempfile::TempDir::new().unwrap();
    let mut service = Service::start_with(|command| {
        command
            .env("LANGFUSE_PUBLIC_KEY", server.public_key())
            .env("LANGFUSE_SECRET_KEY", server.secret_key())
            .env("LANGFUSE_BASE_URL", server.base_url())
            .env("BUTTRESS_SPOOL_DIR", spool.path())
    });
    let call = tokio::spawn(service.post("/agent", "AAPL [hang]").send());
    // The first of its attempts was given up, the next one hangs.
    while !service.get("/metrics").await.text().await.unwrap().contains("buttress_retry_attempts{")
    {
    }
    service.terminate();
    let answer = call.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), &json_of(answer).await["model"]), (200, &json!("small")));
    assert_eq!(service.lines.next().as_deref(), Some("every call has ended"));
    assert!(service.child.wait().unwrap().success());
    assert_eq!(server.named("agent_research").len(), 1);
    // Nobody is served any more.
    assert!(service.client.get(format!("{}/health", service.base_url)).send().await.is_err());
}
