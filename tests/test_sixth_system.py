"A sixth system is its own folder and one line of the registry: done here, on a copy of the package."
import json, os, shutil, subprocess, sys
from pathlib import Path

import pytest

from conftest import REPO, TIMEOUT, Result

LINE = '           "temporal": "neuralkit.temporal"}'


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    "The package with linear regression moved in."
    folder = tmp_path_factory.mktemp("sixth")
    shutil.copytree(REPO/"neuralkit", folder/"neuralkit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO/"tests"/"regression", folder/"neuralkit"/"regression", ignore=shutil.ignore_patterns("__pycache__"))
    registry = folder/"neuralkit"/"core"/"card.py"
    before = registry.read_text()
    assert LINE in before
    registry.write_text(before.replace(LINE, LINE[:-1] + ',\n           "regression": "neuralkit.regression"}'))
    return folder

@pytest.fixture(scope="module")
def regression(copy, tmp_path_factory):
    "The command, in the copy."
    home = tmp_path_factory.mktemp("home")
    def call(*words) -> Result:
        done = subprocess.run([sys.executable, "-m", "neuralkit", *map(str, words)], capture_output=True, text=True, timeout=TIMEOUT, cwd=copy,
                              env=os.environ | {"PYTHONPATH": str(copy), "NEURALKIT_HOME": str(home)})
        return Result(done.returncode, done.stdout, done.stderr)
    return call


def test_only_its_folder_and_one_line_differ(copy):
    ours = {str(p.relative_to(copy/"neuralkit")): p.read_text() for p in (copy/"neuralkit").rglob("*.py")}
    theirs = {str(p.relative_to(REPO/"neuralkit")): p.read_text() for p in (REPO/"neuralkit").rglob("*.py")}
    assert {name.split("/")[0] for name in ours.keys() ^ theirs.keys()} == {"regression"}
    [changed] = [name for name in theirs if ours[name] != theirs[name]]
    assert changed == "core/card.py" and len(ours[changed].splitlines()) == len(theirs[changed].splitlines()) + 1

def test_every_verb_knows_it(regression):
    trained = regression("train", "regression", "--preset", "test", "--epochs", 12)
    assert trained.status == 0, trained.stderr
    folder = Path(trained.last_line.split()[-1]).parent
    summary = json.loads((folder/"summary.json").read_text())
    assert summary["test"]["loss"] < .2*summary["baseline"]["loss"] and "The line" in (folder/"report.html").read_text()

    rows = [json.loads(line) for line in regression("predict", "last", "--at", 0, 1).stdout.splitlines()]
    assert abs(rows[0]["y"] - 1) < .3 and abs(rows[1]["y"] - 3) < .3
    for words, said in ((["systems"], "a line through points"), (["describe", "regression"], "total"), (["data", "regression"], "100"),
                        (["config", "regression"], "points: 120"), (["validate", "regression"], "validation_report.html"), (["evaluate", "last"], "loss"),
                        (["bench", "regression"], "Learner"), (["runs"], "regression/"), (["train", "regression", "--preset", "test", "--epochs", 12, "--resume", "last"], "finished")):
        result = regression(*words)
        assert result.status == 0 and said in result.stdout, (words, result.stdout, result.stderr)

def test_its_errors_are_sentences(regression):
    for words, hint in ((["predict", "last"], "--at"), (["predict", "last", "--at", "far"], "'far'"), (["train", "regression", "--points", 3], "points"), (["export", "last"], "no exported form")):
        result = regression(*words)
        assert result.status == 2 and hint in result.stderr and len(result.stderr.strip().splitlines()) == 1, result.stderr
