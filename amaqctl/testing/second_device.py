"""A device beside the CPU where there is none: tensors that say they lie on it, and a watch.

Every tensor of a module is marked, and so is what is computed from marked ones or made with an
explicit ``torch.device``. An operation that puts a marked tensor and one made on the CPU together
is what a GPU refuses, and is refused here. Values are computed on the CPU all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from amaqctl.bits import library
from amaqctl.quantizer import Quantizer

_MARK = "_amaqctl_lies_elsewhere"
# Where torch itself takes tensors of two devices: copies, and indices on the CPU.
_MAY_MIX = {"copy_", "__getitem__", "__setitem__", "index_put_", "index_put", "set_", "__set__"}


class DeviceMixError(Exception):
    """Tensors of two devices met in one operation."""


def mark(tensor: Tensor) -> Tensor:
    """Have a tensor lie on the second device."""
    setattr(tensor, _MARK, True)
    return tensor


def is_marked(tensor: Tensor) -> bool:
    """Whether a tensor lies on the second device."""
    return hasattr(tensor, _MARK)


def move(quantizer: Quantizer) -> Quantizer:
    """Have all of a quantizer lie there, as ``Module.to`` does."""
    quantizer._apply(mark)
    for parameter in quantizer.parameters():  # `_apply` has replaced what they hold, not them
        mark(parameter)
    return quantizer


class SecondDevice(TorchFunctionMode):
    """Within it, operations are watched."""

    def __enter__(self) -> Any:
        """Begin; what reads the CPU's memory past torch keeps away too."""
        self._ways = library.as_on_a_gpu()
        self._ways.__enter__()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """End."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._ways.__exit__(*error)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry out one operation of torch.

        Raises:
            DeviceMixError: it needs tensors of one device and got some of two.
        """
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        inputs = list(_tensors((args, kwargs)))
        goes_to = _explicit_device(name, args, kwargs)
        if goes_to is not None and isinstance(result, Tensor):
            # An alias: where torch saw nothing to do, the input itself stays where it is.
            result = result.view_as(result)
            return mark(result) if isinstance(goes_to, torch.device) else result
        if any(map(is_marked, inputs)):
            strangers = [t for t in inputs if not is_marked(t) and t.dim() > 0]
            if strangers and name not in _MAY_MIX:
                raise DeviceMixError(
                    f"{resolve_name(func) or name} puts a tensor made on the CPU, of shape "
                    f"{tuple(strangers[0].shape)}, to one on the module's device"
                )
            for tensor in _tensors(result):
                mark(tensor)
        return result


def _explicit_device(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> torch.device | str | None:
    """Where the caller wants the result; None where it says nothing."""
    if name == "cpu":
        return "cpu"
    if kwargs.get("device") is not None:
        found: torch.device | str = kwargs["device"]
        return found
    if name == "to":
        for given in args[1:]:
            if isinstance(given, torch.device | str):
                return given
            if isinstance(given, Tensor):
                return torch.device("cpu") if is_marked(given) else "cpu"
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _of(value.values())
    elif isinstance(value, list | tuple):
        yield from _of(value)


def _of(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        yield from _tensors(value)
