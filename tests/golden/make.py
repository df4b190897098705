"""Golden messages: what each built-in quantizer put on the wire, kept for ever.

``python tests/golden/make.py`` writes every case that has no file yet into ``tests/golden/v<n>``,
n being the wire version. It never rewrites one: bytes that have been released stay readable, and
a new layout is a new wire version with a folder of its own.

A case is ``<name>.json`` (options, place, inputs, expected decoded tensors; tensors as raw
little-endian hex) beside ``<name>.<index>.bin``, one file a message. Inputs are whole multiples
of 1/64 of small size: their sums are exact in float32, so no order of summation can change a mean.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amaqctl import registry
from amaqctl.bits import BitAllocation
from amaqctl.quantizer import DTYPE_NAMES, DTYPES, Quantizer, Site, TensorContext
from amaqctl.wire import WIRE_VERSION, Message

HERE = Path(__file__).parent
NUM_CHANNELS = 6
MIXED = {"widths": [0, 1, 3, 4, 6, 8], "axis": "channel"}


@dataclass(frozen=True)
class Case:
    """One quantizer at one place, and the tensors it sends in turn.

    Args:
        name: of the files.
        quantizer: registered name.
        options: of its Config.
        dtype: of the tensors.
        role: of the channel.
        contexts: what differs from the plain context, one a message.
        gates: values of the gates, where the quantizer has some.
        massive: added to one channel of the first token of each sequence, which makes it an
            outlier token.
    """

    name: str
    quantizer: str
    options: dict[str, Any]
    dtype: str = "float32"
    role: str = "activation"
    contexts: tuple[dict[str, Any], ...] = ({},)
    gates: tuple[float, ...] = ()
    massive: int = 0


_VISITS = (
    {"sample_ids": [0, 1]},
    {"sample_ids": [1, 0], "step": 1},
    {"sample_ids": [2, 1], "step": 2},
    {"step": 3, "training": False},
)
_SITE = ("link", "role", "num_channels", "max_positions", "num_samples", "seed")
_FLAT = {"allocation": "learned", "start_bits": 4.0, "target_bits": 4.0}
_GATES = (-4.0, -2.0, -0.5, 0.0, 1.0, 4.0)

CASES = (
    Case("none-float32", "none", {}, contexts=({"lengths": [5, 3]},)),
    Case("none-bfloat16", "none", {}, "bfloat16"),
    Case("none-gradient-float16", "none", {}, "float16", "gradient"),
    Case("fixed-float32", "fixed", {"bits": 4}),
    Case("fixed-tensor-bfloat16", "fixed", {"bits": 3, "scale": "tensor"}, "bfloat16"),
    Case("fixed-sign-float32", "fixed", {"bits": 1, "scale": "token"}),
    Case(
        "fixed-stochastic-gradient-float32",
        "fixed",
        {"bits": 5, "scale": "token", "rounding": "stochastic", "scale_dtype": "float32"},
        role="gradient",
        contexts=({}, {"step": 1, "micro_batch": 2}),
    ),
    Case(
        "fixed-received-gradient-bfloat16",
        "fixed",
        {"bits": "received"},
        "bfloat16",
        "gradient",
        ({"allocation": MIXED},),
    ),
    Case("group-float32", "group", {"group_size": 4}, contexts=({"training": False},)),
    Case("group-zero-point-bfloat16", "group", {"group_size": 2, "zero_point": True}, "bfloat16"),
    Case("group-sign-float32", "group", {"bits": 1, "group_size": 4}),
    Case("group-gradient-float32", "group", {"bits": 6}, role="gradient"),
    Case("aq-sgd-float32", "aq-sgd", {}, contexts=_VISITS),
    Case("aq-sgd-bfloat16", "aq-sgd", {"bits": 2, "scale": "token"}, "bfloat16", contexts=_VISITS),
    Case("aq-sgd-gradient-float32", "aq-sgd", {"bits": 8}, role="gradient"),
    Case("amaq-float32", "amaq", _FLAT, gates=_GATES, contexts=({}, {"training": False})),
    Case("amaq-bfloat16", "amaq", _FLAT, "bfloat16", gates=_GATES),
    Case(
        "amaq-uncentred-float32",
        "amaq",
        {**_FLAT, "center": False, "clip": 2.0, "scale_dtype": "float16"},
        gates=_GATES,
    ),
    Case("amaq-paper-float32", "amaq", {"mode": "paper"}, gates=(-9.0, -1.0, 0.2, 0.5, 1.0, 9.0)),
    Case(
        "amaq-position-bfloat16",
        "amaq",
        {**_FLAT, "axis": "position", "scale": "token"},
        "bfloat16",
        gates=(4.0, 1.0, 0.1, -1.0, -4.0, 0.5, -0.6, 0.3),
        contexts=({}, {"first_position": 2, "training": False}),
    ),
    Case("amaq-channel-token-float32", "amaq", {**_FLAT, "scale": "channel-token"}, gates=_GATES),
    Case(
        "amaq-outlier-tokens-float32",
        "amaq",
        _FLAT,
        gates=_GATES,
        contexts=({}, {"training": False}),
        massive=3000,
    ),
    Case(
        "amaq-outlier-tokens-centred-bfloat16",
        "amaq",
        {**_FLAT, "center": True},
        "bfloat16",
        gates=_GATES,
        massive=3000,
    ),
)


def tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    """dtype, shape and the raw bytes in hex."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    dtype, shape = DTYPE_NAMES[tensor.dtype], list(tensor.shape)
    return {"dtype": dtype, "shape": shape, "hex": raw.numpy().tobytes().hex()}


def tensor_from_json(record: dict[str, Any]) -> Tensor:
    """Inverse of `tensor_to_json`."""
    raw = torch.frombuffer(bytearray.fromhex(record["hex"]), dtype=torch.uint8)
    return raw.view(DTYPES[record["dtype"]]).reshape(record["shape"])


def build_quantizer(record: dict[str, Any]) -> Quantizer:
    """A fresh instance as a case describes it."""
    cls = registry.load(registry.QUANTIZERS, record["quantizer"])
    quantizer: Quantizer = cls(cls.Config(**record["options"]), Site(**record["site"]))
    if record["gates"]:
        with torch.no_grad():
            next(quantizer.parameters()).copy_(torch.tensor(record["gates"]))
    return quantizer


def context_from_json(record: dict[str, Any]) -> TensorContext:
    """The tensor context of one message; a gradient's allocation included."""
    fields = dict(record)
    widths = fields.pop("allocation", None)
    for key in ("sample_ids", "lengths"):
        fields[key] = tuple(fields.get(key, ()))
    allocation = None
    if widths:
        widths_C = torch.tensor(widths["widths"], dtype=torch.uint8)
        allocation = BitAllocation(widths_C, widths["axis"])
    return TensorContext(**fields, allocation=allocation)


def send_all(record: dict[str, Any]) -> list[bytes]:
    """The messages that today's code makes of a case's inputs."""
    sender = build_quantizer(record)
    sent = []
    for index, entry in enumerate(record["messages"]):
        context = context_from_json(entry["context"])
        with torch.no_grad():
            quantized = sender.quantize(tensor_from_json(entry["input"]), context)
        message = Message(record["quantizer"], context, quantized, sequence=index)
        sent.append(message.to_bytes())
    return sent


def receive_all(record: dict[str, Any], messages: list[bytes]) -> list[Tensor]:
    """What today's code decodes from a case's messages, in order, at a fresh receiver."""
    receiver = build_quantizer(record)
    decoded = []
    for data in messages:
        message = Message.from_bytes(data)
        with torch.no_grad():
            decoded.append(receiver.dequantize(message.quantized, message.context))
    return decoded


def message_paths(json_path: Path, record: dict[str, Any]) -> list[Path]:
    """The files that hold a case's messages."""
    return [json_path.with_suffix(f".{index}.bin") for index in range(len(record["messages"]))]


def _inputs(case: Case) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(CASES.index(case))
    for _ in case.contexts:
        x_BTC = torch.randint(-256, 257, (2, 5, NUM_CHANNELS), generator=generator) / 64
        x_BTC[..., 2] += 12  # an offset channel, as real hidden states have
        x_BTC[1, 3:] = 0  # padding
        x_BTC[:, 0, 4] += case.massive
        yield x_BTC.to(DTYPES[case.dtype])


def _record(case: Case) -> dict[str, Any]:
    site = Site(
        link=0,
        role=case.role,  # type: ignore[arg-type]
        num_channels=NUM_CHANNELS,
        max_positions=8,
        num_samples=4,
        seed=17,
    )
    messages = [
        {
            "context": {"role": case.role, "link": 0, "step": 0, "total_steps": 10, **changes},
            "input": tensor_to_json(x_BTC),
        }
        for changes, x_BTC in zip(case.contexts, _inputs(case), strict=True)
    ]
    return {
        "quantizer": case.quantizer,
        "options": case.options,
        "site": {name: getattr(site, name) for name in _SITE},
        "gates": list(case.gates),
        "messages": messages,
    }


def write_missing(folder: Path) -> list[str]:
    """Write each case that ``folder`` has no file of; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for case in CASES:
        path = folder / f"{case.name}.json"
        if path.exists():
            continue
        record = _record(case)
        sent = send_all(record)
        for entry, value in zip(record["messages"], receive_all(record, sent), strict=True):
            entry["decoded"] = tensor_to_json(value)
        for bin_path, data in zip(message_paths(path, record), sent, strict=True):
            with bin_path.open("xb") as file:  # x: an existing file is an error
                file.write(data)
        path.write_text(json.dumps(record, indent=1) + "\n")
        written.append(case.name)
    return written


def main() -> int:
    """Write what is missing; 1 when there was nothing to write."""
    folder = HERE / f"v{WIRE_VERSION}"
    written = write_missing(folder)
    if not written:
        print(f"{folder} is complete, and golden bytes are never rewritten", file=sys.stderr)
        return 1
    print(f"wrote {', '.join(written)} to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
