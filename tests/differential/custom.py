"""Custom: families of Python models of columns, by what they do with rows and how they answer."""

import decimal
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import cloudpickle
import numpy as np
import pandas as pd
from hypothesis import strategies as st

from .cases import custom, marked

cloudpickle.register_pickle_by_value(sys.modules[__name__])
X: Final = "x:double"
Y: Final = "y:double"
_few = st.integers(1, 6)


class Thing:
    """What has no form on any wire."""


class Counter:
    """Answers how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, d: Any) -> Any:
        self.asked += 1
        return [float(self.asked)] * len(d)


def _raise_if(is_bad: Any, answer: Any) -> Any:
    if is_bad:
        raise ValueError("these rows are not for me")
    return answer


def _known(word: str) -> int:
    return {"red": 0, "green": 1, "blue": 2}[word]


def _either(values: Sequence[float], other: Any, own: Any) -> list[Any]:
    """What *own* makes of each value, *other* for one below zero."""
    return [other if value < 0 else own(value) for value in values]


# Rows of their own: what is made up shows it.
_OWN: Final = marked(
    [
        custom("a line", "x:wild", Y, lambda d: d["x"] * 2 + 1),
        custom(
            "a sum of three kinds",
            "x:double n:small f:float",
            Y,
            lambda d: d["x"] + d["n"] + d["f"],
        ),
        custom(
            "every kind comes back",
            (kinds := "a:wild b:float c:integer d:long e:boolean f:string g:datetime h:binary"),
            kinds,
            lambda d: d,
        ),
        custom("text in capitals", "t:string", "y:string", lambda d: [t.upper() for t in d["t"]]),
        custom("lengths of texts", "t:string", "y:long", lambda d: d["t"].str.len().tolist()),
        custom("not", "b:boolean", "y:boolean", lambda d: ~d["b"].to_numpy()),
        custom(
            "a day later", "at:datetime", "y:datetime", lambda d: d["at"] + pd.Timedelta(days=1)
        ),
        custom("bytes from behind", "b:binary", "y:binary", lambda d: [b[::-1] for b in d["b"]]),
        custom("the next id", "n:long", "y:long", lambda d: d["n"] + 1),
        custom("an id beside a number", "n:long x:double", "y:long", lambda d: d["n"]),
        custom("whole numbers of 32 bits", "n:integer", "y:integer", lambda d: d["n"] // 3),
        custom("32 bits", "f:float", "y:float", lambda d: np.sqrt(np.abs(d["f"].to_numpy()))),
        custom("a matrix", X, None, lambda d: np.stack([d["x"], d["x"] * 2, -d["x"]], axis=1)),
        custom(
            "a dict of arrays",
            X,
            "twice:double sign:double",
            lambda d: {"twice": d["x"].to_numpy() * 2, "sign": np.sign(d["x"]).to_numpy()},
        ),
        custom(
            "a dict of lists",
            "t:string",
            "text:string size:long",
            lambda d: {"text": d["t"].tolist(), "size": [len(t) for t in d["t"]]},
        ),
        custom(
            "records",
            X,
            "a:double b:string",
            lambda d: [{"a": x, "b": str(x)} for x in d["x"].tolist()],
        ),
        custom("a tuple of arrays", X, None, lambda d: (d["x"].to_numpy(), d["x"].to_numpy() > 0)),
        custom(
            "a frame",
            "x:double t:word",
            None,
            lambda d: pd.DataFrame({"a": d["x"] + 1, "b": d["t"]}),
        ),
        custom("sums of arrays", "a:doubles", Y, lambda d: [sum(a) for a in d["a"]]),
        custom(
            "arrays of text, joined", "a:texts", "y:string", lambda d: [",".join(a) for a in d["a"]]
        ),
    ],
    batches=True,
)
# Rows of their own, though what is made up may not show it.
_UNSEEN: Final = [
    custom(
        "every cell of JSON",
        "x:wild",
        None,
        lambda d: [{"p": x, "more": [x, {"z": x}]} for x in d["x"].tolist()],
    ),
    custom("arrays come back", "a:doubles b:longs", "a:doubles b:longs", lambda d: d[["a", "b"]]),
    custom("always the same", X, Y, lambda d: [1.0] * len(d)),
    custom(
        "one label of made-up rows",
        X,
        "y:string",
        lambda d: ["far" if x > 100000.0 else "near" for x in d["x"]],
    ),
    custom(
        "a number for a known word",
        "t:word",
        "y:long",
        lambda d: [{"red": 1, "blue": 2}.get(t, 0) for t in d["t"]],
    ),
    custom(
        "a row for a known word",
        "t:word",
        None,
        lambda d: np.stack([(d["t"] == w).to_numpy(float) for w in ("red", "blue", "a")], 1),
    ),
    custom(
        "missing values come back",
        "x:wild a:double? b:datetime?",
        "x:wild a:double? b:datetime?",
        lambda d: d.reindex(columns=["x", "a", "b"]),
        declared=True,
    ),
    custom(
        "missing text comes back",
        "x:double t:string?",
        "x:double t:string?",
        lambda d: d.reindex(columns=["x", "t"]),
        declared=True,
    ),
    custom(
        "missing whole numbers and booleans",
        "x:double n:long? b:boolean?",
        None,
        lambda d: d.reindex(columns=["x", "n", "b"]).isna(),
        example="x:double n:small b:boolean",
    ),
    custom(
        "which values are missing",
        "x:double t:string?",
        "y:boolean",
        lambda d: d["t"].isna() if "t" in d else np.full(len(d), True),
    ),
    custom(
        "what each cell is",
        "x:double t:string? b:boolean? h:binary?",
        "y:string",
        lambda d: [repr([type(cell) for cell in row]) for row in d.to_numpy(object).tolist()],
    ),
    custom(
        "what is missing of what must be there",
        "x:double t:word! b:boolean!",
        "y:long",
        lambda d: d.isna() @ [1, 2, 4],
    ),
    custom(
        "which columns there are",
        "x:double t:string? a:double? b:datetime?",
        "y:string",
        lambda d: [" ".join(d.columns)] * len(d),
    ),
]
# Each row depends on the others, their order, their number or its place.
_MIXING: Final = [
    custom("minus the mean", X, Y, lambda d: d["x"] - d["x"].mean()),
    custom("part of the sum", "x:natural", Y, lambda d: d["x"] / d["x"].sum()),
    custom("z-scores", X, Y, lambda d: (d["x"] - d["x"].mean()) / d["x"].std()),
    custom(
        "missing words are the usual ones",
        "x:double t:word?",
        "y:string",
        lambda d: (
            d["t"].fillna(next(iter(d["t"].mode()), "none")) if "t" in d else ["none"] * len(d)
        ),
    ),
    custom(
        "between least and most",
        X,
        Y,
        lambda d: (d["x"] - d["x"].min()) / (d["x"].max() - d["x"].min()),
    ),
    custom("rank", X, Y, lambda d: d["x"].rank()),
    custom(
        "softmax over rows",
        X,
        Y,
        lambda d: np.exp(d["x"] - d["x"].max()) / np.exp(d["x"] - d["x"].max()).sum(),
    ),
    custom("running sum", X, Y, lambda d: d["x"].cumsum()),
    custom("difference to the row before", X, Y, lambda d: d["x"].diff()),
    custom("the row before", X, Y, lambda d: d["x"].shift(fill_value=0.0)),
    custom("sorted", X, Y, lambda d: np.sort(d["x"].to_numpy())),
    custom("backwards", X, Y, lambda d: d["x"].to_numpy()[::-1].copy()),
    custom("gaps filled with the mean", "x:gaps", Y, lambda d: d["x"].fillna(d["x"].mean())),
    custom("gaps filled from above", "x:gaps", Y, lambda d: d["x"].ffill()),
    custom("seen before", "t:word", "y:boolean", lambda d: d["t"].duplicated()),
    custom("how often", "t:word", "y:long", lambda d: d["t"].map(d["t"].value_counts()).tolist()),
    custom(
        "mean of its group", "t:word x:double", Y, lambda d: d.groupby("t")["x"].transform("mean")
    ),
    custom("minus the first row", X, Y, lambda d: d["x"] - d["x"].iloc[0]),
    custom("plus the last row", X, Y, lambda d: d["x"] + d["x"].iloc[-1]),
    custom("over the number of rows", X, Y, lambda d: d["x"] / len(d)),
    custom("the number of rows", X, "y:long", lambda d: [len(d)] * len(d)),
    custom("its place", X, "y:long", lambda d: list(range(len(d)))),
    custom("its place of eight", X, Y, lambda d: d["x"] + np.arange(len(d)) % 8),
    custom("its dozen", X, Y, lambda d: d["x"] + np.arange(len(d)) // 12),
    custom("its hundred", X, Y, lambda d: d["x"] + np.arange(len(d)) // 100),
    custom(
        "mean of its chunk",
        X,
        Y,
        lambda d: d["x"].groupby(np.arange(len(d)) // 8).transform("mean"),
    ),
    custom(
        "median of three or more", X, Y, lambda d: d["x"] - (d["x"].median() if len(d) > 2 else 0)
    ),
    custom("mean of many", X, Y, lambda d: d["x"] - (d["x"].mean() if len(d) > 20 else 0)),
    custom(
        "least of them where one is negative",
        X,
        Y,
        lambda d: d["x"] - (d["x"].min() if (d["x"] < 0).any() else 0),
    ),
    custom("a millionth of the mean", X, Y, lambda d: d["x"] + 1e-06 * d["x"].mean()),
    custom(
        "one output mixes",
        X,
        "own:double rank:double",
        lambda d: pd.DataFrame({"own": d["x"] * 2, "rank": d["x"].rank(ascending=False)}),
    ),
    custom("all words joined", "t:word", "y:string", lambda d: [" ".join(d["t"])] * len(d)),
    custom("the word before", "t:word", "y:string", lambda d: ["", *d["t"].tolist()[:-1]]),
    custom("the commonest word", "t:word", "y:string", lambda d: [d["t"].mode().iloc[0]] * len(d)),
    custom(
        "whether any is true", "b:boolean", "y:boolean", lambda d: [bool(d["b"].any())] * len(d)
    ),
    custom(
        "time since the first",
        "at:datetime",
        Y,
        lambda d: (d["at"] - d["at"].min()).dt.total_seconds(),
    ),
    custom(
        "noise by the number of rows",
        X,
        Y,
        lambda d: d["x"].to_numpy() + np.random.default_rng(len(d)).random(len(d)),
    ),
    custom("the mean among ids", "n:small", "y:long", lambda d: d["n"] - d["n"].max()),
    custom(
        "JSON of all rows", X, None, lambda d: [{"place": i, "of": len(d)} for i in range(len(d))]
    ),
    custom(
        "the mean in 32 bits",
        "f:float",
        "y:float",
        lambda d: (d["f"] - d["f"].mean()).to_numpy(np.float32),
    ),
]
# Fewer rows than there were, or more, or one answer for all.
_COUNTING: Final = [
    custom("drops what is negative", X, Y, lambda d: d[d["x"] >= 0]["x"]),
    custom("drops what is not positive", X, Y, lambda d: d[d["x"] > 0]["x"]),
    custom("drops gaps", "x:gaps", Y, lambda d: d.dropna()["x"]),
    custom(
        "drops what came before", "t:word", "y:string", lambda d: d.drop_duplicates()["t"].tolist()
    ),
    custom(
        "a frame with rows dropped", "x:double t:word", "x:double t:word", lambda d: d[d["x"] >= 0]
    ),
    custom("each row twice", X, Y, lambda d: np.repeat(d["x"].to_numpy(), 2)),
    custom("the first three", X, Y, lambda d: d["x"].head(3)),
    custom("one row more", X, Y, lambda d: [*d["x"], 0.0]),
    custom("filled up to fours", X, Y, lambda d: np.resize(d["x"].to_numpy(), -(-len(d) // 4) * 4)),
    custom("the largest", X, Y, lambda d: [d["x"].max()]),
    custom("the mean alone", X, Y, lambda d: float(d["x"].mean())),
    custom("a sentence for all", X, "y:string", lambda d: f"{len(d)} rows"),
    custom("always three", X, Y, lambda d: np.array([d["x"].min(), d["x"].mean(), d["x"].max()])),
    custom(
        "a frame of one row",
        X,
        "n:long sum:double",
        lambda d: pd.DataFrame({"n": [len(d)], "sum": [d["x"].sum()]}),
    ),
    custom(
        "a dict for all",
        X,
        "n:long sum:double",
        lambda d: {"n": len(d), "sum": float(d["x"].sum())},
    ),
    custom(
        "a row for each word",
        "t:word x:double",
        "t:string x:double",
        lambda d: d.groupby("t", as_index=False)["x"].sum(),
    ),
    custom("where it is positive", X, "y:long", lambda d: np.flatnonzero(d["x"] > 0)),
]
# What type an answer has depends on values.
_TYPES: Final = [
    custom("None in long", X, "y:long", lambda d: _either(d["x"], None, int)),
    custom("None in double", X, Y, lambda d: _either(d["x"], None, float)),
    custom("None in text", X, "y:string", lambda d: _either(d["x"], None, str)),
    custom("None in boolean", X, "y:boolean", lambda d: _either(d["x"], None, bool)),
    custom("NaN in long", X, "y:long", lambda d: d["x"].where(d["x"] >= 0).round()),
    custom(
        "Int64 with nulls",
        X,
        "y:long",
        lambda d: pd.Series(_either(d["x"], None, int), dtype="Int64"),
    ),
    custom(
        "boolean with nulls",
        X,
        "y:boolean",
        lambda d: pd.Series(_either(d["x"], None, bool), dtype="boolean"),
    ),
    custom(
        "Float32 with nulls",
        X,
        "y:float",
        lambda d: pd.Series(_either(d["x"], None, float), dtype="Float32"),
    ),
    custom(
        "a frame of nullable columns",
        X,
        "a:long b:double",
        lambda d: pd.DataFrame(
            {"a": pd.Series(_either(d["x"], None, int), dtype="Int64"), "b": d["x"]}
        ),
    ),
    custom(
        "NaT",
        "x:near",
        "y:datetime",
        lambda d: pd.Series(_either(d["x"], pd.NaT, lambda x: pd.Timestamp(int(x), unit="D"))),
    ),
    custom(
        "instants of far away",
        X,
        "y:datetime",
        lambda d: pd.to_datetime(d["x"].round().abs(), unit="D"),
    ),
    custom("text or number", X, "y:string", lambda d: _either(d["x"], "none", float)),
    custom("number or text", X, None, lambda d: _either(d["x"], "none", float)),
    custom("whole or not", X, Y, lambda d: [int(x) if x == int(x) else x for x in d["x"].tolist()]),
    custom(
        "whole numbers for double", X, Y, lambda d: d["x"].round().astype("int64"), declared=True
    ),
    custom("whole doubles for long", X, "y:long", lambda d: d["x"].round(), declared=True),
    custom("fractions for long", X, "y:long", lambda d: d["x"], declared=True),
    custom("64 bits for float", "x:wild", "y:float", lambda d: d["x"], declared=True),
    custom("long for integer", "n:long", "y:integer", lambda d: d["n"], declared=True),
    custom("numbers for text", X, "y:string", lambda d: d["x"].tolist(), declared=True),
    custom("text of numbers for double", X, Y, lambda d: d["x"].map(str).tolist(), declared=True),
    custom("booleans for long", X, "y:long", lambda d: d["x"] > 0, declared=True),
    custom("bytes or text", X, "y:string", lambda d: _either(d["x"], b"\xff", str)),
    custom(
        "lists of two or three", X, None, lambda d: [[1] * (2 if x >= 0 else 3) for x in d["x"]]
    ),
    custom("lists of two", X, "y:doubles", lambda d: [[x, -x] for x in d["x"].tolist()]),
    custom(
        "lists with None",
        X,
        "y:doubles",
        lambda d: [[x, None if x < 0 else x] for x in d["x"].tolist()],
    ),
    custom(
        "keys by value",
        X,
        None,
        lambda d: [{"neg": x} if x < 0 else {"pos": x} for x in d["x"].tolist()],
    ),
    custom(
        "a dict or a number",
        X,
        None,
        lambda d: [{"neg": x} if x < 0 else x for x in d["x"].tolist()],
    ),
    custom(
        "a column less",
        "x:double z:double",
        "x:double z:double",
        lambda d: d[["x"]] if (d["x"] < 0).all() else d,
    ),
    custom("decimals", X, Y, lambda d: [decimal.Decimal(str(x)) for x in d["x"]]),
    custom("very large whole numbers", X, None, lambda d: [int(x) << 70 for x in d["x"]]),
    custom("categories", "t:word", "y:string", lambda d: d["t"].astype("category")),
    custom(
        "pandas' text",
        X,
        "y:string",
        lambda d: pd.Series(_either(d["x"], None, str), dtype="string"),
    ),
    custom("numbers in a column of objects", "x:gaps", Y, lambda d: d["x"].astype(object)),
    custom("half precision", "x:natural", None, lambda d: d["x"].to_numpy(np.float16)),
    custom("sets", X, None, lambda d: [{int(x), 1} for x in d["x"]]),
    custom("time spans", X, None, lambda d: pd.to_timedelta(d["x"], unit="s")),
    custom("complex numbers", X, None, lambda d: d["x"].to_numpy() * 1j),
    custom("masked values", X, Y, lambda d: np.ma.masked_less(d["x"].to_numpy(), 0)),
    custom("nothing at all", X, Y, lambda d: None),
    custom("things of its own", X, None, lambda d: [Thing() for _ in range(len(d))]),
    custom("a thing of its own", X, None, lambda d: Thing()),
]
# Nested answers.
_NESTED: Final = [
    custom(
        "heads", X, None, lambda d: {"heads": {"a": d["x"].to_numpy(), "b": -d["x"].to_numpy()}}
    ),
    custom(
        "heads beside an array",
        X,
        None,
        lambda d: {"x": d["x"].to_numpy(), "heads": {"a": d["x"].to_numpy() * 400}},
    ),
    custom(
        "a report",
        "x:wild",
        None,
        lambda d: {"rows": len(d), "stats": {"mean": float(d["x"].mean())}},
    ),
    custom(
        "lists of several lengths",
        X,
        None,
        lambda d: {"all": d["x"].tolist(), "positive": d["x"][d["x"] > 0].tolist()},
    ),
    custom(
        "a list of reports",
        "x:wild",
        None,
        lambda d: [
            {"at": i, "v": {"x": x, "near": [x - 1, x + 1]}} for i, x in enumerate(d["x"].tolist())
        ],
    ),
    custom(
        "arrays within records",
        X,
        None,
        lambda d: [{"v": np.full(400, x)} for x in d["x"]],
        rows=_few,
    ),
    custom("frames within a dict", X, None, lambda d: {"frame": d, "n": len(d)}),
    custom("a list of arrays", X, None, lambda d: [d["x"].to_numpy(), d["x"].to_numpy() + 1]),
    custom("a list of lists of lists", X, None, lambda d: [[[x], [x, x]] for x in d["x"].tolist()]),
    custom("instants within", "at:datetime", None, lambda d: [{"at": t} for t in d["at"]]),
]
# What fails on some rows.
_RAISING: Final = marked(
    [
        custom(
            "not for what is negative",
            X,
            Y,
            lambda d: _raise_if((d["x"] < 0).any(), d["x"].to_numpy()),
            example="x:natural",
        ),
        custom(
            "not for gaps",
            "x:gaps",
            Y,
            lambda d: _raise_if(d["x"].isna().any(), d["x"].to_numpy()),
            example="x:double",
        ),
        custom(
            "not for unknown words",
            "t:word",
            "y:long",
            lambda d: [_known(t) for t in d["t"]],
            example="t:colour",
        ),
        custom(
            "not for one row",
            X,
            Y,
            lambda d: _raise_if(len(d) == 1, d["x"].to_numpy()),
            rows=st.sampled_from([1, 2, 3, 9]),
            styles=("no", "several rows"),
        ),
        custom("not for many rows", X, Y, lambda d: _raise_if(len(d) > 10, d["x"].to_numpy())),
        custom(
            "not for an odd number of rows",
            X,
            Y,
            lambda d: _raise_if(len(d) % 2, d["x"].to_numpy()),
            styles=("no", "several rows"),
        ),
        custom(
            "not for two alike",
            X,
            Y,
            lambda d: _raise_if(d["x"].duplicated().any(), d["x"].to_numpy()),
        ),
    ],
    raises=True,
)
# Never the same answer.
_CHANCE: Final = marked(
    [
        custom("a counter", X, Y, Counter(), settings={"deterministic": "false"}),
        custom(
            "noise",
            X,
            Y,
            lambda d: d["x"].to_numpy() + np.random.default_rng().random(len(d)),
            settings={"deterministic": "false"},
        ),
        custom(
            "the time", X, Y, lambda d: [time.time()] * len(d), settings={"deterministic": "false"}
        ),
    ],
    chance=True,
)
FAMILIES: Final = (
    *_OWN,
    *_UNSEEN,
    *_MIXING,
    *_COUNTING,
    *_TYPES,
    *_NESTED,
    *_RAISING,
    *_CHANCE,
)
