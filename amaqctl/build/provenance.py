"""What a run was trained on, and whether it is still that: base weights, data, settings.

Recorded when a run begins, in ``run.json`` and in every checkpoint, and compared at every door
through which a run comes back: resume refuses, evaluation and export say it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from amaqctl.build import Built, load_task
from amaqctl.build.parts import resolve_parts
from amaqctl.engine.identity import differences, quantizer_options, weights_digest
from amaqctl.errors import AmaqError
from amaqctl.model.source import ModelSource
from amaqctl.model.tokenizer import tokenizer_sha256
from amaqctl.model.weight_files import base_sha256
from amaqctl.profile import LoadedProfile

RULES = {"gradient_norm": "of all stages", "dropout": "drawn by block"}
"""How results come about where no key of a profile says it. A run without these was begun when
each stage was clipped by itself and drew its dropout as a whole."""


def identity(built: Built) -> dict[str, Any]:
    """What must be the same for a run to be gone on with: all but ``train.max_steps``."""
    profile = built.loaded.profile.model_dump(mode="json")
    profile["train"].pop("max_steps")
    for section, key in (("train", "seed"), ("model", "id"), ("model", "revision")):
        profile[section].pop(key)  # told beside the profile
    facts, stages = built.facts(), built.engine.stages
    weights = {"weights": weights_digest(stages), "files": base_sha256(built.source)}
    told: dict[str, Any] = {
        "model": {**facts["model"], **weights},
        "data": {**facts["data"], "tokenizer": tokenizer_sha256(built.source)},
        "seed": facts["seed"],
        "quantizers": quantizer_options(stages),
        "rules": RULES,
        "profile": {key: value for key, value in profile.items() if key != "quantizers"},
    }
    return dict(json.loads(json.dumps(told)))


def identity_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What stands in the way of going on, one entry a key; see `differences`.

    What an earlier version did not record is not compared.
    """
    if "files" not in then.get("model", {}):
        now = {**now, "model": {k: v for k, v in now["model"].items() if k != "files"}}
    elif "weights" not in then["model"]:  # a joined run's: no party had them all
        now = {**now, "model": {k: v for k, v in now["model"].items() if k != "weights"}}
    if not _is_other_tokenizer(then, now):
        then, now = _without_tokenizer(then), _without_tokenizer(now)
    if "rules" not in then:
        now = {k: v for k, v in now.items() if k != "rules"}
    return differences(then, now)


def is_same(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Whether two identities are of one run."""
    return then is not None and now is not None and not identity_differences(then, now)


def _is_other_tokenizer(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the same text became other tokens by another tokenizer, as far as is recorded."""
    before, after = then.get("data", {}), now["data"]
    if before.get("fingerprint") == after["fingerprint"]:
        return False
    digests = before.get("tokenizer"), after.get("tokenizer")
    return None not in digests and digests[0] != digests[1]


def _without_tokenizer(identity: Mapping[str, Any]) -> dict[str, Any]:
    data = {k: v for k, v in identity.get("data", {}).items() if k != "tokenizer"}
    return {**identity, "data": data}


def changed_rules(then: Mapping[str, Any]) -> str | None:
    """One sentence where a run was begun by other rules; None: by today's.

    Args:
        then: the run's identity.
    """
    if "rules" in then:
        return None
    return (
        "the run was begun when gradients were clipped and dropout was drawn a stage at a time; "
        "it goes on with one norm over all stages and dropout drawn by block"
    )


def changed_base(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """One sentence where the base weights are others than in training; None: they are the same.

    Args:
        then: the run's identity. now: what `identity` or `base_now` tells.
    """
    before, after = then.get("model", {}), now["model"]
    if not before:
        return None
    if "files" in before:
        names = sorted({*before["files"], *after["files"]})
        changed = [n for n in names if before["files"].get(n) != after["files"].get(n)]
    elif "weights" in before and "weights" in after:
        changed = [after["id"]] if before["weights"] != after["weights"] else []
    else:  # of a run before weights were recorded, the name is all there is
        changed = [after["id"]] if before.get("id") != after["id"] else []
    if not changed:
        return None
    return f"the base is not the one that the run was trained on: {', '.join(changed)} differs"


def changed_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """One sentence where the examples are others than in training; None: they are the same.

    Args:
        then: the run's identity. now: what `identity` or `data_now` tells.
    """
    before, after = then.get("data", {}), now["data"]
    if not before or before.get("fingerprint") == after["fingerprint"]:
        return None
    if _is_other_tokenizer(then, now):
        return (
            "the tokenizer is not the one that the run was trained with: the data are other tokens"
        )
    counts = [f"{d.get('num_train')} and {d.get('num_validation')}" for d in (before, after)]
    told = f"{counts[0]} then, {counts[1]} now" if counts[0] != counts[1] else "as many as then"
    return (
        "the data are not those that the run was trained on: "
        f"{told} (train and validation examples)"
    )


def base_now(source: ModelSource) -> dict[str, Any]:
    """The base as it is now, without loading it.

    Raises:
        InputError: it cannot be read.
    """
    facts = {"id": source.model_id, "files": base_sha256(source)}
    return {"model": facts}


def data_now(loaded: LoadedProfile, source: ModelSource) -> dict[str, Any]:
    """The data as they are now, without loading the model.

    Raises:
        AmaqError: they cannot be read.
    """
    task = load_task(loaded, resolve_parts(loaded), source)[1]
    return {
        "data": {
            "fingerprint": task.fingerprint(),
            "num_train": len(task.train),
            "num_validation": len(task.validation),
            "tokenizer": tokenizer_sha256(source),
        }
    }


def changes_before_export(
    then: Mapping[str, Any], loaded: LoadedProfile, source: ModelSource
) -> tuple[str | None, str | None]:
    """What changed of the base, and of the data; or why that is not known."""
    return (
        _told("base has", lambda: changed_base(then, base_now(source))),
        _told("data have", lambda: changed_data(then, data_now(loaded, source))),
    )


def _told(what: str, compare: Callable[[], str | None]) -> str | None:
    try:
        return compare()
    except AmaqError as error:
        return f"whether the {what} changed since training is not known: {error}"
