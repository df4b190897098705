"""Which party holds what, and what the data look like: facts, known without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from amaqctl.build import Built
from amaqctl.model.low_bit import uncounted
from amaqctl.tasks.batch import epoch_order
from amaqctl.tasks.task import IGNORE_INDEX, Example


@dataclass(frozen=True)
class StageHolding:
    """One party's part of the model.

    Args:
        stage: index, from 0.
        first_block, last_block: of the whole model, from 1.
        parameters, bytes: weights held, the adapter and learned widths included.
        trainable: those that the stage's optimizer changes.
        holds: ``tokens``, ``labels``, or nothing of the data (None).
    """

    stage: int
    first_block: int
    last_block: int
    parameters: int
    bytes: int
    trainable: int
    holds: str | None


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of a sample as text, and whether they carry loss."""

    text: str
    carries_loss: bool


@dataclass(frozen=True)
class DataFacts:
    """The data of a run.

    Args:
        num_train, num_validation: examples. num_dropped: rows left out, by "split: reason".
        num_tokens, num_loss_tokens: of the train examples.
        sample_id, pieces: the first sample trained on that carries loss.
    """

    num_train: int
    num_validation: int
    num_dropped: Mapping[str, int]
    num_tokens: int
    num_loss_tokens: int
    sample_id: int
    pieces: tuple[Piece, ...]

    @property
    def loss_share(self) -> float:
        """Share of the train tokens that carry loss, 0 to 1."""
        return self.num_loss_tokens / self.num_tokens


def holdings(built: Built) -> list[StageHolding]:
    """What each stage holds."""
    found = []
    for index, stage in sorted(built.engine.stages.items()):
        groups = stage.optimizer.param_groups if stage.optimizer else []
        trained = [p for group in groups for p in group["params"]]
        held = {id(p): p for p in (*stage.model.parameters(), *trained)}.values()
        blocks = stage.model.range
        more_weights, scale_bytes = uncounted(stage.model)
        found.append(
            StageHolding(
                stage=index,
                first_block=blocks.first_layer + 1,
                last_block=blocks.end_layer,
                parameters=sum(p.numel() for p in held) + more_weights,
                bytes=sum(p.nbytes for p in held) + scale_bytes,
                trainable=sum(p.numel() for p in trained),
                holds="tokens" if blocks.is_first else "labels" if blocks.is_last else None,
            )
        )
    return found


def data_facts(built: Built) -> DataFacts:
    """Rows, the share of tokens that carry loss, and one sample with them marked."""
    task = built.task
    order = epoch_order(len(task.train), built.loaded.profile.train.seed, 0)
    shown = next(task.train[i] for i in order if task.train[i].num_loss_tokens)
    return DataFacts(
        num_train=len(task.train),
        num_validation=len(task.validation),
        num_dropped=dict(task.num_dropped),
        num_tokens=sum(len(example.input_ids) for example in task.train),
        num_loss_tokens=sum(example.num_loss_tokens for example in task.train),
        sample_id=shown.sample_id,
        pieces=_pieces(shown, built.tokenizer.decode),
    )


def _pieces(example: Example, decode: object) -> tuple[Piece, ...]:
    # The first token never carries loss: nothing comes before it that could predict it.
    carries = [i > 0 and label != IGNORE_INDEX for i, label in enumerate(example.labels)]
    runs = groupby(zip(example.input_ids, carries, strict=True), key=lambda pair: pair[1])
    return tuple(
        Piece(decode([token for token, _ in run]), carries_loss)  # type: ignore[operator]
        for carries_loss, run in runs
    )
