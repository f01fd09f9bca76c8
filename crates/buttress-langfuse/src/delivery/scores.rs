//! The requests by which Langfuse gets scores: as many in one as its version takes.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use serde_json::{Value as Json, json};

use super::{Answer, post::Post};
use crate::spool::Waiting;

/// How many bytes of scores a request holds: below the 1 MiB that the server reads.
const REQUEST_BYTES: usize = 900_000;
/// How many scores are sent one at a time until a list is tried again: what a server refused once
/// may have been one score of it, or the server has been replaced.
const SINGLES: usize = 64;
/// How often a batch is sent of which the server takes a part and fails with the rest: others wait.
const PARTIAL_TRIES: usize = 10;

/// Sends scores.
pub(crate) struct Scores {
    /// Takes a list, on servers of October 2026 and later; before them one at a time.
    scores: Uri,
    /// Takes a list on older servers.
    ingestion: Uri,
    headers: HeaderMap,
    /// What the server was seen to take.
    way: AtomicU8,
    /// How many were sent one at a time since a list was tried.
    singles: AtomicUsize,
}

/// What a server takes, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    List = 0,
    Ingestion = 1,
    Single = 2,
}

// ===== impl Scores =====

impl Scores {
    pub(super) fn new(scores: Uri, ingestion: Uri, mut headers: HeaderMap) -> Self {
        headers.remove(header::CONTENT_ENCODING);
        let json = header::HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        let (way, singles) = (AtomicU8::new(Way::List as u8), AtomicUsize::new(0));
        Self { scores, ingestion, headers, way, singles }
    }

    /// Returns how many of some scores a request takes, from their end.
    pub(super) fn fitting(&self, scores: &[Waiting]) -> usize {
        if self.way() == Way::Single {
            return 1;
        }
        let mut bytes = 0;
        let fits = |score: &&Waiting| {
            // Ingestion writes about so much around each.
            bytes += score.bytes.len() + 128;
            bytes <= REQUEST_BYTES
        };
        scores.iter().rev().take_while(fits).count().max(1)
    }

    /// Sends some scores; `Refused` with one of them says that this one will never be taken.
    pub(super) async fn send(&self, post: &Post, scores: &[Bytes]) -> Answer {
        let way = self.way();
        let read = |score: &Bytes| serde_json::from_slice::<Json>(score).unwrap_or_default();
        let (uri, body) = match way {
            Way::List => (&self.scores, scores.iter().map(read).collect::<Vec<_>>().into()),
            Way::Ingestion => {
                let event = |score: &Bytes| {
                    let score = read(score);
                    json!({
                        "id": score["id"],
                        "type": "score-create",
                        "timestamp": score["timestamp"],
                        "body": score,
                    })
                };
                (&self.ingestion, json!({ "batch": scores.iter().map(event).collect::<Vec<_>>() }))
            }
            Way::Single => (&self.scores, scores.first().map(read).unwrap_or_default()),
        };
        let mut request = Request::new(Bytes::from(body.to_string()));
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(uri);
        request.headers_mut().clone_from(&self.headers);
        let partial = AtomicUsize::new(0);
        let is_final = |answer: &Response<Bytes>| {
            is_final(answer)
                || (answer.status() == StatusCode::MULTI_STATUS
                    && partial.fetch_add(1, Ordering::Relaxed) + 1 >= PARTIAL_TRIES)
        };
        let answer = post.send_until(request, is_final).await;
        if way == Way::Single && self.singles.fetch_add(1, Ordering::Relaxed) + 1 >= SINGLES {
            self.singles.store(0, Ordering::Relaxed);
            self.way.store(Way::List as u8, Ordering::Relaxed);
        }
        match answer {
            Ok(answer) if answer.status().is_success() => {
                Answer::Taken { refused: refused(answer.body()).min(scores.len()) }
            }
            Ok(answer) if self.gives_way(way, answer.status()) => Answer::TryAgain,
            Ok(answer) => Answer::Refused { words: post.words_of(&answer) },
            Err(error) if error.is_timeout() => Answer::TooSlow,
            Err(error) => Answer::Refused { words: error.to_string() },
        }
    }

    /// Goes on to what older servers take, where one does not take what newer ones do.
    fn gives_way(&self, from: Way, status: StatusCode) -> bool {
        let next = match (from, status) {
            (Way::List, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
            | (Way::List, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => Way::Ingestion,
            (
                Way::Ingestion,
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE,
            ) => Way::Single,
            _ => return false,
        };
        self.way.store(next as u8, Ordering::Relaxed);
        true
    }

    fn way(&self) -> Way {
        match self.way.load(Ordering::Relaxed) {
            0 => Way::List,
            1 => Way::Ingestion,
            _ => Way::Single,
        }
    }
}

/// Tells whether sending the same again would be answered the same.
fn is_final(answer: &Response<Bytes>) -> bool {
    matches!(
        answer.status(),
        StatusCode::BAD_REQUEST
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::GONE
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}

/// Reads from a 207 how many were not taken; the server says not to send them again.
fn refused(body: &[u8]) -> usize {
    let Ok(body) = serde_json::from_slice::<Json>(body) else { return 0 };
    let rejected = body["rejected"].as_u64().and_then(|count| usize::try_from(count).ok());
    rejected.or_else(|| body["errors"].as_array().map(Vec::len)).unwrap_or(0)
}
