"Linear regression, whole."
from ..core.system import System
from .bench import bench
from .config import CARD
from .data import load
from .evaluate import baseline, evaluate, inputs, predict
from .figures import figures, validate
from .task import build, loss, outline

SYSTEM = System(CARD, data=load, build=build, outline=outline, loss=loss, evaluate=evaluate, baseline=baseline,
                inputs=inputs, predict=predict, validate=validate, figures=figures, bench=bench)
