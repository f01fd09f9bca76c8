//! Wrong constants panic with the setter's own message; wrong settings name their field.
#![cfg(all(feature = "full", feature = "test-util"))]

use std::{collections::HashMap, panic::AssertUnwindSafe, time::Duration};

use buttress::{
    AfterLease, AgentLayer, ChaosLayer, CircuitBreakerConfig, CircuitBreakerLayer, ConfigError,
    ExponentialBackoff, FailureKind, FaultTolerantAgent, FaultTolerantAgentBuilder, HalfOpen,
    Jitter, KeyedCircuitBreakerLayer, RetryBudget, RetryConfig, RetryLayer, StreamTimeoutConfig,
    StreamTimeoutLayer, TimeoutConfig, TimeoutLayer, Window, retry::OverCap, test_util::Scripted,
};
use serde::de::{DeserializeOwned, value::MapDeserializer};
use tower::Layer;

/// Runs what must panic and returns its message.
fn message<T>(build: impl FnOnce() -> T) -> String {
    let Err(payload) = std::panic::catch_unwind(AssertUnwindSafe(build)) else {
        panic!("nothing was refused")
    };
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).expect("a panic with a text")
}

fn breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new("model")
}

fn keyed() -> KeyedCircuitBreakerLayer<fn(&()) -> u32, u32> {
    CircuitBreakerLayer::keyed("model", |()| 0)
}

fn agent(id: &str) -> FaultTolerantAgentBuilder<&'static str, &'static str> {
    FaultTolerantAgent::builder(id)
}

#[test]
fn each_wrong_constant_is_refused_by_its_setter() {
    let zero = Duration::ZERO;
    let second = Duration::from_secs(1);
    let refused: Vec<(&str, Box<dyn FnOnce()>)> = vec![
        ("a circuit's name must not be empty", Box::new(|| drop(CircuitBreakerLayer::new("")))),
        ("consecutive_failures must", Box::new(|| drop(breaker().consecutive_failures(0)))),
        ("failure_rate must", Box::new(|| drop(breaker().failure_rate(0.0)))),
        ("failure_rate must", Box::new(|| drop(breaker().failure_rate(1.1)))),
        ("failure_rate must", Box::new(|| drop(breaker().failure_rate(f64::NAN)))),
        ("slow_call must", Box::new(move || drop(breaker().slow_call(second, 0.0)))),
        ("window must", Box::new(|| drop(breaker().window(Window::calls(0))))),
        ("window must", Box::new(move || drop(breaker().window(Window::time(zero))))),
        ("window must", Box::new(move || drop(breaker().window(Window::time(second).buckets(0))))),
        ("minimum_calls must", Box::new(|| drop(breaker().minimum_calls(0)))),
        ("open_for must", Box::new(move || drop(breaker().open_for(zero)))),
        ("open_growth must", Box::new(move || drop(breaker().open_growth(0.5, second)))),
        ("open_jitter must", Box::new(|| drop(breaker().open_jitter(1.5)))),
        ("max_open must", Box::new(move || drop(breaker().max_open(zero)))),
        ("half_open must", Box::new(|| drop(breaker().half_open(HalfOpen::consecutive(0, 1))))),
        ("half_open must", Box::new(|| drop(breaker().half_open(HalfOpen::consecutive(1, 0))))),
        ("half_open must", Box::new(|| drop(breaker().half_open(HalfOpen::consecutive(3, 2))))),
        ("half_open must", Box::new(|| drop(breaker().half_open(HalfOpen::rate(0))))),
        (
            "half_open_lease must",
            Box::new(move || drop(breaker().half_open_lease(zero, AfterLease::Open))),
        ),
        ("the number of attempts must", Box::new(|| drop(RetryLayer::new(0)))),
        ("a deadline must", Box::new(move || drop(RetryLayer::new(2).deadline(zero)))),
        ("the share added", Box::new(|| drop(RetryLayer::new(2).retry_after_jitter(-0.1)))),
        ("a backoff's factor must", Box::new(|| _ = ExponentialBackoff::default().factor(0.5))),
        (
            "the share taken off by jitter must",
            Box::new(|| {
                drop(RetryLayer::new(2).jitter(Jitter::Proportional { below: 2.0, above: 0.0 }));
            }),
        ),
        ("a retry budget's capacity must", Box::new(|| drop(RetryBudget::tokens(0)))),
        ("a retry budget's ratio must", Box::new(|| drop(RetryBudget::share(1.5)))),
        ("a timeout must", Box::new(move || drop(TimeoutLayer::new(zero)))),
        ("an agent's id must", Box::new(|| drop(AgentLayer::new("")))),
        ("error_rate must", Box::new(|| drop(ChaosLayer::new().error_rate(2.0)))),
        ("rate_limit must", Box::new(move || drop(ChaosLayer::new().rate_limit(-0.1, second)))),
        ("latency must", Box::new(move || drop(ChaosLayer::new().latency(1.1, zero..second)))),
        (
            "the range of latencies",
            Box::new(move || drop(ChaosLayer::new().latency(0.1, zero..zero))),
        ),
        ("hang_rate must", Box::new(|| drop(ChaosLayer::new().hang_rate(f64::NAN)))),
        ("panic_rate must", Box::new(|| drop(ChaosLayer::new().panic_rate(2.0)))),
        ("window must", Box::new(|| drop(breaker().window(Window::calls(usize::MAX))))),
        (
            "window must",
            Box::new(move || drop(breaker().window(Window::time(second).buckets(10_001)))),
        ),
        ("open_growth must", Box::new(move || drop(breaker().open_growth(2.0, zero)))),
        ("capacity must", Box::new(|| drop(keyed().capacity(0)))),
        ("idle must", Box::new(move || drop(keyed().idle(zero)))),
        (
            "a circuit's name must",
            Box::new(|| drop(CircuitBreakerLayer::keyed::<_, u32>("", |(): &()| 0))),
        ),
        ("a circuit's name must", Box::new(|| drop(buttress::Circuit::new("")))),
        ("limit must", Box::new(|| _ = buttress::ErrorBodyLayer::new().limit(0))),
        ("cost must", Box::new(|| drop(buttress::CallBudget::new().cost(-1.0)))),
        ("cost must", Box::new(|| buttress::CallBudget::new().spend_cost(f64::NAN))),
        ("`starting_at` is", Box::new(|| drop(RetryBudget::share(0.1).starting_at(1)))),
        ("`cost` is", Box::new(|| drop(RetryBudget::share(0.1).cost(1)))),
        (
            "`cost_of` is",
            Box::new(|| drop(RetryBudget::share(0.1).cost_of(FailureKind::Timeout, 1))),
        ),
        ("`refill` is", Box::new(|| drop(RetryBudget::share(0.1).refill(1)))),
        ("`at_least` is", Box::new(|| drop(RetryBudget::tokens(1).at_least(1)))),
        (
            "the rules of a retry budget are set before",
            Box::new(|| {
                let budget = RetryBudget::tokens(5);
                let _shared = budget.clone();
                drop(budget.starting_at(1));
            }),
        ),
        (
            "the share added by jitter must",
            Box::new(|| {
                let jitter = Jitter::Proportional { below: 0.0, above: f64::INFINITY };
                _ = ExponentialBackoff::default().jitter(jitter);
            }),
        ),
        ("a timeout must", Box::new(move || drop(agent("a").timeout(zero)))),
        ("the number of attempts must", Box::new(|| drop(agent("a").max_attempts(0)))),
        ("an agent's id must", Box::new(|| drop(agent("")))),
        ("a script must", Box::new(|| drop(Scripted::<()>::new([])))),
    ];
    for (expected, build) in refused {
        let text = message(build);
        assert!(text.starts_with(expected), "{text:?} does not start with {expected:?}");
    }
}

#[test]
fn rules_between_fields_are_checked_when_applied_in_any_order_of_setters() {
    let (long, short) = (Duration::from_secs(90), Duration::from_secs(60));
    let orders =
        [breaker().open_for(long).max_open(short), breaker().max_open(short).open_for(long)];
    for layer in orders {
        let text = message(|| layer.layer(()));
        assert_eq!(text, "max_open must not be shorter than open_for");
    }
    let fits = [breaker().open_for(short).max_open(long), breaker().max_open(long).open_for(short)];
    for layer in fits {
        drop(layer.layer(()));
    }
    let chaos = ChaosLayer::new().error_rate(0.6).hang_rate(0.6);
    assert!(message(|| chaos.layer(())).contains("must not exceed 1"));
}

#[test]
fn a_rate_switches_the_default_rule_off_unless_it_is_named_too() {
    let opens_after = |layer: CircuitBreakerLayer| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let circuit = layer.circuit();
        (1..100).find(|_| {
            let call = circuit.call(|| async { Err::<(), _>(std::io::Error::other("reset")) });
            drop(runtime.block_on(call));
            circuit.state() == buttress::circuit_breaker::State::Open
        })
    };
    assert_eq!(opens_after(breaker()), Some(5));
    assert_eq!(opens_after(breaker().failure_rate(0.5)), Some(10));
    assert_eq!(opens_after(breaker().failure_rate(0.5).consecutive_failures(3)), Some(3));
    assert_eq!(opens_after(breaker().consecutive_failures(3).failure_rate(0.5)), Some(3));
}

#[test]
fn an_agent_is_refused_when_classify_comes_late() {
    let text = message(|| {
        let backup = buttress::test_util::Scripted::new([buttress::test_util::Answer::ok("fine")]);
        FaultTolerantAgent::builder::<&str, &str>("research")
            .fallback("backup", backup)
            .classify(buttress::AnyError)
    });
    assert!(text.contains("`classify` must come before"));
}

fn from_toml<C: DeserializeOwned, T: TryFrom<C, Error = ConfigError>>(
    text: &str,
) -> Result<T, ConfigError> {
    T::try_from(toml::from_str(text).expect("the text is read"))
}

/// Reads settings as environment variables give them: every value is text.
fn from_variables<C: DeserializeOwned>(pairs: &[(&str, &str)]) -> C {
    let map: HashMap<&str, &str> = pairs.iter().copied().collect();
    C::deserialize(MapDeserializer::<_, serde::de::value::Error>::new(map.into_iter()))
        .expect("variables are read")
}

#[test]
fn settings_are_read_from_toml_and_from_variables() {
    let toml = r"
        name = 'planner'
        failure_rate = 0.5
        window_time = '1m'
        window_buckets = 6
        minimum_calls = 20
        open_for = '15s'
        half_open = 'rate'
        half_open_permits = 4
        rate_limit_opens = true
    ";
    let layer: CircuitBreakerLayer = from_toml::<CircuitBreakerConfig, _>(toml).unwrap();
    assert_eq!(&**layer.circuit().name(), "planner");
    let config: CircuitBreakerConfig = from_variables(&[
        ("name", "planner"),
        ("failure_rate", "0.5"),
        ("window_calls", "20"),
        ("open_for", "15s"),
        ("rate_limit_opens", "true"),
    ]);
    assert_eq!((config.failure_rate, config.window_calls), (Some(0.5), Some(20)));
    assert!(CircuitBreakerLayer::try_from(config).is_ok());

    let config: RetryConfig =
        from_variables(&[("max_attempts", "4"), ("base", "250ms"), ("over_cap", "clamp")]);
    let layer = RetryLayer::try_from(config).unwrap();
    assert!(format!("{layer:?}").contains("max_attempts: 4"));
    let config: TimeoutConfig = from_variables(&[("after", "1m 30s")]);
    assert_eq!(TimeoutLayer::try_from(config).unwrap().layer(()).after().as_secs(), 90);
    assert_eq!(OverCap::default(), OverCap::Stop);
}

#[test]
fn a_setting_of_another_kind_says_what_is_expected() {
    let message = |text| toml::from_str::<RetryConfig>(text).unwrap_err().to_string();
    let wrong = message("base = [1]");
    assert!(wrong.contains("a duration such as") && wrong.contains("base"), "{wrong}");
    let wrong = message("max_attempts = 1.5");
    assert!(wrong.contains("\"1.5\": invalid digit"), "{wrong}");
    let wrong = message("idempotent = 'maybe'");
    assert!(wrong.contains("maybe"), "{wrong}");
    let wrong = message("attempts = 3");
    assert!(wrong.contains("unknown field"), "{wrong}");
    let whole: RetryConfig = toml::from_str("factor = 2\nretry_after_jitter = 0").unwrap();
    assert_eq!((whole.factor, whole.retry_after_jitter), (Some(2.0), Some(0.0)));
}

#[test]
fn each_wrong_setting_names_its_field() {
    for (field, text) in [
        ("name", ""),
        ("name", "name = ''"),
        ("consecutive_failures", "name = 'x'\nconsecutive_failures = 0"),
        ("failure_rate", "name = 'x'\nfailure_rate = 1.5"),
        ("slow_call_rate", "name = 'x'\nslow_call_rate = 0.5"),
        ("slow_call_rate", "name = 'x'\nslow_call = '1s'\nslow_call_rate = 0.0"),
        ("window_time", "name = 'x'\nwindow_calls = 5\nwindow_time = '1s'"),
        ("window_buckets", "name = 'x'\nwindow_calls = 5\nwindow_buckets = 2"),
        ("window_calls", "name = 'x'\nwindow_calls = 0"),
        ("window_buckets", "name = 'x'\nwindow_buckets = 0"),
        ("window_time", "name = 'x'\nwindow_time = '0s'"),
        ("minimum_calls", "name = 'x'\nminimum_calls = 0"),
        ("open_for", "name = 'x'\nopen_for = '0s'"),
        ("open_growth", "name = 'x'\nopen_growth = 0.5"),
        ("open_growth_max", "name = 'x'\nopen_growth_max = '5s'"),
        ("open_growth_max", "name = 'x'\nopen_growth = 2.0\nopen_growth_max = '0s'"),
        ("window_calls", "name = 'x'\nwindow_calls = 9000000000000000000"),
        ("open_jitter", "name = 'x'\nopen_jitter = 2.0"),
        ("max_open", "name = 'x'\nmax_open = '0s'"),
        ("max_open", "name = 'x'\nopen_for = '20s'\nmax_open = '10s'"),
        ("half_open", "name = 'x'\nhalf_open = 'all'"),
        ("half_open_permits", "name = 'x'\nhalf_open_permits = 0"),
        ("half_open_successes", "name = 'x'\nhalf_open_permits = 3\nhalf_open_successes = 2"),
        ("half_open_successes", "name = 'x'\nhalf_open = 'rate'\nhalf_open_successes = 2"),
        ("half_open_lease", "name = 'x'\nhalf_open_lease = '0s'"),
        ("after_lease", "name = 'x'\nafter_lease = 'explode'"),
    ] {
        let error = from_toml::<CircuitBreakerConfig, CircuitBreakerLayer>(text).unwrap_err();
        assert_eq!(error.field(), field, "{text}: {error}");
    }
    for (field, text) in [
        ("max_attempts", "max_attempts = 0"),
        ("factor", "factor = 0.5"),
        ("jitter", "jitter = 'wild'"),
        ("jitter_below", "jitter_below = 2.0"),
        ("jitter_above", "jitter_above = -1.0"),
        ("over_cap", "over_cap = 'wait'"),
        ("retry_after_jitter", "retry_after_jitter = -1.0"),
        ("deadline", "deadline = '0s'"),
    ] {
        let error = from_toml::<RetryConfig, RetryLayer>(text).unwrap_err();
        assert_eq!(error.field(), field, "{text}: {error}");
    }
    let error = from_toml::<StreamTimeoutConfig, StreamTimeoutLayer>("idle = '0s'").unwrap_err();
    assert!(error.to_string().contains("idle"), "{error}");
    let error = from_toml::<TimeoutConfig, TimeoutLayer>("after = '0s'").unwrap_err();
    assert_eq!(error.field(), "after");
}

#[test]
fn unknown_fields_and_unreadable_values_are_refused_by_name() {
    for text in ["naem = 'x'", "open_for = 'soon'", "failure_rate = 'often'"] {
        let error = toml::from_str::<CircuitBreakerConfig>(text).unwrap_err().to_string();
        let field = text.split(' ').next().unwrap();
        assert!(error.contains(field), "{error}");
    }
}
