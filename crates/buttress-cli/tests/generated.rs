//! Completions and the manual, from the real program.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, process::Command};

use support::run;

#[test]
fn every_shell_has_completions_of_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell], &[]).code(0).stdout;
        for word in
            ["stats", "trace", "spool", "replay", "checkpoints", "history", "since", "store"]
        {
            assert!(script.contains(word), "{word} is missing for {shell}");
        }
    }
}

#[test]
fn bash_reads_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("buttress");
    fs::write(&script, run(&["completions", "bash"], &[]).code(0).stdout).unwrap();
    let asks = "source \"$1\"; COMP_WORDS=(buttress st); COMP_CWORD=1; \
                _buttress buttress st buttress; echo \"${COMPREPLY[@]}\"";
    let bash = Command::new("bash").args(["-c", asks, "bash"]).arg(&script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout).trim(), "stats", "{bash:?}");
}

#[test]
fn the_manual_names_the_commands_the_variables_and_the_exit_codes() {
    let page = run(&["man"], &[]).code(0).stdout;
    assert!(page.starts_with(".ie \\n(.g") && page.contains(".TH buttress 1"), "{page}");
    for word in [
        "buttress\\-stats(1)",
        "buttress\\-spool(1)",
        "LANGFUSE_BASE_URL",
        "BUTTRESS_STORE",
        "BUTTRESS_SPOOL_DIR",
        "Exit codes",
    ] {
        assert!(page.contains(word), "{word} is not in\n{page}");
    }
}

#[test]
fn a_page_for_each_command_goes_into_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("man");
    let ran = run(&["man", "--dir", into.to_str().unwrap()], &[]).code(0);
    assert_eq!(ran.stdout, "");
    for page in ["buttress.1", "buttress-stats.1", "buttress-spool-replay.1"] {
        assert!(fs::read_to_string(into.join(page)).unwrap().contains(".TH"), "{page}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    run(&["man", "--dir", file.to_str().unwrap()], &[]).code(1).said("--dir");
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = run(&["--version"], &[]).code(0).stdout;
    assert_eq!(version, format!("buttress {}\n", env!("CARGO_PKG_VERSION")));
}
