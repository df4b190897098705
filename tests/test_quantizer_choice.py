"""`QuantizerChoice` and `resolve_quantizer`: what is chosen, and each fault in its words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from installed_plugins import install
from pydantic import ValidationError

from amaqctl import registry
from amaqctl.errors import PluginError
from amaqctl.quantizer import (
    QuantizerChoice,
    QuantizerConfig,
    Site,
    load_quantizer,
    resolve_quantizer,
)
from amaqctl.quantizer.choice import inner_plugin_errors

MODULE = """
from pydantic import BaseModel, ConfigDict, Field, field_validator
from amaqctl.quantizer import Quantizer, QuantizerChoice, QuantizerConfig

class Needs(Quantizer):
    class Config(QuantizerConfig):
        level: int = Field(description="no default")

        @field_validator("level")
        @classmethod
        def _odd(cls, level):
            if level % 2 == 0:
                raise ValueError(f"{{odd}} needed, not {level}")
            return level

    quantize = dequantize = layout = None

class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int

class Parted(Needs):
    class Config(QuantizerConfig):
        part: Part = Field(description="a mapping")

class Bare(Needs):
    class Config(QuantizerConfig):
        pass

class Lost(Needs):
    class Config(QuantizerConfig):
        inner: QuantizerChoice = Field(
            default_factory=lambda: QuantizerChoice(name="nowhere"), description="what sends"
        )

class Loose(Needs):
    Config = dict

NoClass = 3
Stranger = dict
"""
NAMES = {
    "needs": "Needs",
    "parted": "Parted",
    "bare": "Bare",
    "lost": "Lost",
    "loose": "Loose",
    "noclass": "NoClass",
    "stranger": "Stranger",
}


@pytest.fixture(autouse=True, scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    site = tmp_path_factory.mktemp("site")
    points = {name: f"acme_choice:{target}" for name, target in NAMES.items()}
    install(site, "acme-choice", {"acme_choice.py": MODULE}, {"amaqctl.quantizers": points})
    sys.path.insert(0, str(site))
    registry._all_offers.cache_clear()
    yield
    sys.path.remove(str(site))
    sys.modules.pop("acme_choice", None)
    registry._all_offers.cache_clear()


def findings(choice: Any) -> list[tuple[str, str]]:
    """Where, and in which words."""
    with pytest.raises(ValidationError) as refused:
        QuantizerChoice.model_validate(choice)
    return [
        (".".join(map(str, detail["loc"])), detail["msg"])
        for detail in refused.value.errors(include_url=False)
    ]


def test_options_are_told_in_full_once_chosen() -> None:
    choice = QuantizerChoice(name="fixed", options={"bits": 3})
    assert choice.options["bits"] == 3
    assert choice.options == load_quantizer("fixed").Config(bits=3).model_dump(mode="json")
    assert QuantizerChoice(name="fixed").options == load_quantizer("fixed").Config().model_dump(
        mode="json"
    )


def test_what_is_resolved_has_name_class_and_options() -> None:
    found = QuantizerChoice(name="fixed", options={"bits": 3}).resolved()
    assert (found.name, found.cls) == ("fixed", load_quantizer("fixed"))
    assert found.config == load_quantizer("fixed").Config(bits=3)
    assert resolve_quantizer("fixed").config == load_quantizer("fixed").Config()


def test_instances_and_ends_share_nothing_and_lie_where_they_are_asked_to() -> None:
    found = resolve_quantizer("aq-sgd")
    site = Site(0, "activation", 8, 4, 3, 17)
    one, other = found.build(site), found.build(site)
    assert one is not other
    assert one.site == site
    end = found.end(site, torch.device("meta"))
    assert {b.device.type for b in end.quantizer.buffers()} <= {"meta"}
    assert end.offer.name == "aq-sgd"
    assert found.end(site).quantizer.config == found.config


FAULTS = {
    "unknown name": ({"name": "amak"}, [("name", "unknown quantizer 'amak' (did you mean")]),
    "unknown option": (
        {"name": "fixed", "options": {"bit": 3}},
        [("options.bit", "unknown option of fixed, did you mean 'bits'?")],
    ),
    "nothing near": (
        {"name": "needs", "options": {"level": 1, "zzz": 3}},
        [("options.zzz", "unknown option of needs, known here: level")],
    ),
    "no options": (
        {"name": "bare", "options": {"zzz": 3}},
        [("options.zzz", "unknown option of bare, it has none")],
    ),
    "required": ({"name": "needs"}, [("options.level", "required option of needs is missing")]),
    "both": (
        {"name": "needs", "options": {"zzz": 3}},
        [
            ("options.level", "required option of needs is missing"),
            ("options.zzz", "unknown option of needs, known here: level"),
        ],
    ),
    "the owner's words, braces and all": (
        {"name": "needs", "options": {"level": 2}},
        [("options.level", "Value error, {odd} needed, not 2")],
    ),
    "out of range": (
        {"name": "group", "options": {"bits": 99}},
        [("options.bits", "Input should be less than or equal to 8")],
    ),
    "inside an option": (
        {"name": "parted", "options": {"part": {"zzz": 1}}},
        [
            ("options.part.size", "Field required"),
            ("options.part.zzz", "Extra inputs are not permitted"),
        ],
    ),
    "key": ({"nam": "x", "name": "fixed"}, [("nam", "unknown key, did you mean 'name'?")]),
    "far key": (
        {"zzz": 1, "name": "fixed"},
        [("zzz", "unknown key, known here: name, options")],
    ),
    "no name": ({"options": {}}, [("name", "required key is missing")]),
    "lost default": (
        {"name": "lost"},
        [("options", "quantizer 'lost' of acme-choice 1.2 has another as its default: unknown")],
    ),
    "lost choice": (
        {"name": "lost", "options": {"inner": {"name": "nowhere"}}},
        [("options.inner.name", "unknown quantizer 'nowhere' (")],
    ),
    "no class": (
        {"name": "noclass"},
        [("name", "quantizer 'noclass' of acme-choice 1.2 is no subclass of amaqctl.quantizer.Qu")],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stands_at_its_key_in_the_words_of_the_owner(name: str) -> None:
    choice, expected = FAULTS[name]
    found = findings(choice)
    assert [place for place, _ in found] == [place for place, _ in expected]
    for (_, said), (_, words) in zip(found, expected, strict=True):
        assert said.startswith(words), said


def test_a_bound_of_pydantic_keeps_its_numbers() -> None:
    with pytest.raises(ValidationError) as refused:
        QuantizerChoice(name="group", options={"bits": 99})
    (detail,) = refused.value.errors(include_url=False)
    assert (detail["type"], detail["ctx"], detail["input"]) == ("less_than_equal", {"le": 8}, 99)


def test_names_that_cannot_be_had_are_told_from_other_faults() -> None:
    with pytest.raises(ValidationError) as refused:
        QuantizerChoice(name="lost", options={"inner": {"name": "nowhere"}})
    ((key, error),) = inner_plugin_errors(refused.value)
    assert key == "options.inner.name"
    assert error.message == "unknown quantizer 'nowhere'"
    assert error.hint is not None
    assert error.error_id == "PLUGIN-UNKNOWN"
    with pytest.raises(ValidationError) as refused:
        QuantizerChoice(name="group", options={"bits": 99})
    assert inner_plugin_errors(refused.value) == []


def test_a_lost_choice_is_the_users_and_a_lost_default_the_plugins() -> None:
    with pytest.raises(ValidationError):
        resolve_quantizer("lost", {"inner": {"name": "nowhere"}})
    with pytest.raises(PluginError) as refused:
        resolve_quantizer("lost")
    assert refused.value.message.startswith("quantizer 'lost' of acme-choice 1.2 has another as")
    assert refused.value.error_id == "PLUGIN-UNKNOWN"
    with pytest.raises(PluginError, match="has another as its default"):
        resolve_quantizer("lost", {})


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        (
            "noclass",
            "quantizer 'noclass' of acme-choice 1.2 is no subclass of amaqctl.quantizer.Quantizer",
            "its entry point must name the class: repair or uninstall acme-choice",
        ),
        (
            "stranger",
            "quantizer 'stranger' of acme-choice 1.2 is no subclass of amaqctl.quantizer.Quantizer",
            "its entry point must name the class: repair or uninstall acme-choice",
        ),
        (
            "loose",
            "quantizer 'loose' of acme-choice 1.2 has a Config that is no subclass of "
            "amaqctl.quantizer.QuantizerConfig",
            "repair or uninstall acme-choice",
        ),
    ],
)
def test_what_is_no_quantizer_is_told_with_its_distribution(
    name: str, said: str, hint: str
) -> None:
    with pytest.raises(PluginError) as refused:
        load_quantizer(name)
    error = refused.value
    assert (error.message, error.hint, error.error_id) == (said, hint, "PLUGIN-BROKEN")
    assert error.where == f"acme_choice:{NAMES[name]}"


def test_options_are_frozen_and_finite() -> None:
    class Config(QuantizerConfig):
        level: float = 1.0

    with pytest.raises(ValidationError, match="frozen"):
        Config().level = 2.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="finite"):
        Config(level=float("nan"))
    with pytest.raises(ValidationError, match="not permitted"):
        Config(other=1)  # type: ignore[call-arg]
