"""README and docs/: generated parts are fresh, commands run as written, and nothing dangles."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import DOCS, fence, section

from amaqctl.profile import shipped_names

ROOT = DOCS.parent
sys.path.insert(0, str(ROOT / "scripts"))

import docs_blocks  # noqa: E402
import docs_commands  # noqa: E402
import make_docs  # noqa: E402

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
}
RUNNABLE = [name for name, text in PAGES.items() if docs_blocks.has_blocks(text)]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_ROOM = re.compile(r"(?:docs|scripts|tests|amaqctl|profiles|plugins|benchmarks)/[\w./-]*\w/?")


@pytest.mark.parametrize("page", make_docs.PARTS)
def test_generated_parts_are_what_the_code_gives(page: str) -> None:
    assert make_docs.regenerated(page) == PAGES[f"docs/{page}"], "run scripts/make_docs.py"


@pytest.mark.parametrize("name", RUNNABLE)
def test_commands_run_as_written_and_screens_look_as_shown(name: str, tmp_path: Path) -> None:
    screens: list[tuple[str, str]] = []
    docs_blocks.walk(PAGES[name], tmp_path, lambda page, real: screens.append((page, real)))
    assert screens
    for page, real in screens:
        assert docs_blocks.shape(page) == docs_blocks.shape(real), "scripts/make_docs.py --screens"


def test_a_screen_keeps_its_words_and_loses_its_numbers() -> None:
    assert docs_blocks.shape("loss   5.92 (+0.1), 3-8  ▁█▁\nrun 20261122T002046Z-31f5") == (
        "loss 0 (0), 00 run STAMP"
    )
    assert docs_blocks.shape("4 saved") != docs_blocks.shape("4 lost")


def test_a_block_that_fails_otherwise_than_the_page_says_is_an_error(tmp_path: Path) -> None:
    page = "<!-- run, exit 3 -->\n```sh\necho one; exit 3\n```\n<!-- screen -->\n```text\n```\n"
    assert "```text\none\n```\n" in docs_blocks.walk(page, tmp_path, lambda *_: None)
    with pytest.raises(RuntimeError, match="exit code 3"):
        docs_blocks.walk(page.replace(", exit 3", ""), tmp_path, lambda *_: None)


def test_the_tutorial_installs_as_the_readme_does() -> None:
    lines = fence(section(PAGES["docs/tutorial.md"], "Install"), "sh").splitlines()
    assert fence(section(PAGES["README.md"], "Start"), "sh").startswith(" && ".join(lines[:3]))


def test_every_page_is_in_the_index() -> None:
    listed = set(_LINK.findall(PAGES["docs/index.md"]))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages - {"index.md"} == listed - {"../README.md"}


def _anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in _LINK.findall(PAGES[name]):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", PAGES)
def test_files_of_the_repository_that_are_named_exist(name: str) -> None:
    for span in _CODE.findall(PAGES[name]):
        if _ROOM.fullmatch(span):
            assert (ROOT / span).exists(), span


def _typed(text: str) -> Iterator[list[str]]:
    """The words behind `amaqctl` in code spans, in blocks of shell, and after a prompt."""
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S))
    prompts = "\n".join(re.findall(r"^\$ (.*)$", text, re.M))
    for line in [*_CODE.findall(text), *f"{blocks}\n{prompts}".replace("\\\n", " ").splitlines()]:
        for command in re.findall(r"(?:^|[\s/])amaqctl ((?:(?!&&)[^|>;#])+)", f" {line}"):
            yield command.split()


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_options_that_are_named_exist(name: str) -> None:
    known = docs_commands.commands()
    groups = {command.split()[0] for command in known if " " in command}
    for words in _typed(PAGES[name]):
        if words[0].startswith("-"):
            assert words[0] in ("--version", "--install-completion", "--help"), words
            continue
        depth = 2 if words[0] in groups and len(words) > 1 else 1
        command = " ".join(words[:depth])
        assert command in known or command in groups, words
        spelled = {w.partition("=")[0] for w in words if re.match(r"--?[a-z]", w)}
        if command in known:
            assert spelled <= docs_commands.options_of(known[command]), words
        if words[:1] == ["train"] and len(words) > 1 and re.fullmatch(r"[a-z-]*\w", words[1]):
            assert words[1] in shipped_names() or words[1].startswith("-"), words


@pytest.mark.parametrize("name", PAGES)
def test_pages_name_no_place_of_one_machine(name: str) -> None:
    assert not re.findall(r"(?<![\w.:/])/(?:work|home|root|tmp|Users)\b", PAGES[name])
    # The wire format may: there, a session is what a handshake opens.
    words = r"\bhelper\b" if name == "docs/wire-format.md" else r"\b(?:session|helper)\b"
    assert not re.findall(words, PAGES[name], re.I)
