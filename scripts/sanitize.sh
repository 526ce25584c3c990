#!/usr/bin/env bash
# Finds what tests cannot see: runs the unsafe code of the worker under AddressSanitizer, for every
# kernel that this CPU supports, and under Miri (nightly) the kernels in plain Rust and the state that
# threads of the balancer share.
#
#   ./scripts/sanitize.sh           both; Miri is skipped, with a message, if there is no nightly
#   ./scripts/sanitize.sh address   AddressSanitizer only
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
ensure_rust

target=$(rustc --version --verbose | sed -n 's/^host: //p')
say "AddressSanitizer: unit tests of the kernels, then whole networks."
# The sanitizer is an unstable flag of the stable compiler; the target is named to keep it out of build
# scripts and macros.
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target/sanitize CARGO_INCREMENTAL=0
flags="-Zsanitizer=address"
# SQLite is C, compiled by the system's compiler: the runtime of the other compiler takes tables of the
# same name in two of its functions for two definitions of one table.
export ASAN_OPTIONS=detect_odr_violation=0
RUSTFLAGS=$flags cargo test --locked --package engine --target "$target" --lib
RUSTFLAGS=$flags cargo test --locked --package worker --target "$target" \
  --test numbers -- fused amx
unset RUSTC_BOOTSTRAP

[[ ${1:-} == address ]] && exit
if ! rustup toolchain install nightly --profile minimal --component miri >/dev/null 2>&1; then
  skip "Miri: no nightly toolchain with it can be had"
  exit
fi
say "Miri: kernels in plain Rust, views of memory, the team of threads, and a network of two threads, whole but for its width."
# Property tests read the clock and the folder of failures, so isolation is off. The models of the
# thread team switch stacks with instructions that Miri does not know, and try every order
# themselves.
MIRIFLAGS="-Zmiri-disable-isolation" cargo +nightly miri test --locked --package engine --lib -- \
  product depthwise aligned team mobilenet::tests --skip team::model --skip team::trust
say "Miri: room that a request leaves and one that waits for it, endpoints that come and requests that look for them, in the memory order of any machine."
MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-many-seeds=0..8" cargo +nightly miri test --locked --package fleet --lib -- \
  admission::tests::room_that_is_left_while admission::tests::no_wake_up dispatch::tests::while_an_expected
