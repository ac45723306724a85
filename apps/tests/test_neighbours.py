"""What becomes of fields whose neighbour is set to something that they do not go with."""

import pytest
from flow_apps.config import apply_overrides
from flow_apps.errors import ConfigError
from flow_apps.experiments import find_preset
from flow_apps.experiments.glow.config import GlowConfig
from flow_apps.experiments.image.config import ImageConfig


def test_a_bound_on_taps_goes_with_the_layers_that_have_taps() -> None:
    _, preset = find_preset("small-inverse-conv-mnist")
    assert preset.config.flow.tap_bound == 0.9
    assert apply_overrides(preset.config, {"linear": "macow"}).flow.tap_bound is None
    assert apply_overrides(preset.config, {"linear": "emerging"}).flow.tap_bound == 0.9
    with pytest.raises(ConfigError, match="tap_bound: expected none"):
        apply_overrides(preset.config, {"linear": "macow", "tap_bound": 0.5})


def test_a_chain_of_neighbours_moves_as_a_whole() -> None:
    connected = apply_overrides(
        find_preset("small-inverse-conv-mnist")[1].config, {"architecture": "fully-connected"}
    )
    assert connected.flow.linear == "exact"
    assert connected.flow.tap_bound is None


def test_weights_of_errors_go_with_surrogates() -> None:
    _, preset = find_preset("geco-selfnorm-glow-mnist")
    assert preset.config.self_norm.geco_rate is not None
    assert apply_overrides(preset.config, {"linear": "conv1x1"}).self_norm.geco_rate is None
    assert apply_overrides(preset.config, {"surrogate": False}).self_norm.geco_rate is None
    with pytest.raises(ConfigError, match="geco_rate"):
        apply_overrides(GlowConfig(), {"geco_rate": 0.1})


def test_options_go_with_their_optimizer() -> None:
    config = ImageConfig()
    assert config.training.optimizer.options == {"betas": (0.9, 0.99)}
    same = apply_overrides(config, {"optimizer.name": "adam"})
    assert same.training.optimizer.options == {"betas": (0.9, 0.99)}
    other = apply_overrides(config, {"optimizer.name": "sgd"})
    assert other.training.optimizer.options == {}
    given = {"optimizer.name": "sgd", "options": {"momentum": 0.9}}
    assert apply_overrides(config, given).training.optimizer.options == {"momentum": 0.9}


def test_bits_shapes_and_recomputation_go_with_what_they_are_for() -> None:
    config = apply_overrides(GlowConfig(), {"n_bits": 5})
    assert apply_overrides(config, {"data": "digits"}).images.n_bits == 8
    folder = apply_overrides(GlowConfig(), {"data": "npz", "images.shape": [3, 16, 16]})
    assert folder.images.image_shape == (3, 16, 16)
    assert apply_overrides(folder, {"data": "mnist"}).images.shape is None
    random = {"estimator.train": "krylov", "recompute": True}
    recomputed = apply_overrides(ImageConfig(), random)
    assert recomputed.estimator.recompute
    assert not apply_overrides(recomputed, {"estimator.train": "exact"}).estimator.recompute
    with pytest.raises(ConfigError, match=r"recompute: expected estimator\.train="):
        apply_overrides(ImageConfig(), {"recompute": True})
