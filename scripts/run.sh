#!/usr/bin/env bash
# Builds imagefleet and starts it here: a balancer on port 5000 and local workers behind it.
#
#   ./scripts/run.sh                            two workers or more, one for each core
#   ./scripts/run.sh --listen 127.0.0.1:5001    every flag goes to the balancer
#   ./scripts/run.sh --worker 10.0.0.7:8501     workers of your own instead of spawned ones
#   ./scripts/run.sh --access-log /dev/null     without a line for each request
#
# Ctrl-C stops everything.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

# Does the caller bring workers, or a log?
own_workers=${BALANCER_WORKER:-}${BALANCER_SPAWN:-}${BALANCER_CONFIG:-}
own_log=${BALANCER_ACCESS_LOG:-}${BALANCER_CONFIG:-}
for argument in "$@"; do
  case $argument in
    --worker | --worker=* | --spawn | --spawn=* | --rspec* | --workers-file*) own_workers=yes ;;
    --config*) own_workers=yes own_log=yes ;;
    --access-log | --access-log=*) own_log=yes ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
  esac
done
cores=$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
[ -n "$own_log" ] || export BALANCER_ACCESS_LOG=- BALANCER_ACCESS_LOG_FORMAT="${BALANCER_ACCESS_LOG_FORMAT:-text}"
[ -n "$own_workers" ] || set -- --spawn "$((cores > 2 ? cores : 2))" "$@"

ensure_rust
say "Building (the first time takes some minutes)."
cargo build --release --locked --bin balancer --bin worker --bin client
bin=${CARGO_TARGET_DIR:-target}/release

"$bin/balancer" "$@" &
balancer=$!
trap 'kill -TERM "$balancer" 2>/dev/null; wait "$balancer" 2>/dev/null; exit 0' INT TERM
# The balancer itself is asked, by its process id: another program may have the port.
tries=0
until url=$("$bin/balancer" healthcheck --pid "$balancer" "$@" 2>/dev/null); do
  if ! kill -0 "$balancer" 2>/dev/null; then
    wait "$balancer" && exit 0
    [ "$(uname)" = Darwin ] && say "On macOS, AirPlay Receiver has port 5000: switch it off (System Settings, General, AirDrop & Handoff) or add --listen 5001."
    die "the balancer did not start; its own message is above"
  fi
  tries=$((tries + 1))
  [ "$tries" -lt 300 ] || { kill -TERM "$balancer"; die "no worker became ready within a minute"; }
  sleep 0.2
done
say "imagefleet is ready: $url"
say "  curl -F image=@digit.png ${url}submit"
[ -d models/mobilenet_v2 ] \
  || say "  Photos too: $bin/worker pull mobilenet_v2   (14 MB, no restart)"
say "  Ctrl-C stops it."
wait "$balancer"
