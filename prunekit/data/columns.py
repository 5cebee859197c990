"""The role of each column, by convention or as named."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prunekit.data.files import CELL
from prunekit.data.labels import listed
from prunekit.errors import DataError, ParameterError
from prunekit.tasks import TaskKind
from prunekit.validation.escape import reason
from prunekit.validation.suggestions import hint

if TYPE_CHECKING:
    from datasets import Dataset

PAIRS = (
    ("text", "text_pair"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "answer"),
    ("question1", "question2"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "text"),
)
#: Of texts that are trained to be alike; where no other pair matches.
_ALIKE_PAIRS = (("anchor", "positive"), ("query", "positive"))
TEXTS = ("text", "sentence", "sentence1", "premise", "question", "content", "review", "review_body", "document", "comment", "tweet", "body")
LABELS = ("label", "labels", "score", "target", "category", "class", "sentiment", "intent", "stars", "rating", "similarity_score")
#: Names of labels where no column has one of `LABELS`.
OTHER_LABELS = ("relevance",)
QUERIES = ("query", "query_id", "qid")
#: Columns on which embedders are trained: a text, such as are like it, and such as are not.
_ANCHORS, _ALIKE, _UNLIKE = ("anchor", "query"), ("positive", "pos"), re.compile(r"neg(ative)?s?(_?\d+)?", re.IGNORECASE)
TOKENS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "pos_tags", "chunk_tags", "ner", "pos", "upos", "xpos", "deprel", "labels", "label")


#: Types whose values are decoded by opening what they name.
_MEDIA = ("Image(", "Audio(", "Video(", "Pdf(", "Nifti(")


def read_columns(data: Dataset, names: Sequence[str], split: str) -> dict[str, list[Any]]:
    """Return some columns as lists of Python values, as stored; raises DataError where the file behind them cannot be read.

    What is stored is not decoded: a column that says it holds pictures would be opened, or fetched.
    """
    try:
        data = data.select_columns(list(names))
        values: dict[str, list[Any]] = data.with_format("arrow")[:].to_pydict()
        for name in names:
            kind = repr(data.features[name])
            if "Json(" in kind and not any(medium in kind for medium in _MEDIA):
                # Stored as text; decoding that opens nothing.
                values[name] = data.select_columns([name]).with_format(None)[:][name]
    except (ValueError, OSError, NotImplementedError, ArithmeticError, ImportError) as error:
        raise DataError(f"The columns {listed(names)} of {split} cannot be read: {reason(error)}.") from None
    return values


def group_names(values: Sequence[Any], column: str, split: str) -> tuple[Hashable, ...]:
    """Return the group of each row, None where the cell is empty; raises DataError for lists and objects."""
    refuse(values, column, split, "holds no name of a group", lambda _, value: isinstance(value, list | dict))
    return tuple(None if value == "" else value for value in values)


def absent(parameter: str, name: str, names: Sequence[str]) -> ParameterError:
    """Return the error for a column that a user named and the data does not have."""
    return ParameterError(parameter, "load_data", f"a column of the data ({listed(names)})", name, hint(name, names))


def refuse(values: Sequence[Any], column: str, split: str, what: str, bad: Callable[[int, Any], bool]) -> None:
    """Raise DataError with the number of the rows of a column that are bad, and the first of them."""
    rows = [at for at, value in enumerate(values) if bad(at, value)]
    if rows:
        count = f"{len(rows)} row{'s' * (len(rows) > 1)}"
        raise DataError(f"The column {column!r} of {split} {what} in {count}, first in row {rows[0] + 1} (the first row is 1).")


def text_values(values: Sequence[Any], column: str, split: str) -> tuple[str, ...]:
    """Return the texts of a column; raises DataError where one is not a text, is empty or is too long."""
    refuse(values, column, split, "holds no text", lambda _, value: value is not None and not isinstance(value, str))
    refuse(values, column, split, "is empty", lambda _, value: not value or value.isspace())
    refuse(values, column, split, f"holds a text of more than {CELL:,} characters", lambda _, value: len(value) > CELL)
    return tuple(values)


@dataclass(frozen=True)
class Columns:
    """Column names: `text` (and `pair`) or `tokens`, and `label`; `group` indicates which rows belong together.

    With `sets`, the label column holds lists: a row has any number of labels.
    """

    label: str
    text: str | None = None
    pair: str | None = None
    tokens: str | None = None
    group: str | None = None
    sets: bool = False

    @property
    def listed(self) -> bool:
        """Whether a row has several labels, for its words or for itself."""
        return self.tokens is not None or self.sets

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read."""
        columns = (self.text, self.pair, self.tokens, self.label, self.group)
        return tuple(dict.fromkeys(name for name in columns if name is not None))


def resolve(
    data: Dataset,
    *,
    text: str | None,
    text_pair: str | None,
    label: str | None,
    tokens: str | None,
    tags: str | None,
    kind: TaskKind | None,
    group: str | None = None,
) -> Columns:
    """Find the columns of a table, as named, or by convention where not named.

    Raises
    ------
    ParameterError
        A named column that does not exist, or names that contradict each other.
    DataError
        No column, or more than one, that matches.
    """
    named = {"text": text, "text_pair": text_pair, "label": label, "tokens": tokens, "tags": tags}
    for parameter, name in {**named, "group": group}.items():
        if name is not None and name not in data.column_names:
            raise absent(parameter, name, data.column_names)
    taken = [name for name in named.values() if name is not None]
    for name in taken:
        if taken.count(name) > 1:
            raise ParameterError("text", "load_data", "another column than text_pair, label, tokens and tags", name)
    for_texts, for_tokens = any((text, text_pair, label)), any((tokens, tags))
    if for_texts and for_tokens:
        raise ParameterError("tokens", "load_data", "given with tags alone, without text, text_pair or label", tokens or tags)
    if for_tokens and kind not in (None, TaskKind.TOKENS):
        raise ParameterError("task", "load_data", f"{TaskKind.TOKENS.value!r} where tokens or tags are named", str(kind))
    if for_texts and kind is TaskKind.TOKENS:
        raise ParameterError("task", "load_data", "one on texts where text, text_pair or label are named", str(kind))
    if kind is TaskKind.TOKENS or for_tokens or (kind is None and not for_texts and holds_words(data)):
        return replace(_of_tokens(data, tokens, tags), group=group)
    columns = _of_texts(data, text, text_pair, label)
    sets = is_list(data, columns.label)
    if sets and kind not in (None, TaskKind.LABELS):
        must = f"{TaskKind.LABELS.value!r} where the label column holds lists"
        raise ParameterError("task", "load_data", must, str(kind), "For one label a word, name --tokens and --tags.")
    return replace(columns, group=group, sets=sets or kind is TaskKind.LABELS)


def query_column(data: Dataset) -> str | None:
    """Return the column of a list's query, by its name: that of its id before that of its text; None where there is none."""
    matches = {name.casefold(): name for name in _named(data, QUERIES)}
    return next((matches[name] for name in reversed(QUERIES) if name in matches), None)


def text_column(data: Dataset) -> str:
    """Return the column of the text, or of its words; raises DataError where no column has such a name."""
    if holds_words(data) and not _named(data, TEXTS):
        return _only(data, TOKENS, "tokens", "--tokens", without=(), lists=True)
    return (_named(data, TEXTS) or [_only(data, TEXTS, "text", "--text", without=())])[0]


def pair_columns(data: Dataset) -> tuple[str, str] | None:
    """Return the columns of two texts, by convention; None where there are none, or where several match."""
    pairs = _pairs(data)
    return pairs[0] if len(pairs) == 1 else None


def _pairs(data: Dataset) -> list[tuple[str, str]]:
    """Return all pairs of columns that are named as two texts are."""
    return _of_names(data, PAIRS) or _of_names(data, _ALIKE_PAIRS)


def _of_names(data: Dataset, names: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(a, b) for first, second in names for a in _named(data, (first,)) for b in _named(data, (second,))]


def _holds_texts(data: Dataset, name: str) -> bool:
    """Return whether a column is one of texts, or of lists of texts."""
    feature = data.features[name]
    return getattr(_item(feature) or feature, "dtype", None) in ("string", "large_string")


def triple_columns(data: Dataset) -> list[str]:
    """Return the columns of a text, of one or more that are like it and of some that are not, by convention; none where it is a pair."""
    first, second = (_named(data, names) for names in (_ANCHORS, _ALIKE))
    others = [name for name in data.column_names if _UNLIKE.fullmatch(name)]
    columns = [*first, *second, *others]
    if len(first) != 1 or len(second) != 1 or _of_names(data, PAIRS) or not all(_holds_texts(data, name) for name in (*first, *second)):
        return []
    # A list called "pos" alone is one of parts of speech.
    alone = is_list(data, second[0]) and second[0].casefold() != "pos"
    return columns if others or alone else []


def _of_texts(data: Dataset, text: str | None, pair: str | None, label: str | None) -> Columns:
    labels = LABELS if _named(data, LABELS) else (*LABELS, *OTHER_LABELS)
    label = label or _only(data, labels, "label", "--label", without=(text, pair))
    if text is None and pair is None:
        pairs = [pair for pair in _pairs(data) if label not in pair]
        if len(pairs) == 1:
            return Columns(label, *pairs[0])
        if pairs:
            candidates = "; ".join(f"{a} and {b}" for a, b in pairs)
            raise DataError(f"Several columns could be the two texts ({candidates}). Name them: --text, --text-pair.")
    return Columns(label, text or _only(data, TEXTS, "text", "--text", without=(pair, label)), pair)


def _of_tokens(data: Dataset, tokens: str | None, tags: str | None) -> Columns:
    tokens = tokens or _only(data, TOKENS, "tokens", "--tokens", without=(tags,), lists=True)
    tags = tags or _only(data, TAGS, "tags", "--tags", without=(tokens,), lists=True)
    for parameter, name in (("tokens", tokens), ("tags", tags)):
        if not is_list(data, name):
            raise DataError(f"The {parameter} column {name!r} must hold a list in each row. It holds {_type(data, name)}.")
    return Columns(tags, tokens=tokens)


def holds_words(data: Dataset) -> bool:
    """Return whether rows are lists of words, by the names and types of the columns."""
    words = _named(data, TOKENS, lists=True)
    return bool(words) and not any(not is_list(data, name) for name in _named(data, LABELS))


def _named(data: Dataset, names: Iterable[str], *, lists: bool = False) -> list[str]:
    wanted = {name.casefold() for name in names}
    return [name for name in data.column_names if name.casefold() in wanted and (not lists or is_list(data, name))]


def _only(data: Dataset, names: Sequence[str], role: str, option: str, *, without: tuple[str | None, ...], lists: bool = False) -> str:
    matches = [name for name in _named(data, names, lists=lists) if name not in without]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise DataError(f"Several columns could be the {role} ({listed(matches)}). Name one: {option}.")
    cure = f"Name one of {listed(data.column_names)}: {option}."
    if role == "label":
        cure += " An embedder needs none: --task embedding."
    raise DataError(f"No column is named as a {role} column is ({', '.join(names)}). {cure}")


def _type(data: Dataset, name: str) -> str:
    return str(getattr(data.features[name], "dtype", data.features[name]))


def is_list(data: Dataset, name: str) -> bool:
    """Return whether a column holds a list in each row."""
    return _item(data.features[name]) is not None


def class_names(data: Dataset, name: str) -> tuple[str, ...] | None:
    """Return the names of the classes that a column (of classes, or of lists of classes) declares; None where it declares none."""
    feature = data.features[name]
    names = getattr(_item(feature) or feature, "names", None)
    return None if names is None else tuple(names)


def _item(feature: Any) -> Any:
    """Return the type of a list's entries, None for anything but a list; versions of `datasets` write it in three ways."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", None)
