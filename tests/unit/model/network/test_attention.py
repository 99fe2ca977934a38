from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from notellm2.model.backbones.load import load_language_model
from notellm2.model.network import attention
from notellm2.model.network.attention import NAME, attend_fast, attention_forward
from notellm2.model.network.reading import reading
from tests.unit.conftest import Backbone

SHAPES = [(3, 2, 2, 64, 8), (5, 4, 2, 101, 8), (1, 6, 1, 70, 3), (4, 2, 2, 130, 64), (2, 2, 1, 333, 4)]
"""Notes, heads, key heads, tokens, head width."""


def inputs(shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    notes, heads, key_heads, tokens, width = shape
    generator = torch.Generator().manual_seed(seed)
    # As transformers hands them over: heads split off the last axis, not contiguous.
    return [
        (2 * torch.randn(notes, tokens, n, width, generator=generator)).transpose(1, 2).requires_grad_()
        for n in (heads, key_heads, key_heads)
    ]


def by_hand(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    scores = torch.einsum("bnid,bnjd->bnij", q.double(), k) * scale
    allowed = torch.arange(q.shape[2])[:, None] >= torch.arange(q.shape[2])[None, :]
    return torch.einsum("bnij,bnjd->bind", scores.masked_fill(~allowed, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("buffer", [1 << 10, attention._BUFFER])
def test_values_and_gradients_are_those_of_the_formula(
    shape: tuple[int, ...], buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_BUFFER", buffer)
    q, k, v = inputs(shape)
    scale = 0.8 * shape[-1] ** -0.5
    with patch("transformers.integrations.sdpa_attention.sdpa_attention_forward", side_effect=AssertionError):
        found, _ = attention_forward(nn.Module(), q, k, v, None, scaling=scale)
    expected = by_hand(q, k, v, scale)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((found * weights).sum(), (q, k, v))
    wanted = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "case", ["mask", "dropout", "not causal", "short", "half precision", "between the widths that pay", "one query"]
)
def test_everything_else_is_torchs(case: str) -> None:
    q, k, v = inputs((2, 2, 2, 40 if case == "short" else 80, 16 if case.startswith("between") else 8))
    if case == "half precision":
        q, k, v = (x.bfloat16() for x in (q, k, v))
    if case == "one query":
        q = q[:, :, -1:]
    mask = torch.ones(2, 1, 80, 80, dtype=torch.bool).tril(-0) if case == "mask" else None
    module = nn.Module()
    module.is_causal = case != "not causal"  # type: ignore[assignment]
    with patch.object(attention._ShortTexts, "apply", side_effect=AssertionError):
        found, _ = attention_forward(module, q, k, v, mask, dropout=0.5 if case == "dropout" else 0.0)
    if case != "dropout":
        causal = case not in ("not causal", "mask", "one query")
        expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        torch.testing.assert_close(found, expected.transpose(1, 2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("option", attention._NOT_PLAIN)
def test_scores_with_something_added_are_left_to_transformers(option: str) -> None:
    q, k, v = inputs(SHAPES[0])
    handed_on = []
    with patch(
        "transformers.integrations.sdpa_attention.sdpa_attention_forward",
        side_effect=lambda *a, **given: handed_on.append(given) or (q, None),
    ):
        attention_forward(nn.Module(), q, k, v, None, **{option: torch.ones(2)})
    assert option in handed_on[0]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_an_llm_of_which_two_positions_are_read_gives_the_same_there(name: str, backbone: Backbone) -> None:
    plain = load_language_model(str(backbone(name))).model.eval()
    fast = attend_fast(load_language_model(str(backbone(name))).model.eval())
    x = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0))
    read = torch.tensor([[39, 7], [20, 7], [8, 7]])
    rows = torch.arange(3)[:, None]
    found, expected = [], []
    for llm, states in ((fast, found), (plain, expected)):
        given = x.clone().requires_grad_()
        with reading(read):
            states.append(llm(inputs_embeds=given, use_cache=False).last_hidden_state)
        states += torch.autograd.grad(states[0][rows, read].square().sum(), given)
    torch.testing.assert_close(found[0][rows, read], expected[0][rows, read], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], expected[1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0][:, 30], expected[0][:, 30], atol=1e-3), "nothing was left out"


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_an_llm_gives_the_same_hidden_states(name: str, backbone: Backbone) -> None:
    plain = load_language_model(str(backbone(name))).model.eval()
    fast = attend_fast(load_language_model(str(backbone(name))).model.eval())
    assert fast.config._attn_implementation == NAME
    x = torch.randn(3, 90, 16, generator=torch.Generator().manual_seed(0))
    calls = []
    with torch.no_grad(), patch.object(attention, "_pays", side_effect=lambda *a: calls.append(a) or True):
        found = fast(inputs_embeds=x, use_cache=False).last_hidden_state
    with torch.no_grad():
        expected = plain(inputs_embeds=x, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert len(calls) == 2, "once a layer"


@pytest.mark.parametrize("shape", [*SHAPES, (3, 2, 2, 9, 16)])
def test_from_the_positions_that_are_read_it_is_the_formula_and_elsewhere_nothing(shape: tuple[int, ...]) -> None:
    q, k, v = inputs(shape)
    scale = 0.8 * shape[-1] ** -0.5
    generator = torch.Generator().manual_seed(2)
    read = torch.stack([torch.randperm(shape[3], generator=generator)[:2] for _ in range(shape[0])])
    with reading(read):
        found, _ = attention_forward(_Layer(2, of=3), q, k, v, None, scaling=scale)
        earlier, _ = attention_forward(_Layer(1, of=3), q, k, v, None, scaling=scale)
    expected = by_hand(q, k, v, scale)
    torch.testing.assert_close(earlier.double(), expected, atol=2e-5, rtol=1e-4)
    is_read = torch.zeros(shape[0], shape[3], 1, 1).scatter(1, read[:, :, None, None], 1.0)
    torch.testing.assert_close(found.double(), expected * is_read, atol=2e-5, rtol=1e-4)
    weights = torch.randn(found.shape, generator=generator) * is_read
    gradients = torch.autograd.grad((found * weights).sum(), (q, k, v))
    wanted = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, atol=2e-5, rtol=1e-4)


def test_the_promise_ends_with_its_block() -> None:
    q, k, v = inputs(SHAPES[0])
    read = torch.full((3, 1), 63)
    with pytest.raises(KeyboardInterrupt), reading(read):
        raise KeyboardInterrupt
    found, _ = attention_forward(_Layer(0, of=1), q, k, v, None)
    assert (found[:, :63] != 0).all()


class _Layer(nn.Module):
    def __init__(self, number: int, *, of: int) -> None:
        super().__init__()
        self.layer_idx = number
        self.config = SimpleNamespace(num_hidden_layers=of)
