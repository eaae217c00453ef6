#!/usr/bin/env bash
# Makes the pinned environments the benchmarks compare with: rejax, and TRL with transformers.
#   benchmarks/peers/setup.sh            both of them
#   benchmarks/peers/setup.sh rejax      one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ $# -gt 0 ] || set -- rejax trl_ppo
exec tests/parity/setup.sh "${@/#rejax/benchmarks/peers/rejax.txt}"
