#!/usr/bin/env bash
# Kills, freezes, drains and restarts workers and proxies under load, and counts what clients see:
# the balancer compared with HAProxy and nginx. Installs haproxy and nginx with apt when they are missing.
#
#   ./scripts/faults.sh                                       everything, about seven minutes
#   ./scripts/faults.sh --proxy imagefleet --fault freeze     one case
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
for program in haproxy nginx python3; do
  ensure_debian "$program" "$program" || die "$program is needed (Debian and Ubuntu: apt install $program)"
done
ensure_rust
cargo build --release --locked --quiet --bin balancer --bin worker
BENCH_COMMAND=./scripts/faults.sh exec python3 scripts/proxylab/faults.py "$@"
