#!/usr/bin/env bash
# Holds `client simulate` against measured runs in a slice: 16 workers whose service time is a timer
# (examples/timed_worker.rs), the real balancer, 30 to 90 % utilisation. Needs root, python3 and
#   cargo build --release --workspace --bins --example timed_worker
# Usage: client/validate.sh OUT [SECONDS]; QUIET may name a wrapper for each measured run.
set -euo pipefail
out=$1 seconds=${2:-25}
target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/release
client=$target/client workers=16 mean_ms=40
export TIMED_WORKER=lognormal:${mean_ms}ms:0.5 BALANCER_MAX_IN_FLIGHT=100000
mkdir -p "$out/bin"
ln -sf "$(realpath "$target/examples/timed_worker")" "$out/bin/worker"
ln -sf "$(realpath "$target/balancer")" "$out/bin/balancer"
"$client" slice rspec --workers $workers > "$out/slice.rspec"
slice=(--name validate --rspec "$out/slice.rspec" --worker-cpus 0.25 --bin-dir "$out/bin" --models "$out")
finish() { "$client" slice down --name validate > "$out/down.log" 2>&1; }
trap finish EXIT

# measure NAME PERCENT: an open loop at that utilisation; a verdict of INVALID is for the reader.
measure() {
  local rate=$((workers * 1000 * $2 / mean_ms / 100))
  # shellcheck disable=SC2086
  ${QUIET:-} "$client" slice run "${slice[@]}" -- load --rate $rate --seed "$2" --duration "${seconds}s" \
    --warm-up 3s --out "$out/$1" > "$out/$1.txt" 2>&1 || true
}
# simulate NAME POLICY: the same arrivals, service times from the run at 10 %.
simulate() {
  "$client" simulate --workers $workers --policy "$2" --arrivals-from "$out/$1" --service-from "$out/u10" \
    --seed "${seed:-1}" --json > "$out/$1-simulated.json" 2> "$out/simulate.log"
}
for policy in p2c random; do
  finish
  BALANCER_POLICY=$policy "$client" slice run "${slice[@]}" > "$out/up.log" 2>&1
  if [ $policy = random ]; then measure random80 80; break; fi
  for percent in 10 30 60 80 90; do measure "u$percent" $percent; done
done
for name in u30 u60 u80 u90; do simulate $name p2c; done
simulate random80 random
python3 - "$out" << 'PYTHON'
import json, sys
print(f"{'run':9} {'quantile':8} {'measured':>9} {'simulated':>9} {'error':>7}   (ms)")
tails = {}
for name in ["u30", "u60", "u80", "u90", "random80"]:
    measured = json.load(open(f"{sys.argv[1]}/{name}/summary.json"))["latency_ms"]
    simulated = json.load(open(f"{sys.argv[1]}/{name}-simulated.json"))[0]
    for q in ["p50", "p95", "p99"]:
        m, s = measured[q], simulated[q] * 1e3
        tails[name, q] = m, s
        print(f"{name:9} {q:8} {m:9.1f} {s:9.1f} {100 * (s / m - 1):6.1f} %")
for kind, which in enumerate(["measured", "simulated"]):
    ratio = tails["random80", "p99"][kind] / tails["u80", "p99"][kind]
    print(f"p99 of random over p2c at 80 %, {which}: {ratio:.2f}")
PYTHON
