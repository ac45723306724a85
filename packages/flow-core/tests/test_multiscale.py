"""What leaves scales and what stays, against a pass that is written out."""

import torch
from flow_core.combinators import Chain, Multiscale
from flow_core.layers import Affine, Landmark, Sightings, SplitPrior, Squeeze
from flow_core.passes import Pass

SHAPES = [(4, 4, 4), (8, 2, 2), (16, 1, 1)]


def scales() -> Multiscale:
    torch.manual_seed(0)
    layers = [Chain([Squeeze(), Affine(shape), Landmark(str(shape), shape)]) for shape in SHAPES]
    model = Multiscale(layers, SHAPES, [SplitPrior.convolutional(2, 2, 3), None])
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.double()


def test_landmarks_show_what_scales_make_before_anything_leaves() -> None:
    model, seen = scales(), Sightings()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    flat, _ = model(x, how=Pass(collector=seen))
    features = list(seen.take().values())
    assert [tuple(f.shape) for f in features] == [(3, *shape) for shape in SHAPES]
    h = x
    for scale, found in zip(model.scales, features, strict=True):
        assert isinstance(scale, Chain)
        expected = scale.transform(h)
        torch.testing.assert_close(found, expected)
        h = expected[:, expected.shape[1] // 2 :]
    # What the last scale makes, and the part that left the one before, are in the flat output.
    parts = torch.cat([features[1][:, :4].flatten(1), features[2].flatten(1)], 1)
    torch.testing.assert_close(flat[:, -32:], parts)
