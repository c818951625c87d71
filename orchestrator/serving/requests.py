"""What requests hold, and what answers do: the types of the OpenAPI page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(max_length=10_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Numbers = list[StrictInt] | list[Finite]
Row = dict[str, str | Numbers | None]
CombinerName = Literal["mean", "log", "min", "median"]
ModeName = Literal["exact", "full", "pruned", "candidates"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PredictRequest(_Strict):
    """Queries, and how they are to be answered."""

    texts: list[Text] | None = Field(
        None, min_length=1, description="queries of an ensemble that takes texts"
    )
    rows: list[Row] | None = Field(
        None, min_length=1, description="queries as the input columns of training"
    )
    k: int = Field(10, ge=1, description="classes a query")
    combiner: CombinerName | None = Field(None, description="null: the ensemble's own")
    mode: ModeName = Field(
        "exact",
        description="exact: the quicker of full and pruned, which give the same; candidates: nearly"
        " always the same, in about the same time for every query",
    )
    worlds: int | None = Field(None, ge=1, description="ask only the first of them; null: all")

    @model_validator(mode="after")
    def _one_kind(self) -> PredictRequest:
        if (self.texts is None) == (self.rows is None):
            raise ValueError("expected texts or rows, found both or neither")
        return self

    @property
    def queries(self) -> Sequence[str | Row]:
        """The texts or rows."""
        return self.texts or self.rows or []


class Class(_Strict):
    """A class."""

    id: int
    name: str | None = Field(None, description="null: classes have no names")


class Scored(Class):
    """A class as an answer."""

    score: float = Field(description="as the combiner defines it")


class PredictResponse(_Strict):
    """The answers."""

    ensemble: str = Field(description="the digest of the ensemble that answered")
    answers: list[list[Scored]] = Field(description="for each query its classes, best first")


class ExplainRequest(_Strict):
    """A query and a class."""

    text: Text | None = Field(None, description="of an ensemble that takes texts")
    row: Row | None = Field(None, description="a query as the input columns of training")
    class_id: int | None = Field(None, ge=0, description="of the class")
    name: Text | None = Field(None, description="of the class, in the place of class_id")
    combiner: CombinerName | None = Field(None, description="null: the ensemble's own")
    worlds: int | None = Field(None, ge=1, description="ask only the first of them; null: all")

    @model_validator(mode="after")
    def _one_of_each(self) -> ExplainRequest:
        if (self.text is None) == (self.row is None):
            raise ValueError("expected text or row, found both or neither")
        if (self.class_id is None) == (self.name is None):
            raise ValueError("expected class_id or name, found both or neither")
        return self

    @property
    def query(self) -> str | Row:
        """The text or row."""
        return self.text if self.text is not None else self.row or {}

    @property
    def wanted(self) -> int | str:
        """The class's id or name."""
        return self.class_id if self.class_id is not None else self.name or ""


class VoteResponse(_Strict):
    """What one world says of the class."""

    world: int
    bucket: int = Field(description="that the class is in")
    probability: float = Field(description="of that bucket")
    rank: int = Field(description="of that bucket among all of the world's, from 1")
    sharing: int = Field(description="classes in that bucket, this one among them")
    neighbours: list[Class] = Field(description="some others of that bucket")


class ExplainResponse(_Strict):
    """How the worlds voted."""

    ensemble: str
    class_: Scored = Field(alias="class", description="with its score over the worlds asked")
    combiner: str
    buckets: int = Field(description="of each world")
    votes: list[VoteResponse] = Field(description="one for each world that was asked")

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class About(_Strict):
    """What is served, and what may be asked."""

    ensemble: str
    classes: int
    worlds: int
    buckets: int
    named: bool = Field(description="whether classes have names")
    columns: dict[str, Literal["text", "indices", "values", "dense"]] = Field(
        description="what a row must have, and what it is: a text, a list of ids, as many numbers,"
        " or a list of numbers that is always as long"
    )
    texts: bool = Field(description="whether queries may be texts")
    combiner: str = Field(description="that is used where a request names none")
    combiners: list[str]
    modes: list[str]
    most_k: int
    most_queries: int
    needs_token: bool


class State(_Strict):
    """Whether all is well."""

    status: str
    trouble: str | None = Field(None, description="why the newest ensemble is not served")


class Problem(_Strict):
    """Why a request was refused."""

    error: str = Field(description="what was expected, what was found, what to do")
