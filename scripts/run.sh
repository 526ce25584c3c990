#!/usr/bin/env bash
# Builds imagefleet and starts it here: a balancer on port 5000 and local workers behind it. The model
# for photos (14 MB) is fetched meanwhile unless it is already here.
#
#   ./scripts/run.sh                            one worker per core, but at least two
#   ./scripts/run.sh --no-photos                digits and irises only, nothing is fetched
#   ./scripts/run.sh --listen 127.0.0.1:5001    every other flag goes to the balancer
#   ./scripts/run.sh --worker 10.0.0.7:8501     workers of your own instead of spawned ones
#   ./scripts/run.sh --access-log /dev/null     without a line per request
#   PROGRAMS=DIR ./scripts/run.sh               with programs that are already built
#
# Ctrl-C stops everything.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

# Does the caller choose the workers or the access log? Do the workers run elsewhere?
own_workers=${BALANCER_WORKER:-}${BALANCER_SPAWN:-}${BALANCER_CONFIG:-}${BALANCER_RSPEC:-}${BALANCER_WORKERS_FILE:-}
own_log=${BALANCER_ACCESS_LOG:-}${BALANCER_CONFIG:-}
elsewhere=${BALANCER_WORKER:-}${BALANCER_CONFIG:-}${BALANCER_RSPEC:-}${BALANCER_WORKERS_FILE:-}
photos=yes models=${BALANCER_MODELS:-models} flags=() flag=''
for argument in "$@"; do
  [ "$flag" != --models ] || models=$argument
  flag=$argument
  case $argument in
    --no-photos) photos='' && continue ;;
    --models=*) models=${argument#*=} ;;
    --spawn | --spawn=*) own_workers=yes ;;
    --worker | --worker=* | --rspec* | --workers-file*) own_workers=yes elsewhere=yes ;;
    --config*) own_workers=yes elsewhere=yes own_log=yes ;;
    --access-log | --access-log=*) own_log=yes ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p;}' "scripts/${0##*/}"; exit 0 ;;
  esac
  flags+=("$argument")
done
cores=$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
[ -n "$own_log" ] || export BALANCER_ACCESS_LOG=- BALANCER_ACCESS_LOG_FORMAT="${BALANCER_ACCESS_LOG_FORMAT:-text}"
[ -n "$own_workers" ] || flags=(--spawn "$((cores > 2 ? cores : 2))" ${flags[@]+"${flags[@]}"})

bin=${PROGRAMS:-bin}
if [ ! -x "$bin/balancer" ]; then
  [ -z "${PROGRAMS:-}" ] || die "no programs in $PROGRAMS"
  ensure_rust
  say "Building (the first time takes some minutes)."
  cargo build --release --locked --bin balancer --bin worker --bin client
  bin=${CARGO_TARGET_DIR:-target}/release
fi

# The balancer's first two lines state where it listens, which matters if a port is 0. They are kept;
# everything after them is the access log and is passed through.
scratch=$(mktemp -d)
fetching=''
trap 'kill $fetching 2>/dev/null || true; rm -rf "$scratch"' EXIT
pass_on() {
  trap '' INT
  local line
  for _ in 1 2; do
    IFS= read -r line || return 0
    printf '%s\n' "$line" | tee -a "$scratch/lines"
  done
  exec cat
}
told() { sed -n "s/^$1 on //p" "$scratch/lines" 2>/dev/null; }

"$bin/balancer" ${flags[@]+"${flags[@]}"} > >(pass_on) &
balancer=$!
stop() {
  kill -TERM "$balancer" 2>/dev/null || true
  wait "$balancer" 2>/dev/null || true
  exit 0
}
trap stop INT TERM
# Checks the balancer itself, by its process id: another program may have the port.
is_ready() {
  local admin
  admin=$(told admin)
  [ -n "$admin" ] && "$bin/balancer" healthcheck --pid "$balancer" --admin "${admin#http://}" >/dev/null 2>&1
}
tries=0
until is_ready; do
  if ! kill -0 "$balancer" 2>/dev/null; then
    wait "$balancer" && exit 0
    [ "$(uname)" = Darwin ] && say "On macOS, AirPlay Receiver has port 5000: switch it off (System Settings, General, AirDrop & Handoff) or add --listen 5001."
    die "the balancer did not start; its own message is above"
  fi
  tries=$((tries + 1))
  [ "$tries" -lt 300 ] || { kill -TERM "$balancer"; die "no worker became ready within a minute"; }
  sleep 0.2
done
url=$(told listening | sed -E 's#//(0\.0\.0\.0|127\.0\.0\.1|\[::1?\]):#//localhost:#')/
say "imagefleet is ready: $url"
say "  curl -F model=mnist -F image=@docs/seven.png ${url}submit"
say "  Ctrl-C stops it."

# The workers notice a new model by themselves, and so does the page.
fetch_photos() {
  local pull
  "$bin/worker" pull mobilenet_v2 --models "$models" >/dev/null 2>"$scratch/fetched" &
  pull=$!
  trap 'kill "$pull" 2>/dev/null; exit' TERM
  if wait "$pull"; then
    say "Photos are recognised now too."
  else
    say "Photos are not recognised: $(tail -n 1 "$scratch/fetched"). Later: $bin/worker pull mobilenet_v2"
  fi
}
if [ -n "$photos" ] && [ -z "$elsewhere" ] && [ ! -d "$models/mobilenet_v2" ]; then
  say "  Fetching the model for photos (MobileNetV2, 14 MB; --no-photos does without)."
  fetch_photos &
  fetching=$!
fi
wait "$balancer"
