"A run is watched while it trains, when it hangs, when it dies, and when it is over; its record costs training nothing."
import json, os, re, signal, subprocess, sys, threading, time, types
from pathlib import Path

import pytest

from conftest import TIMEOUT, finish, neuralkit_process
from neuralkit.core import monitor
from neuralkit.core.config import Config, UserError
from neuralkit.core.monitor import tail_rows, watch_run
from neuralkit.core.report import machine_sections, run_sections
from neuralkit.core.runs import Run, create_run, release

TRAIN = ["train", "predictor", "--preset", "test", "--epochs", 5000, "--early_stopping_patience", 0,
         "--log_every", 5, "--evaluate_every", 500, "--checkpoint_every", 100]


class Demo(Config): epochs: int = 10


@pytest.fixture
def run(home):
    "A run of this process, claimed, without a row."
    made = create_run("demo", Demo(), device="cpu (2 cores)")
    yield made
    release(made)

def put(path: Path, *rows: dict) -> None:
    with open(path, "a") as f:
        for row in rows: f.write(json.dumps(row) + "\n")

def train_row(step: int, loss=1., **more) -> dict:
    return {"step": step, "epoch": step/100, "split": "train", "loss": loss, "examples_per_s": 100.} | more

def sample(step: int, at: float, began: float = 0., **more) -> dict:
    memory = {"rss_bytes": 4e8, "memory_bytes": 8e9, "free_bytes": 5e9}
    return {"time": at, "began": began, "step": step, "total": 100, "cpu_percent": 99.} | memory | more

def going(run: Run, ago: float = 0., steps: int = 6) -> None:
    "Rows of the last seconds; the last is `ago` seconds old."
    end = time.time() - ago
    for step in range(1, steps + 1):
        put(run/"metrics.jsonl", train_row(step))
        put(run/"monitor.jsonl", sample(step, end - steps + step))
    os.utime(run/"metrics.jsonl", (end, end))
    old = json.loads((run/"manifest.json").read_text()) | {"started": "2026-01-01T00:00:00+00:00"}
    (run/"manifest.json").write_text(json.dumps(old))

def here(run: Run, monkeypatch) -> None:
    "The manifest says that the run began long ago, so let this process be as old."
    monkeypatch.setattr(monitor, "process_of", lambda sight: monitor.psutil.Process() if sight.here else None)

def alerts(run: Run) -> list[dict]:
    return [row for row in tail_rows(run/"monitor.jsonl") if "alert" in row]

def as_line(capsys) -> str:
    "What was printed, lines joined."
    return " ".join(capsys.readouterr().out.split())

def until(met, seconds: float = TIMEOUT):
    "What `met()` finds, as soon as it finds something."
    end = time.time() + seconds
    while not (found := met()):
        assert time.time() < end, "it took too long"
        time.sleep(.05)
    return found

@pytest.fixture
def started():
    "Processes to end with the test, however it ends."
    processes = []
    yield processes
    for process in processes: process.kill()

def watching(name, home: Path, words: str = "every=.2") -> subprocess.Popen:
    "watch_run in a process of its own; the last line tells what heavy modules it has loaded."
    code = (f"import sys; from neuralkit.core.monitor import watch_run; status = watch_run({str(name)!r}, {words}); "
            "print([m for m in ('torch', 'numpy', 'plotly') if m in sys.modules]); sys.exit(status)")
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"NEURALKIT_HOME": str(home)})


# --- a run that lives, stops, goes on and is killed

def test_a_live_run_is_watched_to_its_death_and_goes_on(home, capsys, started):
    process = neuralkit_process(*TRAIN, home=home, wait=False)
    started.append(process)
    [record] = until(lambda: list(home.glob("runs/predictor/*/monitor.jsonl")))
    run = Run(record.parent)
    until(lambda: len(tail_rows(record)) > 3)

    looked = finish(watching("last", home, "once=True"))
    assert looked.status == 0, looked.stderr
    shown = dict(line.split(None, 1) for line in looked.stdout.splitlines()[:-1])
    assert shown["run"].endswith("running") and re.match(r"[\d,]+ of [\d,]+, \d+%", shown["step"])
    assert "left" in shown["time"] and "of 5000" in shown["epoch"] and "examples/s" in shown["speed"]
    assert re.match(r"CPU \d+%, memory \d+ MB, ", shown["process"]) and "ALERT" not in shown
    assert looked.last_line == "[]", "it loads what it does not need"

    watcher = watching(run.path, home)
    started.append(watcher)
    first = watcher.stdout.readline()
    process.kill()
    finish(process)
    watched = finish(watcher)
    *lines, last, said, _ = [first, *watched.stdout.splitlines()]
    assert watched.status == 1 and all(" running " in line for line in lines), watched.stderr
    assert " killed " in last and "ALERT killed" in last and "--resume" in said
    assert [row["kind"] for row in alerts(run)] == ["killed"]

    from neuralkit.core.terminal import Stopped
    from neuralkit.core.verbs import train
    before, done = len(tail_rows(record)), threading.Event()
    def ask_to_stop():
        until(lambda: len(tail_rows(record)) > before + 2 or done.is_set())
        if not done.is_set(): os.kill(os.getpid(), signal.SIGTERM)
    asking = threading.Thread(target=ask_to_stop)
    asking.start()
    try:
        with pytest.raises(Stopped): train("predictor", resume=str(run.path))
    finally: done.set()
    asking.join()
    capsys.readouterr()
    assert watch_run(run) == 0 and tail_rows(record)[-1]["ended"]
    line, said = capsys.readouterr().out.splitlines()
    assert "since it went on" in line and said.startswith("stopped after") and "--resume" in said

    record.write_bytes(record.read_bytes()[:-30])                     # the kill had fallen into a line
    assert watch_run(run, once=True) == 0
    from neuralkit.core.verify import findings
    assert [row for row in findings(run) if row["state"] == "broken"] == []
    samples = [row for row in tail_rows(record) if "alert" not in row]
    assert {row["total"] for row in samples} == {run.config["training"]["epochs"]*13} and len({row["began"] for row in samples}) == 2
    assert all(later["time"] - sooner["time"] >= .9 for sooner, later in zip(samples, samples[1:])
               if sooner["began"] == later["began"] and not later.get("ended")), "more than a row a second"
    [section] = machine_sections(run)
    assert len(section.figure) == 2 and section in run_sections(run)


def test_a_finished_run_shows_its_last_state(trained, capsys, monkeypatch, shared_home):
    monkeypatch.setenv("NEURALKIT_HOME", str(shared_home))
    run = trained("predictor")
    before = (run/"monitor.jsonl").read_bytes()
    capsys.readouterr()
    assert watch_run(run.path) == 0
    line, said = capsys.readouterr().out.splitlines()
    assert " finished " in line and "100%" in line and said.startswith("finished after")
    first, *_, last = tail_rows(run/"monitor.jsonl")
    assert first["step"] == 0 and last["ended"] and (run/"monitor.jsonl").read_bytes() == before

def test_nan_ends_the_run_and_is_told(home, capsys):
    from neuralkit.core.callbacks import NotFinite
    from neuralkit.core.verbs import train
    with pytest.raises(NotFinite): train("predictor", "test", learning_rate=1e38, clip=0.)
    assert watch_run("last") == 1
    out = capsys.readouterr().out
    assert "ALERT not a number: NotFinite" in out and out.splitlines()[-1].startswith("failed after")


# --- what a folder may look like

def test_before_the_first_row(run, capsys):
    assert watch_run(run, once=True) == 0
    out = capsys.readouterr().out
    assert "no row yet" in out and "memory" in out and "stalled" not in out

def test_a_broken_folder_is_one_sentence(run):
    (run/"manifest.json").write_text('{"schema')
    with pytest.raises(UserError, match="manifest.json line 1: not JSON"): watch_run(run, once=True)
    with pytest.raises(UserError, match="no run"): watch_run("there is none")
    for every in (0, -1, float("nan")):
        with pytest.raises(UserError, match="every"): watch_run(run, every=every)

def test_a_folder_that_breaks_while_it_is_watched(run, monkeypatch):
    monkeypatch.setattr(monitor.time, "sleep", lambda seconds: (run/"config.json").write_text("{"))
    with pytest.raises(UserError, match="config.json"): watch_run(run)

def test_a_run_elsewhere_tells_what_it_wrote(run, capsys):
    going(run, ago=9)
    run.note(host="node7", pid=1)
    assert watch_run(run, once=True) == 0
    out = as_line(capsys)
    assert "it runs on node7, so its CPU and memory cannot be seen from here" in out and re.search(r"memory 400 MB, .* 00:\d\d ago", out)

def test_the_number_of_a_process_that_is_gone(run, capsys):
    "Taken up by another process, which has not said so yet: it is no stall."
    going(run, ago=5000)
    child = subprocess.Popen(["true"])
    child.wait()
    for pid in (child.pid, os.getpid(), None):                              # this process is younger than the run
        run.note(pid=pid)
        assert watch_run(run, once=True) == 0 and "cannot be seen yet" in capsys.readouterr().out

@pytest.mark.parametrize("content", [b"", b"\n\n[1]\nnull\n", b"\xff\xfe", b'{"step": "one"}\n{"time": 1}\n', b'{"step": 1'])
def test_files_that_hold_anything(run, content, capsys):
    for name in ("metrics.jsonl", "monitor.jsonl"): (run/name).write_bytes(content)
    assert watch_run(run, once=True) == 0 and machine_sections(run) == []

def test_rows_that_lack_things(run, capsys):
    put(run/"metrics.jsonl", {"step": 3}, {"step": 4, "split": "valid", "loss": 2}, {"step": 5, "loss": "low", "split": "train"},
        {"step": 5, "loss": 2, "split": ["a"]}, {"step": 6, "loss": 1, "epoch": "one"})
    put(run/"monitor.jsonl", {"step": 3, "time": time.time(), "began": 1, "total": "many", "cpu_percent": "all", "rss_bytes": 1,
                                "free_bytes": 1, "memory_bytes": 2, "gpu_bytes": 3, "gpu_total_bytes": "most"})
    assert watch_run(run, once=True) == 0

def test_a_torn_record_is_read_and_written_to(run, monkeypatch):
    here(run, monkeypatch)
    going(run, ago=70)
    with open(run/"monitor.jsonl", "a") as f: f.write('{"time": 12, "beg')
    assert watch_run(run, once=True) == 1
    assert [row["kind"] for row in alerts(run)] == ["stall"], "the torn line has swallowed it"
    assert watch_run(run, once=True) == 1 and len(alerts(run)) == 1, "told twice"

def test_a_million_lines_in_half_a_second_of_work(run, capsys):
    rows = "".join(json.dumps(train_row(step, 1/(step + 1))) + "\n" for step in range(1000))
    with open(run/"metrics.jsonl", "w") as f:
        for _ in range(1000): f.write(rows)
    put(run/"metrics.jsonl", train_row(1234567, .5))
    begun = time.process_time()                                             # others may be busy here
    assert watch_run(run, once=True) == 0
    assert time.process_time() - begun < .5 and "1,234,567" in capsys.readouterr().out


# --- alerts

def kinds(run: Run, **seen) -> list[str]:
    return [alert.kind for alert in monitor.Watcher(run, **seen).look().alerts]

@pytest.mark.parametrize("ago, told", [(40, []), (70, ["stall"])])
def test_a_stall_is_told_after_a_minute(run, ago, told, monkeypatch, capsys):
    here(run, monkeypatch)
    going(run, ago)
    assert kinds(run) == told
    if told: assert watch_run(run, once=True) == 1 and re.search(r"01:\d\d ago; CPU \d+%", as_line(capsys))

def test_a_stall_is_known_by_the_usual_interval(run, monkeypatch):
    here(run, monkeypatch)
    going(run, ago=70)
    (run/"monitor.jsonl").unlink()
    end = time.time() - 70
    put(run/"monitor.jsonl", *[sample(step, end - 20*(4 - step)) for step in range(5)])         # a row every 20 s
    assert kinds(run) == []
    put(run/"monitor.jsonl", *[sample(step, end + step, began=1) for step in range(5)])          # it went on, and is faster now
    assert kinds(run) == ["stall"]
    put(run/"monitor.jsonl", sample(5, end + 5, began=1, ended=True))                            # it evaluates
    assert kinds(run) == []

def test_a_stall_is_over_with_the_next_row(run, monkeypatch, capsys):
    "And a stall that comes again is told again."
    here(run, monkeypatch)
    going(run, ago=70)
    watcher = monitor.Watcher(run)
    moments = [watcher.look(), watcher.look()]
    going(run)
    moments.append(watcher.look())
    going(run, ago=80)
    put(run/"monitor.jsonl", *[sample(9, time.time() - 80, began=2)]*2)
    moments.append(watcher.look())
    assert [len(moment.alerts) for moment in moments] == [1, 1, 0, 1] and len(alerts(run)) == 2

def test_loss_that_rises_or_is_none(run):
    put(run/"metrics.jsonl", *[train_row(step, 1 + .9*(step % 2)) for step in range(40)])
    assert kinds(run) == []
    put(run/"metrics.jsonl", *[train_row(40 + step, 9.) for step in range(3)])
    assert kinds(run) == [], "three rows are luck"
    put(run/"metrics.jsonl", *[train_row(43 + step, 9.) for step in range(7)])
    assert kinds(run) == ["rising"]
    put(run/"metrics.jsonl", {"step": 50, "split": "valid", "loss": None})
    assert kinds(run) == ["nan", "rising"]

def test_disk_nearly_full(run, monkeypatch):
    monkeypatch.setattr(monitor.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=9e8))
    assert kinds(run) == ["disk"]
    assert [row["kind"] for row in alerts(run)] == ["disk"]
    (run/"monitor.jsonl").unlink()
    (run/"monitor.jsonl").mkdir()                                           # it cannot be written to
    assert kinds(run) == ["disk"] and machine_sections(run) == []

@pytest.mark.parametrize("error, kind", [
    ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "memory"), ("MemoryError: ", "memory"),
    ("RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried", "memory"),
    ("OSError: [Errno 12] Cannot allocate memory", "memory"), ("NotFinite: update 3: loss nan", "nan"), ("KeyError: 'x'", "failed")])
def test_why_it_failed(run, error, kind, capsys):
    release(run)
    run.note(status="failed", error=error, ended="2026-01-01T00:00:00+00:00")
    assert watch_run(run) == 1 and error.strip()[:30] in capsys.readouterr().out
    assert kinds(run) == [kind] and alerts(run) == [], "who was not there tells nobody"

@pytest.mark.parametrize("free, kind", [(5e9, "killed"), (1e8, "memory")])
def test_killed_and_perhaps_for_memory(run, free, kind, capsys):
    put(run/"monitor.jsonl", sample(3, time.time(), rss_bytes=7.8e9, free_bytes=free))
    release(run)
    assert kinds(run) == [kind] and watch_run(run) == 1
    assert ("probably killed for memory" in as_line(capsys)) == (kind == "memory")

def test_memory_that_only_the_watcher_saw(run, monkeypatch):
    going(run)
    watcher = monitor.Watcher(run)
    here(run, monkeypatch)
    monkeypatch.setattr(monitor.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1e7, total=8e9))
    assert watcher.look().alerts == []
    release(run)
    assert [alert.kind for alert in watcher.look().alerts] == ["memory"]


def test_a_run_that_ends_between_two_looks_at_it(run, monkeypatch):
    "Its manifest said running, then it failed, then its lock was free."
    said = iter(["killed", "failed"])
    def status(self):
        run.note(status="failed", error="KeyError: 'x'")
        return next(said)
    monkeypatch.setattr(Run, "status", property(status))
    [alert] = monitor.Watcher(run).look().alerts
    assert alert.text == "failed: KeyError: 'x'"


# --- the terminal, the GPU

def test_a_terminal_is_drawn_over(run, monkeypatch, capsys):
    going(run)
    monkeypatch.setattr(monitor.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    screen = monitor.Screen()
    moment = monitor.Watcher(run).look()
    screen.show(moment)
    first = capsys.readouterr().out
    screen.show(moment)
    second = capsys.readouterr().out
    lines = len(first.splitlines())
    assert "\x1b" not in first and second == f"\x1b[{lines}F\x1b[J{first}" and max(map(len, first.splitlines())) < 50

def test_gpus_as_nvml_tells_them(monkeypatch, run):
    class NVMLError(Exception): pass
    def refuse(*_): raise NVMLError
    at = types.SimpleNamespace
    fake = at(NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=lambda n: n,
              nvmlDeviceGetUtilizationRates=lambda h: at(gpu=10*h), nvmlDeviceGetMemoryInfo=lambda h: at(used=1e9, total=8e9),
              nvmlDeviceGetTemperature=refuse, nvmlDeviceGetComputeRunningProcesses=lambda h: [at(pid=os.getpid())] if h else [])
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monitor.nvml.cache_clear()
    try:
        assert [(gpu.name, gpu.percent, gpu.celsius) for gpu in monitor.gpus_here(os.getpid())] == [("GPU 1", 10, None)]
        assert len(monitor.gpus_here(1)) == 2
        run.note(device="NVIDIA H200")
        assert [gpu.name for gpu in monitor.Watcher(run).look().gpus] == ["GPU 1"]
        run.note(device="cpu (2 cores)")
        assert monitor.Watcher(run).look().gpus == []
        fake.nvmlInit = refuse
        monitor.nvml.cache_clear()
        assert monitor.gpus_here(os.getpid()) == []
    finally: monitor.nvml.cache_clear()

def test_nobody_reads_any_more(run, started):
    going(run)
    code = f"from neuralkit.core.monitor import watch_run; watch_run({str(run.path)!r}, every=.1)"
    watcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    started.append(watcher)
    watcher.stdout.readline()
    watcher.stdout.close()
    assert watcher.wait(TIMEOUT) != 0


# --- the record of the training process

def test_the_record_is_worth_no_training(home, monkeypatch):
    "A disk that is full only for it, and a machine that tells nothing."
    from neuralkit.core import callbacks
    from neuralkit.core.verbs import train
    def nothing(): raise RuntimeError("no /proc here")
    monkeypatch.setattr(callbacks, "memory_left", nothing)
    run = train("predictor", "test", epochs=1)
    assert run.status == "finished" and not (run/"monitor.jsonl").exists()
    assert watch_run(run) == 0
