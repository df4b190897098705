"""What a profile may say: frozen pydantic sections, unknown keys forbidden, nothing coerced.

Strict mode keeps ``true`` from passing as 1 and ``"3"`` from passing as 3; a whole number is
accepted where a number is asked for.
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from amaqctl.profile.value_types import (
    RULE,
    Alpha,
    BaseBits,
    Count,
    CountFromZero,
    Cuts,
    Dtype,
    Flag,
    GradientNorm,
    NotNegative,
    OptionalText,
    Positive,
    Schedule,
    Seed,
    Share,
    TargetModules,
    Text,
    Version,
)


class Section(BaseModel):
    """A mapping of a profile: frozen, strict, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class PluginChoice(Section):
    """A registered part by name. Its owner validates the options, not this schema."""

    name: Text = Field(description="Entry-point name, as listed by `amaqctl plugins`.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the named part, checked by that part."
    )


class ModelSection(Section):
    """The base model and how it is loaded."""

    id: Text = Field(
        default="smollm2-135m",
        description="Hub id, local folder, or a built-in name (smollm2-135m, tiny).",
    )
    revision: OptionalText = Field(
        default=None, description="Hub branch, tag or commit; null is the default branch."
    )
    dtype: Dtype = Field(default="float32", description="Floating-point type of the base weights.")
    base_bits: BaseBits = Field(
        default=None,
        description="Bits of a weight in the linear layers of blocks, 8 or 4 (nf4), to save "
        "memory; null leaves them in dtype. Needs bitsandbytes.",
    )
    local_files_only: Flag = Field(default=False, description="True never touches the network.")


class SplitSection(Section):
    """Where the model is cut."""

    cuts: Cuts = Field(
        default_factory=lambda: [5],
        description="Cuts as numbers of blocks in front of the cut, strictly rising; "
        "or all, for a cut at every block boundary.",
    )


class LoraSection(Section):
    """The low-rank adapter that is trained."""

    r: Count = Field(default=8, description="Rank of the update matrices.")
    alpha: Alpha = Field(default=16, description="The update is scaled by alpha / r.")
    dropout: Share = Field(default=0.0, description="Drop probability of adapter inputs, 0 to 1.")
    target_modules: TargetModules = Field(
        default_factory=lambda: ["q_proj", "v_proj"],
        description="Names of the linear layers that get an adapter; or all-linear.",
    )


class QuantizersSection(Section):
    """What the two channels of every link send."""

    activation: PluginChoice = Field(
        default_factory=lambda: PluginChoice(name="amaq", options={"target_bits": 4}),
        description="Quantizer of hidden states, sent forward.",
    )
    gradient: PluginChoice = Field(
        default_factory=lambda: PluginChoice(name="group", options={"bits": 4, "group_size": 64}),
        description="Quantizer of their gradients, sent back.",
    )


class OptimizerSection(Section):
    """AdamW and its learning rates."""

    lr: Positive = Field(default=2e-4, description="Adapter learning rate, per optimizer step.")
    schedule: Schedule = Field(
        default="constant",
        description="constant, or linear: lr falls to 0 at the end of the run.",
    )
    warmup_steps: CountFromZero = Field(
        default=0, description="Optimizer steps over which lr rises from 0."
    )
    quantizer_lr: NotNegative = Field(
        default=1e-1,
        description="Learning rate of quantizer parameters, per optimizer step.",
    )
    weight_decay: NotNegative = Field(
        default=0.0, description="Decoupled weight decay of the adapter, as a factor of lr."
    )


class TrainSection(Section):
    """Length and shape of the training run."""

    max_steps: Count = Field(default=200, description="Optimizer steps of the whole run.")
    batch_size: Count = Field(default=4, description="Examples per optimizer step.")
    micro_batches: Count = Field(
        default=1, description="Equal parts into which a batch is divided; must divide batch_size."
    )
    max_length: Count = Field(default=128, description="Longest example, in tokens.")
    max_grad_norm: GradientNorm = Field(
        default=1.0,
        description="Largest L2 norm of the gradient over all stages; null is no clipping.",
    )
    seed: Seed = Field(default=17, description="Seed of weights, data order and quantizer noise.")
    deterministic: Flag = Field(default=True, description="Allow only deterministic algorithms.")
    gradient_checkpointing: Flag = Field(
        default=False,
        description="Recompute activations in the backward pass to save memory.",
    )

    @field_validator("micro_batches")
    @classmethod
    def _divides_batch(cls, micro_batches: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size")  # absent when it is wrong itself
        if batch_size is not None and batch_size % micro_batches:
            raise PydanticCustomError(
                RULE,
                "must divide train.batch_size {batch_size}, got {micro_batches}",
                {"batch_size": batch_size, "micro_batches": micro_batches},
            )
        return micro_batches


class EvalSection(Section):
    """Evaluation during training."""

    every: Count = Field(default=50, description="Optimizer steps between two evaluations.")
    max_examples: Count = Field(default=64, description="Most validation examples per evaluation.")


class CheckpointSection(Section):
    """Saving during training."""

    every: Count = Field(default=50, description="Optimizer steps between two checkpoints.")
    keep_last: Count = Field(default=2, description="Number of newest checkpoints that are kept.")


class ClientsSection(Section):
    """What holds where one server has several clients; see the page on several machines."""

    average_every: Count = Field(
        default=10, description="Steps between two means of the adapters that clients hold."
    )
    turns: Flag = Field(
        default=False,
        description="True: one client trains at a time, in the order of the server's list; "
        "a turn lasts until the next mean.",
    )
    wait_seconds: Positive = Field(
        default=120.0, description="Longest that one client lets the others wait at a step."
    )


class OutputSection(Section):
    """Where run folders go."""

    root: Text = Field(default="runs", description="Folder in which run folders are made.")


class Profile(Section):
    """One run, whole: what `amaqctl train` does and nothing that it does not."""

    amaqctl: Version = Field(description="Version of this schema.")
    description: OptionalText = Field(default=None, description="What the profile is for.")
    model: ModelSection = Field(default_factory=ModelSection, description="The base model.")
    split: SplitSection = Field(default_factory=SplitSection, description="Where the model is cut.")
    lora: LoraSection | None = Field(
        default_factory=LoraSection,
        description="The adapter; null trains the weights of the model themselves.",
    )
    quantizers: QuantizersSection = Field(
        default_factory=QuantizersSection, description="What crosses the cuts."
    )
    task: PluginChoice = Field(description="Data, prompt and score.")
    optimizer: OptimizerSection = Field(
        default_factory=OptimizerSection, description="The optimizer."
    )
    train: TrainSection = Field(default_factory=TrainSection, description="The training run.")
    eval: EvalSection = Field(
        default_factory=EvalSection, description="Evaluation during training."
    )
    checkpoint: CheckpointSection = Field(
        default_factory=CheckpointSection, description="Saving during training."
    )
    transport: PluginChoice = Field(
        default_factory=lambda: PluginChoice(name="loopback"),
        description="What carries the bytes.",
    )
    clients: ClientsSection = Field(
        default_factory=ClientsSection, description="Where one server has several clients."
    )
    output: OutputSection = Field(default_factory=OutputSection, description="Where runs go.")

    @field_validator("lora")
    @classmethod
    def _trains_what_is_floating(
        cls, lora: LoraSection | None, info: ValidationInfo
    ) -> LoraSection | None:
        model = info.data.get("model")  # absent when it is wrong itself
        if lora is None and model is not None and model.base_bits is not None:
            raise PydanticCustomError(
                RULE,
                "must not be null with model.base_bits {bits}: weights in {bits} bits cannot be "
                "trained; keep the adapter, or set model.base_bits to null",
                {"bits": model.base_bits},
            )
        return lora


def profile_schema() -> dict[str, Any]:
    """The JSON Schema of a profile, for editors and other programs."""
    return Profile.model_json_schema()


def section_at(path: tuple[str | int, ...]) -> type[Section] | None:
    """The section that ``path`` names, or None where it names a value or nothing."""
    section: type[Section] = Profile
    for part in path:
        field = section.model_fields.get(part) if isinstance(part, str) else None
        inner = None if field is None else _section_of(field.annotation)
        if inner is None:
            return None
        section = inner
    return section


def _section_of(annotation: Any) -> type[Section] | None:
    """The section that a key holds, where it may be null too."""
    for one in get_args(annotation) or (annotation,):
        if isinstance(one, type) and issubclass(one, Section):
            return one
    return None
