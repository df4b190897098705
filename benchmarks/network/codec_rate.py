"""Seconds that a message of LLaMA-3-8B's width takes to encode and to decode, one thread.

    python benchmarks/network/codec_rate.py [--rounds 9]

4 sequences of 512 tokens, 4096 channels, bfloat16 values of uneven channels; each method as the
activation's quantizer, through real messages. Processor's seconds, so that other programs are not
in them; medians, and of encoding the longest too, since `amaq` looks at error curves in every
eighth step. One JSON object a row on stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from amaqctl import registry
from amaqctl.quantizer import Site, TensorContext
from amaqctl.wire import Message

_SHAPE_BTC = (4, 512, 4096)
METHODS = {
    "none": ("none", {}),
    "group-4": ("group", {"bits": 4, "group_size": 64}),
    "amaq-4": ("amaq", {"target_bits": 4}),
    "amaq-3": ("amaq", {"target_bits": 3}),
}


def measure(name: str, options: dict[str, object], rounds: int) -> dict[str, object]:
    """Seconds of encode and decode, and bytes."""
    cls = registry.load(registry.QUANTIZERS, name)
    config = cls.Config(**options)
    site = Site(0, "activation", _SHAPE_BTC[2], _SHAPE_BTC[1], 64, 17)
    sender, receiver = cls(config, site), cls(config, site)
    draw = torch.Generator().manual_seed(1)
    scale_C = torch.exp(torch.randn(_SHAPE_BTC[2], generator=draw))
    encode, decode, length = [], [], 0
    for step in range(rounds):
        x = (torch.randn(_SHAPE_BTC, generator=draw) * scale_C).bfloat16()
        context = TensorContext("activation", 0, step, rounds, sample_ids=tuple(range(4)))
        began = time.process_time()
        with torch.no_grad():
            data = Message(name, context, sender.quantize(x, context)).to_bytes()
        encode.append(time.process_time() - began)
        began = time.process_time()
        message = Message.from_bytes(data)
        receiver.dequantize(message.quantized, message.context)
        decode.append(time.process_time() - began)
        length = len(data)
    return {
        "encode_seconds": round(statistics.median(encode), 3),
        "encode_longest": round(max(encode), 3),
        "decode_seconds": round(statistics.median(decode), 3),
        "bytes": length,
    }


def main() -> None:
    """Measure, a row at a time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for title, (name, options) in METHODS.items():
        print(json.dumps({"method": title, **measure(name, dict(options), rounds)}), flush=True)


if __name__ == "__main__":
    main()
