//! What one call may cost in all, carried in its request.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The limit of a [`CallBudget`] that ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BudgetLimit {
    /// The time.
    Deadline,
    /// The number of attempts, over all agents of the call.
    Attempts,
    /// The tokens of the models.
    Tokens,
    /// The money.
    Cost,
}

/// What one call may use up in all: time, attempts, tokens and money.
///
/// A cheap handle: clones share what is left, so a request that is cloned for a retry or handed
/// to a fallback draws on the same budget. `RetryLayer` and `FallbackLayer` honour it: no repeat and
/// no fallback starts on a budget that has run out. An attempt is one call of one agent, however the
/// two nest; only the first is made in any case. Agents report what they used with
/// [`spend_tokens`](Self::spend_tokens) and [`spend_cost`](Self::spend_cost).
///
/// # Defaults
///
/// No limit.
///
/// ```
/// use buttress::{BudgetLimit, CallBudget};
///
/// let budget = CallBudget::new().attempts(2).tokens(1_000);
/// assert_eq!(budget.take_attempt(), Ok(()));
/// budget.spend_tokens(1_200);
/// assert_eq!(budget.take_attempt(), Err(BudgetLimit::Tokens));
/// assert_eq!(budget.exhausted(), Some(BudgetLimit::Tokens));
/// ```
#[derive(Clone)]
pub struct CallBudget {
    left: Arc<Left>,
}

/// What is left; `i64::MAX` stands for no limit.
struct Left {
    /// When the budget was made, and how many nanoseconds later its time is over.
    made: Instant,
    nanos: AtomicI64,
    attempts: AtomicI64,
    tokens: AtomicI64,
    /// In millionths of the currency.
    micros: AtomicI64,
    /// The first limit that stopped an attempt: 0 none, else its place in `BudgetLimit` plus one.
    stopped_by: AtomicU8,
}

/// Finds the budget of a request.
///
/// [`InRequest`] asks the request itself; feature `http` adds `InExtensions`, which looks into the
/// extensions of an `http::Request`.
pub trait FindCallBudget<Req> {
    /// Returns the budget that the request carries.
    fn call_budget(&self, request: &Req) -> Option<CallBudget>;
}

/// A request that carries a [`CallBudget`].
pub trait HasCallBudget {
    /// Returns the budget, if this request has one.
    fn call_budget(&self) -> Option<&CallBudget>;
}

/// Looks for no budget: the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCallBudget;

/// Asks requests that implement [`HasCallBudget`].
#[derive(Debug, Clone, Copy, Default)]
pub struct InRequest;

// ===== impl BudgetLimit =====

impl BudgetLimit {
    /// Returns the limit in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Attempts => "attempts",
            Self::Tokens => "tokens",
            Self::Cost => "cost",
        }
    }
}

impl fmt::Display for BudgetLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.pad("deadline"),
            Self::Attempts => f.pad("budget of attempts"),
            Self::Tokens => f.pad("budget of tokens"),
            Self::Cost => f.pad("budget of cost"),
        }
    }
}

// ===== impl CallBudget =====

impl CallBudget {
    /// Creates a budget without limits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            left: Arc::new(Left {
                made: Instant::now(),
                nanos: AtomicI64::new(i64::MAX),
                attempts: AtomicI64::new(i64::MAX),
                tokens: AtomicI64::new(i64::MAX),
                micros: AtomicI64::new(i64::MAX),
                stopped_by: AtomicU8::new(0),
            }),
        }
    }

    /// Limits the call to a time from now on, for every clone of this budget.
    ///
    /// A time of more than 292 years is no limit.
    #[must_use]
    pub fn deadline(self, within: Duration) -> Self {
        let nanos = self.left.made.elapsed().saturating_add(within).as_nanos();
        self.left.nanos.store(i64::try_from(nanos).unwrap_or(i64::MAX), Ordering::Relaxed);
        self
    }

    /// Limits the attempts of all agents together, the first one included.
    #[must_use]
    pub fn attempts(self, attempts: u32) -> Self {
        self.left.attempts.store(i64::from(attempts), Ordering::Relaxed);
        self
    }

    /// Limits the tokens that agents report with [`spend_tokens`](Self::spend_tokens).
    #[must_use]
    pub fn tokens(self, tokens: u64) -> Self {
        self.left.tokens.store(clamp(tokens), Ordering::Relaxed);
        self
    }

    /// Limits the cost that agents report with [`spend_cost`](Self::spend_cost), in any currency.
    ///
    /// Costs are kept in millionths.
    ///
    /// # Panics
    ///
    /// If the cost is negative or not a number.
    #[must_use]
    #[track_caller]
    pub fn cost(self, cost: f64) -> Self {
        self.left.micros.store(micros(cost), Ordering::Relaxed);
        self
    }

    /// Returns when the time is over, if there is a limit.
    #[must_use]
    pub fn deadline_at(&self) -> Option<Instant> {
        self.left.made.checked_add(Duration::from_nanos(left(&self.left.nanos)?))
    }

    /// Says which limit forbids another agent, without taking an attempt.
    ///
    /// # Errors
    ///
    /// The first limit that has run out; [`exhausted`](Self::exhausted) remembers it.
    pub fn check(&self) -> Result<(), BudgetLimit> {
        let limit = match self.attempts_left() {
            Some(0) => Some(BudgetLimit::Attempts),
            _ => self.spent(),
        };
        limit.map_or(Ok(()), |limit| {
            self.stop(limit);
            Err(limit)
        })
    }

    /// Returns whether the time is over.
    pub(crate) fn is_late(&self) -> bool {
        self.deadline_at().is_some_and(|at| Instant::now() >= at)
    }

    /// Returns a limit that has run out, but for the attempts.
    fn spent(&self) -> Option<BudgetLimit> {
        if self.is_late() {
            Some(BudgetLimit::Deadline)
        } else if self.left.tokens.load(Ordering::Relaxed) <= 0 {
            Some(BudgetLimit::Tokens)
        } else if self.left.micros.load(Ordering::Relaxed) <= 0 {
            Some(BudgetLimit::Cost)
        } else {
            None
        }
    }

    /// Takes one attempt, or says which limit forbids it.
    ///
    /// # Errors
    ///
    /// The first limit that has run out; [`exhausted`](Self::exhausted) remembers it.
    pub fn take_attempt(&self) -> Result<(), BudgetLimit> {
        let limit = match self.spent() {
            Some(limit) => limit,
            None if self.take_one() => return Ok(()),
            None => BudgetLimit::Attempts,
        };
        self.stop(limit);
        Err(limit)
    }

    fn take_one(&self) -> bool {
        let take = |left| match left {
            i64::MAX => Some(i64::MAX),
            1.. => Some(left - 1),
            _ => None,
        };
        self.left.attempts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Takes the first attempt of a layer, unless a layer further out has paid for it.
    ///
    /// It is made in any case: a layer without an error of its own cannot refuse it.
    #[cold]
    pub(crate) fn take_first(&self) {
        if !PAID.get() {
            _ = self.take_attempt();
        }
    }

    /// Reports tokens that an agent used.
    pub fn spend_tokens(&self, tokens: u64) {
        spend(&self.left.tokens, clamp(tokens));
    }

    /// Reports what an agent's answer cost.
    ///
    /// # Panics
    ///
    /// If the cost is negative or not a number.
    #[track_caller]
    pub fn spend_cost(&self, cost: f64) {
        spend(&self.left.micros, micros(cost));
    }

    /// Returns how many attempts are left, if they are limited.
    #[must_use]
    pub fn attempts_left(&self) -> Option<u64> {
        left(&self.left.attempts)
    }

    /// Returns how many tokens are left, if they are limited.
    #[must_use]
    pub fn tokens_left(&self) -> Option<u64> {
        left(&self.left.tokens)
    }

    /// Returns the limit that stopped an attempt, once one did.
    #[must_use]
    pub fn exhausted(&self) -> Option<BudgetLimit> {
        match self.left.stopped_by.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(BudgetLimit::Deadline),
            2 => Some(BudgetLimit::Attempts),
            3 => Some(BudgetLimit::Tokens),
            _ => Some(BudgetLimit::Cost),
        }
    }

    /// Notes that a limit stopped an attempt or a wait; the first one stays.
    pub(crate) fn stop(&self, limit: BudgetLimit) {
        let place = match limit {
            BudgetLimit::Deadline => 1,
            BudgetLimit::Attempts => 2,
            BudgetLimit::Tokens => 3,
            BudgetLimit::Cost => 4,
        };
        // Losing the race means that another limit was first.
        _ = self.left.stopped_by.compare_exchange(0, place, Ordering::Relaxed, Ordering::Relaxed);
    }
}

thread_local! {
    static PAID: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, the attempt that is made is paid for: layers further in do not pay for their
/// first again.
pub(crate) struct Paid {
    before: Option<bool>,
}

impl Paid {
    #[inline(always)]
    pub(crate) fn from_now_on(is_paid: bool) -> Self {
        Self { before: if is_paid { Some(PAID.replace(true)) } else { None } }
    }
}

impl Drop for Paid {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(before) = self.before {
            PAID.set(before);
        }
    }
}

impl Default for CallBudget {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CallBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallBudget")
            .field("deadline", &self.deadline_at())
            .field("attempts_left", &self.attempts_left())
            .field("tokens_left", &self.tokens_left())
            .field("exhausted", &self.exhausted())
            .finish()
    }
}

impl<Req> FindCallBudget<Req> for NoCallBudget {
    fn call_budget(&self, _: &Req) -> Option<CallBudget> {
        None
    }
}

impl<Req: HasCallBudget> FindCallBudget<Req> for InRequest {
    fn call_budget(&self, request: &Req) -> Option<CallBudget> {
        request.call_budget().cloned()
    }
}

fn clamp(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX - 1).min(i64::MAX - 1)
}

#[track_caller]
fn micros(cost: f64) -> i64 {
    assert!(cost >= 0.0, "cost must be zero or more, not {cost}");
    #[expect(clippy::cast_possible_truncation, reason = "a cast from f64 saturates")]
    let micros = (cost * 1e6).ceil() as i64;
    micros.min(i64::MAX - 1)
}

fn spend(amount: &AtomicI64, spent: i64) {
    // Only a limited amount shrinks; it stops far below zero instead of wrapping around.
    _ = amount.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        (left != i64::MAX).then(|| left.saturating_sub(spent).max(i64::MIN / 2))
    });
}

fn left(amount: &AtomicI64) -> Option<u64> {
    match amount.load(Ordering::Relaxed) {
        i64::MAX => None,
        left => Some(u64::try_from(left).unwrap_or(0)),
    }
}
