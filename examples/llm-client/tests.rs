//! The command as people run it, and what Langfuse gets of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    process::{Command, Output},
    sync::mpsc::{Receiver, channel},
    thread,
};

use buttress_tests::langfuse_server::LangfuseServer;

fn command(prompts: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llm-client"));
    command.args(prompts);
    for variable in ["BASE_URL", "API_KEY", "MODEL", "LONG_MODEL", "BACKUP_MODEL"] {
        command.env_remove(format!("OPENAI_{variable}"));
    }
    command.env_remove("LANGFUSE_PUBLIC_KEY").env_remove("LANGFUSE_SECRET_KEY");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn each_fault_has_its_way_out() {
    let cases = [
        // A fault is retried, in the stream too as long as nothing was heard.
        ("AAPL [503x2]", "AAPL looks fine today, says large.\n  [primary, 6 tokens]"),
        ("AAPL [overloadedx1]", "AAPL looks fine today, says large.\n  [primary, 6 tokens]"),
        ("AAPL [garbagex0]", "AAPL looks fine today, says large.\n  [primary, 6 tokens]"),
        // Where no retry helps, another provider answers: which one goes by what failed.
        ("AAPL [context]", "AAPL looks fine today, says long.\n  [long, 6 tokens]"),
        ("AAPL [quota]", "AAPL looks fine today, says small.\n  [backup, 6 tokens]"),
        ("AAPL [overloaded]", "AAPL looks fine today, says small.\n  [backup, 6 tokens]"),
        ("AAPL [hang]", "AAPL looks fine today, says small.\n  [backup, 6 tokens]"),
    ];
    for (prompt, answer) in cases {
        let output = command(&[prompt]).output().unwrap();
        let text = text(&output);
        assert!(output.status.success(), "{prompt}: {text}");
        assert!(text.starts_with(&format!("> {prompt}\n{answer}\n")), "{prompt}: {text}");
    }
}

#[test]
fn what_breaks_off_after_words_were_heard_is_told_and_nobody_else_is_asked() {
    for (prompt, cause) in [
        ("AAPL [late]", "failure_kind=overloaded"),
        ("AAPL [garbage]", "an event is not JSON"),
        ("AAPL [stall]", "no further item for 1s"),
        ("AAPL [cut]", "body"),
    ] {
        let output = command(&[prompt]).output().unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{prompt}: {text}");
        let answer = text.lines().find(|line| line.contains("no answer: ")).unwrap();
        assert!(answer.contains("the stream was cut after"), "{prompt}: {answer}");
        assert!(text.contains(cause) && !text.contains("says small"), "{prompt}: {text}");
    }
}

#[test]
fn an_answer_is_a_generation_with_usage_cost_and_the_time_of_its_first_token() {
    let server = LangfuseServer::start_blocking();
    let output = command(&["AAPL [quota]"])
        .env("LANGFUSE_PUBLIC_KEY", server.public_key())
        .env("LANGFUSE_SECRET_KEY", server.secret_key())
        .env("LANGFUSE_BASE_URL", server.base_url())
        .env("BUTTRESS_DURABILITY", "memory")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let calls = server.named("llm_call");
    let answered = calls.iter().find(|call| call.level() == "DEFAULT").unwrap().row();
    assert_eq!(
        (&answered["type"], &answered["modelName"]),
        (&"GENERATION".into(), &"small".into())
    );
    assert_eq!(answered["providedUsageDetails"]["output"], 6, "{answered}");
    let cost = answered["providedCostDetails"]["total"].as_f64().unwrap();
    // 12 tokens in at 0.1 and 6 out at 0.4 dollars a million.
    assert!((cost - 3.6e-6).abs() < 1e-12, "{answered}");
    let first = answered["completionStartTime"].as_str().unwrap();
    let (start, end) =
        (answered["startTimeISO"].as_str().unwrap(), answered["endTimeISO"].as_str().unwrap());
    assert!(start < first && first < end, "{start} {first} {end}");
    let spent = calls.iter().find(|call| call.level() == "ERROR").unwrap();
    assert_eq!(spent.row()["modelName"], "large");
}

#[test]
fn every_provider_down_is_told_in_one_line() {
    let output = command(&["AAPL [all:500]"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("no answer: all 2 agents failed"), "{}", text(&output));
}

/// An endpoint that answers everything with the same; tells what it was asked.
fn endpoint(status: &str, kind: &str, body: &str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\n");
    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let (tell, told) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut asked, mut length) = (String::new(), 0);
            while !asked.ends_with("\r\n\r\n") {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.to_ascii_lowercase();
                if let Some(bytes) = line.strip_prefix("content-length: ") {
                    length = bytes.trim().parse().unwrap();
                }
                asked.push_str(&line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            asked.push_str(&String::from_utf8(body).unwrap());
            // The client may have ended.
            drop(reader.into_inner().write_all(answer.as_bytes()));
            drop(tell.send(asked));
        }
    });
    (url, told)
}

/// A stream of OpenAI's with these words in it.
fn events(words: &str) -> String {
    let head = r#""id":"1","object":"chat.completion.chunk","created":0,"model":"m""#;
    let delta = format!(r#"{{"index":0,"delta":{{"content":"{words}"}},"finish_reason":"stop"}}"#);
    format!("data: {{{head},\"choices\":[{delta}]}}\n\ndata: [DONE]\n\n")
}

#[test]
fn another_endpoint_is_asked_with_its_key_and_its_models() {
    let (url, told) = endpoint("200 OK", "text/event-stream; charset=utf-8", &events("hello"));
    for url in [url.clone(), format!("{url}/")] {
        let output = command(&["AAPL"])
            .env("OPENAI_BASE_URL", url)
            .env("OPENAI_API_KEY", "key-1")
            .env("OPENAI_MODEL", "their-model")
            .output()
            .unwrap();
        assert!(text(&output).starts_with("> AAPL\nhello\n  [primary, "), "{}", text(&output));
        let asked = told.recv().unwrap();
        assert!(asked.starts_with("post /v1/chat/completions http/1.1\r\n"), "{asked}");
        for said in ["authorization: bearer key-1\r\n", r#""model":"their-model""#] {
            assert!(asked.contains(said), "{asked}");
        }
    }
}

#[test]
fn an_endpoint_that_does_not_answer_as_it_should_has_not_answered() {
    let json = "application/json";
    let key = r#"{"error":{"message":"Incorrect key: key-1","code":"invalid_api_key"}}"#;
    let model = r#"{"error":{"message":"no such model","code":"model_not_found"}}"#;
    let whole = r#"{"choices":[{"message":{"content":"hello"}}]}"#;
    let spent = r#"{"error":{"code":"insufficient_quota"}}"#;
    for (status, kind, body, cause) in [
        ("401 Unauthorized", json, key, "invalid_api_key"),
        ("404 Not Found", json, model, "model_not_found"),
        ("502 Bad Gateway", "text/html", "<html>", "HTTP 502"),
        // A page to log in to the network, an endpoint that knows no streams, one that hides its errors.
        ("200 OK", "text/html", "<html>", "no stream of events"),
        ("200 OK", json, whole, "no stream of events"),
        ("200 OK", json, spent, "no stream of events"),
        ("204 No Content", json, "", "no stream of events"),
        ("200 OK", "text/event-stream", "", "the stream holds no event"),
        ("200 OK", "text/event-stream", &events(""), "the answer holds no text"),
    ] {
        let (url, _told) = endpoint(status, kind, body);
        let output = command(&["AAPL"])
            .env("OPENAI_BASE_URL", url)
            .env("OPENAI_API_KEY", "key-1")
            .output()
            .unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{status} {body}: {text}");
        let answer = text.lines().find(|line| line.contains("no answer: "));
        assert!(answer.is_some_and(|line| line.contains(cause)), "{status} {body}: {text}");
        assert!(!text.contains("key-1"), "{text}");
        // The generation says it too.
        let told = |line: &str| line.contains("llm_call [generation]") && line.contains(cause);
        assert!(text.lines().any(told), "{status} {body}: {text}");
    }
}

#[test]
fn variables_that_are_empty_are_not_set_and_no_proxy_is_asked_for_the_embedded_model() {
    let output = command(&["AAPL"])
        .env("OPENAI_BASE_URL", "")
        .env("OPENAI_MODEL", "")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .unwrap();
    assert!(text(&output).starts_with("> AAPL\nAAPL looks fine today, says large."), "{output:?}");
}

#[test]
fn an_option_is_no_prompt() {
    let output = command(&["--help"]).output().unwrap();
    assert_eq!((output.status.code(), &*text(&output)), (Some(2), ""));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: llm-client [PROMPT]..."));
}
