"How fast the line is learnt."
from ..core.bench import against_bare_loop, loop_row
from ..core.system import generator_for
from .data import load
from .config import PRESETS
from .task import build, loss

def bench(quality=False, quick=False):
    cfg = PRESETS["test"]
    data = load(cfg)
    return [loop_row(against_bare_loop(build(cfg, data.fitted), loss, data.train.batch(list(range(8)), generator_for(0)), cfg.training, 3))]
