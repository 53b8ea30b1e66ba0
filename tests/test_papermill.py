"`papermill nbs/train_sgdd.ipynb -p epochs 10` works as typed, at a terminal and in a pipe; papermill is otherwise itself."
import json, os, pty, re, shutil, subprocess, sys
from pathlib import Path

import pytest

from conftest import REPO, TIMEOUT, Result, files
from neuralkit.core.runs import Run, find_runs

PAPERMILL = str(Path(sys.executable).with_name("papermill"))
NOTEBOOKS = sorted(p.name for p in (REPO/"nbs").glob("*_*.ipynb"))


@pytest.fixture
def desk(home, tmp_path, monkeypatch) -> Path:
    "A folder with copies of the run notebooks, to see what papermill leaves there."
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"): monkeypatch.setenv(name, str(tmp_path/name))
    folder = tmp_path/"desk"
    folder.mkdir()
    for name in NOTEBOOKS: shutil.copy(REPO/"nbs"/name, folder)
    return folder

def piped(folder: Path, *words) -> Result:
    done = subprocess.run([PAPERMILL, *map(str, words)], capture_output=True, text=True, cwd=folder, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
    return Result(done.returncode, done.stdout, done.stderr)

def at_terminal(folder: Path, *words) -> Result:
    "As `piped`, but papermill sees a terminal; all it says is in stdout."
    ours, theirs = pty.openpty()
    process = subprocess.Popen([PAPERMILL, *map(str, words)], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder)
    os.close(theirs)
    said = b""
    while True:
        try: part = os.read(ours, 65536)
        except OSError: break            # Linux: the other side is closed
        if not part: break
        said += part
    os.close(ours)
    return Result(process.wait(TIMEOUT), said.decode(errors="replace"), "")

def assert_executed(path: Path) -> dict:
    "Every code cell ran, none failed."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(code) > 3 and all(c["execution_count"] for c in code)
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    return notebook


@pytest.mark.parametrize("papermill", [piped, at_terminal])
def test_train_notebook_leaves_a_whole_run_folder(desk, home, papermill):
    before = files(desk)
    result = papermill(desk, "train_sgdd.ipynb", "-p", "preset", "test", "-p", "epochs", 1)
    assert result.status == 0, result.stdout + result.stderr
    assert files(desk) == before, "something was written beside the notebook"
    [run] = find_runs("sgdd")
    assert run.status == "finished" and run.config["training"]["epochs"] == 1
    for file in ("config.json", "manifest.json", "metrics.jsonl", "summary.json", "report.html", "checkpoints/best/model.safetensors", "notebook.ipynb"):
        assert (run/file).is_file(), file
    executed = assert_executed(run/"notebook.ipynb")
    assert any("injected-parameters" in c["metadata"].get("tags", []) for c in executed["cells"])
    assert re.search(r"step 9/9 .*loss", result.stdout + result.stderr), "no progress to be seen"
    assert str(run.path) in result.stdout + result.stderr and '"cells":' not in result.stdout

def test_evaluate_notebook_leaves_itself_in_the_run_folder(desk, home, trained):
    run = Run(shutil.copytree(trained().path, home/"runs"/"sgdd"/trained().path.name, symlinks=True))
    before = files(desk)
    result = piped(desk, "evaluate_sgdd.ipynb", "-p", "limit", 4, "-p", "sweep_limit", 2)
    assert result.status == 0, result.stderr
    assert_executed(run/"evaluate.ipynb")
    assert json.loads((run/"evaluation.json").read_text())["sweep"] and files(desk) == before

def test_validate_notebook_leaves_itself_beside_the_report(desk, home):
    before = files(desk)
    result = piped(desk, "validate_sgdd.ipynb", "-p", "preset", "test")
    assert result.status == 0, result.stderr
    [folder] = (home/"runs"/"sgdd").iterdir()
    assert (folder/"validation_report.html").is_file() and files(desk) == before
    assert_executed(folder/"validate.ipynb")

def test_input_and_output_stay_as_papermill_has_them(desk, home):
    result = piped(desk, "validate_sgdd.ipynb", "out.ipynb", "-p", "preset", "test")
    assert result.status == 0, result.stderr
    assert_executed(desk/"out.ipynb")
    [folder] = (home/"runs"/"sgdd").iterdir()
    assert not (folder/"validate.ipynb").exists()

def test_bad_parameter_fails_and_leaves_no_run(desk, home):
    before = files(desk)
    result = piped(desk, "train_sgdd.ipynb", "-p", "preset", "test", "-p", "epochs", 0)
    assert result.status != 0 and "training.epochs" in result.stderr and find_runs() == [] and files(desk) == before

@pytest.mark.parametrize("name", NOTEBOOKS)
def test_help_notebook_lists_every_parameter_with_its_comment(desk, name):
    cells = json.loads((desk/name).read_text())["cells"]
    [cell] = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
    told = " ".join(piped(desk, "--help-notebook", name).stdout.split())
    assert len(lines) > 3
    for line in lines:
        parameter, comment = re.fullmatch(r"(\w+): .*?#\s*(.+)", line).groups()
        assert f" {parameter}:" in told and " ".join(comment.split()) in told, line

def test_other_notebooks_keep_papermills_usage_error(desk):
    (desk/"train_other.ipynb").write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    result = at_terminal(desk, "train_other.ipynb")
    assert result.status == 2 and "OUTPUT_PATH" in result.stdout
