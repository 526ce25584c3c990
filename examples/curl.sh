#!/usr/bin/env bash
# Every kind of request, with curl alone.
#
#   ./examples/curl.sh [URL]
set -euo pipefail
cd "$(dirname "$0")/.."
url=${1:-${IMAGEFLEET:-http://localhost:5000}}
ask() { curl --silent --show-error --fail-with-body "$@"; }

echo "The label, as a form like the page's:"
ask -F model=mnist -F image=@docs/seven.png "$url/submit"

echo "The whole answer:"
ask -F model=mnist -F image=@docs/seven.png -H 'Accept: application/json' "$url/submit"
echo

echo "The raw file as the body, from a model that is named, with a deadline of two seconds:"
ask --data-binary @docs/seven.png -H 'X-Imagefleet-Timeout-Ms: 2000' "$url/predict?model=mnist&top_k=3"
echo

echo "TensorFlow Serving's REST API, a table:"
ask --data '{"instances": [{"sepal_length": 5.0, "sepal_width": 2.0, "petal_length": 3.5, "petal_width": 1.0}]}' \
  "$url/v1/models/iris_model:predict"
echo

echo "TensorFlow Serving's REST API, an image file:"
printf '{"instances": [{"b64": "%s"}]}' "$(base64 <docs/seven.png | tr -d '\n')" \
  | ask --data @- "$url/v1/models/mnist:predict"
echo

echo "The Open Inference Protocol: which models are there?"
ask --request POST "$url/v2/repository/index"
echo
