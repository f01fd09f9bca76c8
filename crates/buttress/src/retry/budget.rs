//! How many retries all calls together may make.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crate::FailureKind;

/// Bounds the retries of all calls that share it, so that retries do not bury a sick service.
///
/// A cheap handle: give clones of one budget to several layers. The rules are set before it is
/// cloned; a setter panics afterwards.
///
/// ```
/// use buttress::{FailureKind, RetryBudget};
///
/// let tokens = RetryBudget::tokens(500).cost(14).cost_of(FailureKind::RateLimited, 5).refill(1);
/// assert_eq!(tokens.available(), 500);
///
/// // At most a fifth of the calls on their way may be retries, but 3 always may.
/// let share = RetryBudget::share(0.2).at_least(3);
/// assert_eq!(share.available(), 3);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct RetryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum Rules {
    Tokens { capacity: u64, cost: u64, cost_of: Box<[Option<u64>]>, refill: u64 },
    Share { ratio: f64, at_least: usize },
}

#[derive(Debug)]
struct Shared {
    rules: Rules,
    tokens: AtomicU64,
    calls: AtomicUsize,
    retries: AtomicUsize,
}

/// One call's part in a budget; gives back what it holds when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: RetryBudget,
    /// The tokens of the latest retry, which a success gives back.
    spent: u64,
    is_retry: bool,
}

// ===== impl RetryBudget =====

impl RetryBudget {
    /// Creates a bucket of tokens from which each retry is paid.
    ///
    /// A call that succeeds after retries gives back the cost of the last one, a call that
    /// succeeds at once adds the refill; a series that fails, or that its caller drops, keeps its
    /// cost. The defaults are those of botocore's standard mode, version 2.1.
    ///
    /// # Defaults
    ///
    /// - `starting_at`: the capacity
    /// - `cost`: 14, of `RateLimited` 5
    /// - `refill`: 1
    ///
    /// # Panics
    ///
    /// If the capacity is zero.
    #[track_caller]
    pub fn tokens(capacity: u64) -> Self {
        assert!(capacity > 0, "a retry budget's capacity must be more than zero");
        let rules = Rules::Tokens {
            capacity,
            cost: 14,
            cost_of: Box::new([None; FailureKind::ALL.len()]),
            refill: 1,
        };
        Self::new(rules, capacity).cost_of(FailureKind::RateLimited, 5)
    }

    /// Creates a budget that allows a share of the calls on their way to be retries.
    ///
    /// A call counts as a retry from its second attempt to its end, delays included.
    ///
    /// # Defaults
    ///
    /// - `at_least`: 3 (Envoy's `min_retry_concurrency`)
    ///
    /// # Panics
    ///
    /// If the ratio is not from 0 to 1.
    #[track_caller]
    pub fn share(ratio: f64) -> Self {
        assert!(
            (0.0..=1.0).contains(&ratio),
            "a retry budget's ratio must be from 0 to 1, not {ratio}"
        );
        Self::new(Rules::Share { ratio, at_least: 3 }, 0)
    }

    fn new(rules: Rules, tokens: u64) -> Self {
        let shared = Shared {
            rules,
            tokens: AtomicU64::new(tokens),
            calls: AtomicUsize::new(0),
            retries: AtomicUsize::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    #[track_caller]
    fn rules(&mut self) -> &mut Rules {
        match Arc::get_mut(&mut self.shared) {
            Some(shared) => &mut shared.rules,
            None => panic!("the rules of a retry budget are set before it is cloned"),
        }
    }

    /// Sets how many tokens there are at the start, at most the capacity.
    ///
    /// # Panics
    ///
    /// If this is a budget by share, or was cloned.
    #[track_caller]
    pub fn starting_at(mut self, tokens: u64) -> Self {
        let Rules::Tokens { capacity, .. } = self.rules() else {
            panic!("`starting_at` is for budgets of tokens")
        };
        let tokens = tokens.min(*capacity);
        self.shared.tokens.store(tokens, Ordering::Relaxed);
        self
    }

    /// Sets what a retry costs.
    ///
    /// # Panics
    ///
    /// If this is a budget by share, or was cloned.
    #[track_caller]
    pub fn cost(mut self, tokens: u64) -> Self {
        let Rules::Tokens { cost, .. } = self.rules() else {
            panic!("`cost` is for budgets of tokens")
        };
        *cost = tokens;
        self
    }

    /// Sets what a retry after one kind of failure costs.
    ///
    /// # Panics
    ///
    /// If this is a budget by share, or was cloned.
    #[track_caller]
    pub fn cost_of(mut self, kind: FailureKind, tokens: u64) -> Self {
        let Rules::Tokens { cost_of, .. } = self.rules() else {
            panic!("`cost_of` is for budgets of tokens")
        };
        cost_of[kind as usize] = Some(tokens);
        self
    }

    /// Sets how many tokens a success at the first attempt adds.
    ///
    /// # Panics
    ///
    /// If this is a budget by share, or was cloned.
    #[track_caller]
    pub fn refill(mut self, tokens: u64) -> Self {
        let Rules::Tokens { refill, .. } = self.rules() else {
            panic!("`refill` is for budgets of tokens")
        };
        *refill = tokens;
        self
    }

    /// Sets how many retries may always be on their way.
    ///
    /// # Panics
    ///
    /// If this is a budget of tokens, or was cloned.
    #[track_caller]
    pub fn at_least(mut self, retries: usize) -> Self {
        let Rules::Share { at_least, .. } = self.rules() else {
            panic!("`at_least` is for budgets by share")
        };
        *at_least = retries;
        self
    }

    /// Returns the tokens left, or how many more calls may retry now.
    #[must_use]
    pub fn available(&self) -> u64 {
        match self.shared.rules {
            Rules::Tokens { .. } => self.shared.tokens.load(Ordering::Relaxed),
            Rules::Share { .. } => {
                let retries = self.shared.retries.load(Ordering::Relaxed);
                self.limit().saturating_sub(retries) as u64
            }
        }
    }

    /// Counts a call that starts.
    #[inline]
    pub(super) fn enter(&self) -> Share {
        if matches!(self.shared.rules, Rules::Share { .. }) {
            self.shared.calls.fetch_add(1, Ordering::Relaxed);
        }
        Share { budget: self.clone(), spent: 0, is_retry: false }
    }

    /// Returns how many retries may be on their way, for a budget by share.
    fn limit(&self) -> usize {
        match self.shared.rules {
            Rules::Tokens { .. } => usize::MAX,
            Rules::Share { ratio, at_least } => {
                #[expect(clippy::cast_precision_loss, reason = "fewer calls than 2^52")]
                let calls = self.shared.calls.load(Ordering::Relaxed) as f64;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of the calls is a small positive number"
                )]
                let share = (ratio * calls).ceil() as usize;
                share.max(at_least)
            }
        }
    }
}

// ===== impl Share =====

impl Share {
    /// Takes what a retry after this failure costs; false if there is not enough.
    pub(super) fn take(&mut self, kind: FailureKind) -> bool {
        match &self.budget.shared.rules {
            Rules::Tokens { cost, cost_of, .. } => {
                let cost = cost_of[kind as usize].unwrap_or(*cost);
                let taken = self.budget.shared.tokens.fetch_update(
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                    |tokens| tokens.checked_sub(cost),
                );
                self.spent = cost;
                taken.is_ok()
            }
            Rules::Share { .. } => {
                // A call that retries again keeps its place.
                let limit = self.budget.limit();
                self.is_retry = self.is_retry
                    || self
                        .budget
                        .shared
                        .retries
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |retries| {
                            (retries < limit).then_some(retries + 1)
                        })
                        .is_ok();
                self.is_retry
            }
        }
    }

    /// Gives back what a success earns.
    pub(super) fn succeed(&self, retried: bool) {
        if let Rules::Tokens { capacity, refill, .. } = self.budget.shared.rules {
            let earned = if retried { self.spent } else { refill };
            _ = self.budget.shared.tokens.fetch_update(
                Ordering::Relaxed,
                Ordering::Relaxed,
                |tokens| Some(tokens.saturating_add(earned).min(capacity)),
            );
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if matches!(self.budget.shared.rules, Rules::Share { .. }) {
            self.budget.shared.calls.fetch_sub(1, Ordering::Relaxed);
            if self.is_retry {
                self.budget.shared.retries.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
