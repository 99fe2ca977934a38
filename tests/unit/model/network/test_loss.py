from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from notellm2.model.network.loss import chance_loss, matryoshka_loss, pair_loss, spread

PAIRS, DIM = 5, 7


def embeddings(seed: int = 0) -> torch.Tensor:
    x = torch.randn(2 * PAIRS, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(x, dim=-1)


def partner(i: int) -> int:
    return i + 1 if i % 2 == 0 else i - 1


def loss_by_loops(x: np.ndarray, log_scale: float, mask: np.ndarray | None = None) -> float:
    """Mean over rows of -log(exp(positive) / sum of exp over everything else that is not masked)."""
    total = 0.0
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and (mask is None or not mask[i, j] or j == partner(i))]
        scores = {j: math.exp(float(x[i] @ x[j]) * math.exp(log_scale)) for j in others}
        total -= math.log(scores[partner(i)] / sum(scores.values()))
    return total / len(x)


def test_an_offset_is_added_to_the_logits_of_each_column() -> None:
    x, scale = embeddings(), torch.tensor(1.5, dtype=torch.float64)
    expected = pair_loss(x, scale)
    assert torch.equal(pair_loss(x, scale, offset_2B=torch.zeros(2 * PAIRS)), expected)
    torch.testing.assert_close(pair_loss(x, scale, offset_2B=torch.full((2 * PAIRS,), -0.7)), expected)
    # Minus infinity takes a note out of the comparison, as a mask does.
    out = torch.zeros(2 * PAIRS)
    out[2] = -math.inf
    mask = np.zeros((2 * PAIRS, 2 * PAIRS), np.bool_)
    mask[:, 2] = True
    rows = slice(4, None)
    assert float(pair_loss(x, scale, None, rows, out)) == pytest.approx(
        float(pair_loss(x, scale, torch.from_numpy(mask)[rows], rows))
    )


@pytest.mark.parametrize("log_scale", [-1.0, 0.0, 2.0, 3.0])
def test_pair_loss_is_the_formula(log_scale: float) -> None:
    x = embeddings()
    found = pair_loss(x, torch.tensor(log_scale, dtype=torch.float64))
    assert float(found) == pytest.approx(loss_by_loops(x.numpy(), log_scale), rel=1e-6)


def test_pair_loss_leaves_out_masked_entries_but_never_partners() -> None:
    x = embeddings()
    mask = torch.rand(len(x), len(x), generator=torch.Generator().manual_seed(3)) < 0.4
    before = mask.clone()
    found = float(pair_loss(x, torch.tensor(1.0), mask))
    assert found == pytest.approx(loss_by_loops(x.numpy(), 1.0, mask.numpy()), rel=1e-6)
    assert mask.equal(before), "the caller's mask was changed"
    everything = torch.ones_like(mask)
    assert float(pair_loss(x, torch.tensor(1.0), everything)) == pytest.approx(0.0, abs=1e-7)


def test_gradient_is_the_formula() -> None:
    x = embeddings().requires_grad_()
    log_scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    pair_loss(x, log_scale).backward()
    rows, scale = len(x), math.exp(1.5)
    values = x.detach().numpy()
    cosines = values @ values.T
    weights = np.exp(cosines * scale)
    np.fill_diagonal(weights, 0)
    slope = weights / weights.sum(1, keepdims=True)
    for i in range(rows):
        slope[i, partner(i)] -= 1
    slope /= rows
    expected = scale * (slope + slope.T) @ values
    assert x.grad is not None
    assert log_scale.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert float(log_scale.grad) == pytest.approx(scale * float((slope * cosines).sum()), rel=1e-4)


def test_alike_embeddings_cost_chance_with_and_without_a_mask() -> None:
    x = torch.ones(2 * PAIRS, DIM) / math.sqrt(DIM)
    assert float(pair_loss(x, torch.tensor(3.0))) == pytest.approx(math.log(2 * PAIRS - 1), rel=1e-6)
    assert chance_loss(PAIRS) == pytest.approx(math.log(2 * PAIRS - 1))
    mask = torch.rand(2 * PAIRS, 2 * PAIRS, generator=torch.Generator().manual_seed(5)) < 0.5
    masked = chance_loss(PAIRS, mask)
    assert masked == pytest.approx(float(pair_loss(x, torch.tensor(3.0), mask)), rel=1e-6)
    assert masked < chance_loss(PAIRS) - 0.1
    assert chance_loss(PAIRS, torch.zeros_like(mask)) == pytest.approx(chance_loss(PAIRS))


@pytest.mark.parametrize("cut", [2, 4, 8])
def test_the_rows_of_the_loss_add_up_to_the_whole(cut: int) -> None:
    x = embeddings()
    scale = torch.tensor(1.0, dtype=torch.float64)
    mask = torch.rand(2 * PAIRS, 2 * PAIRS, generator=torch.Generator().manual_seed(1)) < 0.3
    parts = [pair_loss(x, scale, mask[rows], rows) for rows in (slice(0, cut), slice(cut, 2 * PAIRS))]
    added = (cut * parts[0] + (2 * PAIRS - cut) * parts[1]) / (2 * PAIRS)
    assert float(added) == pytest.approx(loss_by_loops(x.numpy(), 1.0, mask.numpy()), rel=1e-6)


@pytest.mark.parametrize("widths", [(), (3,), (2, 5)])
def test_matryoshka_loss_is_the_mean_over_renormalised_prefixes(widths: tuple[int, ...]) -> None:
    x = embeddings().requires_grad_()
    log_scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(len(x), len(x), generator=torch.Generator().manual_seed(3)) < 0.3
    values = x.detach().numpy()
    expected = []
    for width in (*widths, DIM):
        prefix = values[:, :width]
        expected.append(loss_by_loops(prefix / np.linalg.norm(prefix, axis=1, keepdims=True), 1.0, mask.numpy()))
    loss = matryoshka_loss(x, log_scale, widths, mask)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-6)
    assert torch.autograd.gradcheck(
        lambda x, s: matryoshka_loss(x, s, widths, mask), (x, log_scale), atol=1e-3, rtol=1e-2, eps=1e-3
    )
    if not widths:
        assert loss.equal(pair_loss(x, log_scale, mask))


def outputs(common: float = 0.0) -> torch.Tensor:
    """Outputs of a head that differ by about 1 around a common direction."""
    y = torch.randn(2 * PAIRS, DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return y + common * torch.arange(1.0, DIM + 1, dtype=torch.float64)


def test_centring_is_the_formula() -> None:
    y = outputs().numpy()
    expected = [row - y.sum(0) / len(y) for row in y]
    np.testing.assert_allclose(spread(outputs(), centre=True), [row / np.sqrt(row @ row) for row in expected])
    np.testing.assert_allclose(spread(outputs(), centre=False), [row / np.sqrt(row @ row) for row in y])


def test_what_all_outputs_share_neither_counts_nor_has_a_gradient() -> None:
    y = outputs(common=50.0).requires_grad_()
    torch.testing.assert_close(spread(y, centre=True), spread(outputs(), centre=True))
    pair_loss(spread(y, centre=True), torch.tensor(1.0)).backward()
    assert y.grad is not None
    assert float(y.grad.abs().max()) > 1e-3
    torch.testing.assert_close(y.grad.sum(0), torch.zeros(DIM, dtype=torch.float64))


def test_without_centring_it_does() -> None:
    """Else the test above would say nothing: one direction hides what differs."""
    assert float((spread(outputs(common=50.0), centre=False)[0] - spread(outputs(), centre=False)[0]).abs().max()) > 0.1
