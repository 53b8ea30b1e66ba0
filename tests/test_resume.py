"A run that is killed, stopped or torn goes on as if nothing had happened."
import json, os, re, shutil, signal, time
from pathlib import Path

import pytest

from conftest import TIMEOUT, files, finish, make_home, neuralkit_process, one_sentence, sha256
from neuralkit.core.runs import Run, claim, release

WORDS = ["train", "sgdd", "--preset", "test", "--epochs", "20", "--checkpoint_every", "4", "--keep", "3", "--log_every", "7", "--dropout", ".1", "--evaluate_every", "50", "--evaluate_limit", "0", "--test_limit", "2"]


def only_run(home: Path) -> Run:
    [folder] = (home/"runs"/"sgdd").iterdir()
    return Run(folder)

TIMINGS = {"examples_per_s", "tokens_per_s", "seconds"}

def outcome(run: Run) -> dict:
    "What a run must come to, whatever happened to it: its weights, and its log but for times."
    weights = {name: sha256(run/"checkpoints"/name/"model.safetensors") for name in ("best", "last")}
    return weights | {"log": [{k: v for k, v in row.items() if k not in TIMINGS} for row in run.metrics()]}

def begin(home: Path, step: int):
    "A training process that has written the checkpoint of `step`, somewhere within an epoch."
    process, until = neuralkit_process(*WORDS, home=home, wait=False), time.monotonic() + TIMEOUT
    while not list(home.glob(f"runs/sgdd/*/checkpoints/step_{step}")):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < until
        time.sleep(.01)
    return process

@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache) -> dict:
    "The outcome of a run that was left alone."
    home = make_home(tmp_path_factory.mktemp("whole")/"home", cache)
    result = neuralkit_process(*WORDS, home=home)
    assert result.status == 0, result.stderr
    return outcome(only_run(home))

@pytest.fixture(scope="module")
def terminated(tmp_path_factory, cache):
    "(home, Result) of a run that SIGTERM stopped; to be copied, not changed."
    home = make_home(tmp_path_factory.mktemp("terminated")/"home", cache)
    process = begin(home, 20)
    process.send_signal(signal.SIGTERM)
    return home, finish(process)

@pytest.fixture
def stopped(terminated, home) -> Run:
    "A copy of the stopped run in this test's own home."
    shutil.copytree(terminated[0]/"runs", home/"runs", symlinks=True)
    return only_run(home)

def newest(run: Run) -> Path: return max((run/"checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))


def test_killed_run_goes_on_in_its_folder_to_the_same_bits(home, whole):
    process = begin(home, 40)
    process.kill()
    assert finish(process).status == -signal.SIGKILL
    run = only_run(home)
    assert run.status == "killed" and run.summary is None
    result = neuralkit_process(*WORDS, "--resume", "auto", home=home)
    assert result.status == 0, result.stderr
    assert only_run(home).status == "finished" and outcome(run) == whole
    first = int(re.search(r"step (\d+)/", result.stdout)[1])
    assert first > 40, "it began anew"
    assert not list(run.path.rglob("*.tmp"))

@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_with_its_status_and_a_checkpoint(terminated, home, number, status):
    if number == signal.SIGTERM: home, result = terminated
    else:
        process = begin(home, 20)
        process.send_signal(number)
        result = finish(process)
    assert result.status == status
    one_sentence(result.stderr, ["--resume", only_run(home).path])
    run = only_run(home)
    m = run.manifest
    assert run.status == m["status"] == "stopped" and m["ended"] and run.summary is None
    state = json.loads((newest(run)/"state.json").read_text())
    assert state["step"] == m["steps"] and (run/"checkpoints"/"last").resolve() == newest(run).resolve()

def test_stopped_run_resumes_to_the_same_bits(stopped, whole, neuralkit):
    assert neuralkit(*WORDS, "--resume", stopped.path.name).status == 0
    assert stopped.status == "finished" and outcome(stopped) == whole

@pytest.mark.parametrize("file", ["model.safetensors", "trainer.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["short", "gone"])
def test_torn_newest_checkpoint_is_found_out(stopped, file, how):
    "newest_checkpoint, which decides where to go on, is asked itself; the next test goes all the way."
    from neuralkit.core.checkpoint import newest_checkpoint
    tear(newest(stopped)/file, how)
    with pytest.warns(UserWarning, match="not whole"): moment = newest_checkpoint(stopped)
    assert moment.step < int(newest(stopped).name[5:])

def tear(path: Path, how: str) -> None:
    if how == "gone": path.unlink()
    else: path.write_bytes(path.read_bytes()[:path.stat().st_size//2])

def test_torn_newest_checkpoint_falls_back_to_the_one_before(stopped, whole, neuralkit):
    torn = newest(stopped)
    tear(torn/"model.safetensors", "short")
    result = neuralkit(*WORDS, "--resume", "auto")
    assert result.status == 0 and "warning: " in result.stderr and torn.name in result.stderr
    assert outcome(stopped) == whole
    rows = [(r["step"], r["split"]) for r in stopped.metrics()]
    assert rows == sorted(set(rows)), "steps were logged twice"

def test_run_without_any_whole_checkpoint_starts_over_and_logs_each_step_once(stopped, whole, neuralkit):
    shutil.rmtree(stopped/"checkpoints")
    with open(stopped/"metrics.jsonl", "a") as f: f.write('{"step": 7, "epoch": 0.5, "split": "train", "loss": 9}\n{"step": 8, "ep')
    assert neuralkit(*WORDS, "--resume", "auto").status == 0
    assert outcome(stopped) == whole
    rows = [(r["step"], r["split"]) for r in stopped.metrics()]
    assert rows == sorted(set(rows)), "steps were logged twice"

def test_resume_with_another_config_is_refused(stopped, neuralkit):
    before = files(stopped.path)
    result = neuralkit(*WORDS, "--learning_rate", "0.5", "--resume", stopped.path)
    assert result.status == 2
    one_sentence(result.stderr, ["training.learning_rate", "0.5 now", "--init-from"])
    assert files(stopped.path) == before

def test_auto_passes_over_runs_of_another_config(stopped, home, neuralkit):
    before = files(stopped.path)
    assert neuralkit("train", "sgdd", "--preset", "test", "--max_steps", 1, "--evaluate_limit", 0, "--resume", "auto").status == 0
    assert files(stopped.path) == before and len(list((home/"runs"/"sgdd").iterdir())) == 2

def test_a_run_that_another_process_trains_is_not_taken_up(stopped, neuralkit):
    stopped.note(status="running", pid=os.getppid(), host="elsewhere")
    holder = Run(stopped.path)
    claim(holder)
    before = files(stopped.path)
    for resume in (stopped.path, "auto"):
        result = neuralkit(*WORDS, "--resume", resume)
        assert result.status == 2
        one_sentence(result.stderr, ["being trained", os.getppid(), "elsewhere"])
    assert files(stopped.path) == before
    release(holder)

def test_resume_of_a_finished_run_does_nothing(trained, neuralkit, shared_home, monkeypatch):
    monkeypatch.setenv("NEURALKIT_HOME", str(shared_home))
    run, before = trained(), files(shared_home)
    result = neuralkit("train", "sgdd", "--preset", "test", "--resume", run.path)
    assert result.status == 0 and "finished" in result.stdout and files(shared_home) == before

def test_kill_after_early_stopping_changes_nothing(home, neuralkit):
    "The run had stopped by itself; only its summary is missing."
    words = ["train", "sgdd", "--preset", "test", "--epochs", 9, "--learning_rate", 1e-9, "--early_stopping_patience", 1, "--evaluate_limit", 0, "--test_limit", 2]
    assert neuralkit(*words).status == 0
    run = only_run(home)
    steps, before = run.summary["steps"], outcome(run)
    assert steps < 9*9, "it did not stop early"
    run.note(status="running", pid=None)
    (run/"summary.json").unlink()
    assert neuralkit(*words, "--resume", "auto").status == 0
    assert run.summary["steps"] == steps and outcome(run) == before
