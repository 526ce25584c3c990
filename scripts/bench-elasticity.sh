#!/usr/bin/env bash
# A balancer that starts and stops its own workers while a load of photos rises and falls; one
# worker is killed in the middle of it. First, the memory of one idle worker is measured.
#
#   ./scripts/bench-elasticity.sh PHOTO           samples go to results/elasticity-TIME, figures to bench/results
#   ./scripts/bench-elasticity.sh PHOTO FOLDER    another folder for samples, new or empty
#   RATE=200 SPAWN=1..4 MODELS=models ./scripts/bench-elasticity.sh PHOTO
set -euo pipefail
photo=$(realpath "${1:?a photo is needed}")
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
out=${2:-results/elasticity-$(date +%Y%m%d-%H%M%S)}
bin=$(release_programs)
models=$(models_of_photos "$bin")
rate=${RATE:-400} spawn=${SPAWN:-1..3}
low=$(((rate + 19) / 20))
mkdir -p "$out"
touch "$out/worker" "$out/address" "$out/idle"
pids=()
end() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
}
trap end EXIT

listens() { # the program's output; waits until it says where it listens
  local tries
  for tries in {1..600}; do
    [[ $(<"$1") == *"listening on "* ]] && return
    read -r -t 0.1 <> <(:) || true
  done
  die "nothing listens after $tries tries"
}

idle() { # models, and what the figure is of
  "$bin/worker" --log warn serve --listen 127.0.0.1:0 --threads 1 --models "$1" >"$out/worker" &
  local pid=$!
  pids+=("$pid")
  listens "$out/worker"
  # Memory that loading needed is returned to the system shortly after.
  read -r -t 5 <> <(:) || true
  sed -n "s/^VmRSS:[[:space:]]*\([0-9]*\) kB/$2 \1/p" "/proc/$pid/status" >>"$out/idle"
  kill "$pid"
  wait "$pid" || true
  : >"$out/worker"
}
mkdir -p "$out/digits"
cp -R "$models/mnist" "$out/digits/"
idle "$out/digits" digits
idle "$models" photos

"$bin/balancer" --log info --listen 127.0.0.1:0 --admin 127.0.0.1:0 --spawn "$spawn" --worker-threads 1 \
  --spawn-shrink-after 15s --policy p2c --models "$models" >"$out/address" 2>"$out/balancer.log" &
balancer=$!
pids+=("$balancer")
listens "$out/address"
target=http://$(sed -n 's/.*listening on http:\/\///p' "$out/address" | head -n 1)
until_served "$target/v2/models/mobilenet_v2/ready" "$balancer"
( # In the middle of the full load, without warning, as in a crash.
  read -r -t 80 <> <(:) || true
  pkill -9 -P "$balancer" -o || true
) &
pids+=($!)
say "Load from $low to $rate requests per second and back, $spawn workers of one thread:"
"$bin/client" load --log warn --stages "20s:$low,30s:$low..$rate,60s:$rate,30s:$rate..$low,60s:$low" --warm-up 0s --threads 1 \
  --images "$photo" --target "$target" --out "$out/load" || say "the run judges itself as not valid: see its report"
python3 bench/elasticity.py "$out" "RATE=$rate SPAWN=$spawn ./scripts/bench-elasticity.sh PHOTO"
