"""The kit finds what it says it finds: for each clause a quantizer that breaks it, and only then.

Every faulty quantizer is `Sound` with one mistake of the kind that really happens.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from amaqctl import registry
from amaqctl.bits import BitAllocation, PackedCodes, decode, encode, step_size
from amaqctl.errors import PluginError, QuantizationError
from amaqctl.quantizer import (
    CodesLayout,
    Layout,
    QuantizedTensor,
    Quantizer,
    QuantizerConfig,
    SideLayout,
    TensorContext,
    restored,
    rows_of,
    side_values,
)
from amaqctl.testing import CLAUSES, Subject, check_clauses, check_quantizer, subjects_of
from amaqctl.testing.time_limit import TimeLimitError, time_limit


class Sound(Quantizer):
    """Four bits, one range a token; `alter_…` are the places where the faulty ones go wrong."""

    class Config(QuantizerConfig):
        """One option."""

        bits: int = Field(4, ge=2, le=8, description="bit-width")

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        values_RC = rows_of(self.alter_input(x, context))
        allocation = BitAllocation.uniform(self.config.bits, values_RC.shape[1])
        value_range = side_values(values_RC.abs().amax(1, keepdim=True), "bfloat16")
        codes = encode(values_RC, step_size(value_range.float(), allocation), allocation)
        return QuantizedTensor(tuple(x.shape), x.dtype, codes, {"range": value_range})

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        assert quantized.codes is not None
        scale = step_size(quantized.side["range"].float(), quantized.codes.allocation)
        values_RC = decode(quantized.codes, scale)
        return restored(self.alter_output(values_RC, context), quantized)

    def layout(self, shape: Any, dtype: Any, context: Any, allocation: Any) -> Layout | None:
        num_rows = math.prod(shape[:-1])
        codes = CodesLayout(num_rows, shape[-1], "tensor", {self.config.bits})
        return Layout(codes, {"range": SideLayout(torch.bfloat16, (num_rows, 1))})

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        return x

    def alter_output(self, values_RC: Tensor, context: TensorContext) -> Tensor:
        return values_RC


class AllowsUnknownOptions(Sound):
    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="ignore")
        bits: int = Field(4, description="bit-width")


class HasAnUndescribedOption(Sound):
    class Config(Sound.Config):
        shift: int = 0


class HasAnOptionThatJsonLoses(Sound):
    class Config(Sound.Config):
        bits: int = Field(4, description="bit-width", exclude=True)


class LosesTheDtype(Sound):
    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        return super().dequantize(quantized, context).float()


class DividesByTheRange(Sound):
    """0/0 for a token of zeros."""

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        return x / x.abs().amax(-1, keepdim=True)


class MixesUpTokens(Sound):
    def alter_output(self, values_RC: Tensor, context: TensorContext) -> Tensor:
        return values_RC.flip(0)


class WritesIntoItsInput(Sound):
    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        return x.clamp_(-3, 3)


class PacksByItself(Sound):
    """Leaves stray bits in the rows that fill up a block."""

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        quantized = super().quantize(x, context)
        codes = quantized.codes
        assert codes is not None
        codes = PackedCodes(codes.data | 128, codes.num_rows, codes.allocation)
        return QuantizedTensor(quantized.shape, quantized.dtype, codes, quantized.side)


class ReadsMemoryOrder(Sound):
    """Looks at the storage behind a view."""

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        stored = torch.as_strided(x, (1,), (1,), x.storage_offset() + min(x.numel(), 2) - 1)
        return x + 0.1 * stored if x.numel() else x


class DeclaresNothing(Sound):
    def layout(self, shape: Any, dtype: Any, context: Any, allocation: Any) -> Layout | None:
        return None


class DeclaresAnotherLayoutAtEachEnd(Sound):
    """The receiver would take ranges that the sender never makes."""

    def layout(self, shape: Any, dtype: Any, context: Any, allocation: Any) -> Layout | None:
        layout = super().layout(shape, dtype, context, allocation)
        assert layout is not None
        if self.site.end == "sender":
            return layout
        return Layout(layout.codes, {**layout.side, "low": SideLayout(dtype, (1,), optional=True)})


class TakesPaddingToStandBefore(Sound):
    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        if not context.lengths:
            return x
        left_B1 = x.shape[1] - torch.tensor(context.lengths).unsqueeze(1)
        return x * (torch.arange(x.shape[1]) >= left_B1).unsqueeze(-1)


class TakesLengthsForWhatIsSent(Sound):
    """In a generation the tokens before count too."""

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        if not context.lengths or (context.left_padded and not context.first_position):
            return x
        position_T = torch.arange(max(context.lengths))
        return x * (position_T < torch.tensor(context.lengths).unsqueeze(1)).unsqueeze(-1)


class KeepsStateInItsClass(Sound):
    """Sender and receiver share it in one process, and only there."""

    last_step = 0

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        type(self).last_step = context.step
        return x

    def alter_output(self, values_RC: Tensor, context: TensorContext) -> Tensor:
        return values_RC * (1.0 + 0.1 * type(self).last_step)


class HidesTensorsInItsClass(Sound):
    """The receiver finds the ranges there, and nothing of them is sent."""

    ranges: ClassVar[dict[tuple[int, bool], Tensor]] = {}

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        key = (context.step % 16, context.training)
        type(self).ranges[key] = x.detach().float().abs().mean().clamp(0.5, 2)
        return x

    def alter_output(self, values_RC: Tensor, context: TensorContext) -> Tensor:
        return values_RC * type(self).ranges[context.step % 16, context.training]


class MovesBeforeItRefuses(Sound):
    """Counts a message that is then found to be wrong."""

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__(config, site)
        self.register_buffer("num_received", torch.zeros((), dtype=torch.int32))

    def alter_output(self, values_RC: Tensor, context: TensorContext) -> Tensor:
        self.num_received += context.training
        if bool((values_RC.abs() > 1e30).any()):
            raise QuantizationError("values beyond all measure")
        return values_RC


class FallsOverALie(Sound):
    """Takes it for granted that values are of a usual size."""

    def alter_output(self, values_RC: Tensor, context: TensorContext) -> Tensor:
        assert not bool((values_RC.abs() > 1e30).any()), "unheard of"
        return values_RC


class MakesTensorsOnTheCpu(Sound):
    """The default of every factory of torch."""

    def alter_output(self, values_RC: Tensor, context: TensorContext) -> Tensor:
        return values_RC + torch.zeros(values_RC.shape[1])


class SendsFromTheCpu(Sound):
    """Harmless until the sender decodes what it sent, on its device."""

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        made = super().quantize(x, context)
        return replace(made, side={name: side.cpu() for name, side in made.side.items()})


class DecodesToTheCpu(Sound):
    def alter_output(self, values_RC: Tensor, context: TensorContext) -> Tensor:
        return values_RC.cpu()


class SleepsInEveryCall(Sound):
    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        time.sleep(1.5)
        return x


class NeverEnds(Sound):
    """And catches what would end it."""

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        for _ in range(2):
            with contextlib.suppress(Exception):
                while True:
                    time.sleep(0.01)
        raise ValueError("never said by whom it was stopped")


class DrawsFromTheGlobalGenerator(Sound):
    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        return x + 0.1 * torch.randn(x.shape)


class LearnsInEvaluation(Sound):
    """A running mean that evaluation moves, too."""

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__(config, site)
        self.register_buffer("mean", torch.zeros(()))

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        self.mean += 0.1 * (x.float().mean() if x.numel() else 0)
        return x


class RemembersEvaluation(Sound):
    """A value a sample, which an evaluation moves where it names its samples."""

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__(config, site)
        self.register_buffer("seen", torch.zeros(site.num_samples))

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        if not context.training and context.sample_ids:
            self.seen[list(context.sample_ids)] += 1
        return x


class HidesItsState(Sound):
    """A plain attribute, which no checkpoint carries."""

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__(config, site)
        self.num_sent = 0

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        self.num_sent += context.training
        return x * (1 + 0.1 * self.num_sent)


class KeepsEveryTensor(Sound):
    def __init__(self, config: Any, site: Any) -> None:
        super().__init__(config, site)
        self.history: list[Tensor] = []

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        self.history.append(x)
        return x


_SEEN_STEPS: dict[int, float] = {}


class RemembersInItsModule(Sound):
    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        _SEEN_STEPS[context.step] = float(context.step)
        return x


class HidesNaN(Sound):
    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        return x.nan_to_num(0.0, 1.0, -1.0)


class StopsTheGradient(Sound):
    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        return x.detach()


class TurnsTheGradientRound(Sound):
    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        return -x


class LearnedClip(Sound):
    """Clips at a learned limit; sound, and its surrogate is the derivative of what it does."""

    sign = 1.0

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__(config, site)
        self.limit = nn.Parameter(torch.tensor(2.0))

    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        return torch.where(x.abs() > self.limit, x.sign() * self.limit, x)

    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        limited = x.sign() * (self.limit + (self.sign - 1) * (self.limit - self.limit.detach()))
        return torch.where(x.abs() > self.limit, limited, x)


class LearnsTheWrongWay(LearnedClip):
    sign = -1.0


class SharesWhatIsInFlight(LearnedClip):
    """Keeps one mask, which the next micro-batch overwrites before the first goes backward."""

    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        self.mask = (x.abs() > self.limit).detach()
        lifted = x + 0 * self.limit
        lifted.register_hook(lambda grad: self._learn(grad))
        return lifted

    def _learn(self, gradient: Tensor) -> None:
        slope = (gradient * self.mask).sum().reshape(())
        self.limit.grad = slope if self.limit.grad is None else self.limit.grad + slope


class ForgetsAParameter(LearnedClip):
    def param_groups(self) -> list[dict[str, Any]]:
        return []


FAULTY = {
    AllowsUnknownOptions: {"options"},
    HasAnUndescribedOption: {"options"},
    LosesTheDtype: {"shapes"},
    DividesByTheRange: {"shapes"},
    MixesUpTokens: {"shapes"},
    WritesIntoItsInput: {"shapes"},
    PacksByItself: {"sizes"},
    ReadsMemoryOrder: {"layouts"},
    DeclaresNothing: {"declared"},
    DeclaresAnotherLayoutAtEachEnd: {"declared"},
    TakesPaddingToStandBefore: {"padding"},
    TakesLengthsForWhatIsSent: {"generation"},
    KeepsStateInItsClass: {"twin"},
    HidesTensorsInItsClass: {"fresh"},
    MovesBeforeItRefuses: {"refused"},
    FallsOverALie: {"refused"},
    MakesTensorsOnTheCpu: {"device"},
    SendsFromTheCpu: {"device"},
    DecodesToTheCpu: {"device"},
    SleepsInEveryCall: {"speed"},
    DrawsFromTheGlobalGenerator: {"seeds"},
    LearnsInEvaluation: {"evaluation"},
    RemembersEvaluation: {"evaluation"},
    HidesItsState: {"resume"},
    KeepsEveryTensor: {"memory"},
    RemembersInItsModule: {"memory"},
    HidesNaN: {"non_finite"},
    StopsTheGradient: {"surrogate"},
    TurnsTheGradientRound: {"differences"},
    LearnsTheWrongWay: {"differences"},
    SharesWhatIsInFlight: {"surrogate"},
    ForgetsAParameter: {"surrogate"},
}
UNREGISTERED = [clause for clause in CLAUSES if clause.name != "training"]


def findings_of(cls: type[Quantizer], clauses: Any = UNREGISTERED) -> dict[str, str]:
    done = check_clauses([Subject("mine", cls, {}, "activation")], clauses)
    return {d.clause.name: str(d.finding) for d in done if d.finding is not None}


@pytest.mark.parametrize("cls", [Sound, LearnedClip], ids=lambda cls: cls.__name__)
def test_a_sound_quantizer_has_no_findings(cls):
    assert findings_of(cls) == {}


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_each_mistake_is_found_by_its_clause(cls):
    clauses = [clause for clause in UNREGISTERED if clause.name in FAULTY[cls]]
    assert set(findings_of(cls, clauses)) == FAULTY[cls]


def test_every_clause_but_training_has_a_mistake_that_it_finds():
    assert set().union(*FAULTY.values()) == {clause.name for clause in UNREGISTERED}


def test_a_finding_names_clause_subject_case_expected_and_got():
    subject = Subject("mine", LosesTheDtype, {"bits": 3}, "gradient")
    (done,) = check_clauses([subject], [c for c in CLAUSES if c.name == "shapes"])
    assert str(done.finding) == (
        "shapes: mine-gradient-bits=3: torch.bfloat16 of shape (2, 5, 32)\n"
        "  expected no error\n"
        "  got      link 0 gradient step 0: quantizer 'mine' of test_testing_kit 0 decoded "
        "torch.bfloat16 of shape (2, 5, 32) to torch.float32 of shape (2, 5, 32) (dequantize)"
    )


def test_what_takes_too_long_is_interrupted_named_and_left_alone():
    class Stops(Sound):
        def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
            while x.dim() == 3 and context.training:
                time.sleep(0.01)
            return x

    found = {}
    for cls in (Stops, NeverEnds):
        subject = Subject("mine", cls, {}, "activation")
        clauses = [clause for clause in CLAUSES if clause.name in ("options", "twin", "seeds")]
        done = list(check_clauses([subject], clauses, limit_seconds=0.3))
        assert [d.clause.name for d in done] == ["options", "twin"]  # `seeds` would not end either
        found[cls] = str(done[-1].finding)
    assert "failed in quantize: TimeLimitError: not done within 0.3 s" in found[Stops]
    assert "failed in quantize: ValueError: never said" in found[NeverEnds]
    assert all("(test_testing_kit.py:" in text for text in found.values())


def test_a_limit_within_another_leaves_it_what_is_left():
    with pytest.raises(TimeLimitError, match=r"within 0\.2 s"), time_limit(0.2):
        for _ in range(1000):
            with time_limit(5):
                time.sleep(0.01)
    time.sleep(0.3)  # nobody is interrupted any more


def test_who_is_too_slow_is_not_looked_at_any_further():
    done = list(check_clauses([Subject("mine", SleepsInEveryCall, {}, "activation")], CLAUSES))
    assert [d.clause.name for d in done] == ["options", "speed"]
    assert done[-1].finding is not None
    assert (done[-1].finding.case, done[-1].finding.expected) == ("quantize", "less than 1 s")


def test_a_fault_of_another_plugin_is_told_by_its_name():
    fault = registry.find(registry.QUANTIZERS, "fixed").fault("failed in quantize")

    class CallsAnother(Sound):
        def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
            raise fault

    assert "quantizer 'fixed' of amaqctl" in findings_of(CallsAnother)["twin"]


def test_an_option_that_json_loses_is_found():
    subject = Subject("mine", HasAnOptionThatJsonLoses, {"bits": 5}, "activation")
    (done,) = check_clauses([subject], [c for c in CLAUSES if c.name == "options"])
    assert done.finding is not None
    assert (done.finding.case, done.finding.got) == ("through JSON", "Config(bits=4)")


def test_an_error_inside_a_quantizer_is_a_finding_with_its_place():
    class Fails(Sound):
        def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
            raise KeyError("scale")

    found = findings_of(Fails)
    assert "KeyError: 'scale' (test_testing_kit.py:" in found["twin"]
    assert {"shapes", "sizes", "layouts", "twin", "seeds", "evaluation"} <= set(found)


class NeedsABatch(Sound):
    def alter_input(self, x: Tensor, context: TensorContext) -> Tensor:
        if x.dim() != 3:
            raise QuantizationError("three dimensions are needed")
        return x


def test_a_shape_that_no_channel_sends_may_be_refused():
    assert findings_of(NeedsABatch) == {}


def test_roles_follow_from_what_is_learned():
    assert [s.role for s in subjects_of("fixed", [{}])] == ["activation", "gradient"]
    assert [s.role for s in subjects_of("amaq", [{}])] == ["activation", "gradient"]
    assert [s.role for s in subjects_of("amaq", [{"allocation": "learned"}])] == ["activation"]
    assert [s.role for s in subjects_of("fixed", [{}, {"bits": 2}], ["gradient"])] == [
        "gradient",
        "gradient",
    ]


def test_checking_needs_neither_pytest_nor_hypothesis():
    program = (
        "import sys\n"
        "from amaqctl.testing import QuantizerContract, check_quantizer\n"
        "assert check_quantizer('none', roles=['activation']) == []\n"
        "assert not {'pytest', '_pytest', 'hypothesis'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wrong_options_are_found_and_unknown_names_refused():
    findings = check_quantizer("fixed", {"bits": 9}, ["activation"])
    assert {finding.clause for finding in findings} == {clause.name for clause in CLAUSES}
    assert findings[0].case == "building Config from the options"
    with pytest.raises(PluginError, match="unknown quantizer 'fixt'"):
        check_quantizer("fixt")
    assert registry.find(registry.QUANTIZERS, "fixed").built_in
