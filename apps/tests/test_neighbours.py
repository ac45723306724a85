"""What becomes of fields whose neighbour is set to something that they do not go with."""

import pytest
from flow_apps.config import apply_overrides
from flow_apps.config.run import RunConfig
from flow_apps.errors import ConfigError
from flow_apps.experiments import find_preset
from flow_apps.experiments.classify.config import ClassifyConfig
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


CLASSES, IMAGES, GLOW = ClassifyConfig(), ImageConfig(), GlowConfig()


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (CLASSES, {"test_draws": 3}, "images.test_draws: has no effect here: tests of classes"),
        (CLASSES, {"importance_samples": 2}, "importance_samples: has no effect here"),
        (
            IMAGES,
            {"padding_noise": "normal"},
            "padding_noise: has no effect with padding=0; it goes with padding other than 0",
        ),
        (
            IMAGES,
            {"mean": [0.5], "std": [0.2], "alpha": 0.1},
            r"alpha: has no effect with mean=\[0.5\]; it goes with mean=\[\]",
        ),
        (
            IMAGES,
            {"dequantizer.width": 16},
            "dequantizer.width: has no effect with dequantizer.kind=uniform; it goes with "
            "dequantizer.kind=variational",
        ),
        (
            IMAGES,
            {"dequantizer.kind": "variational", "dequantizer.inner": 32},
            "dequantizer.inner: has no effect with dequantizer.block=coupling",
        ),
        (IMAGES, {"net": "feedforward", "growth": 4}, "growth: has no effect with net=feedf"),
        (IMAGES, {"width": 4}, "width: has no effect with net=dense and block=monotone"),
        (IMAGES, {"kernels": [3, 3, 3]}, "kernels: has no effect with net=dense"),
        (IMAGES, {"block": "coupling", "depth": 3}, "depth: has no effect with block=coupling"),
        (IMAGES, {"block": "coupling", "coeff": 0.5}, "contraction.coeff: has no effect"),
        (IMAGES, {"block": "coupling", "estimator.train": "exact"}, "estimator.train: has no eff"),
        (IMAGES, {"dense_blocks": 0, "dense_growth": 3}, "dense_growth: has no effect with dense"),
        (IMAGES, {"data_root": "here"}, "images.data_root: has no effect with images.data=digits"),
        (IMAGES, {"held_out": 9}, "images.held_out: has no effect with images.data=digits"),
        (IMAGES, {"data": "mnist", "side": 32}, "images.side: has no effect with"),
        (IMAGES, {"variant": "chrabaszcz"}, "images.variant: has no effect with"),
        (IMAGES, {"tracker_project": "mine"}, "tracker_project: has no effect with"),
        (GLOW, {"linear": "conv1x1", "kernel_size": 5}, "flow.kernel_size: has no effect with"),
        (GLOW, {"macow_form": "released"}, "flow.macow_form: has no effect with flow.linear="),
        (GLOW, {"n_bins": 3}, "flow.n_bins: has no effect with flow.activation=none"),
        (GLOW, {"architecture": "cnn", "mixing": "lu"}, "flow.mixing: has no effect with"),
        (GLOW, {"surrogate": False}, "self_norm.surrogate: has no effect with flow.linear"),
        (GLOW, {"geco_memory": 0.5}, "geco_memory: has no effect with self_norm.geco_rate=none"),
    ],
)
def test_options_without_effect_are_refused(
    config: RunConfig, overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(config, overrides)


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (IMAGES, {"padding": 1, "padding_noise": "normal"}),
        (IMAGES, {"block": "coupling", "width": 4, "dense_width": 4}),
        (IMAGES, {"net": "feedforward", "kernels": [3, 3, 3], "width": 4}),
        (IMAGES, {"dequantizer.kind": "variational", "dequantizer.width": 16}),
        (
            IMAGES,
            {
                "block": "coupling",
                "dequantizer.kind": "variational",
                "dequantizer.block": "monotone",
                "estimator.train": "krylov",
                "coeff": 0.5,
            },
        ),
        (CLASSES, {"test_size": 9}),
        (GLOW, {"coupling": "none", "coupling_width": 8}),
        (GLOW, {"data": "celeba", "side": 32, "data_root": "here", "activation": "spline"}),
    ],
)
def test_the_same_options_are_taken_where_they_have_one(
    config: RunConfig, overrides: dict[str, object]
) -> None:
    apply_overrides(config, overrides)


def test_presets_may_share_what_has_no_effect_on_some_of_them() -> None:
    _, preset = find_preset("mnist-200k-residualflow")
    assert isinstance(preset.config, ImageConfig)
    assert (preset.config.net, preset.config.growth) == ("feedforward", 78)
    assert apply_overrides(preset.config, {"net": "dense", "growth": 8}).growth == 8


def test_dropout_and_entrances_go_with_what_has_them() -> None:
    config = apply_overrides(
        IMAGES, {"net": "feedforward", "kernels": [3, 3, 3], "width": 4, "dropout": 0.5}
    )
    assert isinstance(config, ImageConfig)
    assert config.dropout == 0.5
    assert apply_overrides(config, {"block": "coupling"}).dropout == 0
    entered = apply_overrides(IMAGES, {"dense_entrance": 8})
    assert entered.dense_entrance == 8
    assert apply_overrides(entered, {"dense_blocks": 0}).dense_entrance is None
