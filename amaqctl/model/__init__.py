"""Cutting a Hugging Face causal language model into stages, and its LoRA adapters.

``source`` says where a model comes from, ``cut`` which blocks a stage holds, ``stage_model``
loads one stage with its own weights only, ``lora`` and ``adapter`` make the union of the stages
a stock PEFT adapter. Nothing here needs the whole model in one process.
"""
