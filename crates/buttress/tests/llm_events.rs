//! The events of a model's stream, however its bytes are cut into chunks.
#![cfg(all(feature = "llm", feature = "stream"))]

use buttress::{
    Failure, FailureKind, LlmClassifier,
    classify::{ClassifyBody as _, LlmBody, ReadBody as _},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// What a body came to.
#[derive(Debug, PartialEq)]
struct Read {
    failure: Option<Failure>,
    has_begun: bool,
    /// How many bytes were found good.
    good: usize,
}

fn reader(headers: &[(header::HeaderName, &'static str)]) -> LlmBody {
    let headers = headers.iter().map(|(name, value)| (name, HeaderValue::from_static(value)));
    let headers: HeaderMap = headers.map(|(name, value)| (name.clone(), value)).collect();
    LlmClassifier::new().reader(StatusCode::OK, &headers)
}

fn events() -> LlmBody {
    reader(&[(header::CONTENT_TYPE, "text/event-stream")])
}

fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut reader = events();
    let mut good = 0;
    for chunk in chunks {
        if let Some((before, failure)) = reader.data(chunk) {
            let has_begun = reader.has_begun();
            return Read { failure: Some(failure), has_begun, good: good + before };
        }
        good += chunk.len();
    }
    Read { failure: reader.end(), has_begun: reader.has_begun(), good }
}

/// Reads a body whole, in two chunks cut at every place, and byte by byte: it is always the same.
#[track_caller]
fn read_however_cut(body: &str) -> Read {
    let whole = read([body.as_bytes()]);
    for at in 0..=body.len() {
        let (head, tail) = body.as_bytes().split_at(at);
        let cut = read([head, tail]);
        assert_eq!(cut.failure, whole.failure, "cut at {at}: {body:?}");
        assert_eq!(cut.has_begun, whole.has_begun, "cut at {at}: {body:?}");
        // What was handed on of the event that is a failure cannot be taken back.
        assert!((whole.good..=body.len()).contains(&cut.good), "cut at {at}: {body:?}");
    }
    let bytes = read(body.as_bytes().chunks(1));
    assert_eq!((bytes.failure, bytes.has_begun), (whole.failure.clone(), whole.has_begun));
    whole
}

const A: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"a"}}]}"#;

#[test]
fn a_good_stream_is_good_however_it_is_cut_and_written() {
    let openai = format!("{A}\n\n{A}\n\ndata: [DONE]\n\n");
    let bodies = [
        openai.replace('\n', "\r\n"),
        openai.replace('\n', "\r"),
        openai.replace("\n\n", "\r\n\n"),
        format!("\u{feff}{openai}"),
        // Without the last line feeds, and without the space that may be left out.
        format!("{A}\n\ndata: [DONE]\n"),
        format!("{A}\n\ndata: [DONE]"),
        format!("{A}\n\ndata:[DONE]"),
        format!("{A}\r\n\r\ndata:[DONE]\r"),
        // What the standard says of comments, of fields of no interest, and of data in lines.
        format!(": OPENROUTER PROCESSING\n\nid: 7\nretry: 10\n{A}\nfoo\n: x\n\ndata: [DONE]\n\n"),
        "data: {\"choices\":\ndata: [{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n".to_owned(),
        format!("{A}\n\n\u{feff}data: of no field\n\ndata: [DONE]\n\n"),
        format!("event: error\nevent: message\n{A}\n\ndata: [DONE]\n\n"),
        // What comes after the mark is of no interest.
        format!("{A}\n\ndata: [DONE]\n\ndata: <html>\n\ndata: {{\"error\":\"late\"}}\n\ndata: x"),
        // Anthropic's, with the name behind its data, and without its last line feeds.
        "data: {\"type\":\"content_block_delta\"}\nevent: content_block_delta\n\n\
         event: message_stop\ndata: {\"type\":\"message_stop\"}"
            .to_owned(),
        "data: {\"type\":\"message_start\"}\n\ndata: {\"type\":\"content_block_delta\"}\n\n\
         data: {\"type\":\"message_stop\"}\n"
            .to_owned(),
        // OpenAI's Responses.
        "data: {\"type\":\"response.output_text.delta\"}\n\ndata: {\"type\":\"response.completed\"}"
            .to_owned(),
        "data: {\"type\":\"response.output_text.delta\"}\n\n\
         data: {\"type\":\"response.incomplete\",\"response\":{\"error\":null}}\n\n"
            .to_owned(),
        // Google's: the last chunk says why it is the last; some have said so in every chunk.
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]},\"finishReason\":\"STOP\"}]}\n\n\
         data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"b\"}]},\"finishReason\":\"STOP\"}]}\r\n\r\n"
            .to_owned(),
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]},\"finishReason\":\"STOP\"}]}\n\n\
         data: {\"usageMetadata\":{\"totalTokenCount\":7}}\n\n"
            .to_owned(),
        // Cohere's has an end that it does not promise.
        "event: message-start\ndata: {\"type\":\"message-start\"}\n\n\
         event: message-end\ndata: {\"type\":\"message-end\"}\n\n"
            .to_owned(),
        "data: {\"type\":\"content-delta\"}\n\ndata: {\"type\":\"message-end\"}".to_owned(),
        "data: {\"type\":\"content-delta\"}\n\n: bye".to_owned(),
    ];
    for body in &bodies {
        let read = read_however_cut(body);
        assert_eq!(read, Read { failure: None, has_begun: true, good: body.len() }, "{body:?}");
    }
    let read = read_however_cut("data: {\"type\":\"content-delta\"}\n: bye");
    assert_eq!(read.failure, None, "a comment behind the data belongs to the event");
}

#[test]
fn a_failure_is_found_however_its_event_is_cut_and_written() {
    use FailureKind::{ContentPolicy, Overloaded, RateLimited, Transient};
    let overloaded = r#"data: {"type":"error","error":{"type":"overloaded_error"}}"#;
    let google = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]},\
                  \"finishReason\":\"STOP\"}]}\n\n";
    let cases = [
        (format!("{A}\n\n"), format!("event: error\n{overloaded}\n\n"), Overloaded),
        (format!("{A}\r\n\r\n"), format!("event: error\r\n{overloaded}\r\n\r\n"), Overloaded),
        (format!("{A}\r\r"), format!("{overloaded}\revent: error\r\r"), Overloaded),
        (
            format!("{A}\n\n"),
            "data: {\"error\":\ndata: {\"code\":429}}\n\n".to_owned(),
            RateLimited,
        ),
        (format!("{A}\n\n"), "event: error\ndata: the model fell over\n\n".to_owned(), Transient),
        (format!("{A}\n\n"), "event: error\ndata:\n\n".to_owned(), Transient),
        (format!("{A}\n\n"), "data: <html>\n\n".to_owned(), Transient),
        // Lines are lines of the data too.
        (format!("{A}\n\n"), "data: {\"x\":1\ndata: 2}\n\n".to_owned(), Transient),
        // After the last word of one answer: Google's streams go on behind it.
        (google.to_owned(), "data: {\"error\":{\"code\":503}}\n\n".to_owned(), Overloaded),
        // A prompt that Google blocks.
        (
            String::new(),
            "data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\n\n".to_owned(),
            ContentPolicy,
        ),
    ];
    for (before, event, kind) in cases {
        let read = read_however_cut(&format!("{before}{event}{A}\n\ndata: [DONE]\n\n"));
        assert_eq!(read.failure.map(|failure| failure.kind()), Some(kind), "{event:?}");
        assert_eq!(read.has_begun, !before.is_empty(), "{event:?}");
        // The name of an event goes along with what is good, and means nothing alone.
        let name = event.starts_with("data").then_some(before.len());
        assert_eq!(read.good, name.unwrap_or(read.good), "{event:?}");
    }
    // The last event, whose line feeds were left out.
    let read = read_however_cut(&format!("{A}\n\nevent: error\n{overloaded}"));
    assert_eq!(read.failure.map(|failure| failure.kind()), Some(Overloaded));
}

#[test]
fn a_stream_that_ends_too_early_is_a_failure() {
    let middle = "the stream ends in the middle of an event";
    let no_mark = "the stream ends without its mark";
    for (body, message) in [
        (String::new(), "the stream holds no event"),
        (": keep-alive\n\n: keep-ali".to_owned(), "the stream holds no event"),
        ("data:\n\nevent: ping\ndata:\n\n".to_owned(), "the stream holds no event"),
        (format!("{A}\n\n"), no_mark),
        (A.to_owned(), no_mark),
        (format!("{A}\n\ndata: {{\"choices\":[{{\"finish_reason\":\"stop\"}}]}}\n\n"), no_mark),
        (format!("{A}\n\ndata: [DO"), middle),
        (format!("{A}\n\ndata: {{\"choices\":"), middle),
        (format!("{A}\n\nda"), middle),
        (format!("{A}\n\nevent: error\n"), middle),
        ("data: {\"type\":\"message_start\"}\n\n".to_owned(), no_mark),
        ("data: {\"type\":\"response.created\"}\n\n".to_owned(), no_mark),
        (
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n\n".to_owned(),
            no_mark,
        ),
    ] {
        let failure = read_however_cut(&body).failure;
        let failure = failure.unwrap_or_else(|| panic!("{body:?} is good"));
        assert_eq!(failure.message(), Some(message), "{body:?}");
        assert_eq!(failure.kind(), FailureKind::Transient);
    }
}

/// Some keep a connection awake with events that say nothing.
#[test]
fn an_event_without_data_says_nothing() {
    let silent = "data:\n\nevent: ping\ndata: \n\ndata\n\n";
    let mut reader = events();
    assert_eq!(reader.data(silent.as_bytes()), None);
    assert!(!reader.has_begun());
    let body = format!("{silent}{A}\n\n{silent}data: [DONE]\n\n");
    assert_eq!(read_however_cut(&body).failure, None);
}

#[test]
fn what_only_announces_an_answer_is_not_its_beginning() {
    for event in [
        r#"{"type":"message_start","message":{}}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"content_block_start","content_block":{"type":"text","text":""}}"#,
        r#"{"type":"response.created"}"#,
        r#"{"type":"response.output_item.added"}"#,
        r#"{"choices":[],"prompt_filter_results":[]}"#,
        r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        r#"{"candidates":[{"content":{"role":"model"}}]}"#,
    ] {
        let mut reader = events();
        assert_eq!(reader.data(format!("data: {event}\n\n").as_bytes()), None, "{event}");
        assert!(!reader.has_begun(), "{event}");
    }
    for event in [
        r#"{"type":"content_block_delta"}"#,
        r#"{"type":"response.output_text.delta","delta":"a"}"#,
        r#"{"choices":[{"delta":{"content":"a"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
        r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"delta":{"audio":{"data":"a"}}}]}"#,
        r#"{"choices":[{"text":"a"}]}"#,
        r#"{"choices":[{"message":{"role":"assistant","content":"a"}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"delta":{"role":"assistant"}},{"delta":{"content":"b"}}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#,
        "[DONE]",
    ] {
        let mut reader = events();
        assert_eq!(reader.data(format!("data: {event}\n\n").as_bytes()), None, "{event}");
        assert!(reader.has_begun(), "{event}");
    }
}

const MIB: usize = 1024 * 1024;

fn long(length: usize) -> String {
    "x".repeat(length)
}

/// A line that is too long for reading, cut into chunks as a socket does.
#[test]
fn an_event_above_the_limit_is_passed_on_unread_to_its_end() {
    let in_lines = format!("data: {}\ndata: tail\ndata: [DONE]x\n\n", long(2 * MIB));
    let in_more = format!("data: {}\ndata: {}\ndata: tail\n\n", long(MIB), long(MIB));
    let comment = format!(": {}\n", long(2 * MIB));
    for event in [in_lines, in_more, comment] {
        let body = format!("{A}\n\n{event}{A}\n\ndata: [DONE]\n\n");
        let start = A.len() + 2;
        // At its first line feed, and around it.
        let feed = start + event.find('\n').expect("a line feed");
        for at in [start + 3, start + MIB, start + MIB + 6, feed - 1, feed, feed + 1] {
            let (head, tail) = body.as_bytes().split_at(at);
            assert_eq!(read([head, tail]).failure, None, "cut at {at}");
            // What is behind it is read.
            let failing = body.replace("[DONE]\n\n", "<html>\n\n");
            let (head, tail) = failing.as_bytes().split_at(at);
            assert!(read([head, tail]).failure.is_some(), "cut at {at}");
        }
        for size in [1_000, 65_536] {
            assert_eq!(read(body.as_bytes().chunks(size)).failure, None, "chunks of {size}");
        }
    }
}

/// A comment hides no event behind it, however long it is.
#[test]
fn an_event_beside_a_long_comment_is_read() {
    let overloaded = "data: {\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    let body = format!(": {}\n{overloaded}", long(2 * MIB));
    for size in [1_000, 65_536, 4 * MIB] {
        let failure = read(body.as_bytes().chunks(size)).failure;
        assert_eq!(failure.map(|failure| failure.kind()), Some(FailureKind::Overloaded), "{size}");
    }
}

/// Pictures come whole in the last event, so it is often the one that is not read.
#[test]
fn a_last_event_that_is_too_long_may_be_the_mark_of_the_end() {
    let completed = long(2 * MIB);
    let body = format!(
        "data: {{\"type\":\"response.created\"}}\n\n\
         data: {{\"type\":\"response.completed\",\"response\":{{\"picture\":\"{completed}\"}}}}\n\n"
    );
    for size in [1_000, 65_536, 4 * MIB] {
        assert_eq!(read(body.as_bytes().chunks(size)).failure, None, "chunks of {size}");
    }
    // What goes on behind it has not ended.
    let more = format!("{body}data: {{\"type\":\"response.output_text.delta\"}}\n\n");
    assert!(read([more.as_bytes()]).failure.is_some());
    // Cut in its middle it is none.
    let cut = &body.as_bytes()[..body.len() - 100];
    assert!(read(cut.chunks(65_536)).failure.is_some());
}

#[test]
fn what_is_not_plain_events_is_not_read() {
    for headers in [
        &[(header::CONTENT_TYPE, "text/event-stream"), (header::CONTENT_ENCODING, "gzip")][..],
        &[(header::CONTENT_TYPE, "application/x-ndjson")],
        &[(header::CONTENT_TYPE, "text/event-streams")],
        &[],
    ] {
        let mut reader = reader(headers);
        assert_eq!(reader.data(b""), None);
        assert!(!reader.has_begun(), "a frame without data is no beginning");
        assert_eq!(reader.data(b"data: <html>\n\n"), None, "{headers:?}");
        assert_eq!((reader.end(), reader.has_begun()), (None, true), "{headers:?}");
    }
    // An answer whose status says that it failed.
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))];
    let headers = HeaderMap::from_iter(headers);
    let mut failed = LlmClassifier::new().reader(StatusCode::BAD_GATEWAY, &headers);
    assert_eq!((failed.data(b"data: <html>\n\n"), failed.end()), (None, None));
    for headers in [
        &[(header::CONTENT_TYPE, "Text/Event-Stream;charset=UTF-8")][..],
        &[(header::CONTENT_TYPE, "text/event-stream"), (header::CONTENT_ENCODING, "Identity")],
        &[(header::CONTENT_TYPE, "text/event-stream ; x=y")],
    ] {
        assert!(reader(headers).data(b"data: <html>\n\n").is_some(), "{headers:?}");
    }
}
