#!/usr/bin/env bash
# All benchmarks of ours on an accelerator in less than 8 minutes; one JSON in benchmarks/results.
#   benchmarks/accelerator.sh                       on a GPU
#   benchmarks/accelerator.sh --device cpu --small  a rehearsal
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec timeout --signal=INT --kill-after=4 470 "${PYTHON:-python3}" -m benchmarks.accelerator "$@"
