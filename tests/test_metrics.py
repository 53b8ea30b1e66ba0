"""Our text metrics against torchmetrics, where the two define the same number.

They differ on purpose where a text is shorter than four words or shares no n-gram of some length (sacreBLEU smooths,
torchmetrics gives 0), and in letters outside a-z (torchmetrics' ROUGE drops them). Its ROUGE-L alone needs no nltk."""
import random

import pytest
import torch
from torchmetrics.functional import cosine_similarity
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.text import bert_score, rouge_score, sacre_bleu_score

from neuralkit.text import metrics

WORDS = "the a cat dog sat ran on under mat don't 3.5 town, old -- day; (then) it! A.B. x_y".split()


def texts(seed: int, n: int = 40, least: int = 0) -> list[str]:
    "Texts of `least` to twelve words, now and then in capitals or with wide spaces."
    rng = random.Random(seed)
    drawn = []
    for _ in range(n):
        words = rng.choices(WORDS, k=rng.randint(least, 12))
        text = rng.choice((" ", "  ", " \t")).join(words)
        drawn.append(rng.choice((text, text, text.upper())))
    return drawn

def nearly(seed: int, references: list[str]) -> list[str]:
    "The references, each with a word put before or behind it: every order of n-grams has a hit."
    rng = random.Random(seed)
    return [rng.choice((f"{rng.choice(WORDS)} {text}", f"{text} {rng.choice(WORDS)}")) for text in references]

def theirs_rouge_l(prediction: str, reference: str) -> float:
    return rouge_score([prediction], [reference], rouge_keys="rougeL")["rougeL_fmeasure"].item()

def theirs_bleu(predictions: list[str], references: list[str], tokenize: str = "13a") -> float:
    return sacre_bleu_score(predictions, [[reference] for reference in references], tokenize=tokenize).item()


@pytest.mark.parametrize("seed", range(3))
def test_rouge_l_of_random_texts(seed):
    predictions, references = texts(seed), texts(seed + 100)
    ours = metrics.rouge_l_each(predictions, references)
    assert ours == pytest.approx([theirs_rouge_l(p, r) for p, r in zip(predictions, references)], abs=1e-6)

@pytest.mark.parametrize("prediction, reference", [
    ("", ""), ("", "the cat"), ("the cat", ""), ("...", "the cat"), ("the cat", "THE CAT!"), ("cat the", "the cat"),
    ("a a a a", "a"), ("a b c d", "d c b a"), ("a_b", "a b"), ("don't", "don t"), ("a b "*150, "b a "*150)])
def test_rouge_l_at_the_edges(prediction, reference):
    ours, = metrics.rouge_l_each([prediction], [reference])
    assert ours == pytest.approx(theirs_rouge_l(prediction, reference), abs=1e-6)

@pytest.mark.parametrize("tokenize", ["13a", "char", "none"])
def test_corpus_bleu(tokenize):
    references = texts(7, least=4)
    predictions = nearly(8, references)
    ours = metrics.corpus_bleu(predictions, references, tokenize)
    assert 0 < ours < 100 and ours == pytest.approx(100*theirs_bleu(predictions, references, tokenize), abs=1e-3)

def test_corpus_bleu_of_texts_that_are_too_short():
    "The brevity penalty, alone: half of each text, word by word as it stands there."
    references = texts(11, least=10)
    halves = [" ".join(text.split()[:6]) for text in references]
    assert metrics.corpus_bleu(halves, references) == pytest.approx(100*theirs_bleu(halves, references), abs=1e-3)

def test_sentence_bleu_of_each_pair():
    references = texts(9, least=4)
    predictions = nearly(10, references)
    theirs = [theirs_bleu([p], [r]) for p, r in zip(predictions, references)]
    assert metrics.sentence_bleu_each(predictions, references) == pytest.approx(theirs, abs=1e-5)
    assert metrics.sentence_bleu(predictions, references) == pytest.approx(sum(theirs)/len(theirs), abs=1e-5)

@pytest.mark.parametrize("seed", range(3))
def test_token_accuracy(seed):
    g = torch.Generator().manual_seed(seed)
    guessed, true = torch.randint(4, (2, 8, 12), generator=g)
    kept = torch.rand(8, 12, generator=g) < .7
    theirs = multiclass_accuracy(guessed, true.masked_fill(~kept, -1), 4, average="micro", ignore_index=-1)
    assert metrics.token_accuracy(guessed, true, kept) == pytest.approx(theirs.item(), abs=1e-6)

def test_cosine():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 20, 8, generator=g)
    b[4], b[5] = 2*a[4], -a[5]
    assert torch.allclose(metrics.cosine(a, b), cosine_similarity(a, b, reduction="none"), atol=1e-6)
    a[3] = 0                                                 # no direction: 0 here, NaN there
    theirs = cosine_similarity(a, b, reduction="none").nan_to_num(0)
    assert torch.allclose(metrics.cosine(a, b), theirs, atol=1e-6)


class Table(torch.nn.Module):
    "States of ids by a table, in the place of an encoder; all point more or less one way, as an encoder's do."
    def __init__(self):
        super().__init__()
        self.rows = torch.nn.Embedding.from_pretrained(torch.rand(20, 8, generator=torch.Generator().manual_seed(0)))

def between_marks(row: list[int]) -> dict[str, torch.Tensor]:
    "Ids between the two tokens that begin and end a text, as an encoder's tokenizer gives them."
    ids = torch.tensor([[1, *row, 2]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

@pytest.mark.filterwarnings("ignore:It was not possible to retrieve the parameter `num_layers`")
def test_bertscore():
    "One pair at a time: of several, torchmetrics sorts each side by length."
    rng, table = random.Random(0), Table()
    def forward(model, batch): return model.rows(batch["input_ids"])
    def states(row): return table.rows(torch.tensor(row))
    for _ in range(12):
        prediction, reference = (rng.choices(range(3, 20), k=rng.randint(1, 9)) for _ in range(2))
        sides = between_marks(prediction), between_marks(reference)
        theirs = bert_score(*sides, model=table, user_forward_fn=forward)["f1"]
        ours, = metrics.bertscore_each([states(prediction)], [states(reference)])
        assert ours == pytest.approx(float(theirs), abs=1e-5)
