//! Fault tolerance for AI agents, as tower layers.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod call_budget;
#[cfg(feature = "circuit-breaker")]
pub mod circuit_breaker;
pub mod classify;
#[cfg(feature = "config")]
mod config;
mod error;
mod outcome;
pub mod telemetry;

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod catch_panic;
#[cfg(feature = "chaos")]
pub mod chaos;
#[cfg(feature = "fallback")]
pub mod fallback;
#[cfg(feature = "retry")]
pub mod retry;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(feature = "timeout")]
pub mod timeout;

pub use self::{
    call_budget::{BudgetLimit, CallBudget, FindCallBudget, HasCallBudget, InRequest, NoCallBudget},
    classify::{AnyError, BySource, Classify},
    error::{AgentFailure, BoxError, Error, ErrorKind, OpenReason},
    outcome::{Failure, FailureKind, Outcome},
};
#[cfg(feature = "config")]
pub use self::config::ConfigError;
