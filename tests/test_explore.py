"The explorer, without a browser: a click is a value that is set. Whatever lies among the runs, it shows the others."
import json, subprocess, sys
from pathlib import Path

import pytest

from conftest import REPO, TIMEOUT
from neuralkit.core.config import Config
from neuralkit.core.explore import curves_figure, explore_runs, html_table
from neuralkit.core.runs import create_run, release, runs_root

OLD, MIDDLE, NEW = (f"2026010{day}T100000Z-aaaaaa-s0" for day in (1, 2, 3))


class Settings(Config):
    seed: int = 0
    rate: float = .1
    note: str = "plain"


def make_run(name: str, system: str = "demo", rows=((1, .9), (2, .5)), done: bool = True, **settings):
    "A run that logged (step, loss); done, with test figures, or claimed by this process."
    run = create_run(system, Settings(**settings), out=runs_root()/system/name)
    for step, loss in rows: run.log(step=step, split="train", loss=loss, lr=.1)
    if done:
        run.log(step=2, split="valid", loss=.6)
        run.finish({"test": {"loss": rows[-1][1]}, "baseline": {"loss": 1.}})
        release(run)
    return run

def is_drawn(explorer) -> bool:
    return explorer.curves.layout.display is None and bytes(explorer.curves.value).startswith(b"\x89PNG")

def statuses(explorer) -> list[str]:
    return [label.split("  ·  ")[1] for label, _ in explorer.runs.options]


# --- what lies among the runs

def torn_manifest(run): (run/"manifest.json").write_text('{"status": "fin')
def no_manifest(run): (run/"manifest.json").unlink()
def edited_manifest(run): (run/"manifest.json").write_text('{"status": "done"}')
def edited_config(run): (run/"config.json").write_text('{"seed": 9}')
def no_config(run): (run/"config.json").unlink()
def config_of_bytes(run): (run/"config.json").write_bytes(b"\xff\xfe")
def summary_of_another_kind(run): (run/"summary.json").write_text("[1, 2]")

@pytest.mark.parametrize("spoil", [torn_manifest, no_manifest, edited_manifest, edited_config, no_config, config_of_bytes, summary_of_another_kind])
def test_a_broken_folder_is_listed_with_its_reason_and_the_others_are_shown(home, spoil):
    make_run(OLD)
    spoil(make_run(NEW))
    explorer = explore_runs()
    broken, whole = statuses(explorer)
    assert broken.startswith("broken: ") and len(broken) > 20 and str(home) not in broken and whole == "finished"
    assert explorer.runs.value == (OLD,) and is_drawn(explorer)          # the newest that is whole
    explorer.runs.value = (NEW,)
    assert not is_drawn(explorer) and "broken: " in explorer.tables.value
    explorer.runs.value = (NEW, OLD)
    assert is_drawn(explorer) and "broken: " in explorer.tables.value and "0.5" in explorer.tables.value

def no_log(run): (run/"metrics.jsonl").unlink()
def log_is_a_folder(run):
    no_log(run)
    (run/"metrics.jsonl").mkdir()
def torn_log(run): (run/"metrics.jsonl").write_text('{"step": 1, "lo\n\xff\n[]\n')
def log_of_words(run): (run/"metrics.jsonl").write_text('{"step": "one", "loss": 1}\n{"step": 1, "loss": "low", "split": ["a"]}\n')
def best_of_another_kind(run):
    (run/"checkpoints"/"best").mkdir(parents=True)
    (run/"checkpoints"/"best"/"state.json").write_text("[]")
def summary_of_words(run): (run/"summary.json").write_text('{"test": "good", "baseline": {"a": {"loss": null}, "b": "bad"}}')

@pytest.mark.parametrize("spoil", [no_log, log_is_a_folder, torn_log, log_of_words, best_of_another_kind, summary_of_words])
def test_what_else_may_be_odd_stops_nothing(home, spoil):
    make_run(OLD)
    spoil(make_run(NEW))
    explorer = explore_runs()
    assert statuses(explorer) == ["finished", "finished"] and explorer.runs.value == (NEW,)
    explorer.runs.value = (NEW, OLD)
    assert is_drawn(explorer) and "0.5" in explorer.tables.value

def test_only_broken_folders(home):
    torn_manifest(make_run(NEW))
    explorer = explore_runs()
    assert explorer.runs.value == (NEW,) and not is_drawn(explorer) and "broken" in explorer.tables.value

def test_no_runs_at_all_and_then_the_first(home):
    explorer = explore_runs()
    assert explorer.system.options == () and explorer.chosen.layout.display == "none"
    assert "No runs under" in explorer.note.value and "neuralkit train" in explorer.note.value
    make_run(NEW)
    explorer.again.click()
    assert explorer.runs.value == (NEW,) and explorer.chosen.layout.display is None and is_drawn(explorer)

def test_a_folder_that_is_not_there(tmp_path):
    assert str(tmp_path/"none") in explore_runs(tmp_path/"none").note.value

def test_a_folder_of_runs_that_were_given_their_place(home, tmp_path):
    for name in ("first", "second"): release(create_run("demo", Settings(), out=tmp_path/"mine"/name))
    for root in (tmp_path/"mine", tmp_path):
        explorer = explore_runs(root)
        assert explorer.system.value == "demo" and [name.split("/")[-1] for _, name in explorer.runs.options] == ["second", "first"]

def test_a_run_that_goes_while_one_looks(home):
    make_run(OLD)
    run = make_run(NEW)
    explorer = explore_runs()
    run.path.rename(home/"elsewhere")
    explorer.runs.value = (NEW, OLD)
    explorer.again.click()
    assert statuses(explorer) == ["finished"] and explorer.runs.value == (OLD,)


# --- a run that is training

def test_a_run_that_is_training_is_read_again(home):
    run = make_run(NEW, done=False)
    explorer = explore_runs()
    assert statuses(explorer) == ["running"] and "None yet" in explorer.tables.value
    before = bytes(explorer.curves.value)
    run.log(step=777, split="train", loss=.3, lr=.1)
    assert "777" not in explorer.tables.value
    explorer.again.click()
    assert "777" in explorer.tables.value and bytes(explorer.curves.value) != before
    run.finish({"test": {"loss": .25}, "baseline": {"loss": 1.}})
    release(run)
    explorer.again.click()
    assert statuses(explorer) == ["finished"] and "0.25" in explorer.tables.value

def test_a_run_that_was_killed(home):
    release(make_run(NEW, done=False))
    assert statuses(explore_runs()) == ["killed"]

def test_a_run_that_has_logged_nothing_yet(home):
    run = make_run(NEW, rows=(), done=False)
    explorer = explore_runs()
    assert not is_drawn(explorer) and explorer.logged.value is None and explorer.split.value is None
    run.log(step=1, split="train", loss=.3)
    explorer.again.click()
    assert is_drawn(explorer) and (explorer.logged.value, explorer.split.value) == ("loss", "train")

def test_reading_again_keeps_what_is_chosen(home):
    make_run(OLD)
    make_run(MIDDLE)
    explorer = explore_runs()
    explorer.runs.value, explorer.logged.value = (OLD,), "lr"
    make_run(NEW)
    explorer.again.click()
    assert len(explorer.runs.options) == 3 and explorer.runs.value == (OLD,) and explorer.logged.value == "lr"


# --- a change of selection

def test_choosing_runs_compares_them(home):
    make_run(OLD, rate=.1)
    make_run(NEW, rate=.2, rows=((1, .8), (2, .4)))
    explorer = explore_runs()
    assert "rate" not in explorer.tables.value
    explorer.runs.value = (NEW, OLD)
    shown = explorer.tables.value
    assert "rate" in shown and "seed" not in shown and shown.count("baseline") == 1          # both have the same
    for name in (OLD, NEW): assert f"test, {name}" in shown

def test_choosing_a_system_a_column_and_a_split(home):
    make_run(OLD, "first")
    make_run(NEW, "second")
    explorer = explore_runs()
    assert explorer.system.value == "second" and explorer.split.options == (("train", "train"), ("valid", "valid"), ("all", "all"))
    pictures = [bytes(explorer.curves.value)]
    for menu, value in ((explorer.split, "valid"), (explorer.split, "all"), (explorer.logged, "lr"), (explorer.system, "first")):
        menu.value = value
        pictures.append(bytes(explorer.curves.value))
    assert len(set(pictures)) == 5 and explorer.runs.value == (OLD,) and explorer.logged.value == "lr" and explorer.split.value == "train"

def test_each_log_is_read_once(home, monkeypatch):
    read = []
    monkeypatch.setattr("neuralkit.core.explore.thin_log", lambda path, most: read.append(path) or [{"step": 1, "loss": 1.}])
    for name in (OLD, NEW): make_run(name)
    explorer = explore_runs()
    explorer.runs.value = (NEW, OLD)
    explorer.runs.value = (NEW,)
    assert len(read) == 2
    explorer.again.click()
    assert len(read) == 3


# --- what is drawn and written

def test_names_are_neither_markup_nor_formulas(home):
    make_run(OLD)
    run = make_run("a$b$<b>", note="<script>")
    run.log(step=3, split="$train_{$", loss=1., **{"$x^{": 2., "<i>": 1.})
    explorer = explore_runs()
    explorer.runs.value = ("a$b$<b>", OLD)
    for name, value in [("$x^{", "$train_{$"), ("loss", "all")]:
        explorer.logged.value, explorer.split.value = name, value
        assert is_drawn(explorer)
    assert "<script>" not in explorer.tables.value and "&lt;script&gt;" in explorer.tables.value and "<b>" not in explorer.tables.value

def test_a_figure_has_a_line_for_each_run_that_has_the_column():
    rows = [{"step": step, "split": split, "loss": step/10} for step in range(5) for split in ("train", "valid")]
    axes = curves_figure({"a": rows, "b": rows[:4], "c": [], "d": [{"step": 1, "split": "train", "lr": 1.}]}, "loss", ["train", "valid"], {"a": 3}).axes[0]
    assert sorted(line.get_label() for line in axes.lines if not line.get_label().startswith("_")) == ["a, train", "a, valid", "b, train", "b, valid"]

def test_many_runs_and_one_name_inside_another():
    logs = {f"run{n}": [{"step": 1, "split": "train", "loss": n}] for n in range(30)}
    assert len(curves_figure(logs, "loss", ["train"], {}).axes[0].lines) == 30
    assert "green" in html_table([{"run": "a-2"}], {"a": "red", "2": "blue", "a-2": "green"})

def test_the_notebook_runs_as_it_stands(home, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"): monkeypatch.setenv(name, str(tmp_path/name))
    make_run(NEW)
    papermill, done = Path(sys.executable).with_name("papermill"), tmp_path/"seen.ipynb"
    said = subprocess.run([papermill, REPO/"nbs"/"explore_runs.ipynb", done], capture_output=True, text=True, timeout=TIMEOUT, cwd=REPO)
    assert said.returncode == 0, said.stderr
    notebook = json.loads(done.read_text(encoding="utf-8"))
    kept = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert NEW in json.dumps(kept) and "application/vnd.jupyter.widget-view+json" in notebook["cells"][-1]["outputs"][0]["data"]
