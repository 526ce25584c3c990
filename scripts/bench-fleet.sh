#!/usr/bin/env bash
# The full path of a photo on this machine: load generator, balancer, one worker of one thread per core.
# First single requests (their round-trip time), then enough concurrent ones to keep every core busy.
#
#   ./scripts/bench-fleet.sh PHOTO           samples go to results/fleet-TIME, figures to bench/results
#   ./scripts/bench-fleet.sh PHOTO FOLDER    another folder for samples, new or empty
#   USERS=16 DURATION=20s ./scripts/bench-fleet.sh PHOTO
set -euo pipefail
photo=$(realpath "${1:?a photo is needed}")
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
out=${2:-results/fleet-$(date +%Y%m%d-%H%M%S)}
bin=$(release_programs)
models=$(models_of_photos "$bin")

mkdir -p "$out"
mkfifo "$out/address"
"$bin/balancer" --log warn --listen 127.0.0.1:0 --spawn "$(nproc)" --models "$models" >"$out/address" &
balancer=$!
trap 'kill "$balancer" 2>/dev/null; wait "$balancer" 2>/dev/null || true; rm -f "$out/address"' EXIT
exec 3<"$out/address"
read -r -t 60 line <&3 || die "the balancer does not listen"
target=http://${line##*[ /]}
until_served "$target/v2/models/mobilenet_v2/ready" "$balancer"

say "Alone:"
"$bin/client" rtt --log warn --images "$photo" --repeat 200 --no-twins --target "$target" --out "$out/rtt"
say "${USERS:=8} users who wait for each answer:"
"$bin/client" load --log warn --arrivals closed --users "$USERS" --duration "${DURATION:-15s}" --threads 1 \
  --images "$photo" --target "$target" --out "$out/load"
python3 bench/fleet.py "$out" "$USERS" "./scripts/bench-fleet.sh PHOTO"
