"Points on a line, with noise."
import torch

from ..core.files import Source
from ..core.system import Data, generator_for


class Points:
    "x and y = 2x + 1 with noise that is drawn from the batch's generator."
    lengths = None
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def batch(self, indices, generator):
        x = self.x[indices]
        return {"x": x, "y": 2*x + 1 + .1*torch.randn(len(x), generator=generator)}


def load(cfg, fitted=None) -> Data:
    "Splits of evenly drawn points; what is fitted is their mean."
    x = torch.rand(cfg.points, generator=generator_for(cfg.seed))
    train, valid = x[:-20], x[-20:-10]
    source = Source("points on a line", "generated", "0"*64, cfg.points)
    return Data(Points(train), Points(valid), Points(x[-10:]), fitted or {"mean": float(train.mean())}, [source])
