"""Frozen values that the stages of the pipeline pass to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from prunekit.arch.count import Counts
from prunekit.arch.load import LoadedModel
from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded
from prunekit.data.retrieval import Retrieval
from prunekit.data.rows import TaskData
from prunekit.exporters.onnx import InputSpace, OnnxFile, sample_space
from prunekit.exporters.precision import LowFile
from prunekit.pipeline.drop import Drop
from prunekit.plan import Plan
from prunekit.pruning.costs import Goal
from prunekit.pruning.iterative import IterativePruner
from prunekit.readout.select import ReadoutChoice
from prunekit.recipe import Recipe
from prunekit.refit.records import Solution
from prunekit.report.embedder import Retrieved, Shortened
from prunekit.report.progress import Stages
from prunekit.runtime.records import Comparison, Parity
from prunekit.stats.collected import Pooling

Outputs = NDArray[Any]
Probe = tuple[NDArray[np.float64], NDArray[np.float64]]
"""A classifier: coef (outputs, k), intercept (outputs,)."""


def space_of(config: object, tokenizer: PreTrainedTokenizerBase) -> InputSpace:
    """Return the space of inputs that an exported file is tested on."""
    side = "left" if tokenizer.padding_side == "left" else "right"
    return sample_space(config, pad_id=tokenizer.pad_token_id, padding_side=side)  # type: ignore[arg-type]  # a single id


#: Folder of the plans of a frontier, in a directory that is written.
FRONTIER = "frontier"


@dataclass(frozen=True, eq=False)
class Inputs:
    """The model and the data, as the pipeline reads them.

    Attributes
    ----------
    own_head : bool
        Whether the model came with a head for this task, which is then the dense model's.
    max_length : int
        Tokens after which a row is cut.
    stride : int or None
        Tokens that a window of a context shares with the one before; None: a third of a window.
    shortened : tuple of Shortened
        Quality of fewer dimensions of an embedder, where the recipe asks for fewer.
    retrieval : Retrieval or None
        Queries and documents on which an embedder is tested, where the recipe names them.
    prompts : {"query", "document": str}
        Prefixes of queries and documents, as far as the embedder states them.
    """

    loaded: LoadedModel
    view: ModelView
    data: TaskData
    encoded: Mapping[str, Encoded]
    pooling: Pooling
    own_head: bool
    max_length: int
    notes: tuple[str, ...]
    stride: int | None = None
    shortened: tuple[Shortened, ...] = ()
    retrieval: Retrieval | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def held(self) -> str:
        """The split on which `--max-drop` is checked: rows that were set aside for it, where there are enough."""
        return "validation" if self.data.check is None else "check"


@dataclass(frozen=True, eq=False)
class Run:
    """Recipe, inputs and progress that the steps of one run share.

    Attributes
    ----------
    recipe : Recipe
    inputs : Inputs
    scratch : path
        A directory for files that are deleted when the run ends.
    stage : Stages
        Shows the progress, and records the seconds of each stage.
    dense_files : dict
        The dense file, once `dense.dense_file` has exported it, by the neurons whose probe is its classifier; None: its own head.
    """

    recipe: Recipe
    inputs: Inputs
    scratch: Path
    stage: Stages
    dense_files: dict[Neurons | None, OnnxFile] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class Cut:
    """The model from which neurons, heads and FFN neurons are chosen.

    Attributes
    ----------
    model : nn.Module
        The dense one, or what is left of it where blocks were named.
    plan : Plan or None
        The plan of what is left, in the dense model's numbering; None: everything.
    solutions : tuple of Solution
        Of the least-squares refit.
    """

    model: nn.Module
    plan: Plan | None = None
    solutions: tuple[Solution, ...] = ()

    def dense_layer(self, layer: int) -> int:
        """Return the dense model's number of a layer (0 the embedding output) of the cut one."""
        return layer if layer == 0 or self.plan is None else self.plan.kept_layers[layer - 1] + 1


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons that are read, the probes on them, and the outputs of the probes.

    Attributes
    ----------
    neurons : {layer: dimensions}
        In the dense model's numbering.
    probe : (coef, intercept)
        The classifier on them.
    oracle : (coef, intercept)
        The probe on all neurons of the dense model.
    choice : ReadoutChoice or None
        Record of how they were chosen; None where all are read because no budget counts them, or a plan names them.
    test : {name: outputs on the test split, less the thresholds that validation chooses where labels do not exclude each other}
        Of the oracle and of a random and a magnitude readout of the same size.
    oracle_validation : float
        The oracle's score on the validation split.
    others : {name: (neurons, probe)}
        The random and the magnitude readouts.
    """

    neurons: Mapping[int, tuple[int, ...]]
    probe: Probe
    oracle: Probe
    choice: ReadoutChoice | None
    test: Mapping[str, Outputs]
    oracle_validation: float
    others: Mapping[str, tuple[Mapping[int, tuple[int, ...]], Probe]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Decided:
    """The plan, and the slim model as far as the choice of the plan has made it.

    Attributes
    ----------
    plan : Plan
    model : nn.Module
        Slim, but for the vocabulary.
    reader : nn.Module
        The same before heads and FFN neurons were removed.
    before : Plan
        Plan that `reader` was made by.
    neurons : Neurons or None
        None where the model keeps its own head.
    stale : bool
        Whether the neurons that the classifier reads have changed since it was fitted.
    solutions : tuple of Solution
        Of the least-squares refits.
    goals : tuple of Goal
        Goals for which heads and FFN neurons were chosen; none where they were not.
    notes : tuple of str
        Notes on the search.
    start : IterativePruner or None
        At `reader`, for others that start there; None where no heads and FFN neurons were chosen.
    cut : Cut or None
        Model that `reader` was made from; None where a plan was given.
    """

    plan: Plan
    model: nn.Module
    reader: nn.Module
    before: Plan
    neurons: Neurons | None
    stale: bool
    solutions: tuple[Solution, ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    start: IterativePruner | None = None
    cut: Cut | None = None


@dataclass(frozen=True, eq=False)
class Text:
    """Input of the slim file: its tokenizer, and the validation and test rows as it encodes them."""

    tokenizer: PreTrainedTokenizerBase
    encoded: Mapping[str, Encoded]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Models:
    """The dense model as it would be deployed, the slim one, the plan between them, and notes on the refit and the training.

    Attributes
    ----------
    baselines : {name: model}
        Models that the slim one is compared with: itself before it was trained ("untrained"), and the same goals met by other units.
    tuned : nn.Module or None
        A dense model that came without a head, trained for as long as the slim one, where that is asked for.
    alike : bool
        Whether the baselines were trained as the slim model was.
    """

    dense: nn.Module
    slim: nn.Module
    plan: Plan
    baselines: Mapping[str, nn.Module]
    counts: Mapping[str, Counts]
    text: Text
    notes: tuple[str, ...]
    tuned: nn.Module | None = None
    alike: bool = False

    @property
    def trained(self) -> bool:
        """Whether the slim model was trained."""
        return "untrained" in self.baselines


@dataclass(frozen=True, eq=False)
class Files:
    """Exported files; the dense files and the baselines are measured and not kept.

    Attributes
    ----------
    low : LowFile or None
        The slim file in lower precision, where the recipe asks for one.
    dense_low : OnnxFile or None
        The dense file in the same precision, all of its weights.
    tuned : OnnxFile or None
        The trained dense model.
    """

    slim: OnnxFile
    dense: OnnxFile
    baselines: Mapping[str, OnnxFile]
    parity: Parity
    low: LowFile | None = None
    dense_low: OnnxFile | None = None
    tuned: OnnxFile | None = None

    @property
    def compared(self) -> dict[str, OnnxFile]:
        """Files whose latency is measured, by their names in the report."""
        files = {"dense": self.dense, "slim": self.slim}
        if self.low is not None:
            files[f"slim {self.low.dtype}"] = self.low.file
            if self.dense_low is not None:
                files[f"dense {self.low.dtype}"] = self.dense_low
        return files


class Answers(NamedTuple):
    """Outputs (n, C), their labels (n,), and the offsets of each row (rows + 1,) if a row has several.

    For a token task n counts all words, the same for every model: the outputs of words that a model does not read are minus infinity.
    """

    outputs: Outputs
    labels: NDArray[Any]
    starts: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """Answers on the test split by name, scores on the validation split, drops where they are bounded, and latency.

    `divergence` is that of each from the dense model on the test split, in nats, where there are no labels.
    `held` names the rows on which drops are bounded.
    `draws` are the metrics of a baseline of which there are several, on the test split; the answers are those of the median.
    Of rows with any number of labels: outputs are less their thresholds, and `thresholds` are the slim model's, logits (C,).
    """

    test: Mapping[str, Answers]
    validation: Mapping[str, float]
    latency: tuple[Comparison, ...]
    drops: Mapping[str, Drop] = field(default_factory=dict)
    thresholds: NDArray[np.float64] | None = None
    divergence: Mapping[str, float] = field(default_factory=dict)
    draws: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    retrieval: tuple[Retrieved, ...] = ()
    held: str = "of validation"
