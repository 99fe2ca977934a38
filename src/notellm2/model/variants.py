"""The paper's variants, each as changes of a recipe and nothing else (NoteLLM-2, the ablation and the baselines).

An override is an assignment as ``--set`` takes it, so a sweep reads ``load_recipe(path, variants()[name].overrides)``.
Light to import: no torch.

A zero-shot variant is the same network before any training. Its embedding is the LLM's own hidden state at the
compression position, normalised: no head, because a random one says nothing and a fitted one has read the training
pairs. What no pretraining has seen (connector, <IMG_EMB>, the gate and its W_p) stays at its random start: that a
naive assembly of two pretrained backbones does badly is one of the paper's points.
"""

from __future__ import annotations

from dataclasses import dataclass

from notellm2.errors import InputError


@dataclass(frozen=True)
class Variant:
    """One row of the ablation.

    Attributes:
        name: as named in tables and runs.
        about: one line.
        overrides: ``section.field=value`` assignments on top of any recipe.
    """

    name: str
    about: str
    overrides: tuple[str, ...]


_ZERO_SHOT = (
    "training.steps=0",
    "model.tuning=frozen",
    "model.head=none",
    "model.start=random",
    "model.log_scale=3.0",
    "model.matryoshka=[]",
)


def _variant(name: str, about: str, prompt: str, *, visual_tokens: bool, late_fusion: bool) -> Variant:
    parts = {"prompt": prompt, "visual_tokens": str(visual_tokens).lower(), "late_fusion": str(late_fusion).lower()}
    return Variant(name, about, tuple(f"model.{field}={value}" for field, value in parts.items()))


TRAINED = (
    _variant("text", "the LLM on text alone", "text", visual_tokens=False, late_fusion=False),
    _variant("vision", "the vision encoder alone, with a head", "vision", visual_tokens=False, late_fusion=False),
    _variant("basic", "visual tokens among the text (early fusion)", "basic", visual_tokens=True, late_fusion=False),
    _variant("late", "late fusion alone, no visual tokens", "basic", visual_tokens=False, late_fusion=True),
    _variant("basic-late", "early and late fusion", "basic", visual_tokens=True, late_fusion=True),
    _variant("micl", "the image compressed to its own word first", "micl", visual_tokens=True, late_fusion=False),
    _variant("notellm2", "mICL and late fusion: NoteLLM-2", "micl", visual_tokens=True, late_fusion=True),
)
ZERO_SHOT = tuple(
    Variant(f"{v.name}-zero-shot", f"{v.about}; not trained", (*v.overrides, *_ZERO_SHOT)) for v in TRAINED
)


def variants() -> dict[str, Variant]:
    """Return all variants by name, trained ones first."""
    return {variant.name: variant for variant in (*TRAINED, *ZERO_SHOT)}


def find_variant(name: str) -> Variant:
    """Find a variant by name.

    Raises:
        InputError: there is none of that name; says which there are.
    """
    known = variants()
    if name not in known:
        raise InputError(f"variant {name!r}: there is none of that name; expected one of {', '.join(known)}")
    return known[name]
