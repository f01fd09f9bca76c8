//! What a page is told, over real sockets.

use std::{convert::Infallible, time::Duration};

use crate::support::{Page, circuit, items, serve, snapshot};
use buttress::{
    CircuitBreakerLayer,
    circuit_breaker::{Circuit, State},
};
use buttress_dashboard::Dashboard;
use serde_json::{Value, json};
use tower::{Layer as _, ServiceExt as _, service_fn};

fn breaker(name: &str) -> Circuit {
    CircuitBreakerLayer::new(name).circuit()
}

fn state(event: &Value, name: &str, state: State) -> Option<Value> {
    circuit(event, name).filter(|circuit| circuit["state"] == state.as_str()).cloned()
}

#[tokio::test]
async fn a_page_begins_with_everything_and_goes_on_with_what_changes() {
    let (one, two) = (breaker("one"), breaker("two"));
    let address = serve(Dashboard::new().circuit(one.clone()).circuit(two).router()).await;
    let mut page = Page::open(address, "/events").await;
    let (name, event) = page.next().await.unwrap();
    assert_eq!(name, "snapshot");
    assert!(state(&event, "one", State::Closed).is_some());
    assert!(state(&event, "two", State::Closed).is_some());

    one.trip_for(Duration::from_secs(3_600));
    let (name, event) = page.next().await.unwrap();
    assert_eq!(name, "update");
    let open = state(&event, "one", State::Open).unwrap();
    assert!(circuit(&event, "two").is_none(), "what stays as it is is not told again");
    let since = open["since"].as_u64().unwrap();
    assert!(open["until"].as_u64().unwrap().abs_diff(since + 3_600_000) < 60_000);
    let [timeline] = items(&event, "timelines") else { panic!("{event}") };
    assert_eq!(timeline["id"], open["id"]);
    let change = &timeline["changes"][0];
    assert_eq!(
        (&change["from"], &change["to"], &change["reason"]),
        (&json!("closed"), &json!("open"), &json!("manual"))
    );
}

#[tokio::test]
async fn who_comes_back_begins_with_everything_again() {
    let circuit = breaker("gpt-large");
    let address = serve(Dashboard::new().circuit(circuit.clone()).router()).await;
    let mut page = Page::open(address, "/events").await;
    page.next().await.unwrap();
    drop(page);
    circuit.force_open();
    circuit.reset();
    circuit.force_open();

    let (name, event) = Page::open(address, "/events").await.next().await.unwrap();
    assert_eq!(name, "snapshot");
    assert!(state(&event, "gpt-large", State::ForcedOpen).is_some());
    // What happened while nobody read is there too.
    assert_eq!(items(&event, "timelines")[0]["changes"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn several_pages_hear_of_the_same() {
    let circuit = breaker("gpt-large");
    let address = serve(Dashboard::new().circuit(circuit.clone()).router()).await;
    let mut pages = Vec::new();
    for _ in 0..3 {
        let mut page = Page::open(address, "/events").await;
        page.next().await.unwrap();
        pages.push(page);
    }
    circuit.force_open();
    for page in &mut pages {
        page.until(|event| state(event, "gpt-large", State::ForcedOpen)).await;
    }
}

/// 40,000 changes while a page does not read are a few events for it and not 40,000.
#[tokio::test]
async fn who_reads_slowly_gets_where_things_stand_and_not_a_queue() {
    let circuit = breaker("gpt-large");
    let address = serve(Dashboard::new().circuit(circuit.clone()).router()).await;
    let mut page = Page::open(address, "/events").await;
    page.next().await.unwrap();
    for _ in 0..200 {
        for _ in 0..100 {
            circuit.trip();
            circuit.reset();
        }
        tokio::task::yield_now().await;
    }
    circuit.force_open();
    let (last, read) = page.until(|event| state(event, "gpt-large", State::ForcedOpen)).await;
    assert!(read < 200, "{read} events");
    assert_eq!(last["generation"], 40_001);
    let (_, event) = Page::open(address, "/events").await.next().await.unwrap();
    let changes = items(&event, "timelines")[0]["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 64, "what is kept is bounded");
}

#[tokio::test(start_paused = true)]
async fn a_page_hears_something_though_nothing_happens() {
    let address = serve(Dashboard::new().circuit(breaker("gpt-large")).router()).await;
    let mut page = Page::open(address, "/events").await;
    page.next().await.unwrap();
    let quiet = tokio::time::Instant::now();
    let (name, event) = page.next().await.unwrap();
    assert_eq!(name, "update");
    assert!(quiet.elapsed() < Duration::from_secs(15));
    for part in ["circuits", "timelines", "rows", "failures"] {
        assert_eq!(event[part], json!({ "items": [] }));
    }
}

#[tokio::test(start_paused = true)]
async fn what_time_alone_changes_is_shown() {
    let circuit = CircuitBreakerLayer::new("gpt-large").open_for(Duration::from_secs(20)).circuit();
    let address = serve(Dashboard::new().circuit(circuit.clone()).router()).await;
    let mut page = Page::open(address, "/events").await;
    circuit.trip();
    page.until(|event| state(event, "gpt-large", State::Open)).await;
    page.until(|event| state(event, "gpt-large", State::HalfOpen)).await;
}

#[tokio::test]
async fn the_window_of_a_circuit_is_shown() {
    let layer = CircuitBreakerLayer::new("gpt-large").failure_rate(0.9);
    let dashboard = Dashboard::new().circuit(layer.circuit());
    let agent = layer.layer(service_fn(|fails: bool| async move {
        if fails { Err(std::io::Error::other("reset")) } else { Ok(()) }
    }));
    for fails in [false, false, true, true] {
        drop(agent.clone().oneshot(fails).await);
    }
    let event = snapshot(&dashboard).await;
    let circuit = circuit(&event, "gpt-large").unwrap();
    assert_eq!(circuit["calls"], 4);
    assert_eq!(circuit["failure_rate"], 0.5);
    assert_eq!(circuit["consecutive_failures"], 2);
}

#[tokio::test]
async fn circuits_by_key_come_and_go_and_are_bounded() {
    let layer = CircuitBreakerLayer::keyed("tenant", |key: &u32| *key).capacity(6);
    let circuits = layer.circuits();
    let dashboard = Dashboard::new()
        .circuit(breaker("fixed"))
        .circuits(circuits.clone())
        .most_keyed_circuits(2);
    let agent = layer.layer(service_fn(|_: u32| async { Ok::<_, Infallible>(()) }));
    let address = serve(dashboard.router()).await;
    let mut page = Page::open(address, "/events").await;
    page.next().await.unwrap();
    for key in 0..5 {
        agent.clone().oneshot(key).await.unwrap();
    }
    circuits.get(&3).unwrap().force_open();
    // The one that is not closed is among those that are shown, and the others are counted.
    let (event, _) = page
        .until(|event| state(event, "tenant/3", State::ForcedOpen).map(|_| event.clone()))
        .await;
    assert_eq!(event["more"], 3);
    assert_eq!(event["circuits"]["ids"].as_array().unwrap().len(), 3);
    let event = snapshot(&dashboard).await;
    let circuits = items(&event, "circuits").iter();
    let mut names: Vec<_> = circuits.map(|one| one["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["fixed", "tenant/0", "tenant/3"]);
}

#[tokio::test]
async fn a_key_that_comes_back_is_another_circuit() {
    let layer = CircuitBreakerLayer::keyed("tenant", |key: &u32| *key).capacity(1);
    let dashboard = Dashboard::new().circuits(layer.circuits());
    let agent = layer.layer(service_fn(|_: u32| async { Ok::<_, Infallible>(()) }));
    let call = |key: u32| agent.clone().oneshot(key);
    call(0).await.unwrap();
    let first = circuit(&snapshot(&dashboard).await, "tenant/0").unwrap()["id"].clone();
    call(1).await.unwrap();
    call(0).await.unwrap();
    // A change of the new one is seen at once, and not taken for one of the old.
    layer.circuits().get(&0).unwrap().force_open();
    let mut page_of = Page::open(serve(dashboard.router()).await, "/events").await;
    let (second, _) = page_of.until(|event| state(event, "tenant/0", State::ForcedOpen)).await;
    assert_ne!(first, second["id"]);
}

#[tokio::test]
async fn names_are_cut_and_steer_nothing() {
    let name = format!("</script><img src=x>\n\u{202e}{}", "x".repeat(10_000));
    let dashboard = Dashboard::new().circuit(breaker(&name));
    let event = snapshot(&dashboard).await;
    let shown = items(&event, "circuits")[0]["name"].as_str().unwrap().to_owned();
    assert!(
        shown.starts_with("</script><img src=x> xxx") && shown.ends_with('\u{2026}'),
        "{shown}"
    );
    assert_eq!(shown.chars().count(), 120);
}

/// A listener that logs comes back to the dashboard through its layer.
#[tokio::test]
async fn a_listener_may_do_what_it_likes_while_a_page_looks() {
    use tracing_subscriber::layer::SubscriberExt as _;
    let circuit =
        CircuitBreakerLayer::new("gpt-large").open_for(Duration::from_millis(1)).circuit();
    let dashboard = Dashboard::new().circuit(circuit.clone());
    let subscriber = tracing_subscriber::registry().with(dashboard.layer());
    let _guard = tracing::subscriber::set_default(subscriber);
    let (again, handle) = (circuit.clone(), dashboard.clone());
    let _listener = circuit.subscribe(move |_| {
        drop(again.snapshot());
        drop(handle.clone().circuit(breaker("made by a listener")));
    });
    circuit.trip();
    // It becomes half-open within a look of the page, which tells the listener.
    let mut page = Page::open(serve(dashboard.router()).await, "/events").await;
    page.until(|event| state(event, "gpt-large", State::HalfOpen)).await;
}
