"""The public contract of a quantizer. A third party needs this package and `amaqctl.bits` only.

Reading order: ``site`` and ``tensors`` (what is known, what is handed over), ``contract`` (the two
methods, and what may be overridden), ``layout`` (what a message looks like), ``choice`` and
``wrapper`` (a quantizer in front of another), ``end`` (how quantizers are called).
"""

from amaqctl.quantizer.choice import (
    QuantizerChoice,
    ResolvedQuantizer,
    load_quantizer,
    resolve_quantizer,
)
from amaqctl.quantizer.contract import BitReport, Quantizer, QuantizerConfig
from amaqctl.quantizer.end import QuantizerEnd
from amaqctl.quantizer.layout import CodesLayout, Layout, LayoutError, Length, SideLayout
from amaqctl.quantizer.sample_memory import SampleMemory
from amaqctl.quantizer.site import End, Role, Site, TensorContext
from amaqctl.quantizer.tensors import (
    DTYPE_NAMES,
    DTYPES,
    FLOAT_DTYPES,
    QuantizedTensor,
    ScaleDtype,
    num_rows,
    restored,
    rounding_noise,
    rows_of,
    side_values,
)
from amaqctl.quantizer.wrapper import Wrapper

__all__ = [
    "DTYPES",
    "DTYPE_NAMES",
    "FLOAT_DTYPES",
    "BitReport",
    "CodesLayout",
    "End",
    "Layout",
    "LayoutError",
    "Length",
    "QuantizedTensor",
    "Quantizer",
    "QuantizerChoice",
    "QuantizerConfig",
    "QuantizerEnd",
    "ResolvedQuantizer",
    "Role",
    "SampleMemory",
    "ScaleDtype",
    "SideLayout",
    "Site",
    "TensorContext",
    "Wrapper",
    "load_quantizer",
    "num_rows",
    "resolve_quantizer",
    "restored",
    "rounding_noise",
    "rows_of",
    "side_values",
]
