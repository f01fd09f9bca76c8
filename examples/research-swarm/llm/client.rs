//! The HTTP client, as a tower service.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::Service;

/// An answer of a few sentences needs a thousandth of this.
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// Sends requests over pooled connections, with TLS where the address asks for it, and reads the
/// whole answer.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    inner: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// No answer came.
#[derive(Debug)]
pub(crate) struct HttpError {
    address: String,
    kind: Kind,
    source: buttress::BoxError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unreachable,
    Broken,
}

// ===== impl HttpClient =====

impl HttpClient {
    pub(crate) fn new() -> Self {
        let connector =
            HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build();
        Self { inner: Client::builder(TokioExecutor::new()).build(connector) }
    }

    async fn send(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let address = address(request.uri());
        let answer = match self.inner.request(request.map(Full::new)).await {
            Ok(answer) => answer,
            Err(error) => {
                let kind = if error.is_connect() { Kind::Unreachable } else { Kind::Broken };
                return Err(HttpError { address, kind, source: error.into() });
            }
        };
        let (head, body) = answer.into_parts();
        match Limited::new(body, LARGEST_ANSWER).collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
            Err(source) => Err(HttpError { address, kind: Kind::Broken, source }),
        }
    }
}

impl Service<Request<Bytes>> for HttpClient {
    type Response = Response<Bytes>;
    type Error = HttpError;
    // Boxed: beside a round trip over the network the allocation is nothing.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        // The pool opens a connection for whoever finds none: it is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// Shows where a request goes, without what a path or query could give away.
fn address(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    let host = uri.host().unwrap_or_default();
    match uri.port_u16() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

// ===== impl HttpError =====

impl HttpError {
    /// Returns whether no connection came about, so that nobody read the request.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.kind == Kind::Unreachable
    }

    /// Says what happened and why.
    pub(super) fn told(&self) -> String {
        format!("{self}: {}", self.root_cause())
    }

    /// Returns what lies at the bottom, such as "connection refused".
    fn root_cause(&self) -> String {
        let mut cause: &(dyn std::error::Error + 'static) = &*self.source;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        cause.to_string()
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Unreachable => write!(f, "cannot connect to {}", self.address),
            Kind::Broken => write!(f, "the connection to {} broke", self.address),
        }
    }
}

impl std::error::Error for HttpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_neither_user_nor_path() {
        let uri = Uri::from_static("https://me:secret@example.org:8443/v1?key=secret");
        assert_eq!(address(&uri), "https://example.org:8443");
    }

    #[tokio::test]
    async fn a_closed_port_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let request = Request::post(uri).body(Bytes::new()).unwrap();
        let error = HttpClient::new().call(request).await.unwrap_err();
        assert!(error.is_unreachable());
        assert!(error.to_string().starts_with("cannot connect to http://127.0.0.1:"));
        assert!(error.root_cause().contains("refused"), "{}", error.root_cause());
    }
}
