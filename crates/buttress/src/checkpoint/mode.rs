use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tower::Service;

use super::{
    CheckpointKey, CheckpointStore, Checkpointer, HasState, HasWorkflow, Namespace, Payload,
    StoreError, WorkflowId, calls::CallId, layer::Around, spans,
};
use crate::{BoxError, Classify, Error, ErrorKind, Failure, FailureKind, classify::into_error};

/// Saves the request's state before the call.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Before;

/// Saves the response.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct After;

/// Saves the response and answers repeats with it.
#[derive(Clone)]
pub struct Memo {
    /// Tells this layer and its clones from others, where the store does not say where it is.
    layer: Arc<u8>,
}

/// A failure that a memo has kept, with the text of the error it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoisedFailure(String);

/// What a [`CheckpointLayer`](super::CheckpointLayer) saves, and when.
pub trait Mode<Req, Res>: sealed::Sealed + Send + Sync + Sized + 'static {
    #[doc(hidden)]
    fn run<S, C>(
        around: &Around<Self, C>,
        ready: S,
        request: Req,
    ) -> impl Future<Output = Result<Res, Error>> + Send
    where
        S: Service<Req, Response = Res> + Send,
        S::Future: Send,
        S::Error: Into<BoxError> + 'static,
        C: Classify<Res, S::Error> + Send + Sync;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Before {}
    impl Sealed for super::After {}
    impl Sealed for super::Memo {}
}

/// What a memo's checkpoint holds.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kept<R> {
    Response(R),
    Failure {
        kind: String,
        error: String,
    },
    /// The response, of so many bytes, did not go into a store that takes so many; as two numbers,
    /// since this has to go into it.
    TooLarge(u64, u64),
    /// The response cannot be written.
    Unwritable {
        reason: String,
    },
}

// ===== impl Before, After =====

impl Before {
    pub(super) const fn new() -> Self {
        Self
    }
}

impl After {
    pub(super) const fn new() -> Self {
        Self
    }
}

impl<Req, Res> Mode<Req, Res> for Before
where
    Req: HasState + Send + Sync,
    Req::State: Sync,
    Res: Send,
{
    async fn run<S, C>(around: &Around<Self, C>, ready: S, request: Req) -> Result<Res, Error>
    where
        S: Service<Req, Response = Res> + Send,
        S::Future: Send,
        S::Error: Into<BoxError> + 'static,
        C: Classify<Res, S::Error> + Send + Sync,
    {
        around.save(request.workflow_id(), request.state()).await?;
        around.call(ready, request).await
    }
}

impl<Req, Res> Mode<Req, Res> for After
where
    Req: HasWorkflow + Send,
    Res: Serialize + Send + Sync,
{
    async fn run<S, C>(around: &Around<Self, C>, ready: S, request: Req) -> Result<Res, Error>
    where
        S: Service<Req, Response = Res> + Send,
        S::Future: Send,
        S::Error: Into<BoxError> + 'static,
        C: Classify<Res, S::Error> + Send + Sync,
    {
        let id = request.workflow_id().clone();
        let response = around.call(ready, request).await?;
        around.save(&id, &response).await?;
        Ok(response)
    }
}

// ===== impl Memo =====

impl Memo {
    pub(super) fn new() -> Self {
        Self { layer: Arc::default() }
    }

    fn layer(&self) -> usize {
        Arc::as_ptr(&self.layer).addr()
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").finish_non_exhaustive()
    }
}

impl<Req, Res> Mode<Req, Res> for Memo
where
    Req: HasWorkflow + Send,
    Res: Serialize + DeserializeOwned + Send + Sync,
{
    async fn run<S, C>(around: &Around<Self, C>, ready: S, request: Req) -> Result<Res, Error>
    where
        S: Service<Req, Response = Res> + Send,
        S::Future: Send,
        S::Error: Into<BoxError> + 'static,
        C: Classify<Res, S::Error> + Send + Sync,
    {
        let id = request.workflow_id().clone();
        let namespace = around.memo_namespace(&id, request.idempotency_key())?;
        let memos: Checkpointer<Kept<Res>> = around.checkpointer.for_memo(namespace);
        let key = memos.key(&id);
        let call = CallId::new(memos.store().place(&key, 0), around.mode.layer(), key.clone());
        let _first = call.first().await;
        if let Some(kept) = around.recall(&memos, &key).await? {
            return kept.into_result(&key);
        }
        let (kept, error) = match call.held() {
            // It was answered, and the store was away.
            Some(held) => (Kept::read(&held).map_err(|error| error.in_chain(&key))?, None),
            None => match call.around(around.call(ready, request)).await {
                Ok(response) => (Kept::Response(response), None),
                Err(error) if stays(&error) => (Kept::failure(&error), Some(error)),
                Err(error) => return Err(error),
            },
        };
        around.keep(&memos, &key, &call, kept, error).await
    }
}

impl<M, C> Around<M, C> {
    async fn save<T: Serialize>(&self, id: &WorkflowId, state: &T) -> Result<(), Error> {
        // Where the caller goes on without, the span says so.
        let _saved = self.checkpointer.for_state::<T>().save_unread(id, &self.phase, state).await?;
        Ok(())
    }

    async fn call<S, Req>(&self, mut ready: S, request: Req) -> Result<S::Response, Error>
    where
        S: Service<Req>,
        S::Error: Into<BoxError> + 'static,
        C: Classify<S::Response, S::Error>,
    {
        let response = ready.call(request);
        response.await.map_err(|error| into_error(&self.classify, error))
    }

    /// Returns the part of the workflow that one memo is in.
    fn memo_namespace(&self, id: &WorkflowId, key: Option<&str>) -> Result<Namespace, Error> {
        let own = self.checkpointer.key(id);
        let Some(key) = key else {
            return Err(StoreError::invalid_id("a memo's request has no idempotency key")
                .in_chain(&own)
                .into());
        };
        let (namespace, phase) = (&own.namespace, &self.phase);
        // The lengths keep phases and keys apart that hold the separator.
        let name = format!("{namespace}memo:{}:{phase}:{key}", phase.len());
        Namespace::new(name).map_err(|error| error.in_chain(&own).into())
    }

    /// Looks for what a call before has left.
    async fn recall<Res>(
        &self,
        memos: &Checkpointer<Kept<Res>>,
        key: &CheckpointKey,
    ) -> Result<Option<Kept<Res>>, Error>
    where
        Res: Serialize + DeserializeOwned,
    {
        match memos.read_head(key).await {
            Ok(None) => Ok(None),
            Ok(Some(checkpoint)) => {
                spans::load(memos, key).loaded(&checkpoint);
                Ok(Some(checkpoint.state))
            }
            // To go on without the store is to call the agent, also where it has been called.
            Err(error) if error.is_unavailable() && memos.goes_on() => {
                spans::load(memos, key).skipped(key, &error);
                Ok(None)
            }
            Err(error) => Err(spans::load(memos, key).not_loaded(key, error)),
        }
    }

    /// Keeps what a call came to before it is handed on; of a failure `error` is what it was.
    async fn keep<Res>(
        &self,
        memos: &Checkpointer<Kept<Res>>,
        key: &CheckpointKey,
        call: &CallId,
        kept: Kept<Res>,
        error: Option<Error>,
    ) -> Result<Res, Error>
    where
        Res: Serialize + DeserializeOwned + Send + Sync,
    {
        let kept = kept.that_fits(memos.store().capabilities().max_state);
        let saved = memos.save_first(key, &self.phase, &kept).await;
        match (&saved, &error) {
            (Err(away), None) if is_unavailable(away) => call.hold(Payload::json(&kept)?),
            _ => call.let_go(),
        }
        match (saved, error) {
            (_, Some(error)) => Err(error),
            (Ok(()), None) => kept.into_result(key),
            // Another process was faster: what it has handed on is the answer.
            (Err(conflict), None) if is_conflict(&conflict) => {
                match self.recall(memos, key).await? {
                    Some(first) => first.into_result(key),
                    None => Err(conflict),
                }
            }
            (Err(error), None) => Err(error),
        }
    }
}

impl<R> Kept<R> {
    fn failure(error: &Error) -> Self {
        Self::Failure { kind: error.failure().kind().as_str().to_owned(), error: error.to_string() }
    }

    /// Makes a response that the store does not take the news that it does not.
    fn that_fits(self, limit: u64) -> Self
    where
        R: Serialize + DeserializeOwned,
    {
        match Payload::json(&self) {
            Ok(state) if serde_json::from_slice::<Self>(&state).is_err() => {
                Self::Unwritable { reason: "it could not be read again".to_owned() }
            }
            Ok(state) => match u64::try_from(state.len()).unwrap_or(u64::MAX) {
                size if size > limit => Self::TooLarge(size, limit),
                _ => self,
            },
            Err(error) => Self::Unwritable { reason: error.to_string() },
        }
    }

    fn read(bytes: &[u8]) -> Result<Self, StoreError>
    where
        R: DeserializeOwned,
    {
        serde_json::from_slice(bytes).map_err(|error| StoreError::encode(error.to_string()))
    }

    fn into_result(self, key: &CheckpointKey) -> Result<R, Error> {
        let error = match self {
            Self::Response(response) => return Ok(response),
            Self::Failure { kind, error } => {
                let kind = FailureKind::ALL.into_iter().find(|known| known.as_str() == kind);
                let failure = Failure::new(kind.unwrap_or(FailureKind::Permanent));
                return Err(Error::new(ErrorKind::Service)
                    .with_failure(failure.with_retryable(false))
                    .with_source(MemoisedFailure(error)));
            }
            Self::TooLarge(size, limit) => StoreError::too_large(size, limit),
            Self::Unwritable { reason } => StoreError::encode(reason),
        };
        Err(error.in_chain(key).into())
    }
}

/// Returns whether an agent would fail so again, however often and with whatever key it is asked.
fn stays(error: &Error) -> bool {
    let failure = error.failure();
    let is_the_agents =
        matches!(error.kind(), ErrorKind::Service | ErrorKind::FallbackExhausted { .. });
    is_the_agents
        && !failure.is_retryable()
        && matches!(
            failure.kind(),
            FailureKind::Permanent
                | FailureKind::InvalidRequest
                | FailureKind::ContextWindowExceeded
                | FailureKind::ContentPolicy
        )
}

fn is_unavailable(error: &Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(StoreError::is_unavailable)
}

fn is_conflict(error: &Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(StoreError::is_conflict)
}

// ===== impl MemoisedFailure =====

impl fmt::Display for MemoisedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MemoisedFailure {}
