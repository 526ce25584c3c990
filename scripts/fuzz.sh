#!/usr/bin/env bash
# Feeds made-up bytes to everything that reads bytes from strangers, guided by the code they reach.
# Ends with an error, and the input under fuzz/artifacts, when something panics or a check fails.
#
#   ./scripts/fuzz.sh                     request heads for ten minutes, the others for two
#   ./scripts/fuzz.sh 60                  every target for a minute
#   ./scripts/fuzz.sh 600 jpeg tf_json    some targets, each for ten minutes
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
ensure_rust
ensure_cargo_tool fuzz 0.13.2
# Coverage needs compiler flags that stable does not take by itself.
cargo=(cargo +nightly)
"${cargo[@]}" --version >/dev/null 2>&1 || { cargo=(cargo); export RUSTC_BOOTSTRAP=1; }

targets=(request_head answer multipart config_toml proxy_header jpeg picture tf_json oip sql checkpoint)
[ $# -lt 2 ] || targets=("${@:2}")
for target in "${targets[@]}"; do
  seconds=${1:-$([ "$target" = request_head ] && echo 600 || echo 120)}
  options=("-max_total_time=$seconds" -max_len=16384)
  seeds=()
  case $target in
    request_head | answer) options+=("-dict=$PWD/fuzz/http.dict") ;;
    tf_json | oip) options+=("-dict=$PWD/fuzz/json.dict") ;;
    jpeg) seeds=(worker/tests/data/jpeg) ;;
    picture) seeds=(worker/tests/data/pictures) options+=(-max_len=65536) ;;
  esac
  [ ! -d "fuzz/seeds/$target" ] || seeds=("fuzz/seeds/$target")
  mkdir -p "fuzz/corpus/$target"
  say "$target: $seconds s"
  # Sanitizers look for what unsafe code gets wrong; there is none in what is tried here.
  "${cargo[@]}" fuzz run "$target" --sanitizer none "fuzz/corpus/$target" "${seeds[@]}" -- "${options[@]}"
done
