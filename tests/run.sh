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
# nbdev_clean strips the counts of executed cells, without which nbval refuses stored outputs; copies get them back.
lessons=$(mktemp -d)
trap 'rm -rf "$lessons"' EXIT
python - "$lessons" $(cat tests/nbval.txt) <<'P'
import json, pathlib, sys
for path in map(pathlib.Path, sys.argv[2:]):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell.get("outputs"): cell["execution_count"] = 1
    pathlib.Path(sys.argv[1], path.name).write_text(json.dumps(notebook), encoding="utf-8")
P
pytest -q -c tests/pytest.ini --rootdir "$lessons" -p no:cacheprovider --nbval "$lessons"

step "pytest"
pytest -c tests/pytest.ini --rootdir . -n 2 --dist loadfile tests
step "done"
