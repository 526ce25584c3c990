#!/usr/bin/env bash
# Builds the programs as they are released, and prints their folder. The balancer is built with a profile of
# itself under load, so that code that runs together is placed together. That saves some processor time on each
# request (docs/results.md), and takes three times as long as `cargo build --release`.
#
#   ./scripts/release-build.sh
#   programs=$(./scripts/release-build.sh) && PROGRAMS=$programs ./scripts/package.sh     packages; images.sh likewise
#
# Needs rustup, whose component llvm-tools reads the profile.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

case ${1:-} in -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "scripts/${0##*/}"; exit 0 ;; esac
ensure_rust
command -v rustup >/dev/null || die "rustup is needed (https://rustup.rs): its component llvm-tools reads the profile"
rustup --quiet component add llvm-tools >&2
host=$(rustc --version --verbose | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
plain=${CARGO_TARGET_DIR:-target}/release out=${CARGO_TARGET_DIR:-target}/profiled
work=$(mktemp -d) balancer=''
finish() {
  [ -z "$balancer" ] || kill "$balancer" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

# balancer_with FLAG: builds the balancer with a compiler flag that does not affect anything run by the build itself.
balancer_with() {
  RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --release --locked --quiet --package balancer --bin balancer \
    --target "$host" --target-dir "$out" >&2
}
say "Building the programs (some minutes)."
cargo build --release --locked --quiet --bins >&2
say "Building a balancer that counts what it does."
balancer_with "-Cprofile-generate=$work/counts"

# load FLAG…: a run that need not be valid, since nothing is measured.
load() {
  local status=0
  "$plain/client" load --target "$target" --warm-up 0s --keep-samples 100 --out "$work/run" --force "$@" >"$work/client.log" 2>&1 \
    || status=$?
  [ "$status" -eq 0 ] || [ "$status" -eq 3 ] || { cat "$work/client.log" >&2; die "client load $*"; }
}
say "Putting it under load (half a minute)."
"$out/$host/release/balancer" --log warn --listen 127.0.0.1:0 --admin 127.0.0.1:0 --h2c --access-log "$work/access.log" \
  --worker-bin "$plain/worker" --spawn 2 --models models >"$work/balancer.log" 2>&1 &
balancer=$!
deadline=$((SECONDS + 60))
until target=$(sed -n 's/.*listening on \(http:[^ ]*\).*/\1/p' "$work/balancer.log") && [ -n "$target" ]; do
  if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$balancer" 2>/dev/null; then
    cat "$work/balancer.log" >&2
    die "the balancer does not start"
  fi
  sleep 0.1
done
until_served "$target/v2/models/mnist/ready" "$balancer"
small=(--get /v2/models/mnist --threads 1)
load "${small[@]}" --arrivals closed --users 64 --duration 8s
load "${small[@]}" --rate 3000 --duration 5s
load "${small[@]}" --http h2 --arrivals closed --users 16 --duration 3s
load --arrivals closed --users 16 --duration 8s
load --rate 200 --duration 5s
kill -TERM "$balancer"
wait "$balancer"
balancer=''
"$profdata" merge --output "$work/profile" "$work/counts"

say "Building the balancer by what was counted."
balancer_with "-Cprofile-use=$work/profile"
mkdir -p "$out/programs"
cp "$out/$host/release/balancer" "$plain/worker" "$plain/client" "$out/programs"
echo "$out/programs"
