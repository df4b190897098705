"""Loaded profiles: shipped files, resolved text, and faults that others find later."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from amaqctl.errors import InputError, Problem
from amaqctl.profile import LoadedProfile, load_profile, locate, shipped_names

PROFILES = Path(__file__).parent.parent / "profiles"


def test_names_are_those_of_the_folder() -> None:
    assert shipped_names() == sorted(path.stem for path in PROFILES.iterdir())
    assert shipped_names() == [
        "quickstart", "words-amaq", "words-amaq-paper", "words-aq-sgd", "words-fixed",
        "words-group", "words-none",
    ]  # fmt: skip


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_profiles_load_and_resolve(name: str, tmp_path: Path) -> None:
    loaded = load_profile(name)
    assert loaded.name == name
    assert loaded.path == PROFILES / f"{name}.yaml"
    copy = tmp_path / "copy.yaml"
    copy.write_text(loaded.resolved_yaml(), encoding="utf-8")
    again = load_profile(copy)
    assert again.profile == loaded.profile
    assert again.resolved_yaml() == loaded.resolved_yaml()


def test_quickstart_says_what_the_docs_say() -> None:
    profile = load_profile("quickstart").profile
    assert profile.model.model_dump(include={"id", "dtype"}) == {
        "id": "smollm2-135m",
        "dtype": "bfloat16",
    }
    assert profile.quantizers.activation.model_dump() == {
        "name": "amaq",
        "options": {"target_bits": 4},
    }
    assert (profile.task.name, profile.optimizer.lr) == ("python-docs", 1e-3)


def test_profiles_on_words_differ_only_in_their_quantizers() -> None:
    bare = []
    for name in shipped_names():
        if name.startswith("words-"):
            profile = load_profile(name).profile
            assert profile.task.name == "word-problems"
            bare.append(profile.model_dump(exclude={"quantizers", "description"}))
    assert len(bare) == 6
    assert all(other == bare[0] for other in bare)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)


@settings(max_examples=100, deadline=None)
@given(
    description=st.none() | TEXTS,
    lr=st.floats(min_value=0, exclude_min=True, max_value=1e6),
    cuts=st.just("all") | st.sets(st.integers(1, 10**6), min_size=1).map(sorted),
    options=st.dictionaries(TEXTS, st.none() | st.booleans() | TEXTS | st.lists(TEXTS)),
)
def test_resolved_text_loads_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    description: str | None,
    lr: float,
    cuts: list[int] | str,
    options: dict[str, object],
) -> None:
    source = load_profile("quickstart")
    values = source.profile.model_dump()
    values["description"] = description
    values["optimizer"]["lr"] = lr
    values["split"]["cuts"] = cuts
    values["task"]["options"] = options
    profile = type(source.profile).model_validate(values)
    text = LoadedProfile(profile, source.name, source.path, source._tree).resolved_yaml()
    path = tmp_path_factory.mktemp("resolved") / "p.yaml"
    path.write_bytes(text.encode("utf-8"))
    assert load_profile(path).profile == profile


def test_overrides_are_in_the_resolved_text(tmp_path: Path) -> None:
    loaded = load_profile("words-fixed", ["lora.r=4", "quantizers.activation={name: none}"])
    text = loaded.resolved_yaml()
    assert "  r: 4\n" in text
    assert "  activation:\n    name: none\n    options: {}\n" in text
    assert "  revision: null\n" in text
    assert "  cuts: [5]\n" in text


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("quickstart") == PROFILES / "quickstart.yaml"
    (tmp_path / "words-none").mkdir()  # a run of that name hides no shipped profile
    assert locate("words-none") == PROFILES / "words-none.yaml"
    (tmp_path / "quickstart").write_text("", encoding="utf-8")  # a file does
    assert locate("quickstart") == Path("quickstart")
    with pytest.raises(InputError) as caught:
        locate("quikstart")
    assert caught.value.message == "no profile named 'quikstart'"
    assert caught.value.hint == (
        f"did you mean 'quickstart'? shipped profiles: {', '.join(shipped_names())}"
    )
    for missing in ("quickstart.yaml", "./quickstart2", "a/b", "x.yml", "", "a\0b", "x" * 5000):
        with pytest.raises(InputError) as caught:
            load_profile(missing)
        assert caught.value.error_id == "INPUT-PROFILE"
        assert caught.value.exit_code == 4


def test_installed_package_finds_its_own_profiles(tmp_path: Path) -> None:
    package = tmp_path / "amaqctl"
    source = PROFILES.parent / "amaqctl"
    for room in ("profile", "storage"):
        shutil.copytree(source / room, package / room)
    for file in ("__init__.py", "errors.py", "nearest.py"):
        shutil.copy(source / file, package / file)
    shutil.copytree(PROFILES, package / "shipped_profiles")
    (package / "shipped_profiles" / "extra.yaml").write_text(PLUGIN, encoding="utf-8")
    code = "from amaqctl.profile import *; print(shipped_names()[0], locate('extra'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout == f"extra {package / 'shipped_profiles' / 'extra.yaml'}\n"


class Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shape: Literal["linear", "cosine"] = "linear"


class Config(BaseModel):
    """Stands for a plugin's options."""

    model_config = ConfigDict(extra="forbid", strict=True)
    target_bits: int = Field(default=4, ge=1, le=16)
    widths: list[int] | Literal["auto"] = "auto"
    schedule: Schedule = Schedule()
    path: str = Field()
    low: float = 0
    high: float = 1

    @model_validator(mode="after")
    def _order(self) -> Config:
        if self.low > self.high:
            raise ValueError("low must not be above high.")
        return self


PLUGIN = """\
amaqctl: 1
task: {name: text}
split: {cuts: [5, 40]}
quantizers:
  activation:
    name: amaq
    options:
      target_bit: 3
      target_bits: 0
      widths: [1, x]
      schedule: {shape: square, speed: 2}
      low: '1'
"""


def load(folder: Path, text: str, *items: str) -> LoadedProfile:
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return load_profile(path, items)


def option_faults(loaded: LoadedProfile, section: str = "quantizers.activation") -> list[Problem]:
    options = loaded.profile.quantizers.activation.options
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(options)
    return loaded.option_problems(section, caught.value, Config.model_fields, "amaq")


def test_option_faults_get_the_profiles_paths_and_places(tmp_path: Path) -> None:
    problems = option_faults(load(tmp_path, PLUGIN))
    root = "quantizers.activation.options"
    assert [(p.line, p.column, p.message) for p in problems] == [
        (7, 5, f"{root}.path: required option of amaq is missing"),
        (8, 7, f"{root}.target_bit: unknown option of amaq, did you mean 'target_bits'?"),
        (9, 7, f"{root}.target_bits: number >= 1 needed, got 0"),
        (10, 7, f"{root}.widths: whole number needed, got 'x'; or 'auto' needed, got [1, 'x']"),
        (11, 18, f"{root}.schedule.shape: 'linear' or 'cosine' needed, got 'square'"),
        (11, 33, f"{root}.schedule.speed: unknown option of amaq"),
        (12, 7, f"{root}.low: number needed, got '1'"),
    ]  # fmt: skip
    assert str(problems[1]) == f"{tmp_path / 'p.yaml'}:8:7: {problems[1].message}"


def test_option_faults_of_an_override_name_the_item(tmp_path: Path) -> None:
    item = "quantizers.activation={name: amaq, options: {path: x, target_bit: 3}}"
    problems = option_faults(load(tmp_path, PLUGIN, item))
    assert [(p.file, p.line, p.message) for p in problems] == [
        (
            f"--set {item}",
            0,
            "quantizers.activation.options.target_bit: unknown option of amaq, "
            "did you mean 'target_bits'?",
        )
    ]


def test_option_faults_of_the_whole_and_of_other_errors(tmp_path: Path) -> None:
    text = PLUGIN[: PLUGIN.index("      target_bit:")] + "      {path: x, low: 2.0, zzz: 1}\n"
    loaded = load(tmp_path, text.replace(", zzz: 1", ""))
    [problem] = option_faults(loaded)
    assert (problem.line, problem.column) == (7, 5)
    assert problem.message == "quantizers.activation.options: low must not be above high"
    [problem] = option_faults(load(tmp_path, text))
    assert problem.message == (
        "quantizers.activation.options.zzz: unknown option of amaq, known options: "
        "target_bits, widths, schedule, path, low, high"
    )
    [problem] = loaded.option_problems("task", OSError("file\n gone."), [], "text")
    assert (problem.line, problem.column) == (2, 1)
    assert problem.message == "task.options: file gone"


def test_later_faults_get_a_place(tmp_path: Path) -> None:
    loaded = load(tmp_path, PLUGIN, "lora.r=2")
    problem = loaded.problem_at("split.cuts[1]", "the model has 30 blocks")
    assert (problem.line, problem.column) == (3, 19)
    assert problem.message == "split.cuts[1]: the model has 30 blocks"
    assert loaded.problem_at("split.cuts", "x").column == 9
    assert loaded.problem_at("quantizers.activation.name", "x").line == 6
    assert loaded.problem_at("quantizers.gradient.name", "x").line == 4
    assert loaded.problem_at("optimizer.lr", "x").line == 1
    assert loaded.problem_at("lora.r", "x").file == "--set lora.r=2"
