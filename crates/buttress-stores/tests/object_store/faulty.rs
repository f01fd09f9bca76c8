//! A backend that fails at a moment of the test's choice.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore as Backend, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, memory::InMemory, path::Path,
};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What runs once after an object was created.
type Then = Box<dyn FnOnce() -> Boxed<'static, ()> + Send>;

/// A backend in memory, with faults.
#[derive(Default)]
pub(crate) struct Faulty {
    pub(crate) memory: InMemory,
    /// How many creations do not reach the server.
    pub(crate) before: AtomicU32,
    /// How many creations are answered by nobody.
    pub(crate) after: AtomicU32,
    /// How many reads fail.
    pub(crate) reads: AtomicU32,
    /// How many deletions are answered by nobody, ever.
    pub(crate) deletions: AtomicU32,
    /// Whether what is there is replaced where it was to be created.
    pub(crate) replaces: bool,
    pub(crate) then: Mutex<Option<Then>>,
}

fn takes_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn lost() -> Error {
    Error::Generic { store: "Faulty", source: "lost https://there?sig=hunter2 again".into() }
}

impl Faulty {
    async fn create(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if takes_one(&self.before) {
            return Err(lost());
        }
        let mode = if self.replaces { PutMode::Overwrite } else { options.mode.clone() };
        let done = self.memory.put_opts(path, payload, PutOptions { mode, ..options }).await?;
        if takes_one(&self.after) {
            return Err(lost());
        }
        let then = self.then.lock().unwrap().take();
        if let Some(then) = then {
            then().await;
        }
        Ok(done)
    }

    async fn read(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if takes_one(&self.reads) { Err(lost()) } else { self.memory.get_opts(path, options).await }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl Backend for Faulty {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        path: &'b Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Boxed<'c, Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.create(path, payload, options))
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        path: &'b Path,
        options: PutMultipartOptions,
    ) -> Boxed<'c, Result<Box<dyn MultipartUpload>>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.memory.put_multipart_opts(path, options)
    }

    fn get_opts<'a, 'b, 'c>(
        &'a self,
        path: &'b Path,
        options: GetOptions,
    ) -> Boxed<'c, Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.read(path, options))
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if takes_one(&self.deletions) {
            return futures_util::StreamExt::boxed(futures_util::stream::pending());
        }
        self.memory.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.memory.list(prefix)
    }

    fn list_with_delimiter<'a, 'b, 'c>(
        &'a self,
        prefix: Option<&'b Path>,
    ) -> Boxed<'c, Result<ListResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.memory.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'd, 'c>(
        &'a self,
        from: &'b Path,
        to: &'d Path,
        options: CopyOptions,
    ) -> Boxed<'c, Result<()>>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        self.memory.copy_opts(from, to, options)
    }
}

/// Sets what runs once after an object was created.
pub(crate) fn then<F>(backend: &Arc<Faulty>, run: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    *backend.then.lock().unwrap() = Some(Box::new(move || Box::pin(run())));
}
