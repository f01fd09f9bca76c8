//! The agent that both routes call, and its faults: a function of the call's number alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{Failure, FailureKind};

/// The seed of the faults.
pub(crate) const SEED: u64 = 7;
/// How long a call hangs that nobody cuts.
const HANG: Duration = Duration::from_secs(1);
/// The wait that a rate limit asks for.
const RATE_LIMIT: Duration = Duration::from_millis(2);
/// Each so many calls, from the given one on, so many in a row fail: the circuit opens.
const OUTAGE: (u64, u64, u64) = (2_000, 200, 20);
/// The share of the other calls that fail; with the outages, a tenth of all.
const RATE: f64 = 0.091;

/// The key under which a trace says which call failed.
pub(crate) const CALL: &str = "call";

/// A request to the agent.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    number: u64,
    /// The fault and how many attempts have shown it, shared by the copies of the request.
    fault: Option<(Fault, Arc<AtomicU32>)>,
}

/// What goes wrong in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    kind: Kind,
    depth: Depth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    RateLimit,
    Hang,
}

/// How far the fault goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// The first attempt fails; a retry mends it.
    Once,
    /// Every attempt fails; the backup mends it.
    Primary,
    /// The backup fails too, and so does the call.
    Everywhere,
}

// ===== impl Fault =====

impl Fault {
    /// Returns what goes wrong in a call, on either route.
    pub(crate) fn of(number: u64) -> Option<Self> {
        let (every, from, calls) = OUTAGE;
        if (from..from + calls).contains(&(number % every)) {
            return Some(Self { kind: Kind::Error, depth: Depth::Primary });
        }
        let mut random =
            fastrand::Rng::with_seed(SEED ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if random.f64() >= RATE {
            return None;
        }
        let kind = match random.u32(0..100) {
            0..60 => Kind::Error,
            60..95 => Kind::RateLimit,
            _ => Kind::Hang,
        };
        let depth = match random.u32(0..100) {
            0..60 => Depth::Once,
            60..90 => Depth::Primary,
            _ => Depth::Everywhere,
        };
        Some(Self { kind, depth })
    }

    /// Tells whether neither a retry nor the backup mends it.
    pub(crate) fn is_everywhere(self) -> bool {
        self.depth == Depth::Everywhere
    }

    async fn show(self) -> Failure {
        match self.kind {
            Kind::Error => Failure::new(FailureKind::Transient).with_message("the agent failed"),
            Kind::RateLimit => Failure::new(FailureKind::RateLimited).with_retry_after(RATE_LIMIT),
            Kind::Hang => {
                tokio::time::sleep(HANG).await;
                Failure::new(FailureKind::Transient).with_message("the agent hung")
            }
        }
    }
}

// ===== impl Call =====

impl Call {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, fault: Fault::of(number).map(|fault| (fault, Arc::default())) }
    }

    /// Returns the fault that this attempt shows.
    fn fault(&self) -> Option<Fault> {
        let (fault, attempts) = self.fault.as_ref()?;
        let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
        (is_first || fault.depth != Depth::Once).then_some(*fault)
    }
}

/// Answers a call, or fails as its number says.
pub(crate) async fn primary(call: Call) -> Result<String, Failure> {
    // Pending once, as an agent that waits for its network is.
    tokio::task::yield_now().await;
    match call.fault() {
        Some(fault) => Err(fault.show().await),
        None => Ok(call.number.to_string()),
    }
}

/// Answers in place of the primary, unless the fault goes as far as here.
pub(crate) async fn backup(call: Call) -> Result<String, Failure> {
    tokio::task::yield_now().await;
    if call.fault.is_some_and(|(fault, _)| fault.depth == Depth::Everywhere) {
        // So that the failure is found by its number among the traces.
        buttress_langfuse::current().trace_metadata(CALL, call.number.to_string());
        return Err(Failure::new(FailureKind::Transient).with_message("the backup failed"));
    }
    Ok(call.number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_calls_has_a_fault_of_every_kind() {
        let faults: Vec<Fault> = (0..100_000).filter_map(Fault::of).collect();
        assert!((9_500..10_500).contains(&faults.len()), "{}", faults.len());
        for kind in [Kind::Error, Kind::RateLimit, Kind::Hang] {
            for depth in [Depth::Once, Depth::Primary, Depth::Everywhere] {
                assert!(faults.contains(&Fault { kind, depth }), "{kind:?} {depth:?}");
            }
        }
    }

    #[test]
    fn an_outage_is_in_every_run() {
        let fault = Some(Fault { kind: Kind::Error, depth: Depth::Primary });
        assert!((200..220).chain(2_200..2_220).all(|number| Fault::of(number) == fault));
    }
}
