"""What of the LLM is trained: low-rank adapters, all weights, or nothing."""

from __future__ import annotations

import torch
from torch import nn

from notellm2.errors import InputError
from notellm2.recipe import LoraSettings, ModelConfig


def tune(llm: nn.Module, config: ModelConfig) -> nn.Module:
    """Prepare an LLM for training as `config.tuning` says; returns the module to put into the network.

    Raises:
        InputError: 4-bit weights without a CUDA device. (On a CPU bitsandbytes 0.50's kernels pass on a wrong gradient:
            a fifth of the true one's norm in a two-layer Llama. Embedding is right there.)
    """
    if config.base_weights == "nf4" and not torch.cuda.is_available():
        raise InputError("model.base_weights: nf4 is trained on a CUDA device; use bf16 or fp32 here")
    if config.tuning == "full":
        return llm.requires_grad_(True)
    llm.requires_grad_(False)
    return with_lora(llm, config.lora) if config.tuning == "lora" else llm


def with_lora(llm: nn.Module, settings: LoraSettings) -> nn.Module:
    """Give an LLM fresh low-rank adapters (output unchanged until trained).

    Raises:
        InputError: the LLM has no module of a name in `settings.targets`. (peft passes over it where another one fits.)
    """
    from peft import LoraConfig, get_peft_model

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    names = {name.rsplit(".", 1)[-1] for name, module in llm.named_modules() if not list(module.children())}
    unknown = [] if isinstance(targets, str) else [t for t in targets if t.rsplit(".", 1)[-1] not in names]
    if unknown:
        raise InputError(
            f"model.lora.targets: the LLM has no module {', '.join(map(repr, unknown))}; "
            f"expected some of {', '.join(sorted(names))}, or all-linear"
        )
    words = llm.get_input_embeddings()  # type: ignore[operator]
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
        modules_to_save=[n for n, m in llm.named_modules() if m is words] if settings.embeddings else None,
        bias="none",
    )
    model: nn.Module = get_peft_model(llm, lora)
    return model


def merge_adapters(llm: nn.Module) -> nn.Module:
    """Fold an LLM's adapters into its weights, for inference; an LLM without adapters stays as it is.

    Adapters on weights narrower than float32 stay beside them: folded in, they would be rounded away with them.
    """
    from peft import PeftModel

    if not isinstance(llm, PeftModel) or any(p.dtype != torch.float32 for p in llm.parameters()):
        return llm
    model: nn.Module = llm.merge_and_unload()
    return model
