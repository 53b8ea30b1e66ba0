"What only a GPU can show. Skipped, with the reason, where there is none."
from importlib import import_module

import pytest
import torch

from neuralkit.core.system import generator_for, load_system
from neuralkit.core.checkpoint import load_trainable, weights_of
from neuralkit.core.learner import Learner
from neuralkit.core.verbs import train
from neuralkit.core.words import config_of_run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]
SMALL = dict(device="auto", evaluate_limit=4, test_limit=4)


@pytest.mark.parametrize("name", ["predictor", "timellm"])
def test_forecasters_train_and_predict_on_the_gpu(home, name):
    from neuralkit.core.verbs import load_run
    run = train(name, "test", device="auto", epochs=2)
    cfg, load_series = config_of_run(run), import_module(f"neuralkit.{name}.data").load_series
    told = [t.system.predict(t.model, cfg, t.fitted, [load_series(cfg)]) for t in (load_run(run), load_run(run, device="cpu"))]
    assert run.status == "finished" and "cpu" not in run.manifest["device"] and len(told[0]) == cfg.model.prediction_horizon
    channel = [k for k, v in told[0][0].items() if isinstance(v, float)][-1]
    assert told[0][0][channel] == pytest.approx(told[1][0][channel], rel=1e-2, abs=1e-2)

@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_loss_goes_down(home, precision):
    run = train("sgdd", "test", epochs=12, mixed_precision=precision, **SMALL)
    losses = [r["loss"] for r in run.metrics() if r["split"] == "valid"]
    assert run.status == "finished" and "cpu" not in run.manifest["device"] and run.manifest["deterministic"] is False
    assert losses[-1] < .8*losses[0] and all(torch.isfinite(v).all() for v in weights_of(run).values())

def test_fp16_counts_only_the_updates_that_were_made(home):
    run = train("sgdd", "test", epochs=2, mixed_precision="fp16", **SMALL)
    assert run.summary["steps"] == run.metrics()[-1]["step"] <= 18

def test_greedy_sampling_is_the_same_as_on_the_cpu(home):
    from neuralkit.sgdd.sampling import maskgit_sample
    run = train("sgdd", "test", epochs=6, **SMALL)
    system, cfg = load_system("sgdd"), config_of_run(run)
    data = system.data(cfg)
    model = system.build(cfg, data.fitted).eval()
    load_trainable(model, weights_of(run), "test")
    vectors, mask = data.valid.vectors.padded(list(range(8)))
    said = [maskgit_sample(model.to(d), vectors.to(d), mask.to(d), cfg.sampling, data.valid.pieces.mask, generator_for(0))[0].cpu() for d in ("cpu", "cuda")]
    assert said[0].shape == said[1].shape and (said[0] == said[1]).float().mean() > .95

def test_resume_goes_on_from_the_same_state(home, monkeypatch):
    words, update = dict(epochs=2, checkpoint_every=3, **SMALL), Learner.update
    whole = train("sgdd", "test", **words)
    class Cut(BaseException): pass
    def cut(self, batches):
        if self.step == 8: raise Cut
        return update(self, batches)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", cut)
        with pytest.raises(Cut): train("sgdd", "test", **words)
    resumed = train("sgdd", "test", resume="auto", **words)
    assert resumed.path != whole.path and resumed.summary["steps"] == whole.summary["steps"]
    assert all(torch.allclose(v, weights_of(resumed)[k], rtol=1e-2, atol=1e-3) for k, v in weights_of(whole).items())
