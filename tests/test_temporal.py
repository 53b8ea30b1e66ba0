"temporal across modules: curves keep physical rules, sentences are true and read back, verdicts cannot be guessed, odd curves and broken files are met."
import json
import time

import numpy as np
import pytest

from conftest import REPO
from neuralkit.core.config import UserError
from neuralkit.temporal.curves import (CAPACITY, FAMILIES, HELD_OUT, RESOURCES, PhysicalConstraintValidator,
                                       ResourceCurveSynthesizer)
from neuralkit.temporal.language import (CASES_FILE, SPLITS, TASKS, VERDICTS, GroupMaker, amount_text, blind_accuracy, cases_text,
                                         check_sentence, curve_facts, facts_text, need_in, quantities, read_cases,
                                         requirement_cells, seconds_text, slots_of, trend_of, true_of)

# --- curves

@pytest.mark.parametrize("families", [FAMILIES, HELD_OUT], ids=["trained", "held out"])
def test_curves_keep_the_physical_rules(families):
    rng, check = np.random.default_rng(0), PhysicalConstraintValidator()
    synthesizer = ResourceCurveSynthesizer(families=families)
    for _ in range(400):
        curve = synthesizer.draw(rng)
        steps = len(curve.values)
        assert 20 <= steps <= 100 and (curve.values == np.rint(curve.values)).all()
        assert (curve.values >= 0).all() and (curve.values <= CAPACITY).all()
        assert check(curve.values, curve.events, np.arange(steps)*.1) == []
        sudden = np.abs(np.diff(curve.values, axis=0)) > .5*CAPACITY
        assert not (sudden & ~curve.events[1:]).any()

def test_the_validator_names_rule_step_and_resource():
    check, flat = PhysicalConstraintValidator(), np.full((10, 4), 40.)
    def found(step, resource, value):
        values = flat.copy()
        values[step, resource] = value
        return {(v.rule, v.step, v.resource) for v in check(values)}
    assert found(3, 1, np.nan) == {("finite", 3, 1)} and found(3, 1, np.inf) == {("finite", 3, 1)}
    assert found(0, 0, -1) == {("range", 0, 0)} and found(9, 3, 81) == {("range", 9, 3), ("change", 9, 3)}
    assert found(5, 2, 91) == {("change", 5, 2)} and found(5, 2, 90) == set()          # half of the capacity is allowed
    times = np.array([0, 1, 1, 2, 3, 4, 5, 6, 7, 8.])
    assert [(v.rule, v.step, v.resource) for v in check(flat, times=times)] == [("time", 2, None)]
    with pytest.raises(UserError, match="shape"): check(flat[:, :3])

def test_dips_are_as_deep_as_they_say_and_apart():
    rng, synthesizer = np.random.default_rng(0), ResourceCurveSynthesizer(families=FAMILIES | HELD_OUT)
    for i in range(600):
        steps = synthesizer.length(rng)
        track = synthesizer.track(i % 4, steps, rng, spiked=True)
        spikes = sorted(track.spikes, key=lambda spike: spike.begin)
        assert 1 <= len(spikes) <= 3
        for spike in spikes:
            inside = track.values[spike.begin:spike.end]
            assert 1 <= spike.steps <= 5 and .2 <= spike.depth <= .5
            assert (inside == np.rint(spike.depth*spike.baseline)).all()
            assert .1*steps <= spike.begin and spike.end <= .9*steps
            assert track.events[spike.begin] and track.events[spike.end]
        assert all(after.begin - before.end >= 2 for before, after in zip(spikes, spikes[1:]))

def test_a_family_that_breaks_rules_is_refused():
    broken = {"nan": lambda t, rng: type("Shape", (), {"values": t*np.nan, "jumps": ()})}
    with pytest.raises(UserError, match="'nan'.*a number expected"):
        ResourceCurveSynthesizer(families=broken).draw(np.random.default_rng(0))
    with pytest.raises(UserError, match="min_steps"): ResourceCurveSynthesizer(min_steps=30, max_steps=20)

# --- facts

ODD = {"one step": np.array([7.]), "two steps": np.array([0., 80.]), "three": np.array([5., 1., 5.]), "constant": np.full(20, 7.), "zero": np.zeros(40),
       "long": np.arange(10_000) % 79., "long noise": np.random.default_rng(0).integers(0, 80, 10_000).astype(float)}

@pytest.mark.parametrize("x", ODD.values(), ids=ODD)
def test_odd_curves_have_facts_and_sentences(x):
    rng = np.random.default_rng(0)
    facts = curve_facts(x, 80)
    assert (facts.start, facts.end, facts.low, facts.high, facts.steps) == (x[0], x[-1], x.min(), x.max(), len(x))
    assert facts.low_step == np.flatnonzero(x == x.min())[0] and facts.high_step == np.flatnonzero(x == x.max())[0]
    assert facts_text(facts, 3)
    texts = GroupMaker().texts
    for need in (1, 40, 80):
        for told in (texts.trend(facts, 3, rng), texts.bottleneck(facts, 3, rng), texts.feasibility(x, 3, need, rng)):
            assert slots_of(told.task, told.target) == told.slots
            assert all(true_of(told.slots, x, 3, tolerance=0, need=need).values())

def test_the_trend_is_the_one_that_was_drawn():
    "Lines of a tenth of the capacity and more rise or fall; waves of a quarter are never called stable."
    rng = np.random.default_rng(0)
    for _ in range(400):
        steps = int(rng.integers(20, 101))
        t = np.linspace(0, 1, steps)
        noise = rng.normal(size=steps)*rng.uniform(0, 2)
        change = rng.uniform(15, 60)
        assert trend_of(np.rint(20 + change*t + noise), 100) == "increasing"
        assert trend_of(np.rint(80 - change*t + noise), 100) == "decreasing"
        assert trend_of(np.rint(50 + noise/4), 100) == "stable"
        turns, height = int(rng.integers(1, 3)), rng.uniform(13, 40)
        assert trend_of(np.rint(50 + height*np.cos(2*np.pi*turns*t) + noise), 100) == "fluctuating"

def test_every_amount_has_one_value_in_every_form():
    rng = np.random.default_rng(0)
    for r in RESOURCES:
        for value in range(r.capacity + 1):
            for text in {amount_text(value, r, rng) for _ in range(12)}:
                [found] = quantities(text)
                assert (found.value, found.unit) == (value, r.unit), text
    for step_seconds in (.1, .05, 1, .125, 300):
        for steps in range(0, 200, 7): assert float(seconds_text(steps, step_seconds)) == pytest.approx(steps*step_seconds, abs=1e-9)

# --- sentences

def told_of(split: str, groups: int, **settings) -> list:
    "(description, values (time,) of its resource) of so many groups."
    maker = GroupMaker(0, split, **settings)
    found = []
    for g in range(groups):
        curve, _, told = maker.group(g)
        found += [(d, curve.values[:, d.resource]) for d in told]
    assert maker.missed == 0
    return found

@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_reads_back_and_is_true(split):
    "3,000 samples a split: the sentence says its slots exactly, and each is true of the curve without any tolerance."
    samples = told_of(split, 750)
    assert len(samples) == 3000 and {d.task for d, _ in samples} == set(TASKS)
    for d, x in samples:
        assert slots_of(d.task, d.target) == d.slots == slots_of(d.task, d.target, d.resource), d.target
        held = check_sentence(d.task, d.target, x, d.resource, tolerance=0, need=need_in(d.prompt))
        assert set(held) == set(d.slots) and all(held.values()), (d.target, held)

@pytest.mark.parametrize("split", ["train", "families"])
def test_half_a_sentence_says_no_more_than_the_whole(split):
    for d, _ in told_of(split, 40):
        for length in range(len(d.target)):
            assert slots_of(d.task, d.target[:length]).items() <= d.slots.items(), d.target[:length]

def test_a_wrong_sentence_is_found_out():
    x = np.linspace(10, 60, 51)
    assert check_sentence("A", "A falling trend from 10 GB to 30 GB over 5.1 seconds.", x, 3) == {
        "trend": False, "start": True, "end": False, "duration": True}
    assert check_sentence("B", "It drops to 11 GB at t=2.0s for 0.4 s.", x, 3)["time"] is False
    later = "No, GPU memory is at 10 GB and reaches 40 GB at t=3.0s."
    assert all(check_sentence("C", later, x, 3, need=40).values())
    assert check_sentence("C", later, x, 3, need=55) == {"verdict": True, "now": True, "time": False, "future": False}
    assert check_sentence("C", later, x, 3, need=70) == {"verdict": False, "now": True, "time": False, "future": False}
    assert check_sentence("C", later, x, 3) == {"now": True}

def test_forms_of_the_test_are_never_seen_in_training():
    def skeleton(sentence): return tuple(word for word in sentence.split() if word.isalpha() and word.islower())
    seen = {skeleton(d.prompt) for d, _ in told_of("train", 500)}
    assert not seen & {skeleton(d.prompt) for d, _ in told_of("test", 100)}

def test_a_group_is_a_function_of_seed_split_and_number():
    first, second = GroupMaker(3, "valid"), GroupMaker(3, "valid")
    late = second.group(9), second.group(2)                             # in another order
    early = first.group(2), first.group(9)
    for a, b in zip(early, late[::-1]):
        assert (a.curve.values == b.curve.values).all() and a.facts == b.facts and a.told == b.told
    others = GroupMaker(4, "valid").group(2), GroupMaker(3, "train").group(2), first.group(3)
    assert all(other.told != early[0].told for other in others)

def test_the_verdict_cannot_be_guessed_from_the_requirement():
    "6,000 questions: a third each, and who does not look at the curve is within 5 points of that."
    samples = told_of("train", 1500, shares={"C": 1.})
    resources = np.array([d.resource for d, _ in samples])
    needs = np.array([need_in(d.prompt) for d, _ in samples])
    verdicts = np.array([VERDICTS.index(d.slots["verdict"]) for d, _ in samples])
    assert np.abs(np.bincount(verdicts)/6000 - 1/3).max() < .03
    assert abs(blind_accuracy(requirement_cells(resources, needs), verdicts) - 1/3) < .05

def test_an_impossible_verdict_is_counted_and_the_answer_true():
    maker = GroupMaker(shares={"C": 1.}, min_steps=1, max_steps=1)
    groups = [maker.group(g) for g in range(3)]
    assert 0 < maker.missed < 12
    for curve, _, told in groups:
        for d in told: assert all(check_sentence("C", d.target, curve.values[:, d.resource], d.resource, need=need_in(d.prompt)).values())

def test_a_hundred_thousand_samples_take_less_than_two_minutes():
    "On two cores; here processor time of one, with much room."
    maker = GroupMaker()
    maker.group(0)
    begin = time.process_time()
    for g in range(100): maker.group(g)
    assert (time.process_time() - begin)/100*25_000/2 < 120

# --- cases by hand

def test_the_cases_of_the_repo_are_those_built_in(home):
    assert (REPO/"data"/"temporal"/"cases.jsonl").read_text(encoding="utf-8") == cases_text()
    built_in = read_cases()                                              # this home has no such file
    assert len(built_in) == 10 and {case.task for case in built_in} == set(TASKS)
    (home/CASES_FILE).parent.mkdir()
    (home/CASES_FILE).write_text(cases_text().splitlines()[0])
    assert [case.name for case in read_cases()] == [built_in[0].name]
    for case in built_in:
        held = true_of(case.slots, case.values[:, case.resource], case.resource, tolerance=0, need=need_in(case.prompt))
        assert all(held.values()) and set(held) == set(case.slots)

@pytest.mark.parametrize("change, message", [
    ({"steps": 0}, "'steps' must be a number above 0"), ({"task": "D"}, "'task' must be one of A, B, C"),
    ({"resource": "disk"}, "'resource' must be one of cpu_cores"), ({"slots": {"low": 3}}, "slot 'low' is none of task A"),
    ({"slots": {"start": "3"}}, "slot 'start' must be a number"), ({"slots": {"trend": "up"}}, "'trend' must be one of increasing"),
    ({"prompt": 3}, "'prompt' must be a text"), ({"points": {"gpu_sm": [[0, 1]]}}, "cpu_cores: points must be a list"), ({"points": {}}, "'points' must be an object with"), ({"name": None}, "'name' must be a text")])
def test_a_broken_case_is_named_by_its_line(tmp_path, change, message):
    rows = [json.loads(line) for line in cases_text().splitlines()]
    rows[2] |= change
    path = tmp_path/"cases.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=rf"{path} line 3: .*{message}"): read_cases(path)

def test_a_file_without_cases_is_refused(tmp_path):
    path = tmp_path/"cases.jsonl"
    path.write_text("\n\n")
    with pytest.raises(UserError, match="no case in it"): read_cases(path)
    path.write_text('{"name": "x"')
    with pytest.raises(UserError, match="line 1: broken JSON"): read_cases(path)
    del_points = json.loads(cases_text().splitlines()[0])
    del del_points["points"]
    path.write_text(json.dumps(del_points))
    with pytest.raises(UserError, match="field 'points' is missing"): read_cases(path)
