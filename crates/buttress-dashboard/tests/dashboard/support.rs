//! A served dashboard, and who reads it.

use std::{collections::VecDeque, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, StatusCode, header::AUTHORIZATION},
};
use buttress_dashboard::Dashboard;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

/// Serves an app on a free port for as long as the test runs.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Asks over a connection of its own.
pub(crate) async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    authorization: Option<&str>,
) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "dashboard");
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Response<Incoming> {
    ask(address, Method::GET, path, None).await
}

pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: hyper::body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A page that follows the events.
pub(crate) struct Page<B> {
    body: B,
    text: String,
    read: VecDeque<(String, Value)>,
}

impl Page<Incoming> {
    pub(crate) async fn open(address: SocketAddr, path: &str) -> Self {
        let response = get(address, path).await;
        assert_eq!(response.status(), StatusCode::OK);
        Self::new(response.into_body())
    }
}

impl<B> Page<B>
where
    B: hyper::body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    pub(crate) fn new(body: B) -> Self {
        Self { body, text: String::new(), read: VecDeque::new() }
    }

    /// Returns the name and the data of the next event; none at the end.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        while self.read.is_empty() {
            let frame = self.body.frame().await?.unwrap();
            self.text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let line = |key: &str| event.lines().find_map(|line| line.strip_prefix(key));
                if let Some(data) = line("data: ") {
                    let name = line("event: ").unwrap().to_owned();
                    self.read.push_back((name, serde_json::from_str(data).unwrap()));
                }
                self.text = rest.to_owned();
            }
        }
        self.read.pop_front()
    }

    /// Reads until an event has something; returns it and how many events were read.
    pub(crate) async fn until<T>(&mut self, find: impl Fn(&Value) -> Option<T>) -> (T, usize) {
        for read in 1.. {
            let (_, event) = self.next().await.expect("the events go on");
            if let Some(found) = find(&event) {
                return (found, read);
            }
        }
        unreachable!()
    }
}

/// Returns what a page that opens now is told.
pub(crate) async fn snapshot(dashboard: &Dashboard) -> Value {
    let request = Request::get("/events").body(Body::empty()).unwrap();
    let response = dashboard.router().oneshot(request).await.unwrap();
    let (name, data) = Page::new(response.into_body()).next().await.unwrap();
    assert_eq!(name, "snapshot");
    data
}

pub(crate) fn items<'a>(event: &'a Value, part: &str) -> &'a [Value] {
    event[part]["items"].as_array().unwrap()
}

/// Returns the circuit of a name.
pub(crate) fn circuit<'a>(event: &'a Value, name: &str) -> Option<&'a Value> {
    items(event, "circuits").iter().find(|circuit| circuit["name"] == name)
}
