"""The rules of the house that a machine can check: floors, ceilings, names, public surface."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from pages import DOCS, fence, section

import amaqctl
from amaqctl import bits, quantizer, registry

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "amaqctl"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PLUGIN_SOURCES = sorted((ROOT / "plugins").rglob("*.py"))

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "common", "base", "core", "helpers", "helper", "misc"}
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

# Where a built-in quantizer may be named outside its own room, and why.
NAMED_QUANTIZERS = {
    ("profile/schema.py", "amaq"): "default of quantizers.activation",
    ("profile/schema.py", "group"): "default of quantizers.gradient",
    ("quantizer/wrapper.py", "amaq"): "default of what a wrapper stands in front of",
}


def _place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_down_only(capsys):
    cli = pytest.importorskip("importlinter.cli")
    code = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == 0, capsys.readouterr().out


def test_the_floors_of_the_contributors_page_are_those_that_are_enforced():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    page = (DOCS / "contributing.md").read_text(encoding="utf-8")
    assert fence(section(page, "Floors"), "text").splitlines() == contract["layers"]


def test_no_files_import_each_other_in_a_circle():
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("amaqctl", cache_dir=None)
    imported = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    # Imports inside functions, and those for types only, count too: a reader follows them all.
    assert "amaqctl.runs" in imported["amaqctl.cli.train"]
    assert "amaqctl.bit_map.report" in imported["amaqctl.cli.inspect_bits"]
    TopologicalSorter(imported).prepare()  # CycleError names the files


def test_rich_is_known_to_the_console_only():
    knowing = {_place(p) for p in SOURCES if any(_is_of("rich", n) for n in _imports(_tree(p)))}
    assert knowing == {
        "cli/console/paint.py", "cli/console/progress.py", "cli/console/render.py",
    }  # fmt: skip


def _is_of(package: str, name: str) -> bool:
    return name.split(".")[0] == package


def test_profile_and_registry_work_without_torch():
    program = "import sys, amaqctl.registry, amaqctl.profile; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("path", SOURCES + PLUGIN_SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_ever_unpickled(path):
    tree = _tree(path)
    assert not {name.split(".")[0] for name in _imports(tree)} & PICKLING
    assert "torch.load" not in set(_imports(tree))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "torch.load" not in calls
    assert "allow_pickle=True" not in ast.unparse(tree)


@pytest.mark.parametrize("path", SOURCES + PLUGIN_SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    too_long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, functions) and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    }
    assert not too_long, f"functions of more than {MAX_FUNCTION_LINES} lines"


def test_no_module_has_a_vague_name():
    names = {path.relative_to(ROOT): path.stem.strip("_") for path in SOURCES + PLUGIN_SOURCES}
    names |= {path.parent.relative_to(ROOT): path.parent.name for path in SOURCES}
    assert not {str(place) for place, name in names.items() if name in VAGUE_NAMES}


def _named_quantizers() -> set[tuple[str, str]]:
    built_in = {offer.name for offer in registry.offers(registry.QUANTIZERS) if offer.built_in}
    assert {"none", "amaq"} <= built_in
    # `none` is an everyday word, and the composition root looks it up for clean evaluation.
    built_in.remove("none")
    found = set()
    for path in SOURCES:
        if _place(path).startswith("quantizers/"):
            continue
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Constant) and node.value in built_in:
                found.add((_place(path), node.value))
    return found


def test_built_in_quantizers_are_named_by_nobody_else():
    found = _named_quantizers()
    assert found - NAMED_QUANTIZERS.keys() == set(), "look it up in the registry instead"
    assert NAMED_QUANTIZERS.keys() - found == set(), "an exception that is needed no more"


# What third parties import. Adding a name is a decision; taking one away breaks them.
PUBLIC_OF_QUANTIZER = {
    "DTYPES", "DTYPE_NAMES", "FLOAT_DTYPES", "BitReport", "CodesLayout", "End", "Layout",
    "LayoutError", "Length", "QuantizedTensor", "Quantizer", "QuantizerChoice", "QuantizerConfig",
    "QuantizerEnd", "ResolvedQuantizer", "Role", "SampleMemory", "ScaleDtype", "SideLayout", "Site",
    "TensorContext", "Wrapper", "load_quantizer", "num_rows", "resolve_quantizer", "restored",
    "rounding_noise", "rows_of", "side_values",
}  # fmt: skip
PUBLIC_OF_BITS = {
    "BLOCK_ROWS", "PADDING", "WIDTHS", "Axis", "BitAllocation", "Grid", "PackedCodes", "Rounding",
    "decode", "encode", "largest_code", "nearest_codes", "pack", "packed_bytes", "step_size",
    "unpack", "values_of_codes",
}  # fmt: skip
CONTRACT_METHODS = {
    "quantize", "dequantize", "layout", "surrogate", "penalty", "param_groups", "allocation",
    "report", "decoded", "keep_decoder", "once_accepted", "option_sets",
}  # fmt: skip


def test_the_public_contract_is_pinned():
    assert set(quantizer.__all__) == PUBLIC_OF_QUANTIZER
    assert set(bits.__all__) == PUBLIC_OF_BITS
    methods = {name for name in vars(quantizer.Quantizer) if not name.startswith("_")}
    assert methods == CONTRACT_METHODS | {"Config"}
    assert quantizer.Quantizer.__abstractmethods__ == {"quantize", "dequantize"}


def test_the_public_dataclasses_are_pinned():
    names = {
        cls.__name__: [field.name for field in fields(cls)]
        for cls in (quantizer.Site, quantizer.TensorContext, quantizer.QuantizedTensor)
    }
    assert names == {
        "Site": [
            "link", "role", "num_channels", "max_positions", "num_samples", "seed", "end",
            "batch_size", "num_micro_batches",
        ],
        "TensorContext": [
            "role", "link", "step", "total_steps", "micro_batch", "sample_ids", "lengths",
            "left_padded", "first_position", "training", "allocation",
        ],
        "QuantizedTensor": ["shape", "dtype", "codes", "side"],
    }  # fmt: skip


def test_the_version_is_in_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = rf"^## \[{re.escape(amaqctl.__version__)}\] - \d{{4}}-\d{{2}}-\d{{2}}$"
    assert re.search(heading, text, re.M), f"no dated entry for {amaqctl.__version__}"
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{amaqctl.__version__}"\n' in pyproject


def test_every_option_is_described():
    for offer in registry.offers(registry.QUANTIZERS):
        config = registry.load(registry.QUANTIZERS, offer.name).Config
        missing = [name for name, field in config.model_fields.items() if not field.description]
        assert not missing, f"{offer}: {missing}"
