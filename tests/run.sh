#!/usr/bin/env bash
# Everything that must hold before a change lands. Needs no network, no GPU and no data but the repo's own.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MPLBACKEND=agg

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "notebooks are clean, the package and the README are what they export"
python .ci/sync

step "examples in the notebooks"
nbdev_test --n_workers 2

step "outputs that are part of a lesson"
pytest -q -c tests/pytest.ini --rootdir . -p no:cacheprovider -n 2 --dist loadfile --nbval $(cat tests/nbval.txt)

step "pytest"
pytest -c tests/pytest.ini --rootdir . -n 2 --dist loadfile tests
step "done"
