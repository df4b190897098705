"""amaqctl: split LoRA fine-tuning over a quantized wire.

Reading order: ``bits`` -> ``quantizer`` -> ``quantizers/fixed`` -> ``wire/message`` ->
``engine/link`` -> ``engine/engine``, then ``quantizers/amaq``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    """`__version__` when it is asked for: what looks it up is slow to import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("amaqctl")
