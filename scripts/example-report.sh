#!/usr/bin/env bash
# Makes docs/example-report.html: the report of every experiment of the client, measured in a slice of this machine.
# Needs root, a machine that does nothing else, and `cargo build --release --workspace --bins`. It takes about 40 minutes,
# a quarter of an hour with --quick; flags go to `client reproduce`. The measurements also stay in results/.
# Usage: sudo scripts/example-report.sh [--quick|--full] [--photos DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
client=${CARGO_TARGET_DIR:-target}/release/client
out=results/example-report-$(date -u +%Y-%m-%dT%H-%M-%SZ)
"$client" reproduce --slice --all --out "$out" "$@"
cp "$out/report.html" docs/example-report.html
echo "docs/example-report.html is the report; all that was measured is in $out"
