"The same texts in another format are the same data."
import csv, json

import polars
import pytest

from neuralkit.core.system import load_system
from neuralkit.core.verbs import data_table
from neuralkit.core.words import config_of

TEXTS = [f"The {a} {b} {c} near the {d}, \"as ever\"." for a in ("old", "red", "quiet", "small") for b in ("boat", "train", "horse", "clock")
         for c in ("sleeps", "waits", "turns", "shines") for d in ("river", "house", "market")]
PAIRS = [{"question1": f"How do I {v} {n}?", "question2": f"What is the way to {v} {n}?", "is_duplicate": "1"}
         for v in ("build", "sell", "paint", "clean", "draw", "buy") for n in ("a boat", "a wall", "a door", "the piano", "a clock", "a chair", "the car")]
PAIRS += [{"question1": f"Where is number {n}?", "question2": f"Why is it {n} o'clock?", "is_duplicate": "0"} for n in range(5)]


def write(rows: list[dict], path):
    "`rows` into a file of the kind its ending says, or into a folder as the hub has it."
    match path.suffix:
        case ".txt": path.write_text("\n".join(r["text"] for r in rows) + "\n")
        case ".md": path.write_text("\n\n".join(r["text"].replace(" near", "\nnear") for r in rows))
        case ".jsonl": path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        case ".parquet": polars.DataFrame(rows).write_parquet(path)
        case ".tsv": path.write_text("\n".join("\t".join(r) for r in [list(rows[0]), *[r.values() for r in rows]]))
        case ".csv":
            with open(path, "w", newline="") as f:
                table = csv.DictWriter(f, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
        case "":
            (path/"data").mkdir(parents=True)
            polars.DataFrame(rows).write_parquet(path/"data"/"train-00000-of-00001.parquet")
    return path

def texts(path, phase: str) -> dict[str, list]:
    cfg = config_of("sgdd", "test", data=str(path), phase=phase)
    data = load_system("sgdd").data(cfg)
    return {name: [(s, t) for s, t in zip(part.sources, part.targets)] for name in ("train", "valid", "test") for part in [getattr(data, name)]}


@pytest.mark.parametrize("name", ["notes.md", "notes.jsonl", "notes.csv", "notes.tsv", "notes.parquet", "folder"])
def test_texts_are_split_as_from_a_text_file(home, name):
    rows = [{"text": t} for t in TEXTS]
    plain, other = texts(write(rows, home/"notes.txt"), "reconstruction"), texts(write(rows, home/name), "reconstruction")
    assert sum(map(len, plain.values())) == len(TEXTS) and all(plain.values()) and other == plain

@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.csv", "pairs.parquet", "folder"])
def test_pairs_are_split_as_from_a_jsonl_file(home, name):
    plain, other = texts(write(PAIRS, home/"pairs.jsonl"), "paraphrase"), texts(write(PAIRS, home/name), "paraphrase")
    assert len(plain["train"])/2 + len(plain["valid"]) + len(plain["test"]) == 42 and all(plain.values()) and other == plain

def test_labels_may_be_numbers_or_words_for_them(home):
    numbers = [r | {"is_duplicate": int(r["is_duplicate"])} for r in PAIRS]
    truths = [r | {"is_duplicate": r["is_duplicate"] == "1"} for r in PAIRS]
    assert texts(write(PAIRS, home/"a.jsonl"), "paraphrase") == texts(write(numbers, home/"b.jsonl"), "paraphrase") == texts(write(truths, home/"c.jsonl"), "paraphrase")

def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(home):
    plain, other = home/"plain.txt", home/"windows.txt"
    plain.write_text("\n".join(TEXTS))
    other.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(TEXTS).encode())
    assert texts(plain, "reconstruction") == texts(other, "reconstruction")

def test_source_is_named_counted_and_hashed(home):
    path = write([{"text": t} for t in TEXTS], home/"notes.jsonl")
    rows = data_table("sgdd", "test", data=str(path))
    assert {r["source"] for r in rows} == {str(path)} and {r["kind"] for r in rows} == {"real"} and sum(r["examples"] for r in rows) == len(TEXTS)

def test_blank_rows_are_left_out_with_a_warning(home):
    path = write([{"text": t} for t in TEXTS] + [{"text": "  "}], home/"notes.jsonl")
    with pytest.warns(UserWarning, match="left out 1 rows"): assert sum(map(len, texts(path, "reconstruction").values())) == len(TEXTS)
