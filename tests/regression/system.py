"Linear regression, whole."
from ..core.system import System
from .bench import bench
from .data import load
from .evaluate import INPUT_WORDS, baseline, evaluate, inputs, predict
from .figures import figures, validate
from .task import PRESETS, RegressionConfig, build, loss, outline

SYSTEM = System(name="regression", about="a line through points", config=RegressionConfig, presets=PRESETS,
                data=load, build=build, outline=outline, loss=loss, evaluate=evaluate, baseline=baseline,
                inputs=inputs, predict=predict, input_words=INPUT_WORDS, validate=validate, figures=figures, bench=bench)
