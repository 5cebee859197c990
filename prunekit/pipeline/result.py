"""The result of a compression."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunekit.pipeline.hub import push
from prunekit.plan import Plan
from prunekit.report.base import REFERENCES
from prunekit.report.model import Report
from prunekit.report.tradeoff import Picture, tradeoff
from prunekit.validation.arguments import checked


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The result of a compression.

    Attributes
    ----------
    path : Path
        The artefact directory.
    plan : Plan
        The plan of what was kept.
    report : Report
        The measurements.
    model : nn.Module
        The slim PyTorch model, in eval mode; `prunekit.load(path)` gives the same.
    """

    path: Path
    plan: Plan
    report: Report
    model: nn.Module

    def __repr__(self) -> str:
        """The directory, and the metrics that come first."""
        first = ", ".join(f"{name}={value:.4g}" for name, value in list(self.metrics.items())[:4])
        return f"Result({str(self.path)!r}, {first})"

    @property
    def verdict(self) -> str:
        """Gain and loss in one sentence, or the reason not to ship."""
        return self.report.verdict

    @property
    def metrics(self) -> dict[str, float]:
        """The measurements, as a flat dict that loggers take: the slim model's metric first, then shares, speeds and sizes.

        ``accuracy`` (or the task's other metric) is that of the slim fp32 file on test, ``dense_accuracy``, ``random_accuracy``, ... that
        of the report's other rows; ``retained_of_dense`` and ``retained_of_oracle`` are shares; ``speedup_batch_1`` is how many times as
        fast the file is as the dense one; ``kept_params``, ``kept_macs``, ... are shares of the dense model, ``bytes`` is the file's. For
        the file in lower precision the same begins with ``int8_``; ``retrieval_ndcg@10_slim_in_dense`` is of a search in dense's index.
        """
        report = self.report
        metric = report.metric.value
        slim = report.row("slim")
        values = {} if slim is None else {metric: slim.value}
        shares = {f"retained_of_{of}": report.retained("slim", of) for of in REFERENCES}
        values |= {name: value for name, value in shares.items() if value is not None}
        values |= {f"speedup_batch_{each.batch_size}": each.ratio("slim").value for each in report.latency}
        sizes = type(report.slim).model_fields
        values |= {f"kept_{name}": getattr(report.slim, name) / getattr(report.dense, name) for name in sizes if name != "layers"}
        values |= {name: float(getattr(report.slim, name)) for name in ("params", "bytes")}
        for file, prefix in ((report.low, ""), (report.dense_low, "dense_")):
            if file is not None:
                name = f"{prefix}{file.dtype.replace('-', '_')}"
                entries = {metric: file.value, "flips": file.flips, "bytes": float(file.bytes)}
                entries |= {f"speedup_batch_{each.batch_size}": each.ratio(file.timing).value for each in report.latency}
                values |= {f"{name}_{key}": value for key, value in entries.items() if value is not None}
        values |= {f"retrieval_ndcg@10_{each.name}_in_{each.index}": each.ndcg for each in report.retrieval}
        others = (row for row in report.rows if row.name not in ("slim", "slim-low", "dense-low"))
        return {name: float(value) for name, value in {**values, **{f"{row.name}_{metric}": row.value for row in others}}.items()}

    def plot(self) -> Picture:
        """Draw what the metric costs and what it gains in speed: dense and slim, in fp32 and in lower precision.

        Returns
        -------
        Picture
            Shown by notebooks, and written by ``.save("tradeoff.svg")``.

        Raises
        ------
        StatisticsError
            Nothing was measured on data.
        """
        return tradeoff({self.report.data: self.report})

    @checked("push_to_hub")
    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        language: str | list[str] | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Slim model, made by prunekit",
    ) -> str:
        """Upload the directory to the hub, with a complete model card.

        The card's metadata names the base model, the data set, license, language, and what was measured (``model-index``); it is
        written into the directory's README.md, and the manifest is updated. Of absolute paths in the recipe and the plans only the last
        part is uploaded; the local files stay as they are.

        Parameters
        ----------
        repo_id : str
            ``"user/name"``; created if it does not exist.
        license : str, optional
            By its name on the hub, such as ``"apache-2.0"``; default: that of the base model's card.
        language : str or list of str, optional
            Such as ``"en"``; default: that of the base model's card.
        private : bool, optional
            Visibility of a repository that is created; default: that of the account.
        token : str, optional
            Default: that of the user who is logged in.
        commit_message : str

        Returns
        -------
        str
            URL of the commit.

        Raises
        ------
        ParameterError
            No license or language where the base model's card has none, or an invalid name; nothing is uploaded.
        OutputError
            If the hub or the disk refuses the upload.
        """
        metadata = {"license": license, "language": language}
        return push(self.path, self.report, repo_id, metadata, private=private, token=token, message=commit_message)
