//! The public way from a span to the terminal, and what a person reads on stderr.

use std::process::{Command, Output};

use buttress_langfuse::{Langfuse, Level, TerminalTree, current};
use tracing::info_span;
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

const CHILD: &str = "BUTTRESS_LANGFUSE_TEST_CHILD";

/// Runs one test of this file again in a process of its own, where it may set the subscriber.
fn in_own_process(test: &str) -> Output {
    let program = std::env::current_exe().expect("a test has a program");
    let run = Command::new(program).args([test, "--exact", "--nocapture"]).env(CHILD, "1").output();
    let output = run.expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    output
}

fn notices(output: &Output) -> Vec<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().filter(|line| line.starts_with("langfuse: ")).map(str::to_owned).collect()
}

#[test]
fn a_filtered_target_is_one_line_on_stderr() {
    if std::env::var_os(CHILD).is_none() {
        let said = notices(&in_own_process("a_filtered_target_is_one_line_on_stderr"));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("RUST_LOG=buttress=info"), "{said:?}");
        return;
    }
    let langfuse = Langfuse::to_terminal(TerminalTree::new());
    let filter = Targets::new().with_default(tracing::Level::ERROR);
    tracing_subscriber::registry().with(langfuse.layer()).with(filter).init();
    info_span!(target: "buttress", "retry_execution").in_scope(|| ());
}

#[test]
fn a_global_layer_collects_from_every_thread_and_says_nothing() {
    if std::env::var_os(CHILD).is_none() {
        let test = "a_global_layer_collects_from_every_thread_and_says_nothing";
        assert_eq!(notices(&in_own_process(test)), [""; 0]);
        return;
    }
    let tree = TerminalTree::new();
    let langfuse = Langfuse::to_terminal(tree.clone());
    tracing_subscriber::registry().with(langfuse.layer()).init();
    let work = || {
        info_span!(target: "buttress", "retry_execution").in_scope(|| {
            current().level(Level::Warning).status_message("rescued");
        });
    };
    let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(work)).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(tree.trees().len(), 8);
    assert_eq!(tree.render().matches("WARNING: rescued").count(), 8);
    assert_eq!(langfuse.stats().accepted, 8);
}
