#!/usr/bin/env bash
# Counts the instructions of a call and compares them with benches/instructions.json.
#
#   bash benches/instructions.sh            fails when a count is more than 5 % away
#   bash benches/instructions.sh --update   writes the counts anew
#
# Installs valgrind (with apt-get, which may ask for root) and gungraun's runner where they are
# missing.
set -euo pipefail
cd "$(dirname "$0")/.."

# The runner must be of the very version that the bench is built with.
version=$(sed -n 's/^gungraun = "=\(.*\)"$/\1/p' Cargo.toml)

if ! command -v valgrind >/dev/null; then
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq valgrind
fi
if [ "$(gungraun-runner --version 2>/dev/null)" != "gungraun-runner $version" ]; then
    cargo install gungraun-runner --locked --version "$version"
fi
cargo bench -p buttress-benches --bench instructions -- "$@"
