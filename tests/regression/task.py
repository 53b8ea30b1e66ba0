"Linear regression: the model and its loss."
import torch
from torch import nn


class Regression(nn.Module):
    "x (batch,) -> y (batch,); x is taken relative to the training part's mean."
    def __init__(self, mean: float):
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.register_buffer("mean", torch.tensor(mean))
    def forward(self, x): return self.line((x - self.mean)[:, None])[:, 0]


def build(cfg, fitted): return Regression(fitted["mean"])

def outline(cfg):
    with torch.device("meta"): return Regression(0.)

def loss(model, batch):
    error = model(batch["x"]) - batch["y"]
    return {"loss": (error.square().sum(), torch.tensor(len(error)))}
