//! The command as people run it, and what Langfuse gets of it.

use std::process::{Command, Output};

use buttress_tests::langfuse_server::LangfuseServer;

fn command(prompts: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llm-client"));
    command.args(prompts);
    for variable in ["OPENAI_BASE_URL", "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"] {
        command.env_remove(variable);
    }
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
