#!/usr/bin/env bash
# Looks at the dashboard in a real Chromium; crates/buttress-dashboard/browser says what it does.
#
#   bash tests/dashboard.sh
#
# Installs Chromium and Node.js with apt-get where they are missing (which may ask for root), and
# playwright-core from npm into the target folder. Screenshots are left in target/dashboard-screenshots.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
browser=crates/buttress-dashboard/browser
modules=$target/dashboard-browser

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

mkdir -p "$modules"
if ! cmp -s "$browser/package-lock.json" "$modules/package-lock.json" ||
    [ ! -d "$modules/node_modules/playwright-core" ]; then
    cp "$browser/package.json" "$browser/package-lock.json" "$modules/"
    (cd "$modules" && npm ci --ignore-scripts --no-audit --no-fund)
fi

cargo build --quiet -p buttress-dashboard --features opentelemetry --example outage
rm -rf "$target/dashboard-screenshots"
node "$browser/dashboard.mjs" "$target/debug/examples/outage" "$modules" \
    "$target/dashboard-screenshots" "$(command -v chromium)"
