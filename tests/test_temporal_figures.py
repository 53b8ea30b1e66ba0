"temporal's report: what is missing is left out, what is wrong is seen, nothing is written by drawing."
import json

import numpy as np
import pytest

from conftest import files
from neuralkit.core.config import changed
from neuralkit.core.disk import add_row, write_json
from neuralkit.core.page import render
from neuralkit.core.runs import create_run
from neuralkit.temporal.config import PRESETS
from neuralkit.temporal.curves import RESOURCES, Curve
from neuralkit.temporal.data import draw_groups
from neuralkit.temporal.figures import (asked_in, case_figures, figures, form_of, goal_rows, guess_row, run_scores, last_answers,
                                        predictions_visualization, slot_rows, stated_points, validate, validate_groups)
from neuralkit.temporal.language import HELD_OUT_PROMPTS, PROMPTS, Questioned

CFG = changed(PRESETS["test"], num_samples=240)


@pytest.fixture(scope="module")
def groups() -> list: return draw_groups(CFG, "train", 240)

@pytest.fixture
def run(home): return create_run("temporal", CFG)

def sample(one, answer: str | None = None) -> dict:
    told = one.told
    return {"task": told.task, "resource": RESOURCES[told.resource].name, "prompt": told.prompt, "target": told.target,
            "answer": told.target if answer is None else answer, "right": 1., "steps": len(one.values), "step_seconds": .1,
            "curve": one.curve.values.astype(int).tolist(), "source": "test", "generated": True}

def titles(sections) -> list[str]: return [section.title for section in sections]


# --- before training

def test_a_validation_of_sound_samples_finds_nothing(groups):
    facts, sections = validate(CFG)
    assert (facts["kind"], facts["samples"], facts["physical rules broken"]) == ("generated", 240, 0)
    table = {section.title: section.table for section in sections}
    assert {row["violations"] for row in table["Physical limits"]} == {0}
    assert {row["in both"] for row in table["New sentences in the test"]} == {0}
    page = render("validation", facts=facts, sections=sections)
    assert page == render("validation", facts=facts, sections=validate(CFG)[1]) and page.count('class="js-plotly') + page.count("plotly-graph-div") >= 12

def test_a_validation_sees_what_is_wrong(groups):
    "A value above the capacity, a test in practised sentences, verdicts that follow from the requirement."
    first, *others = groups
    above = Curve(first.curve.values + 1000, first.curve.events, first.curve.families, ())
    facts, sections = validate_groups([Questioned(above, first.facts, first.told), *others], groups, CFG)
    table = {section.title: section.table for section in sections}
    assert facts["physical rules broken"] == 4 and table["Physical limits"][1]["violations"] == 4
    assert all(row["in both"] == row["forms in test"] for row in table["New sentences in the test"])
    one = next(one for one in asked_in(groups) if one.told.task == "C")
    assert not guess_row([one]*100)["cannot be guessed"]

@pytest.mark.parametrize("tasks", ["A", "B", "C", "BC"])
def test_fewer_tasks_leave_their_parts_out(tasks):
    facts, sections = validate(changed(CFG, tasks=tasks, num_samples=80))
    asked = {row["value"] for row in sections[1].table if row["what"] == "task" and row["samples"]}
    assert asked == set(tasks) and render("x", sections=sections)

def test_forms_of_training_and_test_differ_as_they_are_written():
    known = {form_of(form) for forms in PROMPTS.values() for form in forms}
    assert not known & {form_of(form) for forms in HELD_OUT_PROMPTS.values() for form in forms}


# --- after training

def test_a_run_without_results_has_no_sections(run):
    assert figures(run) == [] and run_scores(run).samples == []
    assert [row["reached"] for row in goal_rows(run_scores(run))] == [None]*6
    assert predictions_visualization(run).is_file()

def test_a_report_takes_what_there_is(run, groups):
    asked = asked_in(groups)
    write_json(run/"samples.json", [sample(one, "" if n % 2 else None) for n, one in enumerate(asked[:25])])
    for step in (5, 10): add_row(run/"cases.jsonl", {"step": step, "case": "one dip", "answer": "<b>", "right": step/10})
    run.finish({"test": {"nll": .4, "values_5": .8}, "baseline": {"blind prefix": {"nll": 1.}, "linear probe": {"trend": .5}}})
    before = files(run.path)
    sections = figures(run)
    assert titles(sections)[:4] == ["How well it tells", "Statement by statement", "Ten cases", "Answers"] and len(sections) == 24
    assert files(run.path) == before, "drawing wrote a file"
    page = render("x", sections=sections)
    assert "<b>" not in page and "&lt;b&gt;" in page
    gain = goal_rows(run_scores(run))[-1]
    assert gain["reached"] and gain["this run"] == pytest.approx(.6) and gain["linear probe"] is None

def test_an_evaluation_wins_over_the_end_of_training(run, groups):
    run.finish({"test": {"trend": .1}, "baseline": {}})
    made = [sample(asked_in(groups)[0])]
    write_json(run/"evaluation.json", {"split": "valid", "checkpoint": "best", "metrics": {"trend": .99}, "baseline": {}, "samples": made})
    seen = run_scores(run)
    assert (seen.split, seen.metrics["trend"], len(seen.samples)) == ("valid", .99, 1) and goal_rows(seen)[1]["reached"]

def test_the_page_of_predictions_shows_twenty_with_their_differences(run, groups):
    asked = asked_in(groups)
    write_json(run/"samples.json", [sample(one, asked[n + 4].told.target + " <script>") for n, one in enumerate(asked[:30])])
    text = predictions_visualization(run).read_text()
    assert text.count("<h2>") == 20 and text.count("<mark>") >= 20 and "&lt;script&gt;" in text and "generated" in text.lower()

def test_every_true_answer_agrees_with_itself_and_lies_on_its_curve(groups):
    for one in asked_in(groups):
        told, last = one.told, (len(one.values) - 1)*.1
        assert all(row["right"] for row in slot_rows(told.task, told.target, told.target, told.resource))
        assert not any(row["right"] for row in slot_rows(told.task, told.target, "", told.resource))      # wrong, or not judged
        for seconds, amount in stated_points(told.task, told.target, told.resource, last):
            assert one.values[round(seconds/.1)] == pytest.approx(amount)

def test_many_checkpoints_are_thinned_and_the_last_is_kept():
    rows = [{"step": step, "case": name, "answer": str(step), "right": .5} for step in range(100) for name in "ab"]
    drawn = case_figures(rows)[0].data[0].x
    assert len(drawn) <= 30 and drawn[-1] in (99, "99") and [row["last answer"] for row in last_answers(rows)] == ["99", "99"]
