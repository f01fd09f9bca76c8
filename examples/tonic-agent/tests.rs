//! The command as people run it: each fault has its code.

use std::process::Command;

#[test]
fn each_fault_has_its_code_and_the_command_ends_well() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tonic-agent"));
    command.env_remove("LANGFUSE_PUBLIC_KEY").env_remove("LANGFUSE_SECRET_KEY");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = text.lines().collect();
    let expected = [
        "AAPL               AAPL looks fine today, says large.",
        "AAPL [503x2]       AAPL looks fine today, says large.",
        "MSFT [context]     MSFT looks fine today, says small.",
        "AAPL [all:hang]    DeadlineExceeded: timeout",
        "AAPL [all:429]     ResourceExhausted: rate_limited, again in 1000 ms",
        "AAPL [all:500]     Unavailable: transient",
        "the client's circuit is closed",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn what_it_does_not_know_is_told() {
    let output = Command::new(env!("CARGO_BIN_EXE_tonic-agent")).arg("--sever").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).contains("usage: tonic-agent"));
}
