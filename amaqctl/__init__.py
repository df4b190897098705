"""amaqctl: split LoRA fine-tuning over a quantized wire.

Reading order: ``bits`` -> ``quantizer`` -> ``quantizers/fixed`` -> ``wire/message`` ->
``engine/link`` -> ``engine/engine``, then ``quantizers/amaq``.
"""

from importlib.metadata import version

__version__ = version("amaqctl")
