#!/usr/bin/env bash
# Holds `client simulate` against measured runs in a slice: the real balancer in front of 4 workers of
# a quarter of a core each, 30 to 90 % of what they can do, and p2c against random. Needs root, curl and
#   cargo build --release --workspace --bins --example timed_worker
# Usage: client/validate.sh OUT [MODELS] [SECONDS]; QUIET may name a wrapper for each measured run.
# What it finds is printed, and written into bench/results.
#   MODELS  a repository with mobilenet_v2: the workers compute it, in single precision, one image at
#           a time. Without it (or with ""), their service time is a timer (examples/timed_worker.rs).
set -euo pipefail
out=$1 models=${2:-} seconds=${3:-60}
target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/release
client=$target/client workers=4 told='""'
export BALANCER_MAX_IN_FLIGHT=100000
mkdir -p "$out/bin" "$out/models"
ln -sf "$(realpath "$target/balancer")" "$out/bin/balancer"
if [ -n "$models" ]; then
  told=MODELS
  ln -sf "$(realpath "$target/worker")" "$out/bin/worker"
  # A computation of many periods of the quota: then the quota is a slow processor. See docs/slice.md.
  export WORKER_PRECISION=f32 WORKER_ISA=${WORKER_ISA:-avx2}
  cp -r "$models/mobilenet_v2" "$out/models/"
  sed -i 's/^max_batch_size = .*/max_batch_size = 1/' "$out"/models/mobilenet_v2/*/model.toml
else
  ln -sf "$(realpath "$target/examples/timed_worker")" "$out/bin/worker"
  export TIMED_WORKER=lognormal:40ms:0.5
fi
"$client" slice rspec --workers $workers > "$out/slice.rspec"
slice=(--name validate --rspec "$out/slice.rspec" --worker-cpus 0.25 --bin-dir "$out/bin" --models "$out/models")
finish() { "$client" slice down --name validate > "$out/down.log" 2>&1; }
trap finish EXIT

# measure NAME FLAG...: load from the node `client`; a verdict of INVALID is for the reader.
measure() {
  local name=$1
  shift
  ${QUIET:-} "$client" slice run "${slice[@]}" -- load --warm-up 5s --out "$out/$name" "$@" \
    > "$out/$name.txt" 2>&1 || true
}
under() {
  "$client" slice exec --name validate balancer -- \
    curl --silent --fail --request POST "http://127.0.0.1:9900/fleet/policy?name=$1" > "$out/policy.log"
}
finish
BALANCER_POLICY=p2c "$client" slice run "${slice[@]}" > "$out/up.log" 2>&1
measure capacity --arrivals closed --users 32 --duration 20s
against() { "$client" simulate --workers $workers --policy "$2" --against "$out/$1" "${@:3}"; }
calculate() { awk "BEGIN { print $1 }"; }
capacity=$(sed -nE 's/.*achieved ([0-9.]+).*/\1/p' "$out/capacity.txt" | head -1)
rate() { calculate "$capacity * $1 / 100"; }
# What a request costs a worker in an open loop tells the rate that would keep all workers busy.
measure pilot --rate "$(rate 70)" --seed 7 --duration 25s
busy=$(against pilot p2c --json | sed -nE 's/.*"busy": ([0-9.]+).*/\1/p' | head -1)
sent=$(sed -nE 's/.*offered ([0-9.]+).*/\1/p' "$out/pilot.txt" | head -1)
capacity=$(calculate "$sent / $busy")
echo "capacity: $capacity/s"
for percent in 30 60 90; do
  measure "u$percent" --rate "$(rate $percent)" --seed $percent --duration "${seconds}s"
done
# In turn, three times: a machine that is slow for a minute is then slow for both.
for trial in 1 2 3; do
  for policy in p2c random; do
    under $policy
    measure "$policy$trial" --rate "$(rate 80)" --seed "8$trial" --duration "${seconds}s"
  done
done
finish
python3 "$(dirname "$0")/../bench/simulator.py" "$out" --client "$client" --workers $workers \
  --command "sudo client/validate.sh OUT $told $seconds"
