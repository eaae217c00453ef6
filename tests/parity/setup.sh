#!/usr/bin/env bash
# Makes the pinned environments the parity tests compare with, one virtual environment per peer:
#   tests/parity/setup.sh                 all of them
#   tests/parity/setup.sh rlax trl        only these
#   tests/parity/setup.sh benchmarks/peers/rejax.txt   another one, by its file of pins
# They live in $RLHF_JAX_PEERS, by default in the user's cache. One that exists with the same pins is
# left alone; one that was interrupted or has other pins is made anew. Where torch's default build
# brings GPU libraries along, point pip at the CPU build (PIP_INDEX_URL or PIP_FIND_LINKS).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${RLHF_JAX_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/rlhf_jax/peers}
python=${PYTHON:-python3}
peers=("$@")
[ ${#peers[@]} -gt 0 ] || peers=(rlax trl trl_ppo)

for peer in "${peers[@]}"; do
  pins=$here/peers/$peer.txt
  case $peer in
    *.txt) pins=$peer; peer=$(basename "$peer" .txt) ;;
  esac
  dir=$root/$peer
  if [ ! -f "$pins" ]; then
    echo "setup.sh: no peer named $peer: must be one of rlax, trl, trl_ppo" >&2
    exit 2
  fi
  if cmp -s "$pins" "$dir/pins.txt"; then
    echo "$peer: up to date in $dir"
    continue
  fi
  if [ -e "$dir" ] && [ ! -f "$dir/pyvenv.cfg" ]; then
    echo "setup.sh: $dir is not a virtual environment: set RLHF_JAX_PEERS to another folder" >&2
    exit 2
  fi
  echo "$peer: making $dir"
  "$python" -m venv --clear "$dir"
  "$dir/bin/pip" install --quiet --disable-pip-version-check -r "$pins"
  cp "$pins" "$dir/pins.txt" # last, so that an interrupted environment is made again
done
