"How good the line is, and what it answers."
import torch

from ..core.config import UserError
from ..core.learner import mean_losses
from ..core.system import generator_for
from .task import loss

def inputs(at: list[float]) -> list[float]:
    if not at: raise UserError("predict: give --at")
    return at

def evaluate(model, cfg, data, split="test", limit=None):
    return mean_losses(loss, model, getattr(data, split), 16, cfg.seed, limit), [{"source": "a line", "generated": "another"}]

def baseline(cfg, data, split="test", limit=None):
    y = data.train.batch(list(range(len(data.train))), generator_for(cfg.seed))["y"]
    return {"loss": float(y.var())}

def predict(model, cfg, fitted, inputs):
    with torch.no_grad(): return [{"x": x, "y": float(model(torch.tensor([x])))} for x in inputs]
