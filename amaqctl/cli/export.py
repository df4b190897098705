"""`amaqctl export`: the adapter for stock PEFT, or the base with the adapter merged in."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaqctl.cli.console.render import facts
from amaqctl.cli.console.session import Json, Quiet, Session, Traceback, command
from amaqctl.engine.checkpoint_folder import WEIGHTS_FOLDER
from amaqctl.engine.run_search import existing_run
from amaqctl.errors import InputError, UsageError
from amaqctl.occupied import refuse_export
from amaqctl.units import mib

if TYPE_CHECKING:
    from amaqctl.engine.run_folder import RunFolder
    from amaqctl.exporting import MergeCheck
    from amaqctl.model.source import ModelSource
    from amaqctl.profile import LoadedProfile
    from amaqctl.profile.schema import ModelSection


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new or empty folder.")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="best|last|STEP", help="Which one of the run.")
    ] = "last",
    merge: Annotated[
        bool, typer.Option("--merge", help="Write whole merged weights instead of the adapter.")
    ] = False,
    onto_another_base: Annotated[
        bool,
        typer.Option(
            "--onto-another-base", help="Merge though the base is not the one trained on."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Write a stock PEFT adapter folder, or, with --merge, the whole model with it merged in.

    Of a run that trained the weights themselves (lora: null) it is the whole model always.

    Merged weights have the type that the base was trained on in, `model.dtype` of the run's
    profile; a base in few bits (`base_bits`) is merged with in full, and that is said. Before
    success is reported they are read back and their logits compared with those of the adapter on
    its base; exit 8 if they differ by more than rounding. If the base is no longer the one that was
    trained on, a merge is refused. Quantizers are a device of training and are not in the export.
    """
    with command("amaqctl.export/1", json=json, quiet=quiet, traceback=traceback) as session:
        folder = existing_run(run)
        if onto_another_base and not merge:
            raise UsageError("--onto-another-base goes with --merge")
        refuse_export(to)
        _look_for_other_parties(session, folder, merge)
        session.note("loading …")
        from amaqctl import exporting, runs
        from amaqctl.engine.checkpoint_choice import choose_checkpoint

        choice = choose_checkpoint(folder, checkpoint)
        loaded = runs.profile_of(folder)
        model = loaded.profile.model
        merge = _is_whole(loaded, folder) or merge
        source = _source(session, model, is_needed=merge)
        changes = _changes(loaded, source, folder, choice.path, merge and not onto_another_base)
        for line in [*choice.warnings(), *(notes := changes + _on_bits(model, merge))]:
            session.warn(line)
        title = f"{folder.path.resolve().name}, {choice.path.name}"
        check: MergeCheck | None = None
        if merge:
            assert source is not None
            check = _merge(session, choice.path, to, source, loaded, title, notes)
        else:
            page = _adapter_page(title, _base_name(model, source), model, notes)
            exporting.export_adapter(choice.path / "adapter", to, source, page)
        told = {"passed_over": dict(choice.passed_over), "changed_since_training": changes}
        data: dict[str, Any] = {"run": str(folder.path), "step": choice.step, **told}
        data |= {"base_bits": model.base_bits, **_exported(to, _base_name(model, source), check)}
        session.result(data, _text(data, check), str(to))


def _base_name(model: ModelSection, source: ModelSource | None) -> str:
    return model.id if source is None else source.base_model_name


_MERGED_IN_FULL = (
    "the adapter was trained on a base in {bits} bits and is merged into the base in full: the "
    "merged model is near what was trained and evaluated, and not the same"
)


def _on_bits(model: ModelSection, is_merged: bool) -> list[str]:
    """What is to be known of a merge where the base was held in few bits."""
    bits = model.base_bits
    return [_MERGED_IN_FULL.format(bits=bits)] if bits and is_merged else []


def _is_whole(loaded: LoadedProfile, run: RunFolder) -> bool:
    """Whether there is no adapter, so that it can only be the whole model."""
    if loaded.profile.lora is not None:
        return False
    run.refuse_of_parties("a whole model")
    return True


def _look_for_other_parties(session: Session, run: RunFolder, merge: bool) -> None:
    if merge:
        run.refuse_of_parties("a merge")
    elif run.is_of_parties:
        session.warn("the adapter holds the layers of this party alone")


def _merge(
    session: Session,
    checkpoint: Path,
    to: Path,
    source: ModelSource,
    loaded: LoadedProfile,
    title: str,
    notes: list[str],
) -> MergeCheck:
    from amaqctl import exporting

    def page(check: MergeCheck) -> str:
        return _merged_page(title, check, notes, is_adapter=loaded.profile.lora is not None)

    if loaded.profile.lora is None:
        session.note("writing and checking …")
        weights = checkpoint / WEIGHTS_FOLDER
        return exporting.export_trained(weights, to, source, page)
    session.note("merging and checking …")
    dtype = loaded.profile.model.dtype
    check = exporting.export_merged(checkpoint / "adapter", to, source, dtype, page)
    if check.max_difference_saved >= check.adapter_effect:
        session.warn(
            f"rounding to {check.dtype} changes the logits as much as the adapter does: "
            "use the adapter on its base, or train with model.dtype=float32"
        )
    return check


def _exported(to: Path, base: str, check: MergeCheck | None) -> dict[str, Any]:
    return {
        "to": str(to),
        "kind": "merged" if check else "adapter",
        "base": base,
        "files": {p.name: p.stat().st_size for p in sorted(to.iterdir())},
        "check": asdict(check) if check else None,
    }


def _changes(
    loaded: LoadedProfile,
    source: ModelSource | None,
    run: RunFolder,
    checkpoint: Path,
    is_refused: bool,
) -> list[str]:
    """What of base and data is not as in training; nothing where the base is not within reach.

    Raises:
        InputError: the base is another one, and so ``is_refused``.
    """
    from amaqctl.build.provenance import changes_before_export
    from amaqctl.engine.checkpoint import identity_of

    if source is None:
        return []
    then = identity_of(checkpoint) or run.run.get("identity") or run.run
    base, data = changes_before_export(then, loaded, source)
    if base and is_refused:
        raise InputError(
            base,
            where=source.model_id,
            hint="bring back the base, export without --merge, or add --onto-another-base",
            error_id="INPUT-BASE-CHANGED",
        )
    return [text for text in (base, data) if text]


def _source(session: Session, model: ModelSection, *, is_needed: bool) -> ModelSource | None:
    """The base; None, with a warning, where only its tokenizer is wanted and it is not there."""
    from amaqctl.model.source import resolve_source
    from amaqctl.model.tokenizer import load_tokenizer

    try:
        source = resolve_source(model.id, model.revision, model.local_files_only)
        load_tokenizer(source)
    except InputError as error:
        if is_needed:
            raise
        session.warn(f"the base cannot be read, so its tokenizer is left out: {error}")
        return None
    return source


def _text(data: dict[str, Any], check: MergeCheck | None) -> str:
    files = data["files"]
    rows = [
        ("from", f"{data['run']}, step {data['step']}"),
        ("base", data["base"]),
        ("to", f"{data['to']}: {len(files)} files, {mib(sum(files.values()))}"),
    ]
    if check is not None:
        rows.append(("check", _check_text(check)))
    return facts(rows)


def _check_text(check: MergeCheck) -> str:
    text = (
        f"logits differ by {check.max_difference_saved:.2g} at most "
        f"(allowed {check.tolerance_saved:.2g}, largest logit {check.largest_logit:.3g}, "
        f"training changes them by up to {check.adapter_effect:.2g})"
    )
    if check.dtype != "float32":
        text += f"; before rounding to {check.dtype} by {check.max_difference:.2g}"
    return text


def _adapter_page(title: str, base: str, model: ModelSection, notes: list[str]) -> str:
    revision, bits = model.revision, model.base_bits
    arguments = [_quoted(base), *([f"revision={_quoted(revision)}"] if revision else [])]
    import_, bits_line, what = "", "", "nothing is quantized"
    if bits is not None:
        import_, what = ", BitsAndBytesConfig", f"only the base is quantized, to {bits} bits"
        settings = "load_in_8bit=True"
        if bits == 4:
            settings = (
                'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'
            )
        bits_line = f"bits = BitsAndBytesConfig({settings})\n"
        arguments.append("quantization_config=bits")
    return f"""# LoRA adapter

From the amaqctl run {title}. Base model: `{base}`.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{import_}

{bits_line}base = AutoModelForCausalLM.from_pretrained({", ".join(arguments)})
model = PeftModel.from_pretrained(base, "THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```

It was trained with the model divided and quantized messages between the parts. Loaded like this
{what}: this is the clean path that `amaqctl eval --boundary clean` scores.
{_notes(notes)}"""


def _quoted(text: str) -> str:
    """As a string of Python."""
    return dumps(text, ensure_ascii=False)


def _merged_page(
    title: str, check: MergeCheck, notes: list[str], *, is_adapter: bool = True
) -> str:
    heading, what, against = "Trained model", "the weights that were trained", "those in memory"
    if is_adapter:
        heading, what = "Merged model", "the base weights with the LoRA adapter merged in"
        against = "the adapter on its base"
    return f"""# {heading}

From the amaqctl run {title}: {what}, as {check.dtype}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```

Checked against {against}, on {check.num_logits} logits in float32 arithmetic:
{_check_text(check)}.
{_notes(notes)}"""


def _notes(notes: list[str]) -> str:
    return "".join(f"\nNote: {text}.\n" for text in notes)
