#!/usr/bin/env bash
# Runs every check of the project: format, lints, tests, doctests, docs, dependencies.
#
#   bash tests/all.sh          everything
#   bash tests/all.sh --fast   format, lints, tests and docs: what one runs before each commit
#
# Installs what it needs where it is missing: cargo-deny and gungraun's runner from the Rust
# registry; valgrind, Postgres, pgbouncer, Redis, Python, strace, Chromium and Node.js with apt-get
# (which may ask for root); playwright-core with npm, into the target folder. Ends with one line that
# counts the tests; exits with 1 when a check failed.
#
# Kill loops of stores are short here: BUTTRESS_KILLS=200 BUTTRESS_ROUNDS=full is the whole of them.
set -uo pipefail
cd "$(dirname "$0")/.."

fast=false
case "${1:-}" in
    "") ;;
    --fast) fast=true ;;
    *)
        echo "usage: bash tests/all.sh [--fast]" >&2
        exit 2
        ;;
esac

passed=0
failed=0
checks_failed=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Runs one check and shows its output; the log is kept for counting.
check() {
    local name=$1
    shift
    echo "==> $name"
    local started=$SECONDS
    if "$@" 2>&1 | tee "$log"; then
        echo "    $name: ok ($((SECONDS - started)) s)"
    else
        echo "    $name: FAILED ($((SECONDS - started)) s)"
        checks_failed+=("$name")
    fi
}

# Adds up "N passed" and "N failed" of the lines that close a test run.
count() {
    local sum
    # Colours come first on a line, so they go before the lines are picked.
    sum=$(sed -E 's/\x1b\[[0-9;]*m//g' "$log" |
        grep -E '^(test result:|[[:space:]]*Summary )' |
        grep -oE "[0-9]+ $1" | awk '{ n += $1 } END { print n + 0 }')
    echo "$sum"
}

tests() {
    check "$@"
    passed=$((passed + $(count passed)))
    failed=$((failed + $(count failed) + $(count "timed out")))
}

# Lints every crate alone with its smallest set of features, and each of its features alone.
minimal_features() {
    local package feature target
    for package in buttress buttress-graph buttress-langfuse buttress-stores buttress-dashboard buttress-cli; do
        echo "$package, no features"
        target=--lib
        [ "$package" = buttress-cli ] && target=--bins
        cargo clippy --quiet -p "$package" $target --no-default-features -- -D warnings || return 1
        for feature in $(features_of "$package"); do
            echo "$package, $feature"
            cargo clippy --quiet -p "$package" $target --no-default-features --features "$feature" \
                -- -D warnings || return 1
        done
    done
}

features_of() {
    sed -n '/^\[features\]/,/^\[dependencies\]/s/^\([a-z-]*\) = .*/\1/p' "crates/$1/Cargo.toml" |
        grep -v '^full$'
}

# The core crate stays small: at most 18 crates with the five patterns on.
few_dependencies() {
    local crates
    crates=$(cargo tree -p buttress -e normal --no-default-features \
        --features circuit-breaker,retry,timeout,fallback,agent --prefix none | sort -u | wc -l)
    echo "buttress names $crates crates, itself included"
    [ "$crates" -le 18 ]
}

# What changes the counts on record says why in the changelog. Compared with what origin/main has in
# common with this checkout, or with the commit before where there is no more than that; a checkout
# without either is not looked at.
record_is_explained() {
    local record=benches/instructions.json base
    base=$(git merge-base HEAD origin/main 2>/dev/null)
    if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
        base=$(git rev-parse --verify --quiet HEAD~ 2>/dev/null)
    fi
    if [ -z "$base" ] || ! git cat-file -e "$base:$record" 2>/dev/null; then
        echo "no commit to compare $record with"
    elif git diff --quiet "$base" -- $record; then
        echo "$record is that of ${base:0:12}"
    elif git diff --quiet "$base" -- CHANGELOG.md; then
        echo "$record differs from that of ${base:0:12}, and CHANGELOG.md does not say why"
        return 1
    fi
}

instructions() {
    record_is_explained && bash benches/instructions.sh
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps
}

dependencies() {
    if ! cargo deny --version >/dev/null 2>&1; then
        cargo install cargo-deny --locked --version 0.20.2 || return 1
    fi
    cargo deny --all-features check bans licenses sources
}

# Looks at what would be packed, then packs every published crate and builds each from what was packed
# alone: in a folder of its own, since cargo takes a package of a version that it has seen for the same one.
packages() {
    local folder status=0
    python3 tests/packages.py || status=1
    folder=$(mktemp -d) || return 1
    CARGO_TARGET_DIR=$folder cargo package --quiet --allow-dirty \
        $(for crate in crates/*; do echo "-p ${crate#crates/}"; done) || status=1
    rm -rf "$folder" "${CARGO_HOME:-$HOME/.cargo}"/registry/src/-*/buttress*
    return $status
}

# The servers that tests start for themselves. Debian keeps Postgres' outside of PATH.
servers() {
    local missing=()
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null ||
        missing+=(postgresql)
    PATH="$PATH:/usr/sbin" command -v pgbouncer >/dev/null || missing+=(pgbouncer)
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v openssl >/dev/null || missing+=(openssl)
    # The seed's Python, which reads and writes our files; what shows the order of system calls.
    command -v python3 >/dev/null || missing+=(python3)
    command -v strace >/dev/null || missing+=(strace)
    [ ${#missing[@]} -eq 0 ] && return
    local sudo
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

check "servers" servers
check "format" cargo fmt --all --check
check "clippy, all features" cargo clippy --workspace --all-targets --all-features -- -D warnings

if cargo nextest --version >/dev/null 2>&1; then
    tests "tests" cargo nextest run --workspace --all-features --profile ci
else
    tests "tests" cargo test --workspace --all-features --lib --bins --tests --no-fail-fast
fi
check "documentation" documentation

if ! $fast; then
    tests "doctests" cargo test --workspace --all-features --doc --no-fail-fast
    check "clippy, minimal features" minimal_features
    check "number of dependencies" few_dependencies
    check "cargo deny" dependencies
    check "lowest Rust" python3 tests/msrv.py
    check "packages" packages
    check "dashboard in Chromium" bash tests/dashboard.sh
    check "instructions of a call" instructions
    check "overhead, short" cargo run --quiet --release -p buttress-benches --bin overhead -- --quick
    check "scale, short" cargo run --quiet --release -p buttress-benches --bin scale -- --quick
    check "checkpoint, short" cargo bench --quiet -p buttress-benches --bench checkpoint -- --quick
    check "graph, short" cargo bench --quiet -p buttress-benches --bench graph -- --quick
    check "langfuse, short" cargo bench --quiet -p buttress-benches --bench langfuse -- --short
    check "soak, short" cargo run --quiet --release -p buttress-benches --bin soak -- --quick
fi

echo
for name in ${checks_failed[@]+"${checks_failed[@]}"}; do
    echo "failed: $name"
done
# A check that failed without a failing test still counts.
if [ ${#checks_failed[@]} -gt 0 ] && [ "$failed" -eq 0 ]; then
    failed=${#checks_failed[@]}
fi
echo "$passed passed, $failed failed"
[ ${#checks_failed[@]} -eq 0 ] && [ "$passed" -gt 0 ]
