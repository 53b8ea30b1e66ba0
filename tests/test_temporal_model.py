"temporal's model across modules: padding changes nothing, the language model stays frozen, any causal model can be the reader, checkpoints hold the encoder."
import numpy as np
import pytest
import torch

from neuralkit.core.checkpoint import load_trainable, trainable_state
from neuralkit.core.config import UserError, changed
from neuralkit.core.learner import Learner
from neuralkit.temporal.bench import bits_of, model_around, plain_loss, relative, untaught
from neuralkit.temporal.config import PRESETS
from neuralkit.temporal.curves import CAPACITY
from neuralkit.temporal.data import Talks, curve_batch, draw_groups, talks_of
from neuralkit.temporal.model import POOLS
from neuralkit.temporal.reader import Reader, sentences_of
from neuralkit.temporal.task import loss
from neuralkit.text.llm import random_llm, tiny_tokenizer

CFG = changed(PRESETS["test"], batch_size=3, learning_rate=1e-3, warmup=0.)
POOLINGS = {"attention": {}, "one token, mean": {"num_tokens": 1, "pooling": "adaptive_avg", "init": "mean"},
            "max": {"num_tokens": 3, "pooling": "adaptive_max"}, "flatten": {"num_tokens": 3, "pooling": "flatten"}}

@pytest.fixture(scope="module")
def groups(): return draw_groups(CFG, "train", 80)

@pytest.fixture(scope="module")
def reader(groups) -> Reader: return untaught(CFG.reader, sentences_of(groups))

def batch_of(groups, reader: Reader, curves: int = 3) -> dict:
    talks = talks_of(groups[:curves], reader.lm.tokenizer, reader.end)
    return Talks(talks).batch(list(range(len(talks))))

@torch.no_grad()
def losses_of(model, batch: dict) -> dict: return {name: float(pair[0])/float(pair[1]) for name, pair in loss(model.eval(), batch).items()}

def train(model, batch: dict, updates: int = 3, **fields) -> list[float]:
    learner = Learner(model, loss, training=changed(CFG.training, min_learning_rate=1., **fields))
    return [learner.update([batch])["loss"] for _ in range(updates)]

# --- padding

def test_all_poolings_are_tried(): assert {fields.get("pooling", "attention") for fields in POOLINGS.values()} == set(POOLS)

@pytest.mark.parametrize("fields", POOLINGS.values(), ids=POOLINGS)
@torch.no_grad()
def test_what_stands_behind_the_end_of_a_curve_never_counts(groups, reader, fields):
    encoder = model_around(reader, changed(CFG, **fields)).encoder.eval()
    values = [group.curve.values[:n] for group, n in zip(groups, (1, 2, 7, 20))]
    batch = curve_batch(values)
    together = encoder.forward_batch(batch["curve"], batch["steps"])
    for i, alone in enumerate(map(curve_batch, ([v] for v in values))):
        assert relative(together[i], encoder.forward_batch(alone["curve"], alone["steps"])[0]) < 1e-5
    behind = torch.arange(20) >= batch["steps"][:, None]
    filled = batch["curve"].masked_fill(behind[..., None], .77)
    assert relative(together, encoder.forward_batch(filled, batch["steps"])) < 1e-5
    further = torch.cat([batch["curve"], torch.zeros(4, 33, 4)], 1)
    assert relative(together, encoder.forward_batch(further, batch["steps"])) < 1e-5

@torch.no_grad()
def test_fillings_of_questions_and_batch_mates_do_not_change_the_loss(groups, reader):
    model = model_around(reader, CFG).eval()
    together = loss(model, batch_of(groups, reader))
    alone = [loss(model, batch_of(groups[i:i + 1], reader)) for i in range(3)]
    for name in ("nll", "token_accuracy", "facts"):
        assert float(together[name][0]) == pytest.approx(sum(float(one[name][0]) for one in alone), rel=1e-5)
    batch = batch_of(groups, reader)
    longer = batch | {"ids": torch.nn.functional.pad(batch["ids"], (0, 9), value=5)}
    assert float(loss(model, longer)["nll"][0]) == pytest.approx(float(together["nll"][0]), rel=1e-6)

def test_answers_in_a_batch_are_those_given_alone(groups, reader):
    model = model_around(reader, CFG).eval()
    train(model, batch_of(groups, reader), 2)
    talks = talks_of(groups[:3], reader.lm.tokenizer, reader.end)
    asked = [question for talk in talks for question in talk.questions]
    batch = batch_of(groups, reader)
    together = model.eval().generate(batch["curve"], batch["steps"], asked, most=6)
    for i, question in enumerate(asked):
        curve = curve_batch([talks[i//4].values])
        assert model.generate(curve["curve"], curve["steps"], [question], most=6) == [together[i]]
    assert len(set(map(tuple, asked))) > 1 and len({len(q) for q in asked}) > 1

# --- frozen

def test_the_language_model_is_as_it_was_after_training(groups, reader):
    model, batch = model_around(reader, CFG), batch_of(groups, reader)
    before, encoder = bits_of(model.llm), bits_of(model.encoder)
    found = train(model, batch)
    assert bits_of(model.llm) == before and bits_of(model.encoder) != encoder and found[-1] < found[0]
    model.train()
    assert model.training and model.encoder.training and not any(m.training for m in model.llm.modules())
    assert all(p.grad is None and not p.requires_grad for p in model.llm.parameters())

def test_a_checkpoint_holds_the_encoder_and_brings_it_back(groups, reader):
    model, batch = model_around(reader, CFG), batch_of(groups, reader)
    train(model, batch)
    state = trainable_state(model)
    assert state.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("encoder.") for name in state)
    other = model_around(reader, changed(CFG, seed=5))
    assert losses_of(other, batch) != losses_of(model, batch)
    load_trainable(other, state, "test")
    assert losses_of(other, batch) == losses_of(model, batch)

def test_every_weight_of_the_encoder_learns(groups, reader):
    "With the language model asked; the first part of training needs no language model at all."
    model, batch = model_around(reader, CFG), batch_of(groups, reader)
    loss(model.train(), batch)["loss"][0].backward()
    assert [name for name, p in model.encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    model.asks = False
    table = model.llm.get_input_embeddings()
    seen = table.register_forward_hook(lambda *_: pytest.fail("the language model was run"))
    loss(model, batch)
    seen.remove()
    assert "nll" not in loss(model, batch) and "nll" in loss(model.eval(), batch)

# --- the sequence

def marked(tokenizer):
    "The tokenizer, putting a mark before each text, as Llama's does."
    from tokenizers.processors import TemplateProcessing
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)])
    return tokenizer

def random_reader(kind: str, tied: bool = True, dtype=torch.float32) -> Reader:
    "A tiny random model of a kind with a byte-level tokenizer that splits numbers into digits."
    import transformers as hf
    tokenizer = marked(tiny_tokenizer(400)) if kind == "llama" else tiny_tokenizer(400)
    sizes = dict(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=.2, eos_token_id=0, tie_word_embeddings=tied)
    config = hf.GPT2Config(**sizes, n_positions=512) if kind == "gpt2" else hf.LlamaConfig(**sizes, intermediate_size=48, num_key_value_heads=2)
    lm = random_llm(config, dtype=dtype, name=kind, tokenizer=tokenizer)
    head = lm.table.detach() if tied else torch.randn(lm.table.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Reader(lm, head)

def test_the_opening_mark_comes_first_and_the_curve_before_the_question(groups, monkeypatch):
    reader, seen = random_reader("llama"), []
    model = model_around(reader, changed(CFG, num_tokens=5, pooling="adaptive_avg")).eval()
    from neuralkit.temporal import model as room
    run = room.run_decoder
    monkeypatch.setattr(room, "run_decoder", lambda llm, x, real, *rest, **words: (seen.append(x), run(llm, x, real, *rest, **words))[1])
    batch = batch_of(groups, reader)
    soft = model.encoder(batch["curve"], batch["steps"])
    past = model.past(soft, 4)
    mark = reader.lm.table[reader.lm.tokenizer.bos_token_id]
    assert len(model.begin) == 1 and torch.equal(seen[0][:, 0], mark.expand(3, -1)) and torch.equal(seen[0][:, 1:], soft)
    assert past.real.shape == (12, 6) and past.real.all()
    assert len(model_around(random_reader("gpt2"), CFG).begin) == 0

READERS = {"llama": ("llama", True), "llama with a head of its own": ("llama", False), "gpt2": ("gpt2", True), "gpt2 with a head of its own": ("gpt2", False)}

@pytest.mark.parametrize("kind, tied", READERS.values(), ids=READERS)
def test_any_causal_model_can_read(groups, kind, tied):
    "Digits are several tokens: no number tokens, no loss of facts. The plan's own form, by transformers alone, says the same."
    reader = random_reader(kind, tied)
    model, batch = model_around(reader, changed(CFG, num_tokens=4)), batch_of(groups, reader)
    assert model.encoder.numbers is None and not model.says_facts and torch.equal(model.head, reader.head)
    ours, theirs = (form(model.eval(), batch)["loss"] for form in (loss, plain_loss))
    assert ours[0].item() == pytest.approx(theirs[0].item(), rel=1e-5) and int(ours[1]) == int(theirs[1])
    slopes = [torch.autograd.grad(pair[0], model.encoder.start, retain_graph=True)[0] for pair in (ours, theirs)]
    assert relative(*slopes) < 1e-4
    found = train(model, batch)
    assert found[-1] < found[0]
    said = model.eval().generate(batch["curve"][:1], batch["steps"][:1], talks_of(groups[:1], reader.lm.tokenizer, reader.end)[0].questions[:2], most=5)
    assert len(said) == 2 and all(0 <= i < len(reader.head) for row in said for i in row)

@torch.no_grad()
def test_answers_are_the_likeliest_tokens_of_transformers_own_model(groups):
    from neuralkit.temporal.bench import with_head
    reader = random_reader("llama", tied=False)
    model = model_around(reader, changed(CFG, num_tokens=4)).eval()
    talk, curve = talks_of(groups[:1], reader.lm.tokenizer, reader.end)[0], curve_batch([groups[0].curve.values])
    [said] = model.generate(curve["curve"], curve["steps"], talk.questions[:1], most=5)
    whole, table = with_head(model), reader.lm.table
    x = torch.cat([table[model.begin], model.encoder(curve["curve"], curve["steps"])[0], table[torch.tensor(talk.questions[0])]])
    for token in said:
        assert int(whole(inputs_embeds=x[None]).logits[0, -1].argmax()) == token
        x = torch.cat([x, table[token][None]])
    assert said

# --- forms of the encoder

def test_the_seeds_own_design_trains(groups, reader):
    "One soft token, from the mean of the steps; the numbers in it cannot be told, so answers are all there is to learn."
    model, batch = model_around(reader, changed(CFG, **POOLINGS["one token, mean"])), batch_of(groups, reader)
    assert model.encoder(batch["curve"], batch["steps"]).shape == (3, 1, CFG.reader.tiny_width) and not model.says_facts
    found = train(model, batch, 5)
    assert found[-1] < found[0] and np.isfinite(found).all()

@pytest.mark.parametrize("depth, matrices", [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_projectors_of_every_depth(groups, reader, depth, matrices):
    cfg = changed(CFG, projector_depth=depth, output_dim=reader.lm.width)
    model = model_around(reader, cfg)
    projector, length = model.encoder.projector, float(reader.lm.table.norm(dim=-1).mean())
    assert len(projector.layers) == matrices
    said = projector(torch.randn(50, cfg.encoder.output_dim))
    assert float(said.norm(dim=-1).mean()) == pytest.approx(length, rel=.05)
    batch = batch_of(groups, reader)
    found = train(model, batch)
    assert found[-1] < found[0]

def test_no_projector_needs_the_language_models_width(reader):
    with pytest.raises(UserError, match=f"output_dim {reader.lm.width}"): model_around(reader, changed(CFG, projector_depth=0, output_dim=reader.lm.width + 4))

@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_half_precision_reads_on_a_cpu(groups, kind):
    reader = random_reader(kind, dtype=torch.bfloat16)
    model, batch = model_around(reader, changed(CFG, num_tokens=4)), batch_of(groups, reader)
    assert reader.lm.table.dtype == torch.bfloat16 and all(p.dtype == torch.float32 for p in model.encoder.parameters())
    found = train(model, batch)
    assert np.isfinite(found).all()
    assert model.eval().generate(batch["curve"], batch["steps"], talks_of(groups[:3], reader.lm.tokenizer, reader.end)[0].questions[:3], most=3)

@torch.no_grad()
def test_odd_curves_have_soft_tokens(reader):
    "One step, nothing at all, everything at every step, ten thousand steps."
    encoder = model_around(reader, CFG).encoder.eval()
    odd = [np.full((1, 4), 3.), np.zeros((5, 4)), np.tile(CAPACITY, (30, 1)), np.random.default_rng(0).integers(0, 80, (10_000, 4))]
    for values in odd:
        batch = curve_batch([values])
        assert torch.isfinite(encoder(batch["curve"], batch["steps"])).all()
