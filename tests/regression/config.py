"Linear regression: what may be set, and asked. No torch in here."
from pydantic import Field

from ..core.card import Card, TrainingConfig, Word
from ..core.config import Config


class RegressionConfig(Config):
    "Everything that decides a run."
    data: str = Field("embedded", description="embedded, the only one there is")
    points: int = Field(120, ge=40, description="points on the line")
    seed: int = Field(0, ge=0, description="decides the points, the first weights and the order of the batches")
    training: TrainingConfig = TrainingConfig(epochs=20, batch_size=10, learning_rate=.1)

PRESETS = {"default": RegressionConfig(), "test": RegressionConfig(training=TrainingConfig(epochs=10, batch_size=10, learning_rate=.1, device="cpu"))}

INPUT_WORDS = (Word("at", "a place x", kind=float, many=True),)

CARD = Card(name="regression", about="a line through points", config=RegressionConfig, presets=PRESETS, input_words=INPUT_WORDS)
