"temporal's evaluation across modules: right answers score 1, silence 0; odd files are read, mended and said, or refused in a sentence."
import json
import math
import warnings

import numpy as np
import pytest
import torch

from neuralkit.core.config import UserError, changed
from neuralkit.temporal.config import PRESETS
from neuralkit.temporal.curves import CAPACITY, RESOURCES
from neuralkit.temporal.data import maker_of
from neuralkit.temporal.evaluate import (answered_by, baseline, by_chance, column_of_values, evaluate, evenly_spaced, first_metrics,
                                         heard_curve, in_bins, inputs, nearest_answers, predict, probe_answers, questions_on, shown,
                                         slot_metrics, told_in_file)
from neuralkit.temporal.language import SLOTS
from neuralkit.temporal.task import build, load

TINY = changed(PRESETS["test"], **{"samples.train": 80, "samples.valid": 20, "samples.test": 40})

def groups_of(split: str, count: int) -> list:
    maker = maker_of(TINY, split)
    return [maker.group(g) for g in range(count)]

def answers_with(text_of, split: str = "test", count: int = 60) -> list:
    "Answers to all questions of some curves, each by `text_of` (description)."
    return [answered_by(group, told, text_of(told)) for group in groups_of(split, count) for told in group.told]

# --- figures

@pytest.mark.parametrize("split", ["train", "test", "families"])
def test_the_target_is_right_in_every_slot(split):
    found = slot_metrics(answers_with(lambda told: told.target, split), .1)
    off = {name for name, value in found.items() if name.endswith("_mae") and value}
    wrong = {name for name, value in found.items() if not name.endswith(("_mae", "_said")) and value != 1}
    assert not off and not wrong
    assert {"trend", "verdict", "values_5", "values_10", "low_time_1", "later_time_mae", "rate", "lasting", *SLOTS["A"]} <= found.keys()

def test_silence_is_wrong_and_a_missing_time_counts_as_the_whole_curve():
    answers = answers_with(lambda told: "")
    found = slot_metrics(answers, .1)
    assert {value for name, value in found.items() if not name.endswith("_mae")} == {0.}
    steps = [len(a.group.curve.values) for a in answers if a.told.task == "B"]
    assert found["low_time_mae"] == pytest.approx(np.mean(steps)) and "rate" not in found and "lasting_said" not in found

def test_another_verdict_is_wrong_in_all_that_it_does_not_say():
    a = next(a for a in answers_with(lambda told: "No, not yet: it is at 3 GB.") if a.told.slots.get("verdict") == "never")
    found = slot_metrics([a], .1)
    assert found["verdict"] == found["high"] == found["need"] == found["values_10"] == 0

def test_what_is_left_to_chance_is_judged_against_the_curve():
    "A rate that the target does not state counts where an answer states it."
    a = next(a for a in answers_with(lambda told: told.target) if a.told.task == "A" and "rate" not in a.told.slots)
    facts, unit = a.group.facts[a.told.resource], RESOURCES[a.told.resource].unit
    rate = abs(facts.end - facts.start)/(facts.steps*.1)
    right, wrong = (answered_by(a.group, a.told, f"{a.told.target[:-1]} at a rate of {value:.1f} {unit}/s.") for value in (rate, 2*rate + 9))
    assert slot_metrics([right], .1)["rate"] == 1 and slot_metrics([wrong], .1)["rate"] == 0 and by_chance(a, .1) == {}

def test_first_tokens_are_counted_by_place():
    group = groups_of("test", 1)[0]
    def found(said, wanted): return first_metrics([answered_by(group, group.told[0], "", said, wanted)])
    assert found((1, 2, 3), (1, 2, 3)) == {"first_5": 1, "first_10": 1, "first_20": 1}
    assert found((1, 2, 3, 4, 5, 6, 7), (1, 2, 9))["first_5"] == 2/3            # what comes after the target does not count
    assert found((1,), (1, 2, 3, 4))["first_5"] == .25 and found((), tuple(range(30)))["first_20"] == 0

def test_samples_are_mixed_first_and_worst_after():
    answers = answers_with(lambda told: told.target if told.resource else "")
    chosen = shown(answers, .1)
    assert len(chosen) == 64 and {a.told.task for a in chosen[:3]} == set("ABC") and not any(a.text for a in chosen[20:40])
    assert len({id(a) for a in chosen}) == 64 and shown(answers[:3], .1) and shown([], .1) == []

def test_a_copied_neighbour_and_a_probe_answer_every_question():
    known, asked = groups_of("train", 150), groups_of("test", 20)
    for answers in (nearest_answers(known, asked), probe_answers(known, asked, .1)):
        assert len(answers) == 80 and all(a.said for a in answers)
        assert slot_metrics(answers, .1)["trend"] > .3
    copied = nearest_answers(known[:1], asked)
    assert len(copied) == 80 and not all(a.said for a in copied)            # nobody was asked the like: nothing is said

@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    "A model that learnt nothing, its config and data, in a home with the shared cache."
    from conftest import make_home
    home = make_home(tmp_path_factory.mktemp("evaluate")/"home", cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURALKIT_HOME", str(home))
        data = load(TINY)
        torch.manual_seed(0)
        yield build(TINY, data.fitted), data

def test_evaluation_and_baselines_are_json_and_say_the_same_twice(trained):
    model, data = trained
    found, samples = evaluate(model, TINY, data, limit=5)
    again, _ = evaluate(model, TINY, data, limit=5)
    beside = baseline(TINY, data, limit=5)
    json.dumps([found, samples, beside], allow_nan=False)
    assert found == again and found["samples"] == 20 == len(samples) and found["loss"] == found["nll"]
    assert found["perplexity"] == pytest.approx(math.exp(found["nll"]))
    assert found.keys() - {name for name in found if name.startswith("families_")} >= beside["blind prefix"].keys() - {"rate", "rate_said", "lasting", "lasting_said"}
    assert beside == baseline(TINY, data, limit=5)                          # from the cache
    assert np.array(samples[0]["curve"]).shape == (samples[0]["steps"], 4)

def test_validation_is_judged_without_other_families_and_one_task_alone_works(trained):
    model, data = trained
    found, _ = evaluate(model, TINY, data, "valid", 2)
    assert not [name for name in found if name.startswith("families_")]
    only = changed(TINY, tasks="B")
    found, samples = evaluate(model, only, load(only), limit=3)
    assert {row["task"] for row in samples} == {"B"} and "verdict" not in found and "perplexity_b" in found

# --- real curves

def table(folder, rows, name="curve.csv", head="time,cpu"):
    path = folder/name
    path.write_text("\n".join([head, *rows]) + "\n")
    return str(path)

def test_gaps_and_holes_are_filled_and_said(tmp_path):
    path = table(tmp_path, ["0,10", "300,nan", "600,30", "1500,60", "1800,n/a"])
    with pytest.warns(UserWarning, match="4 of 7 steps have no number in 'cpu'"): [curve] = inputs(path)
    assert curve.values.tolist() == [10, 20, 30, 40, 50, 60, 60] and curve.step == 300

def test_rows_in_any_order_and_a_window_with_its_own_clock(tmp_path):
    path = table(tmp_path, ["2026-01-01 00:10:00,3", "2026-01-01 00:00:00,1", "2026-01-01 00:05:00,2"])
    [curve] = inputs(path, window=2)
    assert curve.values.tolist() == [2, 3] and curve.at(300) == "2026-01-01T00:10:00"
    [curve] = inputs(path, window=99)
    assert len(curve.values) == 3

@pytest.mark.parametrize("rows, head, words, told", [
    ([], "time,cpu", {}, "no rows"),
    (["0,1"], "time,cpu", {"column": "gpu"}, "no column 'gpu'.*time, cpu"),
    (["0,x", "1,y"], "time,cpu", {}, "no numbers in cpu"),
    (["0,x", "1,y"], "time,cpu", {"column": "cpu"}, "no numbers in cpu"),
    (["0,1,2"], "time,cpu,gpu", {}, r"several columns hold numbers \(cpu, gpu\); choose one with --column"),
    (["0,1", "1,-3"], "time,cpu", {}, "'cpu' is -3 at 1.*below 0"),
    (["0,1", "1,300"], "time,cpu", {}, "'cpu' is 300 at 1.*capacity of 100; --capacity"),
    (["0,1", "0,2"], "time,cpu", {}, "more than once"),
    (["0,1", "1,1", "2,1", "9999999999,1"], "time,cpu", {}, "too far apart"),
    (["a,1", "b,1"], "name,cpu", {}, "no column of times.*call it 'time'"),
    (["0,1"], "time,cpu", {"resource": "disk"}, "resource"),
    (["0,1"], "time,cpu", {"capacity": 0.}, "--capacity"),
    (["0,1"], "time,cpu", {"capacity": math.nan}, "--capacity"),
    (["0,1"], "time,cpu", {"window": 0}, "--window"),
    (["0,1"], "time,cpu", {"ask": "  "}, "--ask")])
def test_what_is_no_curve_is_refused_in_one_sentence(rows, head, words, told, tmp_path):
    with pytest.raises(UserError, match=told) as refused: inputs(table(tmp_path, rows, head=head), **words)
    assert "\n" not in str(refused.value)

def test_a_missing_file_and_another_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match="--curve"): inputs()
    with pytest.raises(UserError, match="none.csv"): inputs(str(tmp_path/"none.csv"))
    with pytest.raises(UserError, match=".parquet file was expected"): inputs(str(tmp_path/"none.txt"))

@pytest.mark.parametrize("steps", [1, 2, 5, 100, 101, 10_000])
def test_curves_of_any_length_are_heard(steps, trained, tmp_path):
    model, _ = trained
    path = table(tmp_path, [f"{60*i},{(7*i) % 90}" for i in range(steps)])
    rows = predict(model, TINY, {}, inputs(path, resource="gpu_sm"))
    assert len(rows) == 5
    json.dumps(rows, allow_nan=False)

@pytest.mark.parametrize("resource", [r.key for r in RESOURCES])
def test_a_question_of_ones_own_in_each_resource(resource, trained, tmp_path):
    model, _ = trained
    path = table(tmp_path, [f"{i},{i}" for i in range(50)])
    [row] = predict(model, TINY, {}, inputs(path, resource=resource, capacity=49., ask="Where is the bottleneck?"))
    assert row["question"] == "Where is the bottleneck?"

def test_bins_keep_the_mean_and_units_go_there_and_back(tmp_path):
    x = np.arange(1003.)
    binned, each = in_bins(x, 100)
    assert len(binned) <= 100 and each == 11 and binned[0] == 5 and binned[-1] == x[-2:].mean()
    [curve] = inputs(table(tmp_path, [f"{60*i},{40}" for i in range(1000)]), resource="cpu_mem_gb", capacity=80.)
    heard = heard_curve(curve, 100, .1)
    assert set(heard.whole) == {256} and told_in_file("low", 256., heard)["in_file"] == 40
    time = told_in_file("time", 1.5, heard)
    assert time["in_file"] == pytest.approx(15*10*60) and time["at"] == pytest.approx(9000)
    assert "at" not in told_in_file("time", 1e30, heard)                     # a time that no clock shows

def test_requirements_asked_are_shares_of_the_capacity(tmp_path):
    [curve] = inputs(table(tmp_path, ["0,1", "1,2"]), resource="gpu_mem_gb")
    asked = questions_on(curve, 2, .1)
    assert [task for task, _ in asked] == ["A", "B", "C", "C", "C"] and "0.2 seconds" in asked[0][1]
