#!/usr/bin/env bash
# The balancer compared with HAProxy and nginx: CPU time per request, peak rate and tail latency, in one
# interleaved run on this machine. Installs haproxy, nginx and wrk with apt when they are missing.
#
#   ./scripts/bench-proxies.sh                      about four minutes, prints one table
#   ./scripts/bench-proxies.sh --rounds 1           a quick look
#   ./scripts/bench-proxies.sh -- --policy p2c      flags after -- go to the balancer
#   RELEASED=1 ./scripts/bench-proxies.sh           also the balancer of scripts/release-build.sh, ten minutes more
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
[ "$(nproc)" -ge 2 ] || die "two cores are needed: one for the proxy, one for load and upstreams"
for program in haproxy nginx wrk python3; do
  ensure_debian "$program" "$program" || die "$program is needed (Debian and Ubuntu: apt install $program)"
done
ensure_rust
cargo build --release --locked --quiet --bin balancer
command=./scripts/bench-proxies.sh
if [ "${RELEASED:-0}" = 1 ]; then
  RELEASED_PROGRAMS=$(./scripts/release-build.sh)
  export RELEASED_PROGRAMS
  command="RELEASED=1 $command"
fi
BENCH_COMMAND=$command exec python3 scripts/proxylab/bench.py "$@"
