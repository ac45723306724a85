"""Published Glows: the same latents and likelihoods as the program that wrote them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_apps
import pytest
import torch
from flow_apps.errors import CheckpointError, ConfigError
from flow_apps.importing import LAYOUTS, Published, import_checkpoint, load_imported
from torch import Tensor
from torch.nn.functional import conv2d

Cli = Callable[..., Any]
State = dict[str, Tensor]


@pytest.mark.parametrize("kind", [{}, {"lu": False}, {"additive": True}, {"levels": 3, "steps": 1}])
def test_an_import_gives_the_published_latents_and_likelihoods(
    tmp_path: Path, kind: dict[str, Any]
) -> None:
    state = glow_state(**kind)
    path = saved(tmp_path / "glow.pt", state, legacy="lu" in kind)
    import_checkpoint(path, tmp_path / "out")
    flow = load_imported(tmp_path / "out")
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    z, log_prob = published_forward(state, x)
    torch.testing.assert_close(flow.bijection(x)[0], z, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow.log_prob(x), log_prob, rtol=0, atol=1e-8)
    torch.testing.assert_close(flow.bijection.inverse(z), x, rtol=0, atol=1e-8)


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """A reference whose split lets the other half leave is another one."""
    state = glow_state()
    path = saved(tmp_path / "glow.pt", state)
    flow = import_checkpoint(path, tmp_path / "out").flow
    name = "flow.layers.3.conv.weight"
    spoilt = {**state, name: state[name].flip(0)}
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert not torch.allclose(flow.log_prob(x), published_forward(spoilt, x)[1], atol=1e-3)


def test_the_published_table_of_names_and_shapes() -> None:
    """3 levels of 32 steps, 512 channels inside of couplings: without their 178 MB."""
    state = glow_state(side=32, levels=3, steps=32, width=512, device="meta")
    assert len(state) == 1546
    buffers = sum(t.numel() for k, t in state.items() if k.endswith((".p", ".sign_s", "prior_h")))
    assert sum(t.numel() for t in state.values()) - buffers == 44_235_312
    layout = LAYOUTS["glow"]
    published = Published(Path("glow.pt"), "", state)
    sizes = layout.read(published)
    with torch.device("meta"):
        flow = layout.build(sizes).double()
    layout.fill(flow, sizes, published)
    assert flow.event_shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior_h": None}, "a tensor prior_h, got none"),
        ({"project_ycond.linear.weight": torch.zeros(1)}, "without labels"),
        ({"flow.layers.2.actnorm.logs": torch.zeros(1, 3, 1, 1)}, r"of shape \(1, 12, 1, 1\)"),
        ({"more": torch.zeros(1)}, "no other tensors, got 1 more, such as more"),
        ({"flow.layers.1.actnorm.bias": torch.full((1, 12, 1, 1), torch.nan)}, "finite numbers"),
    ],
)
def test_other_states_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    state = {**glow_state(), **change}
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    path = saved(tmp_path / "glow.pt", state)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(path, tmp_path / "out")


def test_options_beside_the_file_are_read_and_compared(tmp_path: Path) -> None:
    path = saved(tmp_path / "glow.pt", glow_state())
    options = {"K": 2, "L": 2, "hidden_channels": 4, "learn_top": True, "flow_coupling": "affine"}
    (tmp_path / "hparams.json").write_text(json.dumps(options))
    import_checkpoint(path, tmp_path / "out")
    (tmp_path / "hparams.json").write_text(json.dumps({**options, "K": 3}))
    with pytest.raises(CheckpointError, match=r"expected K 3, as hparams.json says, got 2"):
        import_checkpoint(path, tmp_path / "other")


def test_a_permutation_that_no_file_holds_is_refused(tmp_path: Path) -> None:
    state = {k: t for k, t in glow_state().items() if ".invconv." not in k}
    path = saved(tmp_path / "glow.pt", state)
    (tmp_path / "hparams.json").write_text(json.dumps({"flow_permutation": "shuffle"}))
    with pytest.raises(CheckpointError, match=r"a permutation that the file holds .* got shuffle"):
        import_checkpoint(path, tmp_path / "out")
    (tmp_path / "hparams.json").write_text(json.dumps({"flow_permutation": "reverse"}))
    import_checkpoint(path, tmp_path / "out")


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    path = saved(tmp_path / "glow.pt", glow_state())
    out = tmp_path / "out"
    result = cli("import", path, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("glow: ")
    assert flow_apps.load_flow(out).sample((2,)).shape == (2, 3, 8, 8)
    again = cli("import", path, "--out", out)
    assert again.exit_code == 1
    assert "expected a new or empty folder" in again.output
    unknown = cli("import", path, "--out", tmp_path / "x", "--layout", "nothing")
    assert "layout: expected one of glow" in unknown.output


def test_an_altered_import_is_one_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_checkpoint(saved(tmp_path / "glow.pt", glow_state()), out)
    weights = out / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    with pytest.raises(CheckpointError, match="import the published file again"):
        flow_apps.load_flow(out)
    with pytest.raises(ConfigError, match="new or empty folder"):
        import_checkpoint(tmp_path / "glow.pt", out)


def glow_state(
    *,
    channels: int = 3,
    side: int = 8,
    levels: int = 2,
    steps: int = 2,
    width: int = 4,
    lu: bool = True,
    additive: bool = False,
    device: str = "cpu",
) -> State:
    """Random tensors under the published names, of the published shapes."""
    draw = _Draw(device)
    state: State = {}
    index, c = 0, channels
    for level in range(levels):
        c, index = 4 * c, index + 1
        for _ in range(steps):
            _step(draw, state, f"flow.layers.{index}", c, width, lu=lu, additive=additive)
            index += 1
        if level < levels - 1:
            _zeros(draw, state, f"flow.layers.{index}", c, c // 2)
            c, index = c // 2, index + 1
    state["prior_h"] = torch.zeros(1, 2 * c, side >> levels, side >> levels, device=device).double()
    _zeros(draw, state, "learn_top_fn", 2 * c, 2 * c)
    return state


class _Draw:
    def __init__(self, device: str) -> None:
        self.device = device
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, scale: float = 0.1) -> Tensor:
        if self.device == "meta":
            return torch.empty(shape, dtype=torch.float64, device="meta")
        return scale * torch.randn(shape, dtype=torch.float64, generator=self.generator)


def _step(
    draw: _Draw, state: State, name: str, c: int, width: int, *, lu: bool, additive: bool
) -> None:
    _actnorm(draw, state, name, c)
    if lu:
        orthogonal = torch.linalg.qr(torch.randn(c, c, generator=draw.generator).double())[0]
        p, lower, upper = torch.linalg.lu(orthogonal)
        parts = {"p": p, "lower": lower + draw(c, c) if draw.device == "cpu" else lower}
        parts |= {"upper": upper, "sign_s": upper.diagonal().sign()}
        parts |= {"log_s": upper.diagonal().abs().log()}
        state |= {f"{name}.invconv.{key}": v.to(draw.device) for key, v in parts.items()}
    else:
        state[f"{name}.invconv.weight"] = draw(c, c) + torch.eye(c).double().to(draw.device)
    sizes = {0: (width, c // 2, 3, 3), 2: (width, width, 1, 1)}
    for i, shape in sizes.items():
        state[f"{name}.block.{i}.conv.weight"] = draw(*shape, scale=0.3)
        _actnorm(draw, state, f"{name}.block.{i}", width)
    _zeros(draw, state, f"{name}.block.4", c // 2 if additive else c, width)


def _actnorm(draw: _Draw, state: State, name: str, c: int) -> None:
    state[f"{name}.actnorm.bias"], state[f"{name}.actnorm.logs"] = (
        draw(1, c, 1, 1),
        draw(1, c, 1, 1),
    )


def _zeros(draw: _Draw, state: State, name: str, outputs: int, inputs: int) -> None:
    state[f"{name}.logs"] = draw(outputs, 1, 1)
    state[f"{name}.conv.weight"] = draw(outputs, inputs, 3, 3)
    state[f"{name}.conv.bias"] = draw(outputs)


def published_forward(state: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """Standardised latents, those that leave first in front, and log p of images in [0, 1]."""
    x, index = x - 0.5, 0
    total, parts = x.new_zeros(len(x)), list[Tensor]()
    while f"flow.layers.{index + 1}.actnorm.bias" in state:
        x, index = _squeezed(x), index + 1
        while f"flow.layers.{index}.actnorm.bias" in state:
            x, term = _forward_step(state, f"flow.layers.{index}", x)
            total, index = total + term, index + 1
        if f"flow.layers.{index}.conv.weight" in state:
            x, leaving = x.chunk(2, 1)
            h = _forward_zeros(state, f"flow.layers.{index}", x)
            z, term = _standardised(leaving, h[:, 0::2], h[:, 1::2])
            parts.append(z)
            total, index = total + term, index + 1
    h = _forward_zeros(state, "learn_top_fn", state["prior_h"]).expand(len(x), -1, -1, -1)
    z, term = _standardised(x, *h.chunk(2, 1))
    return torch.cat([part.flatten(1) for part in (*parts, z)], 1), total + term


def _standardised(z: Tensor, mean: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """The published log N(z; mean, e^logs)."""
    density = -0.5 * (math.log(2 * math.pi) + 2 * logs + (z - mean) ** 2 / (2 * logs).exp())
    return (z - mean) / logs.exp(), density.flatten(1).sum(1)


def _squeezed(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    cells = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return cells.reshape(b, 4 * c, h // 2, w // 2)


def _forward_step(state: State, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    pixels = x.shape[2] * x.shape[3]
    logs = state[f"{name}.actnorm.logs"]
    x, total = (x + state[f"{name}.actnorm.bias"]) * logs.exp(), pixels * logs.sum()
    w, log_det = _matrix(state, f"{name}.invconv")
    x, total = conv2d(x, w[..., None, None]), total + pixels * log_det
    kept, moved = x.chunk(2, 1)
    h = kept
    for i in (0, 2):
        weight = state[f"{name}.block.{i}.conv.weight"]
        h = conv2d(h, weight, padding=weight.shape[-1] // 2)
        h = h + state[f"{name}.block.{i}.actnorm.bias"]
        h = (h * state[f"{name}.block.{i}.actnorm.logs"].exp()).relu()
    h = _forward_zeros(state, f"{name}.block.4", h)
    if h.shape[1] == moved.shape[1]:
        return torch.cat([kept, moved + h], 1), total.expand(len(x))
    scale = torch.sigmoid(h[:, 1::2] + 2)
    moved = (moved + h[:, 0::2]) * scale
    return torch.cat([kept, moved], 1), total + scale.log().flatten(1).sum(1)


def _matrix(state: State, name: str) -> tuple[Tensor, Tensor]:
    if f"{name}.weight" in state:
        w = state[f"{name}.weight"]
        return w, torch.linalg.slogdet(w)[1]
    c = len(state[f"{name}.log_s"])
    lower = state[f"{name}.lower"].tril(-1) + torch.eye(c).double()
    upper = state[f"{name}.upper"].triu(1)
    upper = upper + torch.diag(state[f"{name}.sign_s"] * state[f"{name}.log_s"].exp())
    return state[f"{name}.p"] @ lower @ upper, state[f"{name}.log_s"].sum()


def _forward_zeros(state: State, name: str, x: Tensor) -> Tensor:
    y = conv2d(x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], padding=1)
    return y * (3 * state[f"{name}.logs"]).exp()


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    """A file of `torch.save`, in the format of 2019 or of today."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
