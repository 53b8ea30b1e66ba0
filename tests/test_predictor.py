"predictor across modules and processes: bad series are named, splits do not leak, figures are those of a plain numpy computation, and what is exported answers the same."
import csv, importlib.util, json, shutil, subprocess, sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from conftest import Result, files
from neuralkit.core.disk import read_json
from neuralkit.core.runs import Run, find_runs
from neuralkit.core.verbs import evaluate, predict, train
from neuralkit.predictor.trace import generate_trace
from test_contract import Loads
from test_papermill import assert_executed, desk, piped      # noqa: F401  desk is a fixture

EXACT = dict(preset="test", solver="exact")     # 16 steps seen, 2 forecast
WEIGHTS = "checkpoints/best/model.safetensors"


def at(i: int, seconds: float = 3600) -> str: return f"{datetime(2026, 1, 1) + timedelta(seconds=i*seconds)}"

def waves(rows: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    "(row, channel): daily waves under noise that remembers."
    rng, t = np.random.default_rng(seed), np.arange(rows)[:, None]
    noise = rng.normal(size=(rows, channels))
    for i in range(1, rows): noise[i] += .7*noise[i - 1]
    return 20 + 3*np.sin(2*np.pi*(t/24 + np.arange(channels)/channels)) + noise

def write(path: Path, values: np.ndarray, names="abcdefg", seconds: float = 3600) -> Path:
    rows = [f"{at(i, seconds)}," + ",".join(f"{v:.5f}" for v in row) for i, row in enumerate(values)]
    path.write_text("\n".join([",".join(["date", *names[:values.shape[1]]]), *rows, ""]))
    return path

def lines(head: str, rows: int, row, **changed) -> bytes:
    "A csv of `row(i)`; changed={'line7': text} puts other text there, the header being line 1."
    made = [head, *(row(i) for i in range(rows))]
    for place, text in changed.items(): made[int(place.removeprefix("line")) - 1] = text
    return ("\n".join(made) + "\n").encode()

def same(a, b) -> bool:
    "Equal weights, bit for bit."
    a, b = load_file(a/WEIGHTS), load_file(b/WEIGHTS)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def hourly(tmp_path_factory) -> Path: return write(tmp_path_factory.mktemp("series")/"hourly.csv", waves(600))

@pytest.fixture(scope="module")
def solved(tmp_path_factory, cache, hourly) -> Run:
    "A run in closed form, made once."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURALKIT_HOME", str(tmp_path_factory.mktemp("solved")))
        return train("predictor", **EXACT, data=str(hourly))

@pytest.fixture
def run(solved, home) -> Run: return Run(shutil.copytree(solved.path, home/"runs"/"predictor"/solved.path.name, symlinks=True))


# --- bad input: what the file holds (None: there is none), flags beside --data, and what the sentence names

def load(rows: int = 200, **changed) -> bytes: return lines("date,load", rows, lambda i: f"{at(i)},{5 + i % 7}", **changed)
def counts(rows: int = 200, **changed) -> bytes: return lines("date,requests", rows, lambda i: f"{at(i)},{5 + i % 7}", **changed)
def two(rows: int = 200, **changed) -> bytes: return lines("date,a,b", rows, lambda i: f"{at(i)},{i % 5},{i % 7}", **changed)
def services(second: int) -> bytes: return lines("date,service,load", 100, lambda i: f"{at(i if i < 50 else second + i)},{'chat' if i < 50 else 'code'},{i % 7}")

BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
def burst(rows: int = 600, **changed) -> bytes: return lines(BURSTGPT, rows, lambda i: f"{i*20},m,{100 + i % 9},{i % 50},{100 + i % 9 + i % 50},Conversation log", **changed)
def azure(rows: int = 600, **changed) -> bytes: return lines("TIMESTAMP,ContextTokens,GeneratedTokens", rows, lambda i: f"{at(i, 20)}.1230000,{100 + i % 9},{i % 50}", **changed)

BAD_DATA = {
    "missing":                    ("load.csv", None, [], ["load.csv", "missing"]),
    "missing parquet":            ("load.parquet", None, [], ["load.parquet", "missing"]),
    "empty":                      ("load.csv", b"", [], ["load.csv", "empty"]),
    "only a header":              ("load.csv", b"date,load\n", [], ["load.csv"]),
    "binary":                     ("load.csv", load(line9="\0\1\2"), [], ["load.csv", "binary"]),
    "not parquet":                ("load.parquet", load(), [], ["load.parquet"]),
    "ragged":                     ("load.csv", load(line9=f"{at(7)},1,2"), [], ["load.csv line 9"]),
    "no column of times":         ("load.csv", lines("name,load", 60, lambda i: f"n{i},{i}"), [], ["load.csv", "no column of times", "name, load", "--time"]),
    "wrong --time":               ("load.csv", load(), ["--time", "when"], ["load.csv", "'when'", "date, load"]),
    "a time is missing":          ("load.csv", load(line9=",3"), [], ["load.csv line 9", "'date'"]),
    "only times":                 ("load.csv", lines("date", 60, at), [], ["load.csv", "no column of numbers"]),
    "NaN":                        ("load.csv", load(line9=f"{at(7)},NaN"), [], ["load.csv line 9", "'load'"]),
    "infinite":                   ("load.csv", load(line9=f"{at(7)},inf"), [], ["load.csv line 9", "'load'"]),
    "cell missing":               ("load.csv", load(line9=f"{at(7)},"), [], ["load.csv line 9", "'load'"]),
    "word for number":            ("load.csv", load(line9=f"{at(7)},many"), ["--columns", "load"], ["load.csv line 9", "'load'", "numbers"]),
    "negative count":             ("load.csv", counts(line9=f"{at(7)},-1"), [], ["load.csv line 9", "'requests'", "negative"]),
    "time repeats":               ("load.csv", load(line9=f"{at(6)},3"), [], ["load.csv", at(6), "more than once"]),
    "services of other times":    ("load.csv", services(1000), [], ["load.csv", "2 series", "chat (50 rows)", "--where service="]),
    "--where matches nothing":    ("load.csv", services(-50), ["--where", "service=chess"], ["load.csv", "'chess'", "chat, code"]),
    "--where without column":     ("load.csv", load(), ["--where", "city=Rome"], ["load.csv", "'city'", "date, load"]),
    "unknown --columns":          ("load.csv", load(), ["--columns", "load,cost"], ["load.csv", "'cost'", "date, load"]),
    "unknown --columns of trace": ("trace.csv", burst(), ["--columns", "cost"], ["trace.csv", "'cost'", "request_arrivals"]),
    "bad --split":                ("load.csv", load(), ["--split", "0.7,0.1"], ["series.split", "'0.7,0.1'", "0.7,0.1,0.2"]),
    "--split beyond one":         ("load.csv", load(), ["--split", "0.7,0.2,0.2"], ["series.split", "sum to 1"]),
    "--split of longer series":   ("load.csv", load(), ["--split", "ett-hour"], ["series.split", "14400", "200"]),
    "falling --quantiles":        ("load.csv", load(), ["--quantiles", "0.9,0.5"], ["model.quantiles", "rising"]),
    "--quantiles of one":         ("load.csv", load(), ["--quantiles", "0.5,1"], ["model.quantiles", "between 0 and 1"]),
    "negative tokens":            ("trace.csv", burst(line9="140,m,-5,3,2,Conversation log"), [], ["trace.csv line 9", "'Request tokens'", "-5", "0 or more"]),
    "broken tokens":              ("trace.csv", azure(line9=f"{at(7, 20)},3,2.5"), [], ["trace.csv line 9", "'GeneratedTokens'", "2.5"]),
    "word for timestamp":         ("trace.csv", burst(line9="noon,m,5,3,8,Conversation log"), [], ["trace.csv line 9", "'Timestamp'", "noon"]),
    "bad date":                   ("trace.csv", azure(line9="2026-13-01 00:00:00,5,3"), [], ["trace.csv line 9", "'TIMESTAMP'", "2026-13-01"]),
    "far-future seconds":         ("trace.csv", burst(line9="1e11,m,5,3,8,Conversation log"), [], ["trace.csv", "a timestamp is wrong"]),
    "whole trace in the future":  ("trace.csv", lines("TIMESTAMP,ContextTokens,GeneratedTokens", 60, lambda i: f"2999-01-01 00:{i:02}:00,5,3"), [], ["trace.csv", "future"]),
    "trace without rows":         ("trace.csv", burst(0), [], ["trace.csv", "no rows"]),
}
ONLY_TRAIN = {     # `validate` shows these
    "constant":                   ("load.csv", lines("date,a,b", 200, lambda i: f"{at(i)},{i % 5},{3 if i < 140 else i}"), [], ["b: constant in the training part", "--columns"]),
    "shorter than a window":      ("load.csv", load(17), [], ["too short", "16 + 2"]),
    "horizon over a part":        ("load.csv", load(), ["--prediction_horizon", "30"], ["valid part has 20 steps", "30"]),
    "wrong --channels":           ("load.csv", two(), ["--channels", "3"], ["model.channels is 3", "a, b", "--columns"]),
    "trace too short":            ("trace.csv", burst(40, line9="600,m,5,3,8,Conversation log"), [], ["too short", "16 + 2"]),
}

def bad_file(home: Path, case: str) -> tuple[list, list]:
    name, content, flags, hints = (BAD_DATA | ONLY_TRAIN)[case]
    if content is not None: (home/name).write_bytes(content)
    return ["predictor", "--preset", "test", "--data", home/name, *flags], hints

@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_series_is_named(refused, home, case):
    words, hints = bad_file(home, case)
    for verb in ("train", "validate"): refused([verb, *words], hints)

@pytest.mark.parametrize("case", ONLY_TRAIN)
def test_what_cannot_be_trained_on_is_named_and_can_be_looked_at(refused, neuralkit, home, case):
    words, hints = bad_file(home, case)
    for solver in ("adam", "exact"): refused(["train", *words, "--solver", solver], hints)
    result = neuralkit("validate", *words)
    assert result.status == 0 and "Autocorrelation" in Path(result.last_line).read_text(), result.stderr


# --- what is mended, and said

def test_rows_out_of_order_are_sorted_with_a_warning(neuralkit, home, hourly, solved):
    head, *rows = hourly.read_text().splitlines()
    rows[10], rows[11] = rows[11], rows[10]
    (home/"mixed.csv").write_text("\n".join([head, *rows]))
    result = neuralkit("train", "predictor", "--preset", "test", "--solver", "exact", "--data", home/"mixed.csv")
    [run] = find_runs("predictor")
    assert result.status == 0 and "1 rows stand before an earlier one; the rows were sorted by time" in result.stderr and same(run, solved)

def test_future_requests_are_left_out_with_a_warning(neuralkit, home):
    (home/"late.csv").write_bytes(azure() + b"2999-01-01 00:00:00.5,5,3\n")
    result = neuralkit("data", "prepare", "predictor", "--trace", home/"late.csv", "--out", home/"late.parquet")
    assert result.status == 0 and "1 rows lie in the future" in result.stderr
    assert len(pl.read_parquet(home/"late.parquet")) == 200


# --- data prepare

def prepared(neuralkit, home, trace, *words, out="series.parquet") -> tuple[pl.DataFrame, Result]:
    result = neuralkit("data", "prepare", "predictor", *(["--trace", trace] if trace else []), "--out", home/out, *words)
    assert result.status == 0, result.stderr
    return (pl.read_csv if out.endswith(".csv") else pl.read_parquet)(home/out), result

def test_requests_in_flight_need_a_response_time(neuralkit, home):
    "Three requests of 90 s each, begun at 0, 30 and 60 s, and one of no length at 150 s."
    rows = [(0, 90, 10, 1), (30, 90, 20, 2), (60, 90, 30, 3), (150, 0, 40, 0)]
    (home/"new.csv").write_text("Timestamp,Elapsed time,Request tokens,Response tokens\n" + "".join(f"{t},{e},{i},{o}\n" for t, e, i, o in rows))
    (home/"old.csv").write_text("Timestamp,Request tokens,Response tokens\n" + "".join(f"{t},{i},{o}\n" for t, e, i, o in rows))
    new, old = prepared(neuralkit, home, home/"new.csv")[0], prepared(neuralkit, home, home/"old.csv")[0]
    assert new.columns == ["time", "requests_in_flight", "input_tokens", "output_tokens"] and old.columns[1] == "request_arrivals"
    assert old["request_arrivals"].to_list() == [2, 1, 1] and old["input_tokens"].to_list() == [30, 30, 40]
    assert np.allclose(new["requests_in_flight"], [(60 + 30)/60, (30 + 60 + 60)/60, (0 + 30)/60]) and new["output_tokens"].to_list() == [3, 3, 0]

def test_azure_trace_keeps_its_dates(neuralkit, home):
    (home/"azure.csv").write_bytes(azure())
    frame, result = prepared(neuralkit, home, home/"azure.csv", "--step", "5m")
    assert frame["time"][0] == datetime(2026, 1, 1) and frame["time"][1] == datetime(2026, 1, 1, 0, 5)
    assert frame["request_arrivals"].to_list() == [15]*40 and frame["input_tokens"].sum() == sum(100 + i % 9 for i in range(600)) and "azure" in result.stdout

def test_rates_are_averaged_over_a_multiple_of_their_step(neuralkit, refused, home):
    values = waves(241)
    write(home/"rates.csv", values)
    frame, _ = prepared(neuralkit, home, home/"rates.csv", "--step", "4h")
    assert len(frame) == 60 and np.allclose(frame.drop("time").to_numpy(), values[:240].reshape(60, 4, 3).mean(1), atol=1e-4)
    refused(["data", "prepare", "predictor", "--trace", home/"rates.csv", "--step", "90m"], ["rates.csv", "3600", "--step", "5400"])

def test_csv_and_parquet_hold_the_same_series(neuralkit, home):
    (home/"trace.csv").write_bytes(burst())
    a, b = prepared(neuralkit, home, home/"trace.csv")[0], prepared(neuralkit, home, home/"trace.csv", out="series.csv")[0]
    assert a.columns == b.columns and np.array_equal(a.to_numpy(), b.to_numpy())
    assert read_json(home/"series.csv.json")["rows"] == 600

@pytest.mark.parametrize("words, hints", [(["--trace", "no.csv"], ["no.csv", "missing"]), (["--step", "soon"], ["--step", "soon"]), (["--step", "0"], ["--step"]),
                                          (["--days", "1", "--out", "series.txt"], ["series.txt", ".parquet or .csv"])], ids=["missing", "step", "zero step", "ending"])
def test_bad_words_of_prepare_are_named(refused, home, words, hints): refused(["data", "prepare", "predictor", *words], hints)

@pytest.mark.parametrize("out", ["made.parquet", "made.csv"])
def test_generated_load_is_called_generated_everywhere(neuralkit, home, out):
    _, result = prepared(neuralkit, home, None, "--days", ".4", out=out)
    assert any(line.split() == ["generated", "True"] for line in result.stdout.splitlines())
    run, report = train("predictor", **EXACT, data=str(home/out)), neuralkit("validate", "predictor", "--preset", "test", "--data", home/out).last_line
    assert [d["kind"] for d in run.manifest["data"]] == ["generated"]
    answer = neuralkit("predict", "last", "--trace", home/out).last_line
    for page in (run/"report.html", Path(report), Path(answer).with_name("prediction.html")): assert "Generated data" in page.read_text(), page

def test_generated_load_stays_generated_at_other_steps(neuralkit, home):
    prepared(neuralkit, home, None, "--days", ".4")
    _, result = prepared(neuralkit, home, home/"series.parquet", "--step", "5m", out="coarse.parquet")
    assert any(line.split() == ["generated", "True"] for line in result.stdout.splitlines())

def test_prepared_series_trains_as_its_trace_does(neuralkit, home):
    generate_trace(home/"trace.csv", days=.4)
    prepared(neuralkit, home, home/"trace.csv")
    a, b = (train("predictor", **EXACT, data=str(home/name)) for name in ("trace.csv", "series.parquet"))
    assert read_json(a/"fitted.json") == read_json(b/"fitted.json") and a.summary["test"] == b.summary["test"] and same(a, b)


# --- the figures are those of the definition

def plain_ridge(values: np.ndarray, L: int, H: int, ends: tuple) -> dict:
    "Test errors of one affine map for all channels, on windows less their last value; the ridge's strength is chosen on validation."
    z = (values - values[:ends[0]].mean(0))/values[:ends[0]].std(0)
    def windows(begin, end):
        rows = np.stack([z[s:s + L + H, c] for s in range(max(0, begin - L), end - L - H + 1) for c in range(z.shape[1])])
        return rows - rows[:, [L - 1]]
    train, valid, test = (windows(*b) for b in ((0, ends[0]), (ends[0], ends[1]), (ends[1], ends[2])))
    centre = train.mean(0)
    x, y = (train - centre)[:, :L], (train - centre)[:, L:]
    def answers(strength, rows):
        weight = np.linalg.solve(x.T @ x + strength*len(x)*np.eye(L), x.T @ y)
        return (rows - centre)[:, :L] @ weight + centre[L:] - rows[:, L:]
    best = min((10**(k/2) for k in range(-12, 1)), key=lambda s: (answers(s, valid)**2).mean())
    return {"mse": (answers(best, test)**2).mean(), "mae": np.abs(answers(best, test)).mean(), "windows": len(test)//z.shape[1]}

def test_exact_figures_are_those_of_a_plain_ridge_for_any_batch_size(home, hourly):
    wanted = plain_ridge(np.round(waves(600), 5), 16, 2, (420, 480, 600))
    for batch_size in (7, 64):
        run = train("predictor", **EXACT, data=str(hourly), individual=False, scale="standard", batch_size=batch_size)
        found = run.summary["test"]
        assert run.manifest["examples"] == {"train": 420 - 17, "valid": 59, "test": 119} and found["windows"] == wanted["windows"] == 119
        assert found["mse"] == pytest.approx(wanted["mse"], rel=1e-4) and found["mae"] == pytest.approx(wanted["mae"], rel=1e-4)

def evaluated(run, split: str = "test", **fields) -> dict: return read_json(evaluate(run, split, sweep=False, **fields)/"evaluation.json")["metrics"]

def test_metrics_of_one_model_do_not_depend_on_the_batch_size(run):
    a, b = (evaluated(run, batch_size=n) for n in (1, 500))
    assert a == pytest.approx(b, rel=1e-5) and {"mse", "mae", "loss", "pinball"} <= a.keys()

def test_exact_is_no_worse_than_a_few_epochs_of_adam_on_validation(run, hourly):
    assert evaluated(run, "valid")["mse"] <= evaluated(train("predictor", "test", data=str(hourly), epochs=5), "valid")["mse"]

def test_every_naive_forecast_stands_beside_the_result(solved):
    values = np.round(waves(600), 5)
    low, high = values[:420].min(0), values[:420].max(0)
    z, rows = (values - low)/(high - low), np.arange(480, 599)
    for name, wanted in (("last value", [(z[rows + h] - z[rows - 1])**2 for h in (0, 1)]), ("seasonal naive, day", [(z[rows + h] - z[rows + h - 24])**2 for h in (0, 1)])):
        assert solved.summary["baseline"][name]["mse"] == pytest.approx(np.mean(wanted), rel=1e-4)
    assert {"seasonal naive, week", "EWMA", "Holt-Winters", "ridge on lags"} <= solved.summary["baseline"].keys()
    assert all({"mse", "mae", "mase", "rmsse"} <= row.keys() for row in solved.summary["baseline"].values())

@pytest.mark.parametrize("solver", ["adam", "exact"])
def test_nothing_is_learnt_from_the_test_part(home, hourly, solved, solver):
    values = waves(600)
    values[480:] *= 9
    write(home/"changed.csv", values)
    a = solved if solver == "exact" else train("predictor", "test", data=str(hourly))
    b = train("predictor", "test", solver=solver, data=str(home/"changed.csv"))
    assert same(a, b) and read_json(a/"fitted.json") == read_json(b/"fitted.json")
    assert a.summary["test"]["mse"] != b.summary["test"]["mse"] and a.summary["best_valid_loss"] == b.summary["best_valid_loss"]

def test_the_scale_is_that_of_the_training_part(home, solved):
    values = waves(600)
    values[420:480] *= 9
    write(home/"changed.csv", values)
    other, kept = train("predictor", **EXACT, data=str(home/"changed.csv")), np.round(waves(600), 5)[:420]
    scale = read_json(solved/"fitted.json")["scale"]
    assert scale == read_json(other/"fitted.json")["scale"] and np.allclose([scale["shift"], scale["by"]], [kept.min(0), np.ptp(kept, 0)])

def test_ett_split_has_the_papers_windows(neuralkit, home, monkeypatch):
    from neuralkit.predictor import system
    monkeypatch.setattr(system, "SYSTEM", replace(system.SYSTEM, baseline=lambda *a: {}))       # Holt-Winters along 14,400 steps takes seconds
    values, L, H = waves(14_500, 1), 24, 6
    write(home/"ett.csv", values)
    run = train("predictor", **EXACT, data=str(home/"ett.csv"), split="ett-hour", sequence_length=L, prediction_horizon=H, heads="residual", test_limit=100)
    assert run.manifest["examples"] == {"train": 8640 - L - H + 1, "valid": 2880 - H + 1, "test": 2880 - H + 1}
    scale = read_json(run/"fitted.json")["scale"]
    assert scale["kind"] == "standard" and np.allclose([scale["shift"], scale["by"]], [values[:8640].mean(0), values[:8640].std(0)], rtol=1e-5)

@pytest.mark.parametrize("heads", ["linear", "residual"])
def test_calibrated_quantiles_cover_what_they_say(home, heads):
    write(home/"steady.csv", waves(6000, 1))
    run = train("predictor", **EXACT, data=str(home/"steady.csv"), heads=heads)
    found = {q: run.summary["test"][f"coverage {q}"] for q in (.5, .9, .95)}
    assert all(abs(share - q) < .03 for q, share in found.items()), found

def test_training_stops_early_where_it_gets_worse(home, hourly):
    run = train("predictor", "test", data=str(hourly), epochs=20, learning_rate=10., early_stopping_patience=1)
    batches = -(-run.manifest["examples"]["train"]//32)
    assert run.status == "finished" and run.summary["steps"] < 20*batches and run.summary["steps"] % batches == 0


# --- what a run answers, inside and outside

def recent(path: Path, rows: int) -> Path: return write(path, waves(600)[:rows])

@pytest.mark.parametrize("form", ["json", "csv"])
def test_predict_goes_on_where_the_file_ends(neuralkit, run, home, form):
    recent(home/"now.csv", 40)
    asked = ["predict", "last", "--trace", home/"now.csv", "--format", form]
    first = neuralkit(*asked)
    assert first.status == 0, first.stderr
    table = Path(first.last_line)
    once = files(table.parent)
    assert neuralkit(*asked).stdout == first.stdout and files(table.parent) == once and once.keys() == {f"prediction.{form}", "prediction.html"}
    rows = json.loads(table.read_text()) if form == "json" else list(csv.DictReader(table.open()))
    assert [row["time"] for row in rows] == [at(40).replace(" ", "T"), at(41).replace(" ", "T")] and [int(row["step_ahead"]) for row in rows] == [1, 2]
    for row in rows:
        for c in "abc":
            levels = [float(row[f"{c} {q}"]) for q in (.5, .9, .95, .99)]
            assert levels == sorted(levels) and levels[0] < levels[-1] and 5 < float(row[c]) < 35
    page, parser = table.with_name("prediction.html").read_text(), Loads()
    parser.feed(page)
    assert parser.found == [] and "Plotly.newPlot" in page and "default-src 'none'" in page

def test_predict_writes_where_it_is_told(neuralkit, run, home):
    before = files(run.path)
    assert neuralkit("predict", "last", "--trace", recent(home/"now.csv", 40), "--out", home/"there").last_line == str(home/"there"/"prediction.json")
    assert files(run.path) == before

BAD_TRACES = {
    "too short":      (lambda path: recent(path, 15), ["now.csv", "15 steps", "16"]),
    "other channels": (lambda path: write(path, waves(40), "axc"), ["now.csv", "a, x, c", "a, b, c"]),
    "fewer channels": (lambda path: write(path, waves(40, 2)), ["now.csv", "a, b", "a, b, c"]),
    "other order":    (lambda path: write(path, waves(40), "bac"), ["now.csv", "b, a, c", "a, b, c"]),
    "other step":     (lambda path: write(path, waves(40), seconds=60), ["now.csv", "60 s", "3600 s"]),
    "missing":        (lambda path: None, ["now.csv", "missing"]),
    "a hole":         (lambda path: path.write_bytes(lines("date,a,b,c", 40, lambda i: f"{at(i)},1,2,{'' if i == 7 else i}")), ["now.csv line 9", "'c'"]),
}

@pytest.mark.parametrize("case", BAD_TRACES)
def test_a_file_that_does_not_fit_the_run_is_refused(refused, run, home, case):
    make, hints = BAD_TRACES[case]
    make(home/"now.csv")
    refused(["predict", "last", "--trace", home/"now.csv"], hints)

def by_hand(run, context: np.ndarray) -> np.ndarray:
    "(channel, step ahead, mean and levels) of one context (channel, time), from what the run folder holds, without this package."
    w, fitted = load_file(run/WEIGHTS), read_json(run/"fitted.json") | read_json(run/"calibration.json")
    shift, by = (np.array(fitted["scale"][k])[:, None] for k in ("shift", "by"))
    x = (context - shift)/by - ((context - shift)/by)[:, -1:]
    padded = np.pad(x, ((0, 0), (2, 2)), mode="edge")
    trend = np.stack([padded[:, i:i + x.shape[1]] for i in range(5)]).mean(0)          # kernel_size 5
    def map_of(part):
        made = sum(np.einsum("crt,ct->cr", w[f"{part}.{name}_weight"], v) + w[f"{part}.{name}_bias"] for name, v in (("trend", trend), ("seasonal", x - trend)))
        return made.reshape(len(x), 2, -1) + ((context - shift)/by)[:, -1:, None]
    levels = np.sort(map_of("heads") + np.array(fitted["offsets"]), -1)
    return np.concatenate([map_of("point"), levels], -1)*by[..., None] + shift[..., None]

ELSEWHERE = {     # contexts.npy -> answers.npy, by what needs nothing of this package
    "torchscript": "import sys, numpy, torch; numpy.save(sys.argv[3], torch.jit.load(sys.argv[1])(torch.from_numpy(numpy.load(sys.argv[2]))).detach().numpy())",
    "onnx": "import sys, numpy, onnxruntime; numpy.save(sys.argv[3], onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']).run(None, {'context': numpy.load(sys.argv[2])})[0])",
}

@pytest.mark.parametrize("form", ELSEWHERE)
def test_exported_model_answers_elsewhere_as_predict_does(neuralkit, run, home, form):
    if form == "onnx": [pytest.importorskip(name) for name in ("onnxruntime", "onnxscript")]
    result = neuralkit("export", "last", "--format", form)
    assert result.status == 0, result.stderr
    lengths = (20, 40, 77)       # a batch of another size than the one it was exported with
    np.save(home/"contexts.npy", np.stack([np.round(waves(600), 5)[n - 16:n].T for n in lengths]).astype("float32"))
    done = subprocess.run([sys.executable, "-c", ELSEWHERE[form], result.last_line, home/"contexts.npy", home/"answers.npy"], capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr
    for n, context, answer in zip(lengths, np.load(home/"contexts.npy"), np.load(home/"answers.npy")):
        wanted = [[[row[c], *(row[f"{c} {q}"] for q in (.5, .9, .95, .99))] for row in predict(run, [recent(home/"now.csv", n)])] for c in "abc"]
        assert np.allclose(answer, wanted, rtol=1e-4) and np.allclose(answer, by_hand(run, context), rtol=1e-4)

def test_bands_widen_where_the_file_is_wilder_than_training(run, home):
    "A file that is long enough calibrates the quantiles anew; the mean stays what the newest steps make of it."
    values = np.random.default_rng(1).normal(20, 15, (200, 3))
    rows = [predict(run, [write(home/"now.csv", values)], calibration_window=n)[0] for n in (100, 1000)]
    for c in "abc": assert rows[0][c] == rows[1][c] and rows[0][f"{c} 0.99"] - rows[0][c] > 2*(rows[1][f"{c} 0.99"] - rows[1][c]) > 0

def test_export_in_an_unknown_format_is_refused(refused, run): refused(["export", "last", "--format", "pickle"], ["'pickle'", "torchscript", "onnx"])

def test_a_count_is_never_forecast_below_nothing(home):
    "A load that falls by 2 a step to 0.5: a channel that counts stops at 0, another goes on."
    rows, rng = {}, np.random.default_rng(0)
    for name in ("requests", "load"):
        up_and_down = 100 + 2*np.abs(np.arange(400) % 40 - 20)[:, None] + .1*rng.normal(size=(400, 1))
        run = train("predictor", **EXACT, data=str(write(home/"triangles.csv", up_and_down, [name])))
        rows[name] = predict(run, [write(home/"now.csv", .5 + 2*np.arange(20.)[::-1, None], [name])])[1]
    assert rows["requests"]["requests"] == 0 and rows["load"]["load"] < -1 and all(v >= 0 for k, v in rows["requests"].items() if k.startswith("requests"))


# --- notebooks, tables, counts

def test_train_notebook_leaves_itself_in_the_run_folder(desk, home):      # noqa: F811
    before = files(desk)
    result = piped(desk, "train_predictor.ipynb", "-p", "preset", "test", "-p", "epochs", 1)
    [run] = find_runs("predictor")
    assert result.status == 0 and run.status == "finished" and run.config["training"]["epochs"] == 1 and files(desk) == before, result.stderr
    assert_executed(run/"notebook.ipynb")

def test_evaluate_notebook_leaves_itself_in_the_run_folder(desk, home, run):      # noqa: F811
    before = files(desk)
    result = piped(desk, "evaluate_predictor.ipynb", "-p", "limit", 50)
    assert result.status == 0 and files(desk) == before, result.stderr
    assert_executed(run/"evaluate.ipynb")
    found = read_json(run/"evaluation.json")
    assert found["metrics"]["windows"] == 50 and found["sweep"] and "How long a context?" in (run/"report.html").read_text()

def test_validate_notebook_leaves_itself_beside_the_report(desk, home, hourly):      # noqa: F811
    before = files(desk)
    result = piped(desk, "validate_predictor.ipynb", "-p", "preset", "test", "-p", "data", hourly)
    assert result.status == 0 and files(desk) == before, result.stderr
    [folder] = (home/"runs"/"predictor").iterdir()
    assert (folder/"validation_report.html").is_file()
    assert_executed(folder/"validate.ipynb")

def test_quick_bench_measures_every_row(neuralkit, home):
    result = neuralkit("bench", "predictor", "--quick")
    assert result.status == 0, result.stderr
    rows = result.stdout.splitlines()
    assert rows[0].split() == ["what", "ours", "theirs", "ratio", "bar", "met"] and [row.split()[0] for row in rows[1:]] == ["fit", "update", "update", "update:", "epoch", "one", "one", "prepare"]
    measured = [row for row in rows[1:] if "neuralforecast" not in row and ("onnx" not in row or importlib.util.find_spec("onnxscript"))]
    assert all(" ms" in row or " s," in row for row in measured) and files(home) == {}

def test_quality_bench_puts_the_model_among_the_naive_forecasts(neuralkit, home, hourly):
    result = neuralkit("bench", "predictor", "--quality", "--data", hourly)
    assert result.status == 0 and files(home) == {}, result.stderr
    for way in ("predictor, exact", "last value", "seasonal naive, day", "EWMA", "Holt-Winters", "ridge on lags"): assert sum(way in line for line in result.stdout.splitlines()) == 1, way
    assert {"mase", "rmsse", "mse", "pinball"} <= set(result.stdout.splitlines()[0].split()) and "covered 0.95" in result.stdout

@pytest.mark.parametrize("preset, wanted", [("default", 2178), ("4060", 12_120)])
def test_describe_counts_the_parameters_of_the_mean(neuralkit, preset, wanted):
    result = neuralkit("describe", "predictor", "--preset", preset)
    mean = next(line for line in result.stdout.splitlines() if line.startswith("mean"))
    assert result.status == 0 and f"{wanted:,}" in mean.split()
