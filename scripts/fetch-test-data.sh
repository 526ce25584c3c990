#!/usr/bin/env bash
# Fetches the large data that some tests compare with, as far as it is public, and verifies it.
#
#   ./scripts/fetch-test-data.sh DIR
#   IMAGEFLEET_TEST_DATA=DIR ./scripts/test.sh
#
#   mnist/        the four files of MNIST
#   rspec3-xsd/   the schema of GENI's requests
#
# Tests that need photos with known labels, or published weights with reference outputs, are
# skipped: that data may not be redistributed. The same code is tested with fixtures in the repository.
set -euo pipefail
case ${1:-} in '' | -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
mkdir -p "$1"
data=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

# fetch FILE URL SHA256 [gz]: keeps only a file that matches the checksum. With gz the checksum is that of the
# uncompressed content, since mirrors compress it differently.
fetch() {
  local file=$data/$1 unpack=cat
  [ ! -f "$file" ] || return 0
  [ -z "${4:-}" ] || unpack="gzip --decompress --stdout"
  mkdir -p "$(dirname "$file")"
  say "Fetching $1."
  curl --fail --silent --show-error --location --retry 3 --output "$file.part" "$2"
  if [ "$($unpack <"$file.part" | sha256sum | cut -d ' ' -f 1)" != "$3" ]; then
    rm -f "$file.part"
    die "$2 is not the file that it was"
  fi
  mv "$file.part" "$file"
}

mirror=https://ossci-datasets.s3.amazonaws.com/mnist
fetch mnist/train-images-idx3-ubyte.gz $mirror/train-images-idx3-ubyte.gz \
  ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db gz
fetch mnist/train-labels-idx1-ubyte.gz $mirror/train-labels-idx1-ubyte.gz \
  65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5 gz
fetch mnist/t10k-images-idx3-ubyte.gz $mirror/t10k-images-idx3-ubyte.gz \
  0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7 gz
fetch mnist/t10k-labels-idx1-ubyte.gz $mirror/t10k-labels-idx1-ubyte.gz \
  ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2 gz

schema=http://www.geni.net/resources/rspec/3
fetch rspec3-xsd/any-extension-schema.xsd $schema/any-extension-schema.xsd \
  0a3e4ba930d55280416a950fc4a367956b45d512004f5755d7b2db4b83caf6c5
fetch rspec3-xsd/request-common.xsd $schema/request-common.xsd \
  292aa12ce2acaa1757d9163981cdabe0d18ed41ea03b9c629afe5138e9bcea3d
fetch rspec3-xsd/request.xsd $schema/request.xsd \
  ebc1c9d52eb19538f6593f3e299c2f7f4beea4a1c3287ee6c31310e267f54fab
say "IMAGEFLEET_TEST_DATA=$data ./scripts/test.sh"
