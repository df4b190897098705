"""Options: a frozen, strict, described model that survives the profile format and JSON."""

from __future__ import annotations

import contextlib

from pydantic import ValidationError

from amaqctl.profile.tree import Mark, to_plain
from amaqctl.profile.yaml12 import YamlDocument, dump
from amaqctl.quantizer import QuantizerConfig
from amaqctl.testing.finding import case, expect
from amaqctl.testing.subject import Subject

_STRANGER = "no_such_option"


def options(subject: Subject) -> None:
    """Options survive YAML and JSON; unknown ones are refused; every one is described."""
    config_type = subject.cls.Config
    expect(
        isinstance(config_type, type) and issubclass(config_type, QuantizerConfig),
        "a nested class Config(QuantizerConfig)",
        config_type,
    )
    with case("building Config from the options"):
        config = subject.config()
    with case("through JSON"):
        again = config_type.model_validate_json(config.model_dump_json())
        expect(again == config, repr(config), repr(again))
    with case("through YAML"):
        text = dump(config.model_dump(mode="json"))
        read = to_plain(YamlDocument(text, lambda line, column: Mark("", line, column)).node)
        again = config_type(**read)
        expect(again == config, repr(config), repr(again))
    with case(f"an option '{_STRANGER}'"):
        refused = False
        try:
            config_type(**{**subject.options, _STRANGER: 1})
        except ValidationError as error:
            refused = any(_STRANGER in map(str, e["loc"]) for e in error.errors())
        expect(refused, "a ValidationError that names it", "no error")
    for name, field in config_type.model_fields.items():
        with case(f"option '{name}'"):
            expect(bool(field.description), "a description", "an empty one")
            with contextlib.suppress(ValidationError):
                setattr(config, name, getattr(config, name))
                expect(False, "frozen options", "one that can be set")
