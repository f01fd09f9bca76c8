//! The delays of the exponential backoff stay in their bounds, whatever the settings.
#![cfg(feature = "retry")]

use std::time::Duration;

use buttress::{Backoff, ExponentialBackoff, Jitter};
use proptest::prelude::*;

fn jitter() -> impl Strategy<Value = Jitter> {
    prop_oneof![
        Just(Jitter::None),
        Just(Jitter::Full),
        Just(Jitter::Equal),
        Just(Jitter::Decorrelated),
        (0.0..=1.0, 0.0..10.0_f64).prop_map(|(below, above)| Jitter::Proportional { below, above }),
    ]
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0_u64..100_000).prop_map(Duration::from_millis),
        any::<u64>().prop_map(Duration::from_nanos),
        Just(Duration::ZERO),
        Just(Duration::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_delay_exceeds_the_cap_or_leaves_its_spread(
        base in duration(),
        max in duration(),
        factor in prop_oneof![1.0..4.0_f64, Just(1e300)],
        jitter in jitter(),
        retry in prop_oneof![0_usize..20, Just(1_100), Just(usize::MAX)],
        random in 0.0..1.0_f64,
        previous in proptest::option::of(duration()),
    ) {
        let backoff = ExponentialBackoff::new(base).factor(factor).max(max).jitter(jitter);
        let delay = backoff.delay(retry, previous, random);
        prop_assert!(delay <= max);
        prop_assert_eq!(delay, backoff.delay(retry, previous, random), "the same draw, the same delay");
        // The middle of the spread, as plain as can be; seconds are exact enough for a bound.
        let power = factor.powi(i32::try_from(retry).unwrap_or(i32::MAX));
        let grown = if base.is_zero() { 0.0 } else { (base.as_secs_f64() * power).min(max.as_secs_f64()) };
        let (low, high) = match jitter {
            Jitter::None => (grown, grown),
            Jitter::Full => (0.0, grown),
            Jitter::Equal => (grown / 2.0, grown),
            Jitter::Proportional { below, above } => (grown * (1.0 - below), grown * (1.0 + above)),
            _ => (0.0, f64::MAX),
        };
        let slack = 1e-6 + max.as_secs_f64().min(high) * 1e-9;
        let seconds = delay.as_secs_f64();
        prop_assert!(seconds >= low.min(max.as_secs_f64()) - slack, "{seconds} < {low}");
        prop_assert!(seconds <= high + slack, "{seconds} > {high}");
    }
}
