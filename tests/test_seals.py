"A run folder is the unit of trust: what is broken in it is found, named in one sentence, and never used."
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import pytest

from conftest import files, finish, neuralkit_process, one_sentence, sha256
from neuralkit.core.checkpoint import checkpoints
from neuralkit.core.runs import Run, claim, create_run, find_runs, leftovers, release
from neuralkit.core.verbs import train, verify

WORDS = {"preset": "test", "checkpoint_every": 3, "keep": 4}
TYPED = ["train", "predictor", "--preset", "test", "--checkpoint_every", 3, "--keep", 4]
TIMINGS = {"examples_per_s", "tokens_per_s", "seconds", "train_seconds"}


def untimed(values: dict) -> dict: return {name: v for name, v in values.items() if name not in TIMINGS}

def outcome(run: Run) -> dict:
    weights = {name: sha256(run/"checkpoints"/name/"model.safetensors") for name in ("best", "last")}
    named = {name: (run/"checkpoints"/name).resolve().name for name in ("best", "last")}
    return {"weights": weights, "named": named, "log": [untimed(row) for row in run.metrics()], "summary": untimed(run.summary),
            "samples": run.samples, "calibration": (run/"calibration.json").read_text()}

@pytest.fixture(scope="module")
def made(tmp_path_factory, cache) -> Run:
    "A finished run with checkpoints at 13, 12, 9 and 6; to be copied."
    home = tmp_path_factory.mktemp("made")
    (home/"data").mkdir()
    (home/"data"/"cache").symlink_to(cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURALKIT_HOME", str(home))
        return train("predictor", **WORDS)

@pytest.fixture
def finished(made, home) -> Run:
    return Run(shutil.copytree(made.path, home/"runs"/"predictor"/made.path.name, symlinks=True))

@pytest.fixture
def killed(finished) -> Run:
    "The run as a kill before its summary leaves it."
    (finished/"summary.json").unlink()
    finished.note(status="running", ended=None)
    return finished

@pytest.fixture(scope="module")
def whole(made) -> dict: return outcome(made)


# --- broken checkpoints: the one before serves, the outcome is the same, and a sentence says so

def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content)//2] ^= 1
    path.write_bytes(content)

def cut(path: Path) -> None: path.write_bytes(path.read_bytes()[:-7])
def empty(path: Path) -> None: path.write_bytes(b"")
def braces(path: Path) -> None: path.write_text("{}")
def gone(path: Path) -> None: path.unlink()
def prose(path: Path) -> None: path.write_text("not what it was\n")

HARMS = {f"{name} {harm.__name__}": (name, harm)
         for name in ("model.safetensors", "trainer.safetensors", "state.json", "config.json", "seal.json")
         for harm in (flip, cut, empty, braces, gone, prose)}

@pytest.mark.parametrize("case", HARMS)
def test_broken_checkpoint_is_passed_over(killed, whole, neuralkit, case):
    name, harm = HARMS[case]
    newest = checkpoints(killed)[0]
    harm(newest/name)
    result = neuralkit(*TYPED, "--resume", "auto")
    assert result.status == 0, result.stderr
    assert newest.name in result.stderr and "not whole" in result.stderr and len(result.stderr.splitlines()) == 1
    assert "from step 12 on" in result.stdout and outcome(killed) == whole

def test_copy_under_another_name_is_no_checkpoint_of_that_step(killed, whole, neuralkit):
    folder = killed/"checkpoints"
    shutil.copytree(folder/"step_6", folder/"step_99")
    (folder/"step_abc").mkdir()
    (folder/"step_7.bak").write_text("")
    result = neuralkit(*TYPED, "--resume", "auto")
    assert result.status == 0 and "it holds step 6" in result.stderr and "step_abc is no checkpoint" in result.stderr
    assert outcome(killed) == whole

def test_checkpoint_of_another_run_is_not_taken(killed, whole, neuralkit, home):
    other = train("predictor", **WORDS, learning_rate=1e-3)
    newest = checkpoints(killed)[0]
    shutil.rmtree(newest)
    shutil.copytree(other/"checkpoints"/newest.name, newest)
    result = neuralkit(*TYPED, "--resume", killed.path)
    assert result.status == 0 and "another config" in result.stderr and outcome(killed) == whole

def test_broken_best_takes_the_checkpoints_with_it_that_rest_on_it(home, cache, neuralkit):
    "The newest is whole, but the best it knows is not: it would end with a best that nobody can load."
    words = ["train", "predictor", "--preset", "test", "--evaluate_every", 3, "--checkpoint_every", 3, "--keep", 9, "--learning_rate", .3]
    assert neuralkit(*words).status == 0
    [run] = find_runs()
    before, best = outcome(run), int((run/"checkpoints"/"best").resolve().name[5:])
    assert best < 13, "the best should be an early one here"
    (run/"summary.json").unlink()
    flip(run/"checkpoints"/f"step_{best}"/"model.safetensors")
    result = neuralkit(*words, "--resume", "auto")
    assert result.status == 0 and f"the best it knows, step_{best}" in result.stderr and outcome(run) == before

def test_wrong_names_are_mended(killed, whole, neuralkit):
    for name in ("best", "last"):
        (killed/"checkpoints"/name).unlink()
        (killed/"checkpoints"/name).symlink_to("step_6")
    assert neuralkit(*TYPED, "--resume", "auto").status == 0 and outcome(killed) == whole

def test_copy_without_links_goes_on(killed, whole, neuralkit):
    "As some archives unpack it: best and last are folders."
    for name in ("best", "last"):
        link = killed/"checkpoints"/name
        to = link.resolve()
        link.unlink()
        shutil.copytree(to, link)
    assert neuralkit(*TYPED, "--resume", "auto").status == 0 and outcome(killed) == whole

def test_all_broken_starts_over_in_the_same_folder_and_says_so(killed, whole, neuralkit):
    for path in checkpoints(killed): flip(path/"trainer.safetensors")
    result = neuralkit(*TYPED, "--resume", "auto")
    assert result.status == 0 and "no whole checkpoint" in result.stdout and outcome(killed) == whole and len(find_runs()) == 1

@pytest.mark.parametrize("words", [["predict", "last", "--trace", "x.csv"], ["evaluate", "last"], ["export", "last"], [*TYPED, "--init-from", "last"]], ids=lambda w: w[0])
def test_broken_weights_are_not_used(finished, refused, words):
    flip(finished/"checkpoints"/"best"/"model.safetensors")
    refused(words, ["best", "model.safetensors", "sealed as"])


# --- what the run began with

@pytest.mark.parametrize("name", ["fitted", "calibration"])
def test_changed_fitted_state_is_refused(finished, refused, name):
    path = finished/f"{name}.json"
    path.write_text(path.read_text().replace("1", "2", 1))
    refused(["evaluate", "last"], [f"{name}.json was changed", "sha256", finished.manifest[name][:12]])

def test_changed_fitted_state_is_not_gone_on_with(killed, refused):
    was = killed.manifest["fitted"]
    flip(killed/"fitted.json")
    refused([*TYPED, "--resume", "auto"], ["fitted.json", was[:12], sha256(killed/"fitted.json")[:12]])

def rows_file(path: Path, shift: int = 0) -> Path:
    lines = ["time,requests"] + [f"{60*i},{(i*7 + i//50) % 23 + shift}" for i in range(400)]
    path.write_text("\n".join(lines) + "\n")
    return path

def test_changed_data_is_refused_by_training_and_told_by_evaluate(home, neuralkit, refused):
    data = rows_file(home/"load.csv")
    words = [*TYPED, "--data", data]
    assert neuralkit(*words).status == 0
    [run] = find_runs()
    was = run.manifest["data"][0]["sha256"]
    (run/"summary.json").rename(home/"summary.json")
    rows_file(data, shift=1)
    refused([*words, "--resume", "auto"], ["load.csv", was[:12], "now"])
    (home/"summary.json").rename(run/"summary.json")
    result = neuralkit("evaluate", "last", "--no-sweep")
    assert result.status == 0 and "changed since the run began" in result.stderr
    assert any(row["state"] == "broken" and "load.csv" in row["why"] for row in verify(run))

def test_changed_frozen_model_is_refused(home, neuralkit, refused):
    from transformers import BertModel
    from neuralkit.text.encoder import tiny_encoder
    def write(seed):
        import torch
        torch.manual_seed(seed)
        model, tokenizer = tiny_encoder(width=32)
        for part in (BertModel(model.config), tokenizer): part.save_pretrained(home/"frozen")
    write(0)
    words = ["train", "sgdd", "--preset", "test", "--encoder", home/"frozen", "--max_steps", 2, "--evaluate_limit", 0, "--test_limit", 2]
    assert neuralkit(*words).status == 0
    [run] = find_runs()
    (run/"summary.json").unlink()
    was = run.manifest["models"][0]["sha256"]
    write(1)
    result = neuralkit_process(*words, "--resume", "auto", home=home)         # this process remembers the model that it loaded
    assert result.status == 2
    one_sentence(result.stderr, ["frozen", was[:12], "now"])


# --- --resume auto says what it does

def test_auto_without_a_run_begins_and_says_so(home, neuralkit):
    result = neuralkit(*TYPED, "--resume", "auto")
    assert result.status == 0 and "a new one begins" in result.stdout and len(find_runs()) == 1

def test_auto_on_a_finished_run_says_so_and_trains_nothing(finished, home, neuralkit):
    before = files(home)
    result = neuralkit(*TYPED, "--resume", "auto")
    assert result.status == 0 and "is finished already" in result.stdout and files(home) == before

def test_report_at_the_end_knows_that_the_run_is_finished(made):
    assert "This run is not finished" not in (made/"report.html").read_text()

def test_auto_after_a_kill_before_the_report_writes_it(finished, neuralkit):
    (finished/"report.html").unlink()
    result = neuralkit(*TYPED, "--resume", "auto")
    assert result.status == 0 and "finished already" in result.stdout and (finished/"report.html").exists() and len(find_runs()) == 1

@pytest.mark.parametrize("facts", [{"pid": 1}, {"host": "elsewhere"}, {"pid": None, "host": None}], ids=str)
def test_auto_goes_by_the_lock_not_by_pid_or_host(killed, whole, neuralkit, facts):
    killed.note(**facts)
    result = neuralkit(*TYPED, "--resume", "auto")
    assert result.status == 0 and "going on with" in result.stdout and "killed" in result.stdout
    assert outcome(killed) == whole and len(find_runs()) == 1
    assert ("on elsewhere" in result.stdout) == (facts.get("host") == "elsewhere")

def test_auto_passes_over_a_broken_folder_with_a_sentence(killed, whole, neuralkit, home):
    broken = home/"runs"/"predictor"/"29990101T000000Z-abcdef-s0"
    broken.mkdir()
    result = neuralkit(*TYPED, "--resume", "auto")
    assert result.status == 0 and "is broken and passed over" in result.stderr and outcome(killed) == whole

def test_run_of_another_system_is_not_gone_on_with(killed, refused):
    refused(["train", "sgdd", "--resume", killed.path], ["predictor", "sgdd"])

def test_leftovers_of_a_kill_are_taken_away(killed, neuralkit):
    (killed/"checkpoints"/".step_9.tmp").mkdir()
    (killed/"checkpoints"/".step_6.old").mkdir()
    (killed/".summary.json.4194304.tmp").write_text("{")
    (killed.path.parent/".20260101T000000Z-abcdef-s0.4194304.tmp").mkdir()
    assert neuralkit(*TYPED, "--resume", "auto").status == 0 and leftovers(killed.path) == []
    assert neuralkit(*TYPED, "--seed", 1).status == 0 and leftovers(killed.path.parent) == []


# --- --out: the run folder itself

def test_out_is_the_run_folder_and_auto_goes_on_there(home, neuralkit, refused, whole):
    words = [*TYPED, "--out", home/"mine"/"first"]
    assert neuralkit(*words).status == 0 and find_runs() == []
    run = Run(home/"mine"/"first")
    assert outcome(run) == whole and run.flaw is None
    refused(words, ["mine/first", "not empty"])
    (run/"summary.json").unlink()
    result = neuralkit(*words, "--resume", "auto")
    assert result.status == 0 and "going on with" in result.stdout and outcome(run) == whole
    refused([*words, "--seed", 5, "--resume", "auto"], ["seed"])
    assert neuralkit("report", run.path).status == neuralkit("verify", run.path).status == 0

def test_out_that_holds_something_else_is_left_alone(home, refused):
    (home/"taken").mkdir()
    (home/"taken"/"thesis.txt").write_text("mine")
    refused([*TYPED, "--out", home/"taken"], ["taken", "not empty"])
    refused([*TYPED, "--out", home/"taken"/"thesis.txt"], ["thesis.txt"])

def test_quick_is_the_smallest_size(home, neuralkit, refused):
    result = neuralkit("train", "predictor", "--quick")
    assert result.status == 0 and find_runs()[0].summary["steps"] == 13
    refused(["train", "predictor", "--quick", "--preset", "seed"], ["--quick", "--preset"])


# --- broken small files: one folder is broken, the others are listed; every verb answers with one sentence

BROKEN = {
    "manifest torn":         ("manifest.json", lambda text: text[:90]),
    "manifest empty":        ("manifest.json", lambda text: ""),
    "manifest a list":       ("manifest.json", lambda text: "[1, 2]"),
    "manifest gone":         ("manifest.json", None),
    "manifest binary":       ("manifest.json", lambda text: "\0\1\2"),
    "status by hand":        ("manifest.json", lambda text: text.replace('"finished"', '"done"')),
    "seed as text":          ("manifest.json", lambda text: text.replace('"seed": 0', '"seed": "0"')),
    "started by hand":       ("manifest.json", lambda text: text.replace('"started": "2', '"started": "yesterday 2')),
    "hash by hand":          ("manifest.json", lambda text: text.replace('"config_hash": "', '"config_hash": "0')),
    "key gone":              ("manifest.json", lambda text: text.replace('"system"', '"sistem"')),
    "data by hand":          ("manifest.json", lambda text: text.replace('"data": [', '"data": "none", "was": [')),
    "data without a name":   ("manifest.json", lambda text: text.replace(chr(34) + "name" + chr(34) + ": ", chr(34) + "nom" + chr(34) + ": ")),
    "config torn":           ("config.json", lambda text: text[:40]),
    "config gone":           ("config.json", None),
    "config a number":       ("config.json", lambda text: "3"),
    "config by hand":        ("config.json", lambda text: text.replace('"epochs": 1', '"epochs": 2')),
    "summary torn":          ("summary.json", lambda text: text[:20]),
    "summary empty":         ("summary.json", lambda text: ""),
    "summary a list":        ("summary.json", lambda text: "[]"),
}

@pytest.fixture
def beside(finished) -> Run:
    "The finished run again, under a later name: to be broken."
    return Run(shutil.copytree(finished.path, finished.path.with_name("29990101T000000Z-abcdef-s0"), symlinks=True))

def harm(run: Run, case: str) -> None:
    name, change = BROKEN[case]
    before = (run/name).read_text()
    if change is None: (run/name).unlink()
    else: (run/name).write_text(change(before))
    assert change is None or (run/name).read_text() != before

@pytest.mark.parametrize("case", BROKEN)
def test_broken_folder_stands_in_nobodys_way(finished, beside, neuralkit, case):
    harm(beside, case)
    lines = neuralkit("runs").stdout.splitlines()
    assert len(lines) == 3 and "finished" in lines[1] and "broken" in lines[2] and BROKEN[case][0] in lines[2]
    result = neuralkit("evaluate", "last", "--no-sweep", "--limit", 2)
    assert result.status == 0 and "passed over" in result.stderr and str(finished.path) in result.stdout
    result = neuralkit("verify", beside.path)
    assert result.status == 1 and "broken" in result.stdout and result.stderr.count("\n") == 1

@pytest.mark.parametrize("case", BROKEN)
def test_every_verb_answers_about_a_broken_folder_in_one_sentence(beside, neuralkit, case):
    harm(beside, case)
    before = files(beside.path)
    for words in (["evaluate", beside.path], ["predict", beside.path, "--trace", "x.csv"], ["report", beside.path], ["export", beside.path],
                  ["reproduce", beside.path], ["train", "predictor", "--resume", beside.path], ["train", "predictor", "--preset", "test", "--init-from", beside.path],
                  ["runs", beside.path, "--keep", "x"]):
        result = neuralkit(*words)
        assert result.status == 2, words
        one_sentence(result.stderr, [BROKEN[case][0]])
    assert files(beside.path) == before

@pytest.mark.parametrize("name", ["samples.json", "evaluation.json"])
@pytest.mark.parametrize("content", ["", "3", "[", '"text"'])
def test_broken_results_are_named_by_the_report(finished, neuralkit, name, content):
    (finished/name).write_text(content)
    result = neuralkit("report", finished.path)
    assert result.status == 2
    one_sentence(result.stderr, [name])

def test_log_with_torn_lines_still_has_its_report(finished, neuralkit):
    path = finished/"metrics.jsonl"
    lines = path.read_bytes().splitlines(True)
    path.write_bytes(lines[0][:30] + b"\n" + b"\xff\xfe\n" + b"[]\n" + b"".join(lines) + b'{"step": 99, "lo')
    assert neuralkit("report", finished.path).status == 0
    result = neuralkit("verify", finished.path)
    assert result.status == 1 and "4 lines are torn, the first is line 1" in result.stdout


# --- signals, at any time

def stopped_at(home: Path, words: list, until, number: int, **env):
    "Send a signal once `until()` holds; returns the Result."
    process = neuralkit_process(*words, home=home, wait=False, **env)
    end = time.monotonic() + 120
    while not until():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < end
        time.sleep(.005)
    process.send_signal(number)
    return finish(process)

SLOW = """
import signal, sys, time
from neuralkit.core import verbs
def slow(name):
    plain = getattr(verbs, name)
    def there(*args, **words):
        open(sys.argv[1], "w").close()
        time.sleep(60)
        return plain(*args, **words)
    setattr(verbs, name, there)
slow(sys.argv[2])
from neuralkit.core.cli import main
sys.exit(main(sys.argv[3:]))
"""

@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"])
@pytest.mark.parametrize("where, left", [("fill_job", None), ("conclude", "stopped"), ("run_report", "finished")])
def test_signal_outside_training(home, where, left, number, status):
    "While data are read, while the best is evaluated, while the report is written."
    mark, words = home/"there", list(map(str, TYPED))
    command = [sys.executable, "-c", SLOW, str(mark), where, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    end = time.monotonic() + 120
    while not mark.exists():
        assert process.poll() is None and time.monotonic() < end, finish(process)
        time.sleep(.01)
    process.send_signal(number)
    result = finish(process)
    assert result.status == status
    one_sentence(result.stderr, [signal.Signals(number).name])
    found = find_runs()
    if left is None: assert found == []
    else:
        assert found[0].status == left and found[0].flaw is None
        hint = f"neuralkit report {found[0].path}" if left == "finished" else f"--resume {found[0].path}"
        assert hint in result.stderr

def test_hangup_stops_training_and_nohup_does_not(home, whole):
    words = ["train", "predictor", "--preset", "test", "--epochs", 400, "--checkpoint_every", 50, "--early_stopping_patience", 0]
    result = stopped_at(home, words, lambda: list(home.glob("runs/predictor/*/checkpoints/step_50")), signal.SIGHUP)
    [run] = find_runs()
    assert result.status == 129 and run.status == "stopped"
    one_sentence(result.stderr, ["SIGHUP", "--resume", run.path])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)          # as nohup starts its children
    try:
        result = stopped_at(home, [*TYPED, "--epochs", 20, "--early_stopping_patience", 0], lambda: len(list(home.glob("runs/predictor/*/metrics.jsonl"))) > 1, signal.SIGHUP)
    finally: signal.signal(signal.SIGHUP, before)
    assert result.status == 0


# --- a full disk

def test_full_disk_at_the_report_leaves_a_finished_run(home, neuralkit, monkeypatch, whole):
    from neuralkit.core import report
    def full(*args, **words): raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(report, "write_report", full)
        result = neuralkit(*TYPED)
    [run] = find_runs()
    assert result.status == 1 and run.status == "finished" and outcome(run) == whole
    one_sentence(result.stderr, ["No space left", "finished", f"neuralkit report {run.path}"])
    assert neuralkit("report", run.path).status == 0 and (run/"report.html").exists()

@pytest.mark.parametrize("name", ["samples.json", "summary.json", "state.json", "calibration.json", "metrics.jsonl"])
def test_full_disk_anywhere_else_leaves_what_can_go_on(home, neuralkit, monkeypatch, whole, name):
    import builtins
    plain = builtins.open
    def full(path, mode="r", *args, **words):
        if name in str(path) and set(mode) & set("wa"): raise OSError(28, "No space left on device")
        return plain(path, mode, *args, **words)
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", full)
        result = neuralkit(*TYPED)
    assert result.status == 1
    one_sentence(result.stderr, ["No space left"])
    [run] = find_runs()
    assert run.status == "failed" and run.flaw is None
    assert neuralkit(*TYPED, "--resume", "auto").status == 0 and outcome(run) == whole


# --- numbers that are none

def test_nan_ends_in_a_sentence_with_the_good_checkpoint_kept(home, neuralkit, monkeypatch):
    from neuralkit.predictor import system as room
    import dataclasses, torch
    calls = []
    def loss(model, batch, plain=room.SYSTEM.loss):
        found = plain(model, batch)
        calls.append(model.training)
        if model.training and sum(calls) == 8: found["loss"] = (found["loss"][0]*torch.nan, found["loss"][1])
        return found
    monkeypatch.setattr(room, "SYSTEM", dataclasses.replace(room.SYSTEM, loss=loss))
    result = neuralkit(*TYPED)
    assert result.status == 1
    one_sentence(result.stderr, ["update 8", "nan"])
    [run] = find_runs()
    assert run.status == "failed" and [path.name for path in checkpoints(run)] == ["step_6", "step_3"] and run.manifest["steps"] == 7
    for line in (run/"metrics.jsonl").read_text().splitlines(): json.loads(line, parse_constant=pytest.fail)

def test_validation_that_is_nan_ends_too(home, neuralkit, monkeypatch):
    from neuralkit.core import verbs
    plain = verbs.losses_on
    monkeypatch.setattr(verbs, "losses_on", lambda *args, **words: plain(*args, **words) | {"loss": float("nan")})
    result = neuralkit(*TYPED)
    assert result.status == 1
    one_sentence(result.stderr, ["validation at step 13"])
    [run] = find_runs()
    assert run.status == "failed" and checkpoints(run)[0].name == "step_12"
    for line in (run/"metrics.jsonl").read_text().splitlines(): json.loads(line, parse_constant=pytest.fail)


# --- speed

def test_five_hundred_runs_are_listed_in_a_second_without_torch(finished, home):
    for n in range(500): shutil.copytree(finished.path, finished.path.with_name(f"20260101T{n:06}Z-abcdef-s0"), symlinks=True, ignore=shutil.ignore_patterns("checkpoints", "report.html", "tensorboard"))
    program = "import sys, resource; from neuralkit.core.cli import main; main(['runs']); assert 'torch' not in sys.modules; print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=home)
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 503, result.stderr
    assert float(result.stdout.splitlines()[-1]) < 2                # CPU; idle it takes half a second

@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_report_of_a_million_rows_is_thin(finished, home):
    with open(finished/"metrics.jsonl", "w") as f:
        for step in range(1_000_000):
            f.write(f'{{"step": {step}, "epoch": {step/1e6}, "split": "train", "loss": {2/(step + 1)}, "lr": 0.001, "grad_norm": 0.5, "examples_per_s": 123.4, "tokens_per_s": 123.4, "seconds": {step/10}}}\n')
    program = ("import sys, resource; from neuralkit.core.cli import main; main(['report', sys.argv[1]]); u = resource.getrusage(resource.RUSAGE_SELF); "
               "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')); print(u.ru_utime + u.ru_stime, peak)")
    result = subprocess.run([sys.executable, "-c", program, str(finished.path)], capture_output=True, text=True, cwd=home)
    assert result.returncode == 0, result.stderr
    seconds, kilobytes = map(float, result.stdout.splitlines()[-1].split())
    assert seconds < 15 and kilobytes < 400_000
    assert (finished/"report.html").stat().st_size < 8e6


# --- what strangers leave beside, and who listens

def test_what_others_keep_beside_out_is_left_alone(home, neuralkit):
    (home/".mine.tmp").mkdir()
    (home/".notes.12.tmp").write_text("precious")
    assert neuralkit(*TYPED, "--out", home/"run").status == 0
    assert (home/".mine.tmp").is_dir() and (home/".notes.12.tmp").read_text() == "precious"

def test_each_kept_checkpoint_keeps_the_best_it_knows(home, neuralkit):
    "Best at an early step, then at the newest: with the newest damaged, the one before goes on with its own best."
    from neuralkit.core.checkpoint import Snapshot, save_checkpoint, tidy
    import torch
    run = create_run("predictor", __import__("neuralkit.predictor.config", fromlist=["PRESETS"]).PRESETS["test"])
    for step, best in ((3, 3), (6, 3), (9, 3), (12, 12)):
        save_checkpoint(run, Snapshot({"w": torch.zeros(1)}, {"w": torch.zeros(1)}, {"step": step}), best)
        tidy(run, keep=2)
    assert [path.name for path in checkpoints(run)] == ["step_12", "step_9", "step_3"]
    release(run)

def test_nobody_reads_and_training_goes_on(home):
    words = ["train", "predictor", "--preset", "test", "--epochs", "3", "--early_stopping_patience", "0"]
    script = f"{sys.executable} -m neuralkit {' '.join(words)} | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=home, env=os.environ | {"NEURALKIT_HOME": str(home)})
    [run] = find_runs()
    assert run.status == "finished" and done.stderr == ""

def test_last_is_the_newest_whatever_its_name(finished, home, neuralkit):
    assert neuralkit(*TYPED, "--out", home/"runs"/"predictor"/"baseline").status == 0
    assert neuralkit(*TYPED, "--seed", 3).status == 0
    assert neuralkit("report", "last").stdout.strip().split("/")[-2].endswith("-s3")

def test_init_from_another_system_is_refused(finished, refused):
    refused(["train", "sgdd", "--preset", "test", "--init-from", finished.path], ["predictor", "sgdd"])

def test_best_weights_that_are_gone_are_told_by_verify(finished, neuralkit):
    shutil.rmtree(finished/"checkpoints")
    result = neuralkit("verify", finished.path, "--no-origin")
    assert result.status == 1 and "checkpoints/best" in result.stderr
