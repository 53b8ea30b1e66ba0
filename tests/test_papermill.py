"`papermill nbs/train_sgdd.ipynb -p epochs 10` works as typed, at a terminal and in a pipe, and ends with a sentence; papermill is otherwise itself."
import base64, json, os, pty, re, shlex, shutil, signal, subprocess, sys, time
from pathlib import Path

import psutil
import pytest

from conftest import REPO, TIMEOUT, Result, files, finish, one_sentence
from neuralkit.core.runs import Run, find_runs

PAPERMILL = str(Path(sys.executable).with_name("papermill"))
NOTEBOOKS = sorted(p.name for p in (REPO/"nbs").glob("*_*.ipynb"))


@pytest.fixture
def desk(home, tmp_path, monkeypatch) -> Path:
    "A folder with copies of the run notebooks, to see what papermill leaves there; in the folder of temporary files it must leave nothing."
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR", "TMPDIR"): monkeypatch.setenv(name, str(tmp_path/name))
    folder = tmp_path/"desk"
    folder.mkdir()
    (tmp_path/"TMPDIR").mkdir()
    for name in NOTEBOOKS: shutil.copy(REPO/"nbs"/name, folder)
    yield folder
    assert [path for path in (tmp_path/"TMPDIR").iterdir() if not path.name.startswith("torchinductor_")] == []       # torch's own cache

def started(folder: Path, *words, **options) -> subprocess.Popen:
    return subprocess.Popen([PAPERMILL, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, cwd=folder, **options)

def piped(folder: Path, *words) -> Result: return finish(started(folder, *words))

def at_terminal(folder: Path, *words, when=None) -> Result:
    "As `piped`, but papermill has a terminal of its own; all it says is in stdout. Ctrl-C is typed once `when()` holds."
    ours, theirs = pty.openpty()
    process = subprocess.Popen([PAPERMILL, *map(str, words)], cwd=folder, start_new_session=True, preexec_fn=lambda: os.login_tty(theirs))
    os.close(theirs)
    if when:
        until(when, process)
        os.write(ours, b"\x03")
    said = b""
    while True:
        try: part = os.read(ours, 65536)
        except OSError: break            # Linux: the other side is closed
        if not part: break
        said += part
    os.close(ours)
    return Result(process.wait(TIMEOUT), said.decode(errors="replace"), "")

def until(holds, process) -> None:
    latest = time.monotonic() + TIMEOUT
    while not holds():
        assert process.poll() is None and time.monotonic() < latest
        time.sleep(.02)

def run_notebook(folder: Path, *cells: str, name: str = "train_demo.ipynb") -> str:
    "A run notebook with the parameter `epochs` and these cells."
    code = [{"cell_type": "code", "id": f"c{n}", "execution_count": None, "outputs": [], "metadata": {}, "source": text}
            for n, text in enumerate(["epochs: int = 1  # for neuralkit", *cells])]
    code[0]["metadata"] = {"tags": ["parameters"]}
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    (folder/name).write_text(json.dumps({"cells": code, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return name

def assert_executed(path: Path) -> dict:
    "Every code cell ran, none failed."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(code) > 3 and all(c["execution_count"] for c in code)
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    return notebook

def assert_ends_with(sentence: str, result: Result) -> None:
    "The last line is the sentence, and no traceback stands anywhere."
    said = (result.stdout + result.stderr).strip()
    assert re.fullmatch(f"neuralkit: {sentence}", said.splitlines()[-1]), said
    assert "Traceback" not in said and not [line for line in said.splitlines() if line.startswith("-----")], said


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
    assert run.manifest["command"] == "papermill train_sgdd.ipynb -p preset test -p epochs 1"

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

def test_the_command_can_be_typed_again(desk, monkeypatch):
    "With an output path or without, as a command or as a module, with words that a shell would take apart."
    monkeypatch.setenv("PATH", f"{Path(PAPERMILL).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NEURALKIT_NOTEBOOK", "of-a-papermill-around-this-one.ipynb")
    name = run_notebook(desk, "import os; print('typed:', os.environ['NEURALKIT_COMMAND'], os.environ.get('NEURALKIT_NOTEBOOK'))")
    words = [name, "my out.ipynb", "-y", "{epochs: 2}", "--log-output"]
    for program in (["papermill"], ["python", "-m", "papermill"]):
        first = subprocess.run([*program, *words], capture_output=True, text=True, cwd=desk, timeout=TIMEOUT)
        [(command, notebook)] = re.findall(r"^typed: (.*) (\S+)$", first.stderr, re.MULTILINE)
        assert shlex.split(command) == [*program, *words] and notebook == "None"
        again = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=desk, timeout=TIMEOUT)
        assert again.returncode == first.returncode == 0 and f"typed: {command}" in again.stderr


# --- what is refused

WAYS = {"-p": ["-p", "epoch", "1"], "-r": ["-r", "epoch", "1"], "-f": ["-f", "words.yaml"], "-b": ["-b", base64.b64encode(b"epoch: 1").decode()],
        "-y, with an output": ["out.ipynb", "-p", "epochs", "1", "-y", "{epoch: 1}"]}

@pytest.mark.parametrize("way", WAYS)
def test_unknown_parameter_is_refused_before_anything_starts(desk, way):
    (desk/"words.yaml").write_text("epoch: 1\n")
    before = files(desk)
    result = piped(desk, "train_sgdd.ipynb", *WAYS[way], "-p", "preset", "test")
    assert result.status == 2 and result.stdout == ""
    one_sentence(result.stderr, ["no parameter 'epoch'", "did you mean epochs?", "batch_size", "settings: {FIELD: VALUE}"])
    assert files(desk) == before and find_runs() == []

def test_papermills_own_parameters_are_known(desk):
    assert piped(desk, run_notebook(desk), "out.ipynb", "--inject-paths", "-p", "epochs", 3).status == 0

def test_slip_in_the_notebooks_name_is_told(desk):
    result = at_terminal(desk, "trian_sgdd.ipynb")
    assert result.status == 2
    assert_ends_with(r"no notebook 'trian_sgdd.ipynb'; did you mean train_sgdd.ipynb\?", result)

DATA, EPOCHS = ["-p", "data", "nowhere.txt"], ["-p", "preset", "test", "-p", "epochs", 0]

@pytest.mark.parametrize("papermill, output, words, hint", [(piped, [], EPOCHS, "training.epochs"), (piped, ["out.ipynb"], DATA, "nowhere.txt"),
                                                            (piped, [], DATA, "nowhere.txt"), (at_terminal, [], DATA, "nowhere.txt")])
def test_bad_input_ends_with_the_one_sentence_and_leaves_no_run(desk, papermill, output, words, hint):
    before = files(desk)
    result = papermill(desk, "train_sgdd.ipynb", *output, *words)
    assert result.status == 2
    assert_ends_with(f".*{hint}.*", result)
    assert find_runs() == [] and set(files(desk)) - set(before) == set(output)

def test_an_error_of_another_kind_keeps_its_traceback(desk):
    result = piped(desk, run_notebook(desk, "1/0"))
    assert result.status == 1 and "PapermillExecutionError" in result.stderr and "----> 1 1/0" in result.stderr


# --- wishes to stop

LONG = ["-p", "preset", "test", "-p", "epochs", 40, "-y", "{settings: {log_every: 5, checkpoint_every: 10000, evaluate_every: 10000, test_limit: 2}}"]

def trains() -> bool: return any(run.metrics() for run in find_runs("sgdd"))

def assert_stopped(result: Result, number: int) -> Run:
    "It has a checkpoint, which only the wish to stop can have made, and the executed notebook."
    [run] = find_runs("sgdd")
    assert result.status == 128 + number and run.status == "stopped"
    assert_ends_with(f"stopped by {signal.Signals(number).name}; go on with -p resume .*", result)
    assert len(list((run/"checkpoints").glob("step_*"))) == 1
    notebook = json.loads((run/"notebook.ipynb").read_text())
    assert [o["ename"] for c in notebook["cells"] for o in c.get("outputs", []) if o["output_type"] == "error"] == ["Stopped"]
    return run

def test_terminated_papermill_leaves_a_stopped_run_and_says_how_to_go_on(desk, home):
    process = started(desk, "train_sgdd.ipynb", *LONG)
    until(trains, process)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    result = finish(process)
    assert kernels and not [kernel for kernel in kernels if kernel.is_running()]
    run = assert_stopped(result, signal.SIGTERM)
    resume = result.stderr.split("go on with ")[1].split()[:3]
    assert piped(desk, "train_sgdd.ipynb", *LONG, *resume).status == 0
    assert [again.path for again in find_runs("sgdd")] == [run.path] and run.status == "finished"
    assert_executed(run/"notebook.ipynb")

def test_ctrl_c_at_a_terminal_leaves_a_stopped_run(desk, home):
    assert_stopped(at_terminal(desk, "train_sgdd.ipynb", *LONG, when=trains), signal.SIGINT)

def stopped_in_a_cell(desk: Path, cell: str, *numbers: int) -> tuple[Result, float]:
    "(what it said, seconds it took) of a notebook that is in this cell when the signals come."
    mark = desk/"in-the-cell"
    process = started(desk, run_notebook(desk, f"import pathlib, signal, time; {cell}; pathlib.Path({str(mark)!r}).touch(); time.sleep(60)", "print('on')"), "out.ipynb", "--log-output")
    until(mark.exists, process)
    kernels, began = psutil.Process(process.pid).children(), time.monotonic()
    for number in numbers:
        process.send_signal(number)
        time.sleep(.3)
    result = finish(process)
    assert kernels and not [kernel for kernel in kernels if kernel.is_running()]
    assert '"on"' not in (desk/"out.ipynb").read_text()
    return result, time.monotonic() - began

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_cell_that_hears_nothing_ends_with_its_kernel(desk, number):
    result, seconds = stopped_in_a_cell(desk, "pass", number)
    assert result.status == 128 + number and seconds < 20
    assert_ends_with(f"stopped by {signal.Signals(number).name}", result)

def test_the_third_wish_waits_for_nobody(desk):
    result, seconds = stopped_in_a_cell(desk, "signal.signal(signal.SIGTERM, signal.SIG_IGN)", *[signal.SIGINT]*3)
    assert result.status == 130 and seconds < 20
    assert_ends_with("stopped by SIGINT", result)

def test_no_cell_begins_after_a_wish_to_stop(desk):
    "The kernel is still starting: nothing hears the signal but papermill."
    process = started(desk, run_notebook(desk, "open('trace', 'w')"))
    until(lambda: psutil.Process(process.pid).children(), process)
    process.terminate()
    result = finish(process)
    assert result.status == 143 and not (desk/"trace").exists()
    assert_ends_with("stopped by SIGTERM", result)


# --- papermill is otherwise itself

@pytest.mark.parametrize("name", NOTEBOOKS)
def test_help_notebook_lists_every_parameter_with_its_comment(desk, name):
    cells = json.loads((desk/name).read_text())["cells"]
    [cell] = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
    told = " ".join(piped(desk, "--help-notebook", name).stdout.split())
    assert lines
    for line in lines:
        parameter, comment = re.fullmatch(r"(\w+): .*?#\s*(.+)", line).groups()
        assert f" {parameter}:" in told and " ".join(comment.split()) in told, line

def test_other_notebooks_keep_papermills_usage_error(desk):
    (desk/"train_other.ipynb").write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    result = at_terminal(desk, "train_other.ipynb")
    assert result.status == 2 and "OUTPUT_PATH" in result.stdout

def test_other_notebooks_may_be_given_any_parameter_and_fail_in_papermills_way(desk):
    name = run_notebook(desk, "class UserError(ValueError): pass", "raise UserError('ours')", name="lesson.ipynb")
    result = piped(desk, name, "out.ipynb", "-p", "epoch", 1)
    assert result.status == 1 and "Passed unknown parameter: epoch" in result.stderr and "PapermillExecutionError" in result.stderr
