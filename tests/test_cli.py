"The command line: bad input ends in one sentence and changes nothing; every verb does what it says."
import json, shutil
from pathlib import Path

import pytest

from conftest import files, neuralkit_process, one_sentence, sha256
from neuralkit.core.disk import seal
from neuralkit.core.runs import Run, find_runs, hash_of

SENTENCES = [f"The {a} {b} {c} near the {d}." for a in ("old", "red", "quiet", "small") for b in ("boat", "train", "horse", "clock")
             for c in ("sleeps", "waits", "turns", "shines") for d in ("river", "house", "market", "bridge")]
TRAIN = ["train", "sgdd", "--preset", "test", "--epochs", 1]


# --- bad input: what the file holds (None: there is none), flags beside --data, and what the sentence names

PARQUET = b"PAR1 this is not one PAR1"
BAD_DATA = {
    "missing file":           ("notes.txt", None, [], ["notes.txt", "missing"]),
    "missing parquet":        ("notes.parquet", None, [], ["notes.parquet", "missing"]),
    "empty file":             ("notes.txt", b"", [], ["notes.txt", "empty"]),
    "only spaces":            ("notes.txt", b"   \n \t \n\n", [], ["notes.txt", "no text"]),
    "binary":                 ("notes.txt", b"fine\n\0\1\2\xff", [], ["notes.txt line 2", "binary"]),
    "not UTF-8":              ("notes.txt", "fine\ncafé déjà vu\n".encode("latin-1"), [], ["notes.txt line 2", "UTF-8"]),
    "unknown ending":         ("notes.pdf", b"%PDF", [], ["notes.pdf", ".jsonl"]),
    "broken JSON":            ("notes.jsonl", b'{"text": "one two"}\n{"text": "thr\n', [], ["notes.jsonl line 2", "JSON"]),
    "JSON list":              ("notes.jsonl", b'{"text": "one two"}\n["a"]\n', [], ["notes.jsonl line 2", "object"]),
    "wrong column":           ("notes.jsonl", b'{"body": "one two"}\n', [], ["notes.jsonl line 1", "'text'", "body"]),
    "wrong --column":         ("notes.jsonl", b'{"text": "one two"}\n', ["--column", "body"], ["notes.jsonl line 1", "'body'", "text"]),
    "number for text":        ("notes.jsonl", b'{"text": "one two"}\n{"text": 3}\n', [], ["notes.jsonl line 2", "'text'"]),
    "ragged csv":             ("notes.csv", b"text,n\nhello there,1\nhello,there,2\n", [], ["notes.csv line 3", "2 were expected"]),
    "endless csv quote":      ("notes.csv", b'text\n"' + b"word " * 40_000, [], ["notes.csv"]),
    "not parquet":            ("notes.parquet", PARQUET, [], ["notes.parquet", "parquet"]),
    "damaged parquet":        ("notes.parquet", "damaged", [], ["notes.parquet"]),
    "folder without data":    ("notes", "folder", [], ["notes"]),
    "too few rows":           ("notes.txt", b"One two three four five six.\nSeven eight nine ten eleven.\n", [], ["notes.txt", "valid", "text.min_tokens"]),
    "text as pairs":          ("notes.txt", b"one two three\nfour five six\n", ["--phase", "paraphrase"], ["notes.txt line 1", "question1/question2"]),
    "pairs, wrong columns":   ("pairs.tsv", b"title\tbody\tyear\nx\ty\n", ["--phase", "paraphrase"], ["pairs.tsv line"]),
    "pairs, one column":      ("pairs.tsv", b"title\none\n", ["--phase", "paraphrase"], ["pairs.tsv line 1", "question1/question2"]),
    "pairs, wrong keys":      ("pairs.jsonl", b'{"a": "one two", "b": "two one"}\n', ["--phase", "paraphrase"], ["pairs.jsonl line 1", "question1/question2"]),
    "pairs, number for text": ("pairs.jsonl", b'{"q1": "one two", "q2": 5}\n', ["--phase", "paraphrase"], ["pairs.jsonl line 1", "'q2'"]),
    "pairs, wordy label":     ("pairs.tsv", b"q1\tq2\tlabel\none two\ttwo one\tyes\n", ["--phase", "paraphrase"], ["pairs.tsv line 2", "label"]),
    "pairs, none alike":      ("pairs.tsv", b"q1\tq2\tlabel\none two\ttwo one\t0\n", ["--phase", "paraphrase"], ["pairs.tsv", "1 rows"]),
    "too few pairs":          ("pairs.tsv", b"q1\tq2\nhow do you do that\thow is that done now\n", ["--phase", "paraphrase"], ["pairs.tsv"]),
}

@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_named(refused, home, case):
    name, content, flags, hints = BAD_DATA[case]
    path = home/name
    if content == "folder": (path/"inside").mkdir(parents=True)
    elif content == "damaged": damaged_parquet(path)
    elif content is not None: path.write_bytes(content)
    for verb in ["train"] if case.startswith("too few") else ["train", "validate"]:
        refused([verb, "sgdd", "--preset", "test", "--data", path, *flags], hints)

@pytest.mark.parametrize("case", [case for case in BAD_DATA if case.startswith("too few")])
def test_validate_shows_what_is_too_little_to_train_on(neuralkit, home, case):
    name, content, flags, _ = BAD_DATA[case]
    (home/name).write_bytes(content)
    result = neuralkit("validate", "sgdd", "--preset", "test", "--data", home/name, *flags)
    assert result.status == 0 and "Splits" in Path(result.last_line).read_text()

def damaged_parquet(path: Path) -> None:
    "A file whose end is right and whose middle is not."
    import polars
    polars.DataFrame({"text": SENTENCES}).write_parquet(path, compression="uncompressed")
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)

BAD_WORDS = {
    "no such verb":        (["trane", "sgdd"], ["'trane'", "train"]),
    "no such system":      (["train", "sgd"], ["'sgd'", "sgdd"]),
    "no system":           (["train"], ["sgdd"]),
    "unknown flag":        ([*TRAIN, "--epoch", 3], ["--epoch", "did you mean --epochs"]),
    "unknown preset":      (["train", "sgdd", "--preset", "huge"], ["'huge'", "default", "test"]),
    "out of range":        ([*TRAIN[:-2], "--epochs", 0], ["training.epochs", "greater than or equal to 1", "0"]),
    "not a number":        ([*TRAIN, "--learning_rate", "fast"], ["training.learning_rate", "fast"]),
    "not a number (NaN)":  ([*TRAIN, "--learning_rate", ".nan"], ["training.learning_rate"]),
    "no such choice":      ([*TRAIN, "--order", "alphabetical"], ["sampling.order", "confidence", "alphabetical"]),
    "broken YAML value":   ([*TRAIN, "--width", "[1"], ["model.width", "[1"]),
    "value left out":      ([*TRAIN, "--width"], ["--width"]),
    "heads do not divide": ([*TRAIN, "--width", 30, "--heads", 4], ["model.width 30", "model.heads 4"]),
    "fp16 without a GPU":  ([*TRAIN, "--mixed_precision", "fp16"], ["training.mixed_precision", "fp16"]),
    "no such data":        ([*TRAIN, "--data", "nowhere"], ["'nowhere'"]),
    "hub without network": ([*TRAIN, "--data", "no-owner/no-such-set"], ["no-owner/no-such-set", "hf download"]),
    "no such encoder":     ([*TRAIN, "--encoder", "./nowhere/at/all"], ["./nowhere/at/all"]),
    "no run to resume":    ([*TRAIN, "--resume", "20200101T000000Z-abcdef-s0"], ["20200101T000000Z-abcdef-s0", "neuralkit runs"]),
    "no run to init from": ([*TRAIN, "--init-from", "last"], ["'last'", "neuralkit runs"]),
    "evaluate nothing":    (["evaluate", "last"], ["'last'", "neuralkit runs"]),
    "predict nothing":     (["predict", "sgdd/last", "--text", "x"], ["'sgdd/last'"]),
    "report nothing":      (["report", "nowhere"], ["'nowhere'"]),
    "reproduce nothing":   (["reproduce", "nowhere"], ["'nowhere'"]),
}

@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words_are_named(refused, case): refused(*BAD_WORDS[case])


# --- bad config files: their text, the line and field that the sentence names

BAD_FILES = {
    "unknown key":          ("training:\n  epochs: 1\n  epoch: 2\n", ["bad.yaml line 3", "'training.epoch'", "training.epochs"]),
    "unknown short key":    ("seed: 1\nepoch: 2\n", ["bad.yaml line 2", "'epoch'", "epochs"]),
    "out of range":         ("seed: 1\ntraining:\n  epochs: 0\n", ["bad.yaml line 3", "training.epochs", "0"]),
    "out of range, short":  ("seed: 1\nepochs: 0\n", ["bad.yaml line 2", "epochs", "0"]),
    "out of range, dotted": ("seed: 1\ntraining.epochs: 0\n", ["bad.yaml line 2", "training.epochs", "0"]),
    "wrong type":           ("model:\n  layers: many\n", ["bad.yaml line 2", "model.layers", "many"]),
    "broken YAML":          ("training:\n  epochs: [1\n", ["bad.yaml", "line"]),
    "tab":                  ("training:\n\tepochs: 1\n", ["bad.yaml", "line 2"]),
    "a list":               ("- epochs\n- 3\n", ["bad.yaml", "list"]),
    "empty":                ("", ["bad.yaml", "name: value"]),
    "binary":               ("\0\1", ["bad.yaml"]),
    "section without keys": ("training: 3\n", ["bad.yaml line 1", "'training'"]),
    "inherits a number":    ("inherit: 3\nepochs: 1\n", ["bad.yaml", "inherit"]),
    "inherits the missing": ("inherit: nowhere.yaml\n", ["nowhere.yaml", "does not exist"]),
    "inherits itself":      ("inherit: bad.yaml\n", ["circle"]),
}

@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_config_file_is_named_with_its_line(refused, home, case):
    text, hints = BAD_FILES[case]
    (home/"bad.yaml").write_text(text)
    refused([*TRAIN[:-2], "--config", home/"bad.yaml"], hints)

def test_bad_key_of_an_inherited_file_is_named_there(refused, home):
    (home/"base.yaml").write_text("seed: 1\nmodel:\n  with: 3\n")
    (home/"top.yaml").write_text("inherit: base.yaml\nseed: 2\n")
    refused([*TRAIN, "--config", home/"top.yaml"], ["base.yaml line 3", "'model.with'"])

def test_config_files_that_inherit_in_a_circle_are_refused(refused, home):
    for a, b in ("ab", "bc", "ca"): (home/f"{a}.yaml").write_text(f"inherit: {b}.yaml\n")
    refused([*TRAIN, "--config", home/"a.yaml"], ["circle", "a.yaml", "b.yaml", "c.yaml"])

def test_missing_config_file_is_named(refused, home): refused([*TRAIN, "--config", home/"no.yaml"], ["no.yaml", "does not exist"])


# --- bad words about a run that exists

@pytest.fixture
def run(trained, home) -> Run:
    "A copy of the finished run in this test's home."
    made = trained()
    return Run(shutil.copytree(made.path, home/"runs"/"sgdd"/made.path.name, symlinks=True))

BAD_OF_RUN = {
    "nothing to predict": (["predict", "last"], ["--text", "--file"]),
    "blank text":         (["predict", "last", "--text", "fine", "--text", " \t"], ["text 2 of 2"]),
    "missing texts":      (["predict", "last", "--file", "nowhere.txt"], ["nowhere.txt"]),
    "bad checkpoint":     (["predict", "last", "--text", "x", "--checkpoint", "step_8"], ["'step_8'", "step_9"]),
    "bad field":          (["predict", "last", "--text", "x", "--steps", 0], ["sampling.steps"]),
    "field of training":  (["predict", "last", "--text", "x", "--width", 64], ["does not fit"]),
    "bad split":          (["evaluate", "last", "--split", "dev"], ["'dev'", "valid"]),
    "negative limit":     (["evaluate", "last", "--no-sweep", "--limit", -1], ["limit"]),
    "no such metric run": (["runs", "nowhere"], ["'nowhere'"]),
}

@pytest.mark.parametrize("case", BAD_OF_RUN)
def test_bad_words_about_a_run_are_named(refused, run, case): refused(*BAD_OF_RUN[case])

def test_weights_that_are_torn_are_named(refused, run):
    path = run/"checkpoints"/"best"/"model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    refused(["predict", "last", "--text", "x"], [run.path, "best"])

def test_init_from_a_run_with_another_model_is_refused(refused, run):
    refused([*TRAIN, "--width", 64, "--init-from", "last"], [run.path.name, "does not fit"])

def test_init_from_a_run_with_another_encoder_is_refused(refused, run, home):
    from transformers import BertModel
    from neuralkit.text.encoder import tiny_encoder
    model, tokenizer = tiny_encoder(width=32)
    for part in (BertModel(model.config), tokenizer): part.save_pretrained(home/"other")
    refused([*TRAIN, "--encoder", home/"other", "--init-from", "last"], ["encoder"])

def test_report_folder_that_is_a_file_is_refused(refused, home):
    (home/"taken").write_text("mine")
    refused(["validate", "sgdd", "--preset", "test", "--out", home/"taken"], ["taken"])

@pytest.mark.parametrize("words", [["train", "sgdd", "--preset", "test", "--epochs", "0"], ["train", "sgdd", "--preset", "test", "--data", "no.txt"], ["evaluate", "last"], []],
                         ids=["field", "data", "run", "nothing"])
def test_a_real_process_says_no_more_than_that(home, words):
    result = neuralkit_process(*words, home=home)
    if words:
        assert result.status == 2 and result.stdout == ""
        one_sentence(result.stderr)
    else: assert result.status == 0 and "verbs:" in result.stdout
    assert files(home) == {}


# --- good paths

def test_python_m_is_the_command(home):
    a, b = neuralkit_process("systems", home=home), neuralkit_process("systems", home=home, python_m=True)
    assert a.status == b.status == 0 and a.stdout == b.stdout and "sgdd" in a.stdout and a.stderr == ""

def test_every_verb_explains_itself(neuralkit, run):
    from neuralkit.core.cli import VERBS
    for verb in VERBS:
        result = neuralkit(verb, *([run.path] if verb in ("evaluate", "predict") else []), "--help")
        assert result.status == 0 and "usage:" in result.stdout, verb

def test_config_prints_what_config_reads(neuralkit, home):
    given = neuralkit("config", "sgdd", "--preset", "test", "--learning_rate", "1e-5", "--semantic_tokens", "unpooled", "--training.threads", "null")
    (home/"c.yaml").write_text(given.stdout)
    again = neuralkit("config", "sgdd", "--config", home/"c.yaml")
    assert given.status == again.status == 0 and again.stdout == given.stdout and "unpooled" in given.stdout

def test_flags_win_over_file_over_inherited_file_over_preset(neuralkit, home):
    (home/"base.yaml").write_text("training: {epochs: 4, batch_size: 4, clip: 4}\n")
    (home/"top.yaml").write_text("inherit: base.yaml\nbatch_size: 5\nclip: 5\n")
    said = neuralkit("config", "sgdd", "--preset", "test", "--config", home/"top.yaml", "--clip", "6").stdout
    assert all(line in said for line in ("epochs: 4 ", "batch_size: 5 ", "clip: 6.0 ", 'encoder: "tiny" '))

def test_describe_counts_the_parameters_of_the_run(neuralkit, trained, home):
    result = neuralkit("describe", "sgdd", "--preset", "test")
    assert result.status == 0 and result.stdout.split()[-1].replace(",", "") == str(trained().manifest["parameters"])

def test_data_says_what_training_saw(neuralkit, trained, home):
    result = neuralkit("data", "sgdd", "--preset", "test")
    seen = {line.split()[0]: int(line.split()[1]) for line in result.stdout.splitlines()[1:]}
    assert result.status == 0 and seen == trained().manifest["examples"] and files(home) == {}

@pytest.mark.parametrize("phase", ["reconstruction", "paraphrase"])
def test_validate_writes_its_report_and_no_run(neuralkit, home, phase):
    result = neuralkit("validate", "sgdd", "--preset", "test", "--phase", phase)
    report = Path(result.last_line)
    assert result.status == 0 and report.name == "validation_report.html" and report.is_relative_to(home)
    page = report.read_text()
    assert "Splits" in page and "Samples" in page and ("Copying the source" in page) == (phase == "paraphrase") and find_runs() == []

def test_evaluate_writes_metrics_baseline_and_sweep(neuralkit, run):
    result = neuralkit("evaluate", "last", "--limit", 4)
    assert result.status == 0, result.stderr
    found = json.loads((run/"evaluation.json").read_text())
    assert found["metrics"]["examples"] == 4 and found["baseline"] and len(found["samples"]) == 4
    assert len(found["sweep"]) > 8 and {"guidance", "steps", "order", "bleu"} <= found["sweep"][0].keys()
    assert "The whole sweep" in (run/"report.html").read_text() and result.last_line == str(run/"report.html")

def test_evaluate_takes_fields_and_leaves_weights_alone(neuralkit, run):
    before = sha256(run/"checkpoints"/"best"/"model.safetensors")
    assert neuralkit("evaluate", run.path, "--no-sweep", "--split", "valid", "--steps", 2, "--checkpoint", "last").status == 0
    found = json.loads((run/"evaluation.json").read_text())
    assert found["changed"] == {"sampling.steps": [4, 2]} and found["split"] == "valid" and found["checkpoint"] == "last" and "sweep" not in found
    assert sha256(run/"checkpoints"/"best"/"model.safetensors") == before and run.config["sampling"]["steps"] == 4

def test_predict_answers_texts_and_files_alike(neuralkit, run, home):
    (home/"t.txt").write_text("The module reads a file.\nA list holds objects.\n")
    by_file = neuralkit("predict", "last", "--file", home/"t.txt")
    by_text = neuralkit("predict", "last", "--text", "The module reads a file.", "--text", "A list holds objects.")
    rows = [json.loads(line) for line in by_text.stdout.splitlines()]
    assert by_file.status == by_text.status == 0 and by_file.stdout == by_text.stdout
    assert [r["text"] for r in rows] == ["The module reads a file.", "A list holds objects."] and all(r["generated"] for r in rows)

@pytest.mark.parametrize("text", ["a", "🙂 \u200b", "\u200b", "word " * 500, "Ünïcödé 漢字"], ids=["letter", "emoji", "invisible", "long", "foreign"])
def test_predict_answers_strange_texts(neuralkit, run, text):
    result = neuralkit("predict", "last", "--text", text)
    if result.status: one_sentence(result.stderr, ["text 1"])
    else: assert json.loads(result.stdout)["text"] == text and "nan" not in result.stdout.lower()

def test_report_is_written_anew(neuralkit, run):
    (run/"report.html").unlink()
    result = neuralkit("report", "sgdd/last")
    assert result.status == 0 and result.last_line == str(run/"report.html") and run.path.name in (run/"report.html").read_text()

def test_runs_lists_runs_and_where_they_differ(neuralkit, run, home):
    other = Run(shutil.copytree(run.path, run.path.with_name("29990101T000000Z-abcdef-s0"), symlinks=True))
    config = other.config
    config["training"]["epochs"] = 77
    (other/"config.json").write_text(json.dumps(config))
    other.note(config_hash=hash_of(config))
    lines = neuralkit("runs").stdout.splitlines()
    assert len(lines) == 3 and run.path.name in lines[1] and other.path.name in lines[2] and "epochs=77" in lines[2] and "epochs" not in lines[1]
    assert len(neuralkit("runs", other.path).stdout.splitlines()) == 2

def test_runs_keeps_the_small_json_of_a_run_as_reference(neuralkit, run, home):
    assert neuralkit("runs", "last", "--keep", "tiny").status == 0
    kept = json.loads((home/"runs"/"reference"/"sgdd-tiny.json").read_text())
    assert kept["summary"] == run.summary and kept["config"] == run.config and kept["manifest"]["config_hash"] == run.manifest["config_hash"]
    assert len(find_runs()) == 1

def test_runs_says_where_it_looked_when_there_are_none(neuralkit, home):
    result = neuralkit("runs")
    assert result.status == 0 and str(home/"runs") in result.stdout

def test_reproduce_finds_the_same_bits(neuralkit, run):
    result = neuralkit("reproduce", run.path)
    assert result.status == 0, result.stderr
    found = json.loads(result.stdout[result.stdout.rindex("\n{"):])
    assert found["weights"] == "equal, bit for bit" and found["test figures"] == "equal"
    assert find_runs()[-1].manifest["config_hash"] == run.manifest["config_hash"]

def test_reproduce_finds_other_weights(neuralkit, run):
    from safetensors.torch import load_file, save_file
    path = run/"checkpoints"/"best"/"model.safetensors"
    save_file({k: v + 1e-4 if v.is_floating_point() else v for k, v in load_file(path).items()}, path)
    seal(path.parent.resolve())
    assert "differ by" in neuralkit("reproduce", run.path).stdout

def test_paraphrase_starts_from_the_weights_of_reconstruction(neuralkit, run, home):
    from safetensors.torch import load_file
    words = ["train", "sgdd", "--preset", "test", "--phase", "paraphrase", "--max_steps", 1, "--learning_rate", 1e-12, "--ema", 0, "--evaluate_limit", 2, "--init-from"]
    assert neuralkit(*words, "last").status == 0
    new = find_runs()[-1]
    assert new.path != run.path and new.manifest["parent"] == run.name and new.config["phase"] == "paraphrase"
    old_weights, weights = (load_file(r/"checkpoints"/"best"/"model.safetensors") for r in (run, new))
    assert all((weights[k] - v).abs().max() < 1e-6 for k, v in old_weights.items())
    assert "copy_bleu" in new.summary["test"] and (new/"fitted.json").read_bytes() == (run/"fitted.json").read_bytes()
