#!/usr/bin/env bash
# Holds `client simulate` against measured runs in a slice: the real balancer in front of 4 workers of
# a quarter of a core each, 30 to 90 % of what they can do, and p2c against random. Needs root, curl and
#   cargo build --release --workspace --bins --example timed_worker
# Usage: client/validate.sh OUT [MODELS] [SECONDS]; QUIET may name a wrapper for each measured run.
#   MODELS  a repository with mobilenet_v2: the workers compute it, in single precision, one image at
#           a time. Without it (or with ""), their service time is a timer (examples/timed_worker.rs).
set -euo pipefail
out=$1 models=${2:-} seconds=${3:-60}
target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/release
client=$target/client workers=4
export BALANCER_MAX_IN_FLIGHT=100000
mkdir -p "$out/bin" "$out/models"
ln -sf "$(realpath "$target/balancer")" "$out/bin/balancer"
if [ -n "$models" ]; then
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
echo "each request costs what it cost in the run:"
for name in u30 u60 p2c1 p2c2 p2c3 u90; do against $name p2c; done | awk '!seen[$0]++'
for name in random1 random2 random3; do against $name random; done | awk 'NR > 1 && !/^run/'
echo "what requests cost is drawn from the run:"
for name in u30 u60 p2c1 p2c2 p2c3 u90; do against $name p2c --service-from "$out/$name"; done | awk '!seen[$0]++'
# The figures of one quantile, measured and simulated; dashes where the run was too short for it.
figures() {
  against "$1" "$2" --json | awk -v wanted="\"$3\"" '
    $1 == "\"quantile\":" { is_wanted = index($2, wanted) }
    is_wanted && ($1 == "\"measured\":" || $1 == "\"simulated\":") { sub(",", "", $2); found = found " " $2 }
    END { print found == "" ? "- -" : found }'
}
p99() { figures "$1" "$2" p99; }
for trial in 1 2 3; do
  # Both policies are simulated with the costs of both runs.
  echo "$(p99 "p2c$trial" p2c) $(p99 "random$trial" random) $(p99 "p2c$trial" random) $(p99 "random$trial" p2c)"
done | awk '/-/ { print "too few requests for a p99: give more SECONDS"; next }
  { printf "p99 of random over p2c at 80 %%: measured %.2f, simulated %.2f and %.2f\n", $3 / $1, $6 / $2, $4 / $8 }'
# Ties of slowness to the worker and the moment hold if replays of random are as close as those of p2c.
for trial in 1 2 3; do
  for quantile in p50 p95 p99; do echo "random$trial $quantile $(figures "random$trial" random $quantile)"; done
done | awk '$3 == "-" { print $1, $2, "too few requests"; next }
  { off = 100 * ($4 / $3 - 1); far = far || off > 10 || off < -10; printf "%s %s: simulated %+.1f %%\n", $1, $2, off }
  END { print far ? "random: NOT within 10 %" : "random: within 10 %" }'
