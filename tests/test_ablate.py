"Ablations through the command: equally long, gone on with, as jobs, refused in one sentence."
import json, os, re, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import TIMEOUT, files, finish, make_home, neuralkit_process, one_sentence
from neuralkit.core import ablate as room
from neuralkit.core.ablate import ablate, cells_of, design_of
from neuralkit.core.card import load_card
from neuralkit.core.config import UserError, changed
from neuralkit.core.runs import Run, find_runs

SMALL = ["predictor", "--preset", "test", "--log_every", "50", "--threads", "1"]
WORDS = ["ablate", *SMALL, "--vary", "days=.3", "--updates", "60", "--checkpoint_every", "5"]
NAMES = {f"{cell}-s{seed}" for cell in ("base", "days-0.3") for seed in (0, 1, 2)}
TIMES = {"seconds", "at"}


def only_ablation(home: Path) -> Path:
    [folder] = (home/"runs"/"predictor").glob("ablation-*")
    return folder

def results_in(home: Path) -> dict: return json.loads((only_ablation(home)/"ablation_results.json").read_text())

def timeless(found):
    "What was found, without times."
    if isinstance(found, dict): return {name: timeless(value) for name, value in found.items() if name not in TIMES}
    return [timeless(value) for value in found] if isinstance(found, list) else found

def wait_for(process, pattern: str, home: Path) -> None:
    until = time.monotonic() + TIMEOUT
    while not list(home.glob(pattern)):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < until
        time.sleep(.01)

@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache) -> Path:
    "The home of an ablation that was left alone."
    home = make_home(tmp_path_factory.mktemp("ablation")/"home", cache)
    result = neuralkit_process(*WORDS, home=home)
    assert result.status == 0, result.stderr
    assert "days=0.3 " in result.stdout and result.last_line.endswith("ablation.html")
    return home


def test_every_cell_is_trained_equally_long_with_every_seed(whole):
    found = results_in(whole)
    runs = {run["run"].split("/")[1]: run for cell in found["cells"] for run in cell["runs"]}
    assert runs.keys() == NAMES and {run["status"] for run in runs.values()} == {"finished"}
    examples = {Run(only_ablation(whole)/run["run"]).manifest["examples"]["train"] for run in runs.values()}
    assert len(examples) == 2 and {run["updates"] for run in runs.values()} == {found["updates"]} == {60}
    configs = [Run(only_ablation(whole)/run["run"]).config["training"] for run in runs.values()]
    assert {config["early_stopping_patience"] for config in configs} == {0} and len({config["evaluate_every"] for config in configs}) == 1

def test_results_hold_means_intervals_and_differences_by_seed(whole):
    found = results_in(whole)
    assert found["cautions"] == [] and found["failed"] == {} and "updates" in found["rule"]
    base, cell = found["cells"]
    assert base["settings"] == {} and cell["settings"] == {"days": .3}
    ours, theirs = cell["test"]["mse"], base["test"]["mse"]
    summaries = [Run(only_ablation(whole)/run["run"]).summary["test"]["mse"] for run in cell["runs"]]
    assert ours["values"] == summaries and ours["mean"] == pytest.approx(sum(summaries)/3)
    apart = [a - b for a, b in zip(ours["values"], theirs["values"])]
    assert ours["difference"]["values"] == pytest.approx(apart) and theirs["difference"] is None
    mean = sum(apart)/3
    half = 4.30265*(sum((d - mean)**2 for d in apart)/2/3)**.5
    assert ours["difference"]["interval"] == pytest.approx([mean - half, mean + half])

def test_page_opens_offline_and_shows_each_metric(whole):
    page = (only_ablation(whole)/"ablation.html").read_text()
    assert page.count("<figcaption>") == 4 and "days=0.3" in page and "Generated data" in page
    assert "http-equiv" in page and 'src="http' not in page

def test_again_reads_what_is_finished_and_trains_nothing(whole, neuralkit, monkeypatch):
    monkeypatch.setenv("NEURALKIT_HOME", str(whole))
    before = files(only_ablation(whole)/"runs")
    result = neuralkit(*WORDS, "--metrics", "mase")
    assert result.status == 0 and "6 of 6 runs are finished" in result.stdout and "mase - base" in result.stdout
    found = ablate("predictor", {"days": [.3]}, preset="test", updates=60, log_every=50, threads=1, checkpoint_every=5)
    assert found.rows[1]["cell"] == "days=0.3" and found.failed == {} and found.page.exists()
    assert len(found.figure("mae").data) == 2 and files(only_ablation(whole)/"runs") == before
    assert find_runs("predictor") == [] and neuralkit("runs").stdout.startswith("no runs")

def test_no_other_plan_and_no_unknown_figure_in_the_same_folder(whole, neuralkit, monkeypatch):
    monkeypatch.setenv("NEURALKIT_HOME", str(whole))
    out = ["--out", only_ablation(whole)]
    for words, hints in (([*WORDS, "--seeds", "0,1", *out], ["seeds", "[0, 1, 2] there", "[0, 1] now"]), ([*WORDS, "--updates", 7, *out], ["asked_updates"]),
                         ([*WORDS, "--epochs", 2, *out], ["base.training.epochs"]), ([*WORDS, "--metrics", "maes"], ["'maes'", "mae"])):
        result = neuralkit(*words)
        assert result.status == 2
        one_sentence(result.stderr, hints)

def test_stopped_and_killed_it_goes_on_to_the_same_results(home, whole):
    process = neuralkit_process(*WORDS, home=home, wait=False)
    wait_for(process, "runs/predictor/*/runs/base-s0/checkpoints/step_*", home)
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert result.status == 130
    one_sentence(result.stderr, ["the same command goes on"])
    assert results_in(home)["cautions"][0].endswith("of 6 runs are finished; the same command goes on.")

    process = neuralkit_process(*WORDS, home=home, wait=False)
    wait_for(process, "runs/predictor/*/runs/days-0.3-s0/checkpoints/step_*", home)
    process.kill()
    finish(process)
    done = files(only_ablation(home)/"runs"/"base-s0")
    result = neuralkit_process(*WORDS, home=home)
    assert result.status == 0 and 1 <= int(re.search(r"(\d) of 6 runs are finished", result.stdout)[1]) < 6
    assert files(only_ablation(home)/"runs"/"base-s0") == done
    assert timeless(results_in(home)) == timeless(results_in(whole))

def test_jobs_of_this_machine_go_on_where_one_fails(home, neuralkit):
    result = neuralkit("ablate", *SMALL, "--vary", "learning_rate=1e30", "--seeds", "0", "--updates", "12", "--cluster", "local", "--jobs", "2")
    assert result.status == 1 and "Fewer than three seeds" in result.stderr
    assert "learning_rate-1e+30-s0: update " in result.stderr.splitlines()[-1]
    found = results_in(home)
    assert [run["status"] for cell in found["cells"] for run in cell["runs"]] == ["finished", "failed"]
    assert len(found["cautions"]) == 2 and found["cells"][0]["test"]["mse"]["interval"] is None
    assert "submitit" not in Run(only_ablation(home)/"runs"/"base-s0").manifest["command"]
    assert "failed" in (only_ablation(home)/"ablation.html").read_text()


def test_a_run_that_fails_for_no_known_reason_leaves_its_traceback(home, neuralkit, monkeypatch):
    def fail(name, cfg, *words, **more): raise KeyError(f"width {cfg.model.kernel_size}")
    monkeypatch.setattr("neuralkit.core.verbs.train_here", fail)
    result = neuralkit("ablate", *SMALL, "--vary", "kernel_size=3", "--seeds", "1")
    assert result.status == 1 and "2 failed" in result.stderr and "KeyError: 'width 3'" in result.stderr
    assert "in fail" in (only_ablation(home)/"errors"/"kernel_size-3-s1.txt").read_text()
    assert not list(only_ablation(home).glob("runs/*")) and results_in(home)["cells"][0]["test"] == {}


# --- SLURM's commands, as far as submitit asks for them: jobs are processes, known by their number

SBATCH = """#!/bin/bash
echo "$@" >> $FAKE/calls; id=$(wc -l < $FAKE/calls)
log=$(sed -n 's/^#SBATCH --output=//p' "${@: -1}" | sed "s/%j/$id/")
SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1 setsid bash "${@: -1}" > $log 2>&1 < /dev/null &
echo $! > $FAKE/pid_$id
echo "Submitted batch job $id"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for f in $FAKE/pid_*; do if kill -0 $(cat $f) 2> /dev/null; then s=RUNNING; else s=COMPLETED; fi; echo "${f##*_}|$s|here"; done
"""

@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    fake = tmp_path/"slurm"
    fake.mkdir()
    for name, text in {"sbatch": SBATCH, "sacct": SACCT, "srun": "#!/bin/bash\nexit 1\n"}.items():
        (fake/name).write_text(text)
        (fake/name).chmod(0o755)
    monkeypatch.setenv("FAKE", str(fake))
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    return fake

def test_jobs_of_a_cluster_outlive_the_command_and_are_not_submitted_twice(home, slurm, neuralkit, monkeypatch):
    words = ["ablate", *SMALL, "--vary", "kernel_size=3", "--seeds", "0", "--updates", "12", "--cluster", "slurm",
             "--cluster-options", "slurm_use_srun=false", "partition=small", "time=30"]
    def interrupt(seconds): raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(room, "time", SimpleNamespace(sleep=interrupt))        # Ctrl-C, once all are submitted
        result = neuralkit(*words)
    assert result.status == 130 and "scancel 1 2" in result.stdout
    monkeypatch.setattr(room.SlurmQueue, "pause", .1)
    result = neuralkit(*words)
    assert result.status == 0, result.stderr
    assert len((slurm/"calls").read_text().splitlines()) == 2 and results_in(home)["failed"] == {}
    sheet = next((only_ablation(home)/"jobs").glob("*_submission.sh")).read_text()
    assert "--partition=small" in sheet and "--time=30" in sheet


# --- what is varied

PREDICTOR = load_card("predictor").presets["test"]

def test_one_field_at_a_time_or_all_combinations():
    vary = {"kernel_size": ["3", "5", "7"], "solver": ["adam", "exact"]}               # 5 and adam are the base's
    assert [cell.settings for cell in design_of("predictor", vary, preset="test").cells] == [
        {}, {"model.kernel_size": 3}, {"model.kernel_size": 7}, {"solver": "exact"}]
    both = design_of("predictor", vary, preset="test", grid=True)
    assert len(both.cells) == 3*2 and both.cells[0].name == "base" and both.cells[-1].text == "kernel_size=7, solver=exact"
    away = cells_of(PREDICTOR, {"model.kernel_size": [3, 7], "days": [.3]}, grid=True)
    assert [cell.name for cell in away] == ["base", "kernel_size-3-days-0.3", "kernel_size-7-days-0.3"]

def test_lists_stand_in_brackets():
    design = design_of("predictor", "quantiles=[.5],[.5, .9]", preset="test")
    assert [cell.cfg.model.quantiles for cell in design.cells[1:]] == [(.5,), (.5, .9)]
    assert design_of("predictor", {"quantiles": [(.5,)]}, preset="test").cells[1].settings == {"model.quantiles": [.5]}

def test_a_cell_is_its_config_whatever_it_was_typed_as():
    first = design_of("predictor", {"kernel-size": "3"}, "0,1,2", preset="test")
    assert first.record() == design_of("predictor", ["model.kernel_size=3.0,3"], preset="test").record()
    assert first.cells[1].cfg == changed(PREDICTOR, kernel_size=3)

def test_without_words_the_card_says_what_is_varied():
    with pytest.raises(UserError, match="proposes no ablation"): design_of("predictor")

BAD = {
    "no such field":       (["--vary", "kernel_sise=3"], ["'kernel_sise'", "kernel_size"]),
    "no such value":       (["--vary", "kernel_size=3,none"], ["model.kernel_size", "none"]),
    "out of range":        (["--vary", "days=.3,-1"], ["days", "-1"]),
    "no value":            (["--vary", "days="], ["value is missing"]),
    "an empty value":      (["--vary", "days=.3,,.4"], ["'.3,,.4'", "value is missing"]),
    "no field":            (["--vary", "3,4"], ["'3,4'", "FIELD=VALUE"]),
    "open bracket":        (["--vary", "quantiles=[.5,.9"], ["[.5,.9", "]"]),
    "a list, bare":        (["--vary", "quantiles=.5,.9"], ["quantiles", "brackets"]),
    "the base's values":   (["--vary", "kernel_size=5"], ["nothing is varied"]),
    "seeds as a field":    (["--vary", "seed=1,2"], ["--seeds"]),
    "length as a field":   (["--vary", "epochs=1,2"], ["training.epochs", "--updates"]),
    "nothing to vary":     ([], ["--vary"]),
    "empty seeds":         (["--vary", "days=.3", "--seeds", ""], ["--seeds", "''"]),
    "seeds twice":         (["--vary", "days=.3", "--seeds", "1,1"], ["--seeds", "different"]),
    "seed in the base":    (["--vary", "days=.3", "--seed", "1"], ["--seeds"]),
    "no updates":          (["--vary", "days=.3", "--updates", "0"], ["--updates", "1"]),
    "no such cluster":     (["--vary", "days=.3", "--cluster", "slrum"], ["'slrum'", "slurm"]),
    "no such option":      (["--vary", "days=.3", "--cluster", "local", "--cluster-options", "queue=1"], ["queue", "gpus"]),
    "option without value": (["--vary", "days=.3", "--cluster", "local", "--cluster-options", "gpus"], ["'gpus'", "NAME=VALUE"]),
    "jobs without a place": (["--vary", "days=.3", "--jobs", "2"], ["--jobs", "--cluster"]),
    "no SLURM here":       (["--vary", "days=.3", "--cluster", "slurm"], ["--cluster slurm", "srun"]),
    "no such data":        (["--vary", "days=.3", "--data", "nowhere.csv"], ["nowhere.csv"]),
}

@pytest.mark.parametrize("case", BAD)
def test_bad_words_are_named(refused, case):
    words, hints = BAD[case]
    refused(["ablate", "predictor", "--preset", "test", *words], hints)

def test_a_folder_with_something_else_is_left_alone(refused, home):
    (home/"mine").mkdir()
    (home/"mine"/"notes.txt").write_text("mine")
    refused([*WORDS, "--out", home/"mine"], ["mine", "not empty"])
    refused([*WORDS, "--out", home/"mine"/"notes.txt"], ["notes.txt", "folder"])

def test_submitit_is_asked_for_where_it_is_missing(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    refused([*WORDS, "--cluster", "local"], ["pip install 'neuralkit[cluster]'"])

def test_planning_needs_no_torch():
    code = "import sys, neuralkit.core.ablate as a; a.design_of('predictor', 'days=.3'); print(*[m for m in ('torch', 'plotly', 'submitit') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0 and done.stdout.split() == [], done.stderr
