"What every system promises: its face, its losses, its weights and its run folder. Generic over SYSTEMS."
import hashlib, json, math, shutil, time
from html.parser import HTMLParser

import pytest
import torch

from neuralkit.core.callbacks import Checkpoint
from neuralkit.core.checkpoint import load_trainable, trainable_state, weights_of
from neuralkit.core.config import changed, config_hash, fields, flat, nested, resolve, to_yaml
from neuralkit.core.learner import Learner, Repeated
from neuralkit.core.card import SYSTEMS, TrainingConfig
from neuralkit.core.disk import read_json
from neuralkit.core.runs import Run
from neuralkit.core.system import System, generator_for, load_system
from neuralkit.core.verbs import start_accelerator, train

NOISE = 7           # key of the generators by which batches are made here


@pytest.fixture(params=list(SYSTEMS))
def name(request): return request.param

@pytest.fixture
def system(name): return load_system(name)

@pytest.fixture
def cfg(system): return system.card.presets["test"]

@pytest.fixture(scope="module")
def loaded(shared_home):
    "`loaded(name)`: the data of the test preset, read once."
    made = {}

    def data_of(name: str):
        if name not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("NEURALKIT_HOME", str(shared_home))
                known = load_system(name)
                made[name] = known.data(known.card.presets["test"])
        return made[name]
    return data_of

@pytest.fixture
def data(name, loaded): return loaded(name)

@pytest.fixture
def run(name, trained): return trained(name)

@pytest.fixture
def batch(data): return data.train.batch(list(range(8)), generator_for(NOISE))


def build(system, cfg, data, seed: int = 0):
    torch.manual_seed(seed)
    return system.build(cfg, data.fitted)

def same(a: dict, b: dict) -> bool: return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def numbers(losses: dict) -> dict: return {k: (float(s.detach()), float(c)) for k, (s, c) in losses.items()}

def learn(system, model, batch, steps: int, lr: float = 3e-3) -> list[float]:
    "Mean losses of `steps` updates on one batch."
    plan = TrainingConfig(learning_rate=lr, min_learning_rate=1., warmup=0., weight_decay=0., clip=0., ema=0.)
    learner = Learner(model, system.loss, Repeated(batch, steps), plan)
    return [learner.update([batch])["loss"] for _ in range(steps)]


# --- face and config

def test_system_is_one_object(system, name):
    assert isinstance(system, System) and system.card.name == name and system.card.about and {"default", "test"} <= system.card.presets.keys()
    assert all(isinstance(p, system.card.config) for p in system.card.presets.values())
    assert bool(system.card.prepare_words) == bool(system.prepare) and system.card.draws == bool(system.draw)
    assert system.describe or not system.card.describe_words

def test_presets_survive_yaml_and_json(system, tmp_path):
    for preset in system.card.presets.values():
        (tmp_path/"c.yaml").write_text(to_yaml(preset))
        (tmp_path/"c.json").write_text(preset.model_dump_json())
        assert resolve(system.card.config, file=tmp_path/"c.yaml") == resolve(system.card.config, file=tmp_path/"c.json") == preset

def test_small_numbers_and_strange_strings_survive_yaml(system, cfg, tmp_path):
    odd = changed(cfg, data="null # 1e-3 'x\": é", learning_rate=1e-5)
    (tmp_path/"c.yaml").write_text(to_yaml(odd))
    assert resolve(system.card.config, file=tmp_path/"c.yaml") == odd

def test_every_field_says_what_it_is(system):
    assert [name for name, info in fields(system.card.config).items() if not info.description] == []

def test_configs_are_frozen_and_refuse_unknown_keys(system, cfg):
    with pytest.raises(ValueError): cfg.seed = 1
    with pytest.raises(ValueError): system.card.config(no_such_field=1)

def test_config_hash_depends_on_every_field_that_changes(cfg):
    assert config_hash(cfg) == config_hash(changed(cfg))
    assert config_hash(cfg) != config_hash(changed(cfg, seed=cfg.seed + 1))

@pytest.mark.parametrize("wrong", [{"widht": 3}, {"epochs": -5}, {"training.epochs": "many"}, {"seed": None}], ids=str)
def test_a_changed_copy_is_validated_like_the_first(cfg, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split(".")[-1]): changed(cfg, **wrong)

def test_nested_is_the_inverse_of_flat(cfg):
    tree = cfg.model_dump()
    assert nested(flat(tree)) == tree


# --- data

def test_batch_is_a_function_of_split_indices_and_generator(data):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = data.train.batch([3, 0, 5], generator_for(NOISE))
    assert torch.equal(before, torch.get_rng_state()), "a batch drew from torch's own generator"
    data.train.batch([1, 2], generator_for(NOISE))
    torch.manual_seed(2)
    assert same(first, data.train.batch([3, 0, 5], generator_for(NOISE)))

def test_batch_holds_one_row_an_example(batch):
    assert batch and all(isinstance(v, torch.Tensor) and len(v) == 8 for v in batch.values())

def test_no_example_stands_in_two_splits(data):
    content = {}
    for split in ("train", "valid", "test"):
        part = getattr(data, split)
        drawn = [[part.batch([i], generator_for(NOISE, k)) for k in range(3)] for i in range(len(part))]
        fixed = [k for k in drawn[0][0] if all(torch.equal(d[k], ds[0][k]) for ds in drawn for d in ds)]
        assert fixed
        content[split] = {hashlib.sha256(b"".join(str(ds[0][k].tolist()).encode() for k in fixed)).hexdigest() for ds in drawn}
    assert not content["train"] & content["valid"] and not content["train"] & content["test"] and not content["valid"] & content["test"]

def test_lengths_are_those_of_the_examples(data):
    for split in (data.train, data.valid, data.test):
        assert len(split) > 0 and (split.lengths is None or len(split.lengths) == len(split))


# --- loss

def test_loss_is_sums_and_counts(system, cfg, data, batch):
    losses = system.loss(build(system, cfg, data), batch)
    assert "loss" in losses
    assert all(s.ndim == 0 for s, _ in losses.values())
    assert all(c > 0 and math.isfinite(s) for s, c in numbers(losses).values())

def test_padding_and_neighbours_do_not_matter(system, cfg, data):
    "Each example alone, cut to its own length, costs what it costs among longer ones."
    model, lengths = build(system, cfg, data).eval(), data.train.lengths
    rows = list(range(8)) if lengths is None else sorted(range(len(lengths)), key=lambda i: lengths[i])[::max(1, len(lengths)//8)][:8]
    batch = data.train.batch(rows, generator_for(NOISE))
    if lengths is not None:
        most = max(lengths[i] for i in rows)
        assert min(lengths[i] for i in rows) < most
    sums = {}
    for k, i in enumerate(rows):
        alone = {n: v[k:k + 1] for n, v in batch.items()}
        if lengths is not None: alone = {n: v[:, :lengths[i]] if v.ndim > 1 and v.shape[1] == most else v for n, v in alone.items()}
        for n, (s, c) in numbers(system.loss(model, alone)).items(): sums[n] = sums.get(n, 0) + torch.tensor([s, c])
    for n, pair in numbers(system.loss(model, batch)).items():
        assert torch.allclose(sums[n], torch.tensor(pair), rtol=1e-4), n

def test_one_batch_can_be_learnt_by_heart(system, cfg, data, batch):
    seen = learn(system, build(system, cfg, data), batch, 80)
    assert seen[-1] < .5*seen[0]

@pytest.mark.parametrize("preset", ["test", "default"])
def test_every_trainable_parameter_gets_a_gradient(system, cfg, data, batch, preset, home):
    if preset != "test":
        longer = {"hours": 1000} if "hours" in fields(system.card.config) else {}                  # data for its windows
        part = "model" if "model" in type(cfg).model_fields else "encoder"
        cfg = changed(cfg, **{part: getattr(system.card.presets[preset], part)}, **longer)
        data = system.data(cfg)
        batch = data.train.batch(list(range(8)), generator_for(NOISE))
    model = build(system, cfg, data)
    learn(system, model, batch, 3)                      # what starts at zero may block what lies before it
    system.loss(model, batch)["loss"][0].backward()
    dead = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert dead == []

def test_what_is_frozen_stays_as_it_was(system, cfg, data, batch):
    model = build(system, cfg, data)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad} | {n: b.clone() for n, b in model.named_buffers()}
    before = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    learn(system, model, batch, 2)
    now = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(torch.equal(v, now[n]) for n, v in frozen.items())
    assert not any(torch.equal(v, now[n]) for n, v in before.items())
    assert not frozen.keys() & {n for n, p in model.named_parameters() if p.requires_grad}


def test_an_update_from_uneven_parts_equals_one_from_the_whole(system, cfg, data, batch):
    parts = [{k: v[rows] for k, v in batch.items()} for rows in (slice(0, 3), slice(3, 8))]
    told = []
    for group in ([batch], parts):
        learner = Learner(build(system, cfg, data), system.loss, Repeated(batch, 3), cfg.training, accelerator=start_accelerator(cfg.training))
        told.append([[now[k] for k in ("loss", "grad_norm")] for now in (learner.update(group) for _ in range(3))])
    assert torch.allclose(*map(torch.tensor, told), rtol=1e-4), told      # weights themselves: Adam makes steps of what rounds to no gradient


# --- weights

def test_weights_follow_from_the_seed(system, cfg, data):
    a, b, other = (trainable_state(build(system, cfg, data, seed)) for seed in (0, 0, 1))
    assert same(a, b) and not same(a, other)

def test_saved_weights_give_the_same_outputs(system, cfg, data, batch, tmp_path):
    from safetensors.torch import load_file, save_file
    model = build(system, cfg, data)
    learn(system, model, batch, 2)
    save_file(trainable_state(model), tmp_path/"w.safetensors")
    again = build(system, cfg, data, seed=5)
    assert numbers(system.loss(again.eval(), batch)) != numbers(system.loss(model.eval(), batch))
    load_trainable(again, load_file(tmp_path/"w.safetensors"), "test")
    assert numbers(system.loss(again, batch)) == numbers(system.loss(model, batch))

def test_weights_of_another_shape_are_refused(system, cfg, data):
    model = build(system, cfg, data)
    state = trainable_state(model)
    first = next(iter(state))
    for wrong in (state | {first: state[first].repeat(2, *[1]*(state[first].ndim - 1))}, {k: v for k, v in state.items() if k != first}, state | {"more": torch.ones(1)}):
        with pytest.raises(ValueError, match="does not fit"): load_trainable(model, wrong, "here")

def test_same_config_trains_to_the_same_bits_and_another_seed_does_not(name, run, home):
    again, other = train(name, "test"), train(name, "test", seed=1)
    assert same(weights_of(run), weights_of(again)) and not same(weights_of(run), weights_of(other))

def test_cut_and_resumed_equals_uninterrupted(name, home, monkeypatch):
    words = dict(epochs=2, checkpoint_every=2, evaluate_limit=0, test_limit=2)
    whole = train(name, "test", **words)
    steps, update = whole.summary["steps"], Learner.update
    class Cut(BaseException): pass
    def cut(self, batches):
        if self.total > 1 and self.step == steps//2 + 2: raise Cut
        return update(self, batches)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", cut)
        with pytest.raises(Cut): train(name, "test", **words)
    torch.manual_seed(99)                                # a resumed run must not depend on what this process did before
    resumed = train(name, "test", resume="auto", **words)
    assert resumed.path != whole.path and resumed.status == "finished"
    for which in ("best", "last"): assert same(weights_of(whole, which), weights_of(resumed, which))
    assert {k: v for k, v in whole.summary.items() if k not in ("train_seconds", "test")} == {k: v for k, v in resumed.summary.items() if k not in ("train_seconds", "test")}
    assert logged(resumed) == logged(whole)

TIMINGS = {"examples_per_s", "tokens_per_s", "seconds"}

def logged(run) -> list[dict]:
    "What metrics.jsonl says, but for times."
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in run.metrics()]

def test_a_kill_within_a_window_of_the_log_loses_no_row(name, home, monkeypatch):
    "A checkpoint every update, a row every third: wherever the cut falls, the log is that of the whole run."
    words = dict(epochs=1, log_every=3, checkpoint_every=1, evaluate_every=4, evaluate_limit=0, test_limit=2)
    whole = logged(train(name, "test", **words))
    save, seen = Checkpoint.save, []
    class Cut(BaseException): pass
    def cut(self, learner):
        save(self, learner)
        seen.append(learner.step)
        if len(seen) == 5: raise Cut
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", cut)
        with pytest.raises(Cut): train(name, "test", **words)
    assert logged(train(name, "test", resume="auto", **words)) == whole

def test_speed_is_that_of_training_alone(name, home, monkeypatch):
    "An evaluation that takes its time does not make training look slow."
    from neuralkit.core import verbs
    figures = verbs.valid_figures
    def slowly(job, model):
        time.sleep(.5)
        return figures(job, model)
    monkeypatch.setattr(verbs, "valid_figures", slowly)
    run = train(name, "test", epochs=1, log_every=1, evaluate_every=2, evaluate_limit=0, test_limit=2)
    rows = [r for r in run.metrics() if r["split"] == "train"][1:]
    assert all(row["examples_per_s"] > system_batch(run)/.45 for row in rows[1:-1]), [row["examples_per_s"] for row in rows]

def system_batch(run) -> int: return run.config["training"]["batch_size"]

def test_full_disk_costs_the_work_since_the_last_checkpoint_alone(name, home, monkeypatch):
    import safetensors.torch
    words = dict(epochs=2, checkpoint_every=3, evaluate_limit=0, test_limit=2)
    whole, save_file, calls = train(name, "test", **words), safetensors.torch.save_file, []
    def full(tensors, path, *a):
        calls.append(path)
        if len(calls) < 6: return save_file(tensors, path, *a)
        open(path, "wb").write(b"half of it")
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError): train(name, "test", **words)
    stopped = Run(calls[-1].parents[2])
    assert stopped.status == "failed" and stopped.summary is None and "No space" in stopped.manifest["error"]
    assert not list((stopped/"checkpoints").glob(".step*"))
    assert same(weights_of(train(name, "test", resume="auto", **words)), weights_of(whole))


# --- the run folder

MANIFEST = {"schema_version", "command", "git", "config_hash", "data", "models", "seed", "deterministic", "device", "threads",
            "packages", "started", "ended", "status", "parent"}
METRICS = {"step", "epoch", "split", "loss", "lr", "grad_norm", "examples_per_s", "tokens_per_s"}

def test_run_folder_holds_every_file_of_the_contract(run, cfg):
    for file in ("config.json", "manifest.json", "metrics.jsonl", "summary.json", "report.html", "checkpoints/best/model.safetensors",
                 "checkpoints/last/model.safetensors", "checkpoints/last/config.json"):
        assert (run/file).is_file(), file
    assert list((run/"tensorboard").glob("events.*"))
    assert not [p for p in run.path.rglob("*") if p.name.endswith(".tmp")]
    digest, seed = config_hash(cfg), cfg.seed
    assert run.path.name.split("-", 1)[1] == f"{digest[:6]}-s{seed}" and type(cfg).model_validate(run.config) == cfg

def test_manifest_says_what_ran_on_what(run, cfg):
    m = run.manifest
    assert MANIFEST - m.keys() == set()
    assert m["status"] == run.status == "finished" and m["started"] <= m["ended"] and m["config_hash"] == config_hash(cfg) and m["seed"] == cfg.seed
    assert {"commit", "dirty"} == m["git"].keys() and m["threads"] == torch.get_num_threads() and "torch" in m["packages"]
    for source in m["data"]: assert source["kind"] in ("real", "generated") and len(source["sha256"]) == 64 and source["rows"] > 0
    for model in m["models"]: assert model["id"] and len(model["sha256"]) == 64

def test_metrics_are_json_lines_with_the_fields_of_the_contract(run):
    rows = [json.loads(line) for line in (run/"metrics.jsonl").read_text().splitlines()]
    assert {r["split"] for r in rows} == {"train", "valid"}
    for row in rows: assert {"step", "epoch", "split", "loss"} <= row.keys()
    for row in rows:
        if row["split"] == "train": assert METRICS - row.keys() == set()

def test_tensorboard_shows_the_scalars_of_metrics(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(run/"tensorboard")).Reload()
    for split in ("train", "valid"):
        told = {r["step"]: r["loss"] for r in run.metrics() if r["split"] == split}
        drawn = {e.step: e.value for e in events.Scalars(f"{split}/loss")}
        assert drawn.keys() == told.keys() and all(drawn[s] == pytest.approx(told[s], rel=1e-5) for s in told)

def test_summary_holds_the_test_figures_beside_the_baseline(run):
    summary = read_json(run/"summary.json")
    assert summary["test"]["loss"] > 0 and summary["baseline"] and summary["steps"] == run.manifest["steps"]
    assert (run/"summary.json").stat().st_mtime_ns >= (run/"manifest.json").stat().st_mtime_ns, "summary.json is written last"

def test_a_run_without_summary_is_not_finished(run, name, home):
    "A kill may fall between the manifest's last note and the summary."
    copy = Run(shutil.copytree(run.path, home/"runs"/name/run.path.name, symlinks=True))
    (copy/"summary.json").unlink()
    assert copy.status != "finished"
    train(name, "test", resume=str(copy.path))
    assert copy.status == "finished" and copy.summary["test"].keys() == run.summary["test"].keys() and same(weights_of(copy), weights_of(run))

class Loads(HTMLParser):
    "Collects what a page would fetch."
    def __init__(self):
        super().__init__()
        self.found = []
    def handle_starttag(self, tag, attrs):
        if tag != "a": self.found += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster") and not v.startswith(("data:", "#"))]

def test_report_loads_nothing_from_elsewhere(run):
    page = (run/"report.html").read_text(encoding="utf-8")
    parser = Loads()
    parser.feed(page)
    assert parser.found == [] and "@import" not in page.split("</style>")[0]
    assert "<h1>" in page and run.path.name in page and "Plotly.newPlot" in page and "default-src 'none'" in page
