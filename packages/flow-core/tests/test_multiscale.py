"""The outputs of scales by name, against a pass that is written out."""

import re
from collections.abc import Sequence

import pytest
import torch
from flow_core.combinators import Chain, Multiscale
from flow_core.layers import Affine, Conv1x1, SplitPrior, Squeeze

SHAPES = [(4, 4, 4), (8, 2, 2), (16, 1, 1)]


def scales(names: Sequence[str] | None = None) -> Multiscale:
    torch.manual_seed(0)
    layers = [Chain([Squeeze(), Affine(shape)]) for shape in SHAPES]
    model = Multiscale(layers, SHAPES, [SplitPrior.convolutional(2, 2, 3), None], names=names)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.double()


def test_features_are_what_scales_make_before_anything_leaves() -> None:
    model = scales()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    features = model.features(x)
    assert list(features) == ["scale0", "scale1", "scale2"]
    assert [tuple(f.shape) for f in features.values()] == [(3, *shape) for shape in SHAPES]
    h = x
    for scale, found in zip(model.scales, features.values(), strict=True):
        assert isinstance(scale, Chain)
        expected = scale.transform(h)
        torch.testing.assert_close(found, expected)
        h = expected[:, expected.shape[1] // 2 :]
    # What the last scale makes, and the part that left the one before, are in the flat output.
    flat = torch.cat([features["scale1"][:, :4].flatten(1), features["scale2"].flatten(1)], 1)
    torch.testing.assert_close(model.transform(x)[:, -32:], flat)


def test_features_have_the_names_that_were_given() -> None:
    model = scales(["fine", "middle", "coarse"])
    features = model.features(torch.randn(1, 1, 8, 8, dtype=torch.float64))
    assert list(features) == ["fine", "middle", "coarse"]
    assert model.state_dict().keys() == scales().state_dict().keys()


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "a"], [], ["a", "b", "c", "d"]])
def test_names_must_be_one_for_each_scale(names: list[str]) -> None:
    message = f"expected a name of its own for each of 3 scales, got {names}"
    with pytest.raises(ValueError, match=re.escape(message)):
        scales(names)


def test_a_context_that_no_scale_uses_is_refused() -> None:
    model = Multiscale([Conv1x1(2)], [(2, 1, 1)])
    with pytest.raises(ValueError, match="no scale uses one"):
        model.features(torch.randn(3, 2, 1, 1), context=torch.randn(3, 1))
