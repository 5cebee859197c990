"""The dense model as it would be deployed, and its file, which is exported once a run."""

from __future__ import annotations

from torch import nn

from prunekit.exporters.onnx import OnnxFile, export_onnx
from prunekit.pipeline.records import Inputs, Neurons, Run, space_of
from prunekit.plan import Plan, ReadoutPlan
from prunekit.transforms.apply import apply
from prunekit.transforms.readout_head import set_readout


def deployed_dense(inputs: Inputs, neurons: Neurons | None) -> nn.Module:
    """Return the dense model as it would be deployed: with its own head, or with the probe on all neurons."""
    if neurons is None or inputs.own_head:
        return inputs.loaded.model
    source = inputs.view.source
    everything = {layer: tuple(range(source.hidden)) for layer in range(source.layers + 1)}
    dense = apply(inputs.loaded.model, Plan(source=source, readout=ReadoutPlan(pooling=inputs.pooling, neurons=everything)))
    set_readout(dense, *neurons.oracle)
    return dense


def dense_file(run: Run, neurons: Neurons | None) -> OnnxFile:
    """Return the file of `deployed_dense`, which budgets, searches and the report compare with; it is exported for the first of them."""
    key = None if run.inputs.own_head else neurons
    if key not in run.dense_files:
        assert not run.dense_files, "one dense model a run"
        space = space_of(run.inputs.loaded.config, run.inputs.loaded.tokenizer)
        run.dense_files[key] = export_onnx(
            deployed_dense(run.inputs, key), run.scratch / "dense.onnx", inputs=run.inputs.view.inputs, space=space
        )
    return run.dense_files[key]
