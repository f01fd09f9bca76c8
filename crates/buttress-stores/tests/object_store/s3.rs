//! A server that speaks S3: moto, from PyPI, which honours `If-None-Match: *`.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use buttress::checkpoint::{CheckpointStore, Put, StoreErrorKind};
use buttress_stores::{
    ObjectStore,
    conformance::{self, Rounds},
};
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use object_store::{
    ClientOptions,
    aws::{AmazonS3, AmazonS3Builder},
    client::{
        HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use tokio::time::Instant;

use crate::{conformance::On, key};

/// The case that asks whether puts side by side are faster than one by one.
const SIDE_BY_SIDE: u32 = 57;

/// A server in memory; it is killed when it is dropped.
struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// Starts one with a bucket; none, and the reason printed, where it cannot be installed.
    async fn start() -> Option<Self> {
        let program = match tokio::task::spawn_blocking(installed).await.unwrap() {
            Ok(program) => program,
            Err(reason) => {
                println!("skipped: moto cannot be installed: {reason}");
                return None;
            }
        };
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { child, port };
        let started = Instant::now();
        while !moto.ask("PUT /checkpoints").is_ok_and(|answer| answer.contains(" 200 ")) {
            assert!(started.elapsed() < Duration::from_secs(60), "moto does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some(moto)
    }

    fn ask(&self, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let words = format!(
            "{request} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nAuthorization: \
             AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request\r\n\
             Connection: close\r\n\r\n",
            self.port
        );
        stream.write_all(words.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn bucket(&self, name: &str) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(format!("http://127.0.0.1:{}", self.port))
            .with_allow_http(true)
            .with_http_connector(Http::new())
            .with_region("us-east-1")
            .with_bucket_name(name)
            .with_access_key_id("test")
            .with_secret_access_key("hunter2-of-the-bucket")
            .build()
            .unwrap()
    }
}

/// A client without TLS, which the object_store crate does not bring.
#[derive(Debug, Clone)]
struct Http(Client<HttpConnector, HttpRequestBody>);

impl Http {
    fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.0.request(request).await;
        let answer = answer.map_err(|error| HttpError::new(HttpErrorKind::Connect, error))?;
        Ok(answer.map(|body| {
            let interrupted = |error| HttpError::new(HttpErrorKind::Interrupted, error);
            HttpResponseBody::new(body.map_err(interrupted))
        }))
    }
}

impl object_store::client::HttpConnector for Http {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Http {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.send(request))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns the program: that in `BUTTRESS_MOTO`, or one in an environment that is made where the
/// tests are built.
fn installed() -> Result<PathBuf, String> {
    if let Some(program) = std::env::var_os("BUTTRESS_MOTO") {
        return Ok(program.into());
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("moto");
    let program = folder.join("bin/moto_server");
    if program.exists() {
        return Ok(program);
    }
    let folder = folder.to_str().ok_or("the folder has no name")?;
    run("python3", &["-m", "venv", folder])?;
    run(&format!("{folder}/bin/pip"), &["install", "--quiet", "moto[server]>=5.1,<6"])?;
    Ok(program)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().last().unwrap_or(program).to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_s3_keeps_every_promise() {
    let Some(moto) = Moto::start().await else { return };
    let report = conformance::run(&On::new(moto.bucket("checkpoints")), Rounds::Short).await;
    println!("{report}");
    for outcome in report.failed() {
        // All of moto runs on one lock of Python's: requests side by side wait for each other.
        assert_eq!(outcome.case.number, SIDE_BY_SIDE, "{outcome:?}");
    }

    let nowhere = ObjectStore::builder(Arc::new(moto.bucket("nowhere"))).open().await.unwrap_err();
    assert!(matches!(nowhere.kind(), StoreErrorKind::Setup { .. }), "{nowhere:?}");
    let store = ObjectStore::builder(Arc::new(moto.bucket("checkpoints")))
        .call_timeout(Duration::from_secs(2))
        .open()
        .await
        .unwrap();
    assert!(!format!("{store:?}").contains("hunter2"));
    drop(moto);
    let error = store.put(Put::new(key("away"), None, *b"state")).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
