"timellm across modules and processes: any local LLM, fast equals plain, prompts do not leak, figures are those of the definition, bad input is named."
import csv, json, re, shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import files, neuralkit_process, sha256
from neuralkit.core.card import TrainingConfig
from neuralkit.core.checkpoint import load_trainable, trainable_state
from neuralkit.core.config import UserError, changed
from neuralkit.core.learner import Learner, mean_losses
from neuralkit.core.optim import Ema, averaged
from neuralkit.core.disk import read_json
from neuralkit.core.runs import Run, find_runs
from neuralkit.core.verbs import evaluate, load_run, train
from neuralkit.core.words import config_of
from neuralkit.text.llm import in_double, load_llm, tiny_tokenizer
from neuralkit.timellm import data as timellm_data, task
from neuralkit.timellm.config import PRESETS
from neuralkit.timellm.memory import estimate_memory, shape_of
from neuralkit.timellm.model import TimeLLM, plain_forward
from neuralkit.timellm.system import SYSTEM as system
from test_contract import Loads
from test_papermill import assert_executed, desk, piped      # noqa: F401  desk is a fixture

TRAIN = ["train", "timellm", "--preset", "test"]      # 32 steps seen, 4 forecast
WEIGHTS = "checkpoints/best/model.safetensors"
KINDS = ("qwen2", "llama", "gpt2")

# --- series and language models that the tests use

def at(i: int, seconds: float = 3600) -> str: return f"{datetime(2026, 1, 1) + timedelta(seconds=i*seconds)}"

def waves(rows: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    "(row, channel): daily waves on a slow walk, with noise; rounded as `write` writes them."
    rng, t = np.random.default_rng(seed), np.arange(rows)[:, None]
    return np.round(20 + 3*np.sin(2*np.pi*(t/24 + np.arange(channels)/channels)) + .2*rng.normal(size=(rows, channels)).cumsum(0) + rng.normal(size=(rows, channels)), 5)

def table(head: str, rows: int, row, **changed) -> bytes:
    "A csv of `row(i)`; changed={'line7': text} puts other text there, the header being line 1."
    made = [head, *(row(i) for i in range(rows))]
    for place, text in changed.items(): made[int(place.removeprefix("line")) - 1] = text
    return ("\n".join(made) + "\n").encode()

def write(path: Path, values: np.ndarray, names="abcdefg", seconds: float = 3600) -> Path:
    path.write_bytes(table(",".join(["date", *names[:values.shape[1]]]), len(values), lambda i: ",".join([at(i, seconds), *map(str, values[i])])))
    return path

def save_llm(kind: str, folder: Path) -> Path:
    "A small LLM of 3 layers as one finds it on the hub: config, tokenizer, safetensors. Llama's tokenizer puts a mark before each text."
    import transformers as hf
    tokenizer = tiny_tokenizer()
    if kind == "llama":
        from tokenizers.processors import TemplateProcessing
        tokenizer.bos_token = "<|im_start|>"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)])
    sizes = dict(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, initializer_range=.2, eos_token_id=0)
    grouped = dict(intermediate_size=48, num_key_value_heads=2)
    torch.manual_seed(0)
    model = {"qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**sizes, **grouped)), "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **grouped)),
             "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**sizes))}[kind]()
    for part in (model, tokenizer): part.save_pretrained(folder)
    return folder

@pytest.fixture(scope="module")
def llms(tmp_path_factory) -> dict[str, Path]: return {kind: save_llm(kind, tmp_path_factory.mktemp("llm")/kind) for kind in KINDS}

@pytest.fixture(scope="module")
def hourly(tmp_path_factory) -> Path: return write(tmp_path_factory.mktemp("series")/"hourly.csv", waves(160))

@pytest.fixture(scope="module")
def made(tmp_path_factory, cache, hourly) -> Run:
    "A run on `hourly`, made once."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURALKIT_HOME", str(tmp_path_factory.mktemp("made")))
        return train("timellm", "test", data=str(hourly))

@pytest.fixture
def run(made, home) -> Run: return Run(shutil.copytree(made.path, home/"runs"/"timellm"/made.path.name, symlinks=True))

def contexts(n: int, length: int = 48) -> torch.Tensor:
    "Windows (n, length) in double precision: flat ones, steep ones, short and long cycles."
    g, t = torch.Generator().manual_seed(5), torch.arange(length, dtype=torch.double)
    k = torch.arange(n, dtype=torch.double)[:, None]
    return 10*k.sin() + torch.sin(t*(.1 + .37*k)) + (k % 3 - 1)*.1*t + .1*torch.randn(n, length, generator=g, dtype=torch.double)

def model_of(llm, double: bool = False, layers: int = 2, **fields) -> TimeLLM:
    "A model on the first `layers` layers of an LLM, with weights from seed 0."
    lm = load_llm(str(llm), layers)
    if double: lm = in_double(lm)
    cfg = changed(PRESETS["test"].model, llm=str(llm), llm_layers=layers, **{"sequence_length": 48, "n_heads": 4, "d_ff": 16} | fields)
    torch.manual_seed(0)
    model = TimeLLM(cfg, len(lm.table), lm.width, lm)
    return model.double() if double else model


# --- what a run would need, told without weights or network

OFFLINE = "import os, socket\ndef refuse(*a, **k): os._exit(99)\nsocket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse\n"

def test_describe_counts_weights_and_samples_without_network_or_weights(home):
    (home/"sitecustomize.py").write_text(OFFLINE)
    result = neuralkit_process("describe", "timellm", "--llm", "Qwen/Qwen2.5-3B", "--memory", "6GB", home=home, PYTHONPATH=str(home), HF_HOME=str(home/"empty"), HF_HUB_OFFLINE="0")
    assert result.status == 0 and result.stderr == "", result.stderr
    value = {row[0]: row[1] for row in (re.split(r"\s{2,}", line) for line in result.stdout.splitlines())}
    parts = [int(v.replace(",", "")) for k, v in value.items() if k.startswith("weights of ")]
    assert value["total of trainable weights"] == "153,719,112" == f"{sum(parts):,}" and {1536, 151_937_000, 1_583_872, 196_704} == set(parts)
    assert value["samples an epoch on ETTh1"] == "56,231" and value["iterations an epoch on ETTh1 at batch 4"] == "14,058"
    assert value["largest batch in 6GB"] == "0"
    remedies = {k: int(v) for k, v in value.items() if k.startswith("largest batch in 6GB with --")}
    assert remedies and all(n > 0 for n in remedies.values())

def largest(result) -> int: return int(re.search(r"largest batch in \S+ +([\d,]+)", result.stdout)[1].replace(",", ""))

def test_what_describe_recommends_for_a_budget_holds_in_it(neuralkit):
    words = ["describe", "timellm", "--llm", "Qwen/Qwen2.5-3B", "--memory"]
    remedy = re.search(r"largest batch in 6GB with (--.*?)  +(\d+)", neuralkit(*words, "6GB").stdout)
    assert largest(neuralkit(*words, "6GB", *remedy[1].split())) == int(remedy[2]) > 0
    small, large = (largest(neuralkit(*words, budget)) for budget in ("24GB", "48GB"))
    cfg = config_of("timellm", llm="Qwen/Qwen2.5-3B").model
    need = lambda batch: estimate_memory(shape_of(cfg.llm), cfg, batch, ema=True)["total"]
    assert 0 < small < large and need(large) <= .95*48e9 < need(large + 1)

def test_describe_takes_a_folder_with_nothing_but_a_config(neuralkit, home, llms):
    for kind, folder in llms.items():
        (home/kind).mkdir()
        shutil.copy(folder/"config.json", home/kind)
        result = neuralkit("describe", "timellm", "--preset", "test", "--llm", home/kind)
        assert result.status == 0, result.stderr
        counted = sum(p.numel() for p in model_of(folder, sequence_length=32, n_heads=2, d_ff=8).parameters() if p.requires_grad)
        assert re.search(rf"total of trainable weights +{counted:,}\b", result.stdout)

BAD_SHAPES = {
    "unknown LLM":       (["--llm", "no-owner/no-such-llm"], ["no-owner/no-such-llm", "config.json is needed", "hf download no-owner/no-such-llm config.json"]),
    "folder without":    (["--llm", "."], ["no config.json"]),
    "bad --memory":      (["--memory", "lots"], ["'lots'", "6GB"]),
    "negative --memory": (["--memory=-6GB"], ["'-6GB'", "6GB"]),
    "too many layers":   (["--llm_layers", 5], ["tiny", "4 layers", "5"]),
}

@pytest.mark.parametrize("case", BAD_SHAPES)
def test_describe_names_what_it_cannot_tell(refused, home, monkeypatch, case):
    monkeypatch.chdir(home)
    words, hints = BAD_SHAPES[case]
    refused(["describe", "timellm", *words], hints)

NO_CONFIGS = {"no sizes": '{"model_type": "qwen2"}', "no JSON": "{not json", "a list": "[1]"}

@pytest.mark.parametrize("case", ["no sizes", "no JSON", "a list"])
def test_describe_names_a_config_that_is_no_config(refused, home, case):
    (home/"llm").mkdir()
    (home/"llm"/"config.json").write_text(NO_CONFIGS[case])
    refused(["describe", "timellm", "--llm", home/"llm"], [home/"llm", "config.json"])


# --- language models from folders

@pytest.mark.parametrize("kind", KINDS)
def test_a_local_llm_trains_frozen_and_only_what_was_learnt_is_kept(neuralkit, home, hourly, llms, kind):
    before = files(llms[kind])
    run = train("timellm", "test", llm=str(llms[kind]), llm_layers=2, data=str(hourly), max_steps=2)
    hashes = [m["sha256"] for m in run.manifest["models"]]
    assert run.status == "finished" and hashes == [sha256(llms[kind]/"model.safetensors")] and files(llms[kind]) == before
    kept, frozen = load_file(run/WEIGHTS), {n for n, p in system.build(config_of("timellm", "test", llm=str(llms[kind]), llm_layers=2), {}).named_parameters() if not p.requires_grad}
    n = sum(v.numel() for v in kept.values())
    assert len(frozen) > 12 and not kept.keys() & frozen and not [k for k in kept if not k.startswith(("patches.", "prototypes.", "reprogramming.", "head."))]
    assert n == run.manifest["parameters"] and (run/WEIGHTS).stat().st_size < 4*n + 10_000
    [lm], fresh = timellm_data._kept.values(), load_llm(str(llms[kind]), 2).model.state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in lm.model.state_dict().items())
    asked, predictions = ["predict", "last", "--data", hourly], []
    for _ in range(2):
        timellm_data._kept.clear()
        assert neuralkit(*asked).status == 0
        predictions.append(files(run/"predictions"))
    assert predictions[0] == predictions[1] and len(predictions[0]) == 2

def only_pickle(folder: Path) -> None:
    weights = load_file(folder/"model.safetensors")
    (folder/"model.safetensors").unlink()
    torch.save(weights, folder/"pytorch_model.bin")

def fewer_weights(folder: Path) -> None:
    from safetensors.torch import save_file
    save_file({k: v for k, v in load_file(folder/"model.safetensors").items() if "layers.1." not in k}, folder/"model.safetensors", metadata={"format": "pt"})

def rewrite_config(folder: Path, change) -> None: (folder/"config.json").write_text(change((folder/"config.json").read_text()))

BREAKS = {
    "pickle only":           ("qwen2", only_pickle, ["safetensors only"]),
    "broken config":         ("qwen2", lambda f: rewrite_config(f, lambda text: text[:40]), []),
    "unknown model type":    ("qwen2", lambda f: rewrite_config(f, lambda text: text.replace('"qwen2"', '"quen"')), ["quen"]),
    "config at odds":        ("qwen2", lambda f: rewrite_config(f, lambda text: text.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4')), []),
    "torn weights":          ("qwen2", lambda f: (f/"model.safetensors").write_bytes((f/"model.safetensors").read_bytes()[:5000]), []),
    "a layer's weights left out": ("llama", fewer_weights, []),
    "no tokenizer":          ("llama", lambda f: [p.unlink() for p in f.glob("*token*")], []),
    "no tokenizer, qwen2":   ("qwen2", lambda f: [p.unlink() for p in f.glob("*token*")], []),
    "no tokenizer, gpt2":    ("gpt2", lambda f: [p.unlink() for p in f.glob("*token*")], []),
}
@pytest.mark.parametrize("case", BREAKS)
def test_a_folder_that_is_no_whole_llm_is_refused(refused, home, llms, case):
    kind, spoil, hints = BREAKS[case]
    spoil(shutil.copytree(llms[kind], home/"llm"))
    refused([*TRAIN, "--llm_layers", "null", "--max_steps", 1, "--llm", home/"llm"], [home/"llm", *hints])

BAD_LLMS = {
    "no such folder":  (["--llm", "./nowhere/at/all"], ["./nowhere/at/all", "put it into a folder"]),
    "hub, no network": (["--llm", "no-owner/no-such-llm"], ["no-owner/no-such-llm", "hf download no-owner/no-such-llm", "folder"]),
    "no such .gguf":   (["--llm", "nowhere.gguf"], ["nowhere.gguf", "missing"]),
    "too many layers": (["--llm_layers", 5], ["tiny", "4 layers", "5", "1 to 4"]),
}

@pytest.mark.parametrize("case", BAD_LLMS)
def test_an_llm_that_is_not_there_is_refused_with_a_remedy(refused, case): refused([*TRAIN, *BAD_LLMS[case][0]], BAD_LLMS[case][1])

def test_more_layers_than_a_local_llm_has_are_refused(refused, llms):
    for kind, folder in llms.items(): refused([*TRAIN, "--llm", folder, "--llm_layers", 4], [folder, "3 layers", "4"])


# --- the same mathematics

def close(a: torch.Tensor, b: torch.Tensor, bound: float) -> bool: return float((a - b).detach().abs().max()) <= bound*max(1., float(b.detach().abs().max()))

@pytest.mark.parametrize("kind, fields", [*((kind, {}) for kind in KINDS), ("qwen2", {"prototypes": "free"}), ("llama", {"strict_compat": True}), ("gpt2", {"strict_compat": True})],
                         ids=lambda v: v if isinstance(v, str) else "".join(v) or "default")
def test_fast_and_plain_have_equal_outputs_and_gradients(llms, kind, fields):
    model, x = model_of(llms[kind], double=True, **fields).train(), contexts(9)
    target, real = contexts(9)[:, :4].flip(0), model.prompt(x)[1]
    assert len(set(real.sum(1).tolist())) > 2, "prompts of one length test no pads"
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    results = []
    for answer in (model(x), plain_forward(model, x, attention="sdpa")):
        results.append((answer.detach(), torch.autograd.grad((answer - target).square().mean(), list(trained.values()))))
    (fast, ours), (plain, theirs) = results
    assert close(fast, plain, 1e-9) and len(trained) > 8
    for name, a, b in zip(trained, ours, theirs): assert close(a, b, 1e-9) and (b.abs().max() > 1e-6 or name == "reprogramming.key.bias"), name
    if not fields: assert close(fast, torch.cat([plain_forward(model, row[None], attention="sdpa") for row in x]), 1e-9), "pads are seen"

@pytest.mark.parametrize("kind", KINDS)
def test_in_single_precision_losses_are_those_of_the_plain_form_and_forecasts_know_no_batch(llms, kind):
    model, x = model_of(llms[kind]).eval(), contexts(64).float()
    with torch.no_grad():
        many, plain = model(x), plain_forward(model, x)
        single, again = torch.cat([model(row[None]) for row in x]), model(x)
    loss = lambda answer: float((answer - contexts(64)[:, :4].flip(0)).square().mean())
    assert abs(loss(many) - loss(plain)) <= 1e-5*loss(plain)
    assert torch.equal(many, again) and float(((many - single)/x.std(1, keepdim=True)).abs().max()) <= 1e-5

def test_the_llm_is_asked_with_one_begin_mark_where_its_tokenizer_has_one(llms):
    for kind, marks in (("qwen2", 0), ("llama", 1)):
        model = model_of(llms[kind])
        mark = model.prompter.lm.tokenizer.convert_tokens_to_ids("<|im_start|>")
        prefix, (ids, _) = model.prompter.prefix, model.prompt(contexts(3))
        assert prefix.count(mark) == (prefix[0] == mark) == marks and not (ids == mark).any()

def test_strict_compat_tells_lag_0_first_and_looks_at_pads(llms):
    x = contexts(9).float()
    corrected, strict = (model_of(llms["qwen2"], strict_compat=how).eval() for how in (False, True))
    lags = {model: [[int(n) for n in re.findall(r"\d+", text[text.index("lags are"):])] for text in model.prompter.texts(x)] for model in (corrected, strict)}
    assert all(row[0] == 0 for row in lags[strict]) and all(0 not in row and max(row) <= 24 for row in lags[corrected])
    assert not torch.equal(strict.prompt(x)[0], corrected.prompt(x)[0]) and not strict.prompt(x)[1].all()
    assert (strict.prompt(x)[0][~strict.prompt(x)[1]] == strict.prompter.lm.tokenizer.eos_token_id).all()
    apart = {}
    for model in (corrected, strict):
        with torch.no_grad(): apart[model] = float((model(x) - torch.cat([model(row[None]) for row in x])).abs().div(x.std(1, keepdim=True)).max())
    assert apart[corrected] < 1e-5 and apart[strict] > 1e-3

def test_strict_compat_trains_to_other_weights(home, hourly, made):
    a, b = (load_file(run/WEIGHTS) for run in (made, train("timellm", "test", data=str(hourly), strict_compat=True)))
    assert a.keys() == b.keys() and not torch.equal(a["head.linear.weight"], b["head.linear.weight"])


# --- evaluation sees the weights of now

@pytest.fixture
def small(home, hourly):
    cfg = config_of("timellm", "test", data=str(hourly))
    return cfg, system.data(cfg)

def fresh(cfg, data, weights: dict) -> TimeLLM:
    model = system.build(cfg, data.fitted)
    load_trainable(model, weights, "here")
    return model.eval()

@pytest.mark.parametrize("prototypes", ["mapped", "free"])
def test_evaluation_follows_prototypes_changed_in_place(small, prototypes):
    cfg, data = small
    cfg = changed(cfg, prototypes=prototypes)
    model, found = system.build(cfg, data.fitted), []
    for change in (lambda p: None, lambda p: p.data.mul_(-3), lambda p: p.data.copy_(p.data.flip(0)), lambda p: setattr(p, "data", -2*p.data)):
        change(next(model.prototypes.parameters()))
        found.append(system.evaluate(model, cfg, data)[0]["mse"])
        assert found[-1] == system.evaluate(fresh(cfg, data, trainable_state(model)), cfg, data)[0]["mse"]
    assert len(set(found)) == 4

def test_evaluation_follows_averaged_weights_swapped_in_and_out(small):
    cfg, data = small
    model, judged = system.build(cfg, data.fitted), lambda m: mean_losses(system.loss, m, data.valid, 64, 0)["loss"]
    ema, learner = Ema(model, .5), Learner(model, system.loss, training=TrainingConfig(learning_rate=.05, min_learning_rate=1., warmup=0., ema=0.))
    for step in range(3):
        learner.update([data.train.batch(range(step, step + 8))])
        for _ in range(2):                       # the second time the average alone moves, which no version of the weights counts
            ema.update(model, 100)
            wanted = judged(fresh(cfg, data, trainable_state(model, ema.weights)))
            with averaged(model, ema): assert judged(model) == wanted
        assert judged(model) == judged(fresh(cfg, data, trainable_state(model))) != wanted


# --- the figures are those of the definition

def samples(values: np.ndarray, ends: tuple, part: int, L: int = 32, H: int = 4) -> torch.Tensor:
    "All windows (sample, L + H) of a part, a channel each, in the scale of the training part."
    z = (values - values[:ends[0]].mean(0))/values[:ends[0]].std(0)
    begin, end = (0, *ends)[part:part + 2]
    return torch.tensor(np.stack([z[s:s + L + H, c] for s in range(max(0, begin - L), end - L - H + 1) for c in range(z.shape[1])])).float()

@pytest.mark.parametrize("batch_size", [5, 32])
def test_every_window_and_channel_counts_once_whatever_the_batch(home, hourly, batch_size):
    run = train("timellm", "test", data=str(hourly), batch_size=batch_size, max_steps=3)
    model = load_run(run).model
    direct = {}
    for part, name in enumerate(("train", "valid", "test")):
        rows = samples(waves(160), (112, 128, 160), part)
        assert len(rows) == run.manifest["examples"][name] and len(rows) % batch_size
        with torch.no_grad(): direct[name] = (plain_forward(model, rows[:, :32]) - rows[:, 32:]).double()
    assert run.summary["test"]["samples"] == len(direct["test"])
    assert run.summary["test"]["mse"] == pytest.approx(float(direct["test"].square().mean()), rel=1e-5)
    assert run.summary["test"]["mae"] == pytest.approx(float(direct["test"].abs().mean()), rel=1e-5)
    for c, name in enumerate("abc"): assert run.summary["test"][f"mse {name}"] == pytest.approx(float(direct["test"][c::3].square().mean()), rel=1e-5)
    assert run.summary["best_valid_loss"] == pytest.approx(float(direct["valid"].square().mean()), rel=1e-5)

def test_metrics_of_one_model_do_not_depend_on_the_batch_size(run):
    a, b = (read_json(evaluate(run, sweep=False, batch_size=n)/"evaluation.json")["metrics"] for n in (5, 500))
    assert a == pytest.approx(b, rel=1e-6) and a["mse"] == pytest.approx(run.summary["test"]["mse"], rel=1e-6)

def test_ett_hour_has_the_samples_of_the_paper(home):
    write(home/"ETTh1.csv", waves(14_400, 7))
    run = train("timellm", "test", data=str(home/"ETTh1.csv"), split="ett-hour", variant="without_llm", seq_len=512, pred_len=96, **{"model.patch_len": 256, "model.stride": 256}, batch_size=1024, max_steps=1, test_limit=7)
    assert run.manifest["examples"] == {"train": 56_231, "valid": 7*(2880 - 95), "test": 7*(2880 - 95)} and run.summary["test"]["samples"] == 7


# --- names of the seed document, and bad input

def test_the_names_of_time_series_library_are_taken_by_flags_and_files(neuralkit, home):
    given = {"seq_len": 64, "pred_len": 8, "train_epochs": 2, "llm_model_path": "some/where", "patience": 4}
    (home/"c.yaml").write_text("".join(f"{k}: {v}\n" for k, v in given.items()))
    by_flags, by_file = neuralkit("config", "timellm", *(w for k, v in given.items() for w in (f"--{k}", v))), neuralkit("config", "timellm", "--config", home/"c.yaml")
    assert by_flags.status == by_file.status == 0 and by_flags.stdout == by_file.stdout, by_file.stderr
    assert all(line in by_flags.stdout for line in ("sequence_length: 64 ", "prediction_horizon: 8 ", "epochs: 2 ", 'llm: "some/where" ', "early_stopping_patience: 4 "))

def load(rows: int = 160, **changed) -> bytes: return table("date,a,b", rows, lambda i: f"{at(i)},{i % 5},{i % 7}", **changed)

BAD_DATA = {
    "missing":             (None, [], ["load.csv", "missing"]),
    "empty":               (b"", [], ["load.csv", "empty"]),
    "only a header":       (b"date,a\n", [], ["load.csv"]),
    "no time column":      (table("name,a", 60, lambda i: f"n{i},{i}"), [], ["load.csv", "no column of times", "--time"]),
    "NaN":                 (load(line9=f"{at(7)},1,NaN"), [], ["load.csv line 9", "'b'"]),
    "word for number":     (load(line9=f"{at(7)},1,many"), ["--columns", "a,b"], ["load.csv line 9", "'b'", "numbers"]),
    "constant channel":    (table("date,a,b", 160, lambda i: f"{at(i)},{i % 5},{3 if i < 112 else i}"), [], ["b: constant in the training part", "--columns"]),
    "too short":           (load(35), [], ["train part", "32 + 4", "too short"]),
    "horizon beyond part": (load(), ["--pred_len", 17], ["valid part has 16 steps", "17"]),
    "split too long":      (load(), ["--split", "ett-hour"], ["14400", "160"]),
    "patch beyond window": (load(), ["--patch_len", 33], ["model.patch_len 33", "32"]),
    "d_ff beyond the LLM": (load(), ["--d_ff", 65], ["model.d_ff 65", "64"]),
    "too many lags":       (load(), ["--lags", 17], ["prompt.lags 17", "16"]),
    "too large a batch":   (load(), ["--batch_size", 10_000_000], ["GB are free", "--batch_size ", "--check_memory false"]),
}

@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_input_is_named(refused, home, case):
    content, flags, hints = BAD_DATA[case]
    if content is not None: (home/"load.csv").write_bytes(content)
    refused([*TRAIN, "--data", home/"load.csv", *flags], hints)

def memory_refusal(cfg) -> str:
    with pytest.raises(UserError) as caught: system.ready(cfg)
    return str(caught.value)

def test_a_refusal_for_memory_names_the_batch_that_fits(monkeypatch):
    monkeypatch.setattr(task, "free_bytes", lambda cfg: (10**9, "cpu"))
    with_batch = lambda n: config_of("timellm", "test", batch_size=n)
    fits, accumulation = (int(re.search(rf"--{word} (\d+)", memory_refusal(with_batch(1_000_000)))[1]) for word in ("batch_size", "accumulation"))
    system.ready(with_batch(fits))
    assert fits*(accumulation - 1) < 1_000_000 <= fits*accumulation
    memory_refusal(with_batch(round(1.2*fits)))
    monkeypatch.setattr(task, "free_bytes", lambda cfg: (1000, "cpu"))
    assert "--llm_layers" in memory_refusal(with_batch(1))

def test_memory_that_training_would_need_does_not_matter_to_predict(neuralkit, run, hourly, monkeypatch):
    monkeypatch.setattr(task, "free_bytes", lambda cfg: (1000, "cpu"))
    result = neuralkit("predict", "last", "--data", hourly)
    assert result.status == 0, result.stderr


# --- what a run answers

@pytest.mark.parametrize("form", ["json", "csv"])
def test_predict_goes_on_where_the_file_ends_with_the_same_bytes_in_any_process(neuralkit, run, home, form):
    asked = ["predict", "last", "--data", write(home/"now.csv", waves(40)), "--format", form]
    first = neuralkit(*asked)
    assert first.status == 0, first.stderr
    path = Path(first.last_line)
    once = files(path.parent)
    second = neuralkit_process(*asked, home=home) if form == "json" else neuralkit(*asked)
    assert second.stdout == first.stdout and files(path.parent) == once and once.keys() == {f"prediction.{form}", "prediction.html"}
    rows = json.loads(path.read_text()) if form == "json" else list(csv.DictReader(path.open()))
    assert [row["time"] for row in rows] == [at(i).replace(" ", "T") for i in range(40, 44)] and [int(row["step_ahead"]) for row in rows] == [1, 2, 3, 4]
    values, fitted, model = waves(40), read_json(run/"fitted.json"), load_run(run).model
    shift, by = (np.array(fitted["scale"][k]) for k in ("shift", "by"))
    with torch.no_grad(): wanted = plain_forward(model, torch.tensor((values[-32:] - shift)/by).float().T).T.numpy()*by + shift
    assert np.allclose([[float(row[c]) for c in "abc"] for row in rows], wanted, atol=1e-3)
    page, parser = path.with_name("prediction.html").read_text(), Loads()
    parser.feed(page)
    assert parser.found == [] and "Plotly.newPlot" in page

BAD_NOW = {
    "too short":      (lambda path: write(path, waves(31)), ["now.csv", "31 steps", "32"]),
    "other channels": (lambda path: write(path, waves(40), "axc"), ["now.csv", "a, x, c", "a, b, c"]),
    "other order":    (lambda path: write(path, waves(40), "bac"), ["now.csv", "b, a, c", "a, b, c"]),
    "other step":     (lambda path: write(path, waves(40), seconds=60), ["now.csv", "60 s", "3600 s"]),
    "missing":        (lambda path: None, ["now.csv", "missing"]),
}

@pytest.mark.parametrize("case", BAD_NOW)
def test_a_file_that_does_not_fit_the_run_is_refused(refused, run, home, case):
    spoil, hints = BAD_NOW[case]
    spoil(home/"now.csv")
    refused(["predict", "last", "--data", home/"now.csv"], hints)


# --- notebooks, bench

def test_train_notebook_leaves_itself_in_the_run_folder(desk, home):      # noqa: F811
    before = files(desk)
    result = piped(desk, "train_timellm.ipynb", "-p", "preset", "test", "-p", "epochs", 1)
    [run] = find_runs("timellm")
    assert result.status == 0 and run.status == "finished" and run.config["training"]["epochs"] == 1 and files(desk) == before, result.stderr
    assert_executed(run/"notebook.ipynb")
    assert re.search(r"step \d+/\d+ .*loss .* examples/s .*left", result.stdout + result.stderr), "no progress to be seen"

def test_evaluate_notebook_leaves_itself_in_the_run_folder(desk, home, run):      # noqa: F811
    before = files(desk)
    result = piped(desk, "evaluate_timellm.ipynb", "-p", "limit", 9)
    assert result.status == 0 and files(desk) == before, result.stderr
    assert_executed(run/"evaluate.ipynb")
    found = read_json(run/"evaluation.json")
    assert found["metrics"]["samples"] == 9 and {"exact linear", "DLinear, Adam", "last value"} <= found["baseline"].keys() and len(found["sweep"]) == 3
    assert any("words" in s for s in found["samples"])

def test_validate_notebook_leaves_itself_beside_the_report(desk, home, hourly):      # noqa: F811
    before = files(desk)
    result = piped(desk, "validate_timellm.ipynb", "-p", "preset", "test", "-p", "data", hourly)
    assert result.status == 0 and files(desk) == before, result.stderr
    [folder] = (home/"runs"/"timellm").iterdir()
    assert (folder/"validation_report.html").is_file()
    assert_executed(folder/"validate.ipynb")

def test_quick_bench_finds_nothing_changed_by_speed(neuralkit, home):
    result = neuralkit("bench", "timellm", "--quick")
    assert result.status == 0 and files(home) == {}, result.stderr
    rows = [re.split(r"\s{2,}", line) for line in result.stdout.splitlines()]
    assert [row[0].split()[0] for row in rows] == ["what", "update:", "update:", "forecasts", "forecasts"] and " ms" in rows[1][1]
    assert rows[3][-2:] == ["<= 1e-5", "yes"] and rows[4][-2:] == ["same bits", "yes"] and rows[4][1] == "same bits", rows
