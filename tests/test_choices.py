"Every choice that a config offers can be trained, and drawn from."
import typing

import pytest

from neuralkit.core.config import fields, flat
from neuralkit.core.card import SYSTEMS
from neuralkit.core.system import load_system
from neuralkit.core.verbs import train

ELSEWHERE = {("mixed_precision", "fp16")}       # needs a GPU: test_gpu.py


def choices(info) -> list:
    "The values that a field's type lists: of a bool, of a Literal, of a Literal beside another type."
    if info.annotation is bool: return [True, False]
    parts = [info.annotation, *typing.get_args(info.annotation)]
    return [v for p in parts if typing.get_origin(p) is typing.Literal for v in typing.get_args(p)]

def cases():
    for name in SYSTEMS:
        system = load_system(name)
        default = flat(system.card.presets["test"].model_dump())
        for field, info in fields(system.card.config).items():
            if typing.get_origin(info.annotation) is tuple: continue
            for value in choices(info):
                if value != default[field] and (field.rpartition(".")[2], value) not in ELSEWHERE: yield pytest.param(name, field, value, id=f"{name}-{field}-{value}")

@pytest.mark.parametrize("name, field, value", list(cases()))
def test_every_choice_trains_and_answers(name, field, value, home):
    run = train(name, "test", **{field: value, "max_steps": 2, "evaluate_limit": 2, "test_limit": 2})
    assert run.status == "finished" and (run/"report.html").is_file()
