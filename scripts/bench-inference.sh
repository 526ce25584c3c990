#!/usr/bin/env bash
# Inference compared with ONNX Runtime, OpenVINO, LiteRT and PyTorch: milliseconds per batch on one
# pinned core, and from a 12-megapixel JPEG to its label compared with Pillow and ONNX Runtime, in one
# interleaved run.
#
#   ./scripts/bench-inference.sh                     about two minutes of measuring, prints one table
#   ./scripts/bench-inference.sh --batch 1 --digits   one image per pass of the photo model only
#   ./scripts/bench-inference.sh --rounds 30 --seconds 0.2 --skip torch JPEG
#
# The Python packages go into .venv-bench (a few GB with PyTorch where only PyPI can be reached). With
# no MobileNetV2 in ./models the same network runs with made-up weights, which takes the same time.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
ensure_rust
ensure_debian python3 python3 python3-venv || die "python3 is needed"

python=.venv-bench/bin/python
wanted=scripts/inference/requirements.txt
if ! cmp -s "$wanted" .venv-bench/installed.txt; then
  say "Making .venv-bench with the packages of $wanted."
  python3 -m venv .venv-bench >/dev/null || { install_debian python3-venv && python3 -m venv .venv-bench; }
  "$python" -m pip install --quiet --requirement "$wanted"
  cp "$wanted" .venv-bench/installed.txt
fi
if [[ " $* " != *" torch "* ]] && ! "$python" -c 'import torch' 2>/dev/null; then
  say "Adding PyTorch to .venv-bench."
  "$python" -m pip install --quiet torch || skip "PyTorch cannot be installed"
fi
cargo build --release --locked --quiet --bin worker
BENCH_COMMAND=./scripts/bench-inference.sh exec "$python" scripts/inference/bench.py "$@"
