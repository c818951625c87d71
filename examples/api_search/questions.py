"""Questions in words, with the answers that a reader of the documentation would accept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the qualified names of which any one is a good answer."""

    text: str
    answers: tuple[str, ...]


QUESTIONS = (
    Question(
        "cumulative product along an axis",
        (
            "numpy.cumprod",
            "numpy.cumulative_prod",
            "numpy.nancumprod",
            "numpy.ndarray.cumprod",
            "numpy.ma.MaskedArray.cumprod",
            "torch.cumprod",
            "pyarrow.compute.cumulative_prod",
        ),
    ),
    Question(
        "read a table from a parquet file",
        (
            "pyarrow.parquet.read_table",
            "pyarrow.parquet.ParquetFile.read",
            "pyarrow.parquet.ParquetDataset.read",
            "ray.data.read_parquet",
        ),
    ),
    Question(
        "run a command in a new process and wait for it to finish",
        (
            "subprocess.run",
            "subprocess.call",
            "subprocess.check_call",
            "subprocess.check_output",
            "subprocess.Popen.wait",
        ),
    ),
)
