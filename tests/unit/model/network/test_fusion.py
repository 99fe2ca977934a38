from __future__ import annotations

import math

import numpy as np
import torch

from notellm2.model.network.fusion import LateFusion


def test_gate_is_the_formula() -> None:
    torch.manual_seed(0)
    fusion = LateFusion(vision_width=3, llm_width=4)
    n, summary = torch.randn(2, 4), torch.randn(2, 3)
    project, gate = fusion.project.weight.detach().numpy(), fusion.gate.weight.detach().numpy()
    for row in range(2):
        v = project @ summary[row].numpy()
        z = 1 / (1 + np.exp(-(gate @ np.concatenate([v, n[row].numpy()]))))
        expected = z * v + (1 - z) * n[row].numpy()
        np.testing.assert_allclose(fusion(n, summary)[row].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_it_has_no_biases_and_the_gate_starts_xavier_normal() -> None:
    torch.manual_seed(0)
    fusion = LateFusion(vision_width=64, llm_width=128)
    assert [name for name, _ in fusion.named_parameters()] == ["project.weight", "gate.weight"]
    expected = math.sqrt(2 / (128 + 256))
    assert abs(float(fusion.gate.weight.detach().std()) / expected - 1) < 0.05


def test_a_missing_image_only_damps_the_text() -> None:
    torch.manual_seed(0)
    fusion = LateFusion(vision_width=3, llm_width=4)
    n = torch.randn(2, 4)
    z = torch.sigmoid(n @ fusion.gate.weight[:, 4:].T)
    torch.testing.assert_close(fusion(n, torch.zeros(2, 3)), (1 - z) * n)
