#!/usr/bin/env bash
# Runs every test: Rust unit and integration tests, doc tests, then the end-to-end tests on the real
# programs with a real browser.
#
#   ./scripts/test.sh                    everything
#   ./scripts/test.sh -k submit          arguments go to pytest, for the end-to-end tests
#   IMAGEFLEET_E2E=0 ./scripts/test.sh   Rust only
#   IMAGEFLEET_DOCKER=0 …                no containers, which need root, dockerd and Docker Compose
#   IMAGEFLEET_MACHINES=0 …              no machines, which need root, debootstrap and systemd-nspawn; 1 also runs
#                                        the tests of machines under load
#   IMAGEFLEET_TEST_DATA=DIR …           also what needs large data (scripts/fetch-test-data.sh); by default a
#                                        folder `data` here, or in a folder beside the clone
#
# Skipped tests are listed at the end; with IMAGEFLEET_STRICT=1 a skip that tests/skips.txt does not
# allow is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
ensure_rust

for folder in data ../data ../*/data; do
  [ -f "$folder/mnist/t10k-labels-idx1-ubyte.gz" ] || continue
  IMAGEFLEET_TEST_DATA=${IMAGEFLEET_TEST_DATA:-$folder}
done
if [ -n "${IMAGEFLEET_TEST_DATA:-}" ]; then
  # Tests run in the folders of their crates: a relative path would mean something else there.
  IMAGEFLEET_TEST_DATA=$(cd "$IMAGEFLEET_TEST_DATA" && pwd) || die "IMAGEFLEET_TEST_DATA names no folder"
  export IMAGEFLEET_TEST_DATA
else
  unset IMAGEFLEET_TEST_DATA
fi
IMAGEFLEET_SKIPS=$(mktemp)
export IMAGEFLEET_SKIPS
# Lets an installation that is under way finish.
trap 'wait; rm -f "$IMAGEFLEET_SKIPS"' EXIT
# judge_skips: prints the skipped tests; its status tells whether they are allowed.
judge_skips() {
  command -v python3 >/dev/null || return 0
  if [ "${IMAGEFLEET_STRICT:-0}" = 1 ]; then set -- --strict; else set --; fi
  python3 scripts/skips.py "$IMAGEFLEET_SKIPS" "$@"
}

# prepare_end_to_end: installs what the end-to-end tests need and a machine lacks.
prepare_end_to_end() {
  ensure_debian python3 python3 python3-venv || die "python3 is needed for the end-to-end tests (or set IMAGEFLEET_E2E=0)"
  if ! cmp -s tests/e2e/requirements.txt .venv/installed.txt; then
    say "Making .venv with the packages of tests/e2e/requirements.txt."
    python3 -m venv .venv >/dev/null || { install_debian python3-venv && python3 -m venv .venv; }
    .venv/bin/pip install --quiet --disable-pip-version-check --requirement tests/e2e/requirements.txt
    cp tests/e2e/requirements.txt .venv/installed.txt
  fi
  ensure_debian chromedriver chromium chromium-driver \
    || skip "browser tests: no chromedriver (Debian: apt install chromium chromium-driver)"
  # Checks of the page besides the browser: axe-core and the TypeScript compiler.
  local page=tests/e2e/page
  if command -v npm >/dev/null && ! cmp -s "$page/package-lock.json" "$page/node_modules/installed.json"; then
    if npm ci --prefix "$page" --ignore-scripts --no-audit --no-fund --silent; then
      cp "$page/package-lock.json" "$page/node_modules/installed.json"
    else
      skip "axe and tsc on the page: npm ci does not work"
    fi
  fi
  # These install system packages, so only CI gets them without asking.
  if [ "${CI:-}" = true ]; then
    ensure_debian promtool prometheus || skip "tests of alerts and dashboard: no Prometheus"
    ensure_debian amtool prometheus-alertmanager || skip "tests of notifications about alerts: no Alertmanager"
    ensure_debian nginx nginx || skip "tests behind nginx: no nginx"
    ensure_debian haproxy haproxy || skip "tests behind HAProxy: no HAProxy"
    ensure_go_tool actionlint github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 || skip "actionlint: no Go"
  fi
  if [ "${CI:-}" = true ] && [ "${IMAGEFLEET_MACHINES:-1}" != 0 ]; then
    ensure_debian systemd-nspawn systemd-container debootstrap iproute2 || skip "tests of machines: no systemd-nspawn"
  fi
  if [ "${CI:-}" = true ] && [ "${IMAGEFLEET_DOCKER:-1}" != 0 ]; then
    ensure_debian dockerd docker.io iproute2 iptables || skip "tests of containers: no dockerd"
    docker compose version >/dev/null 2>&1 || ensure_debian docker-compose docker-compose \
      || skip "tests of containers: no Docker Compose"
  fi
}

# In the background, since it mostly waits for downloads and the compiler does not.
if [ "${IMAGEFLEET_E2E:-1}" != 0 ]; then
  prepare_end_to_end &
  preparing=$!
fi
if command -v cargo-nextest >/dev/null; then
  cargo nextest run --workspace --locked --profile ci
else
  say "cargo-nextest is not installed: running the same tests with cargo test."
  cargo test --workspace --locked --lib --bins --tests --no-fail-fast
fi
cargo test --workspace --locked --doc --quiet

if [ "${IMAGEFLEET_E2E:-1}" = 0 ]; then
  skip "end-to-end tests (IMAGEFLEET_E2E=0)"
  judge_skips
  exit
fi
# With the tests' features, so that nothing is compiled twice.
cargo build --workspace --locked --bins --tests
wait "$preparing" || die "the end-to-end tests cannot be prepared (see above), or set IMAGEFLEET_E2E=0"
# The last line is the summary of the test runner; the skipped tests are listed above it.
summary=$(mktemp)
status=0
# Tests mostly wait, for a browser, a program or a time limit, so two processes run one file each.
.venv/bin/python -m pytest tests/e2e --numprocesses 2 --dist loadfile "$@" | tee "$summary" || status=$?
judge_skips || status=1
tail -n 1 "$summary"
rm -f "$summary"
exit "$status"
