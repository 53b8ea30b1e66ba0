"Two processes learn what one learns from the same batches."
import os, subprocess, sys

import pytest
import torch

from conftest import TIMEOUT
from neuralkit.core.runs import find_runs
from neuralkit.core.checkpoint import weights_of
from neuralkit.core.learner import Learner

WORDS = ["train", "sgdd", "--preset", "test", "--epochs", "2", "--batch_size", "31", "--accumulation", "2", "--checkpoint_every", "2", "--evaluate_limit", "2", "--test_limit", "2"]   # uneven shards, a short last group


def torchrun(home, *words, processes: int = 2):
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "neuralkit", *words],
                          capture_output=True, text=True, timeout=TIMEOUT, cwd=home, env=os.environ | {"NEURALKIT_HOME": str(home)})

@pytest.fixture
def one(home, neuralkit):
    assert neuralkit(*WORDS).status == 0
    return find_runs()[-1]

def test_two_processes_equal_one(one, home):
    result = torchrun(home, *WORDS)
    assert result.returncode == 0, result.stderr
    runs = find_runs()
    assert len(runs) == 2 and len(list((home/"runs"/"sgdd").iterdir())) == 2, "one run folder for both processes"
    two = runs[-1]
    assert two.status == "finished" and two.manifest["processes"] == 2 and two.summary["steps"] == one.summary["steps"] == 10
    assert_close(one, two)
    for mine, theirs in zip(one.metrics(), two.metrics(), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        if mine["split"] == "train": assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)

def assert_close(one, two) -> None:
    for name in ("best", "last"):
        a, b = (weights_of(run, name) for run in (one, two))
        assert a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=1e-4, atol=1e-5) for k in a)

def test_two_processes_go_on_with_what_one_began(one, home, neuralkit, monkeypatch):
    update = Learner.update
    class Cut(BaseException): pass
    def cut(self, batches):
        if self.step == 7: raise Cut
        return update(self, batches)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", cut)
        with pytest.raises(Cut): neuralkit(*WORDS)
    [begun] = [run for run in find_runs() if run.path != one.path]
    result = torchrun(home, *WORDS, "--resume", "auto")
    assert result.returncode == 0, result.stderr
    assert len(find_runs()) == 2 and begun.status == "finished" and begun.manifest["processes"] == 2
    assert_close(one, begun)

def test_bad_input_ends_every_process(home):
    result = torchrun(home, "train", "sgdd", "--preset", "test", "--data", "nowhere.txt")
    assert result.returncode != 0 and "neuralkit: nowhere.txt is missing" in result.stderr and find_runs() == []
