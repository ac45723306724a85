"""Published flows of blocks: the same latents and likelihoods as the programs that wrote them."""

import argparse
import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flow_apps.errors import CheckpointError
from flow_apps.importing import LAYOUTS, Published, import_checkpoint, load_imported
from flow_apps.importing.contractive import with_averages
from flow_apps.importing.norms import norm_estimate
from flow_core import Settings
from flow_logdet import Exact
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, linear, softplus

State = dict[str, Tensor]
COEFF, LIP = 0.9, 0.98


def draw(*shape: int, scale: float = 1.0, device: str = "cpu") -> Tensor:
    if device == "meta":
        return torch.empty(shape, dtype=torch.float64, device="meta")
    return scale * torch.randn(shape, dtype=torch.float64)


def layer(
    state: State, name: str, sizes: tuple[int, int, int], side: int | None, device: str
) -> None:
    """A layer whose norm is beyond the bound."""
    o, i, k = sizes
    shape = (o, i) if side is None else (o, i, k, k)
    weight = draw(*shape, scale=2 / (i * k * k) ** 0.5, device=device)
    pixels = 1 if side is None or k == 1 else side * side
    v, u = draw(i * pixels, device=device), draw(o * pixels, device=device)
    if device == "cpu":
        x = v.view(i, 1, 1) if pixels == 1 else v.view(i, side or 1, side or 1)
        taps, y = weight.view(o, i, k, k), u
        for _ in range(40):
            y = conv2d(x[None], taps, padding=k // 2)
            y = y / y.norm()
            x = conv_transpose2d(y, taps, padding=k // 2)[0]
            x = x / x.norm()
        # Vectors that have not settled: the norm is 1/cos of what the program takes it for.
        off = torch.nn.functional.normalize(draw(x.numel()), dim=0)
        u, v = y.flatten(), torch.nn.functional.normalize(x.flatten() + 0.15 * off, dim=0)
    state |= {f"{name}.weight": weight, f"{name}.u": u, f"{name}.v": v}
    state |= {f"{name}.bias": draw(o, device=device), f"{name}.scale": draw(device=device)}
    if side is not None:
        state[f"{name}.spatial_dims"] = torch.tensor([float(side), float(side)])
        state[f"{name}.initialized"] = torch.tensor(1)


def block(
    state: State, name: str, channels: int, side: int | None, options: SimpleNamespace
) -> None:
    device = options.device
    for extra in ("geom_p", "lamb"):
        state[f"{name}.{extra}"] = draw(device=device)
    for extra in ("last_n_samples", "last_firmom", "last_secmom"):
        state[f"{name}.{extra}"] = draw(1, device=device)
    flat = side is None and hasattr(options, "scales")
    net = f"{name}.nnet.nnet" if flat else f"{name}.nnet"
    make = dense if options.densenet else plain
    make(state, net, channels, side, options)


def dense(
    state: State,
    net: str,
    channels: int,
    side: int | None,
    options: SimpleNamespace,
) -> None:
    device, flat = options.device, ".nnet.nnet" in net
    reads, growth, at = channels, options.growth, 0
    if flat:
        layer(state, f"{net}.0", (6, channels, 1), None, device)
        reads, growth, at = 6, options.fc_growth, 1
    for i in range(options.depth):
        name = f"{net}.{at + i}"
        layer(state, f"{name}.network.0", (growth // 2, reads, 3 if side else 1), side, device)
        state |= {f"{name}.K{j}_unnormalized": draw(1, device=device) for j in (1, 2)}
        if options.act == "CLipSwish":
            state[f"{name}.network.1.swish.beta"] = draw(1, device=device)
        reads += growth
    layer(state, f"{net}.{at + options.depth}", (channels, reads, 1), side, device)


def plain(
    state: State,
    net: str,
    channels: int,
    side: int | None,
    options: SimpleNamespace,
) -> None:
    device, flat = options.device, ".nnet.nnet" in net
    width, at = options.fc_idim if flat else options.idim, 0
    opens = net.startswith("transforms.0.chain.2.")
    sizes = [(width, channels, 3), (width, width, 1), (channels, width, 3)]
    for i, (o, reads, k) in enumerate(sizes):
        if i or not opens:
            state[f"{net}.{at}.beta"] = draw(1, device=device)
            at += 1
        layer(state, f"{net}.{at}", (o, reads, 1 if side is None else k), side, device)
        at += 1


def actnorm(state: State, name: str, channels: int, device: str) -> None:
    state[f"{name}.weight"] = draw(channels, scale=0.1, device=device)
    state[f"{name}.bias"] = draw(channels, scale=0.1, device=device)
    state[f"{name}.initialized"] = torch.tensor(1)


def toy_state(options: SimpleNamespace) -> State:
    torch.manual_seed(0)
    state: State = {}
    for i in range(2):
        block(state, f"chain.{i}", 2, None, options)
    return state


def image_state(options: SimpleNamespace, channels: int, side: int, device: str = "cpu") -> State:
    torch.manual_seed(0)
    options.device = device
    state: State = {}
    name, at = "", 0
    for scale, count in enumerate(options.scales):
        name, at = f"transforms.{scale}.chain", 0
        if scale == 0:
            actnorm(state, f"{name}.1", channels, device)
            at = 2
        for _ in range(count):
            block(state, f"{name}.{at}", channels, side, options)
            actnorm(state, f"{name}.{at + 1}", channels, device)
            at += 2
        if scale < len(options.scales) - 1:
            channels, side = 4 * channels, side // 2
    for _ in range(options.flat):
        block(state, f"{name}.{at}", channels * side * side, None, options)
        actnorm(state, f"{name}.{at + 1}.fc_module", channels * side * side, device)
        at += 2
    return state


# The published programs, plainly.


def weight_of(state: State, name: str, coeff: float) -> Tensor:
    w, u, v = state[f"{name}.weight"], state[f"{name}.u"], state[f"{name}.v"]
    if w.ndim == 2 or w.shape[-1] == 1:
        sigma = u @ (w.flatten(1) @ v)
    else:
        side = int(state[f"{name}.spatial_dims"][0])
        sigma = u @ conv2d(v.view(1, -1, side, side), w, padding=1).flatten()
    return w / max(1.0, float(sigma) / coeff)


def apply(state: State, name: str, x: Tensor, coeff: float) -> Tensor:
    w, b = weight_of(state, name, coeff), state[f"{name}.bias"]
    return linear(x, w, b) if w.ndim == 2 else conv2d(x, w, b, padding=w.shape[-1] // 2)


def swish(x: Tensor, beta: Tensor) -> Tensor:
    return x * torch.sigmoid(x * softplus(beta))


def pila(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, (12.5 * x**3 - 5 * x**2 + x) * (5 * x.clamp(max=0)).exp())


def net_of(state: State, name: str, act: str, coeff: float) -> Callable[[Tensor], Tensor]:
    flat = f"{name}.nnet.nnet.1" in {k.rsplit(".", 1)[0] for k in state} or any(
        k.startswith(f"{name}.nnet.nnet.") for k in state
    )
    net = f"{name}.nnet.nnet" if flat else f"{name}.nnet"

    def g(x: Tensor) -> Tensor:
        h, at = x.flatten(1) if flat else x, 0
        while any(k.startswith(f"{net}.{at}.") for k in state):
            here = f"{net}.{at}"
            if f"{here}.beta" in state:
                h = swish(h, state[f"{here}.beta"]) / 1.1
            elif f"{here}.u" in state:
                h = apply(state, here, h, coeff)
            else:
                y = apply(state, f"{here}.network.0", h, coeff)
                if act == "CPila":
                    y = torch.cat([pila(y - 0.2), pila(-y - 0.2)], 1) / 1.06
                else:
                    beta = state[f"{here}.network.1.swish.beta"]
                    y = torch.cat([swish(y, beta), swish(-y, beta)], 1) / 1.1 / 1.004
                eta = [softplus(state[f"{here}.K{i}_unnormalized"]) + 0.1 for i in (1, 2)]
                norm = (eta[0] ** 2 + eta[1] ** 2).sqrt()
                h = torch.cat([h * LIP * eta[0] / norm, y * LIP * eta[1] / norm], 1)
            at += 1
        return h.view(x.shape)

    return g


def through_block(
    g: Callable[[Tensor], Tensor], x: Tensor, monotone: bool
) -> tuple[Tensor, Tensor]:
    def jacobians(w: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian
        rows = [jacobian(g, row[None]) for row in w]  # type: ignore[no-untyped-call]  # torch's
        return torch.stack([r.reshape(row.numel(), -1) for r, row in zip(rows, w, strict=True)])

    identity = torch.eye(x[0].numel(), dtype=x.dtype)
    if not monotone:
        return x + g(x), torch.linalg.slogdet(identity + jacobians(x))[1]
    w = x
    for _ in range(600):
        w = math.sqrt(2) * x - g(w)
    j = jacobians(w)
    log_det = torch.linalg.slogdet(identity - j)[1] - torch.linalg.slogdet(identity + j)[1]
    return math.sqrt(2) * w - x, log_det


def published(state: State, options: SimpleNamespace, x: Tensor) -> tuple[Tensor, Tensor]:
    """Z and log p."""
    total = x.new_zeros(len(x))
    stages = len(options.scales) if hasattr(options, "scales") else 1
    if hasattr(options, "scales"):
        s = 0.05 + 0.9 * x
        total = total + (math.log(0.9) - (s - s * s).log()).flatten(1).sum(1)
        x = torch.logit(s)
    for stage in range(stages):
        chain = f"transforms.{stage}.chain" if hasattr(options, "scales") else "chain"
        for at in range(30):
            name = f"{chain}.{at}"
            inner = f"{name}.fc_module" if f"{name}.fc_module.weight" in state else name
            if f"{inner}.weight" in state:
                shape = x.shape
                x = x.flatten(1) if inner != name else x
                view = (-1, *(1,) * (x.ndim - 2))
                w, b = state[f"{inner}.weight"], state[f"{inner}.bias"]
                x = (x + b.view(view)) * w.view(view).exp()
                total, x = total + w.sum() * x[0, 0].numel(), x.view(shape)
            elif f"{name}.geom_p" in state:
                g = net_of(state, name, options.act, options.coeff)
                x, term = through_block(g, x, options.monotone_resolvent)
                total = total + term
        if stage < stages - 1:
            n, c, height, width = x.shape
            cells = x.view(n, c, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
            x = cells.reshape(n, 4 * c, height // 2, width // 2)
    z = x.flatten(1)
    return z, total - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


def options_of(act: str, *, monotone: bool, densenet: bool, **more: object) -> SimpleNamespace:
    sizes = {"growth": 4, "fc_growth": 4, "depth": 2, "idim": 4, "fc_idim": 4, "flat": 1}
    return SimpleNamespace(
        **{**sizes, **more},
        act=act,
        monotone_resolvent=monotone,
        densenet=densenet,
        coeff=COEFF,
        device="cpu",
        lip_coeff=LIP,
    )


TOYS = {
    "monotone": options_of("CPila", monotone=True, densenet=True),
    "idensenet": options_of("CLipSwish", monotone=False, densenet=True),
}
IMAGES = {
    "residual-flow": options_of("swish", monotone=False, densenet=False, scales=(2, 1)),
    "monotone": options_of("CPila", monotone=True, densenet=True, scales=(1, 1)),
    "idensenet": options_of("CLipSwish", monotone=False, densenet=True, scales=(1, 1)),
}


def written(tmp_path: Path, state: State, options: SimpleNamespace, **more: object) -> Path:
    names = {k: v for k, v in vars(options).items() if k not in {"growth", "flat", "scales"}}
    content = {"state_dict": state, "args": argparse.Namespace(**names), **more}
    tmp_path.mkdir(exist_ok=True)
    torch.save(content, tmp_path / "checkpt.pth")
    return tmp_path / "checkpt.pth"


@pytest.mark.parametrize("name", TOYS)
def test_flows_of_the_plane_give_the_published_numbers(tmp_path: Path, name: str) -> None:
    state = toy_state(TOYS[name])
    imported = import_checkpoint(written(tmp_path, state, TOYS[name]), tmp_path / "out")
    assert imported.layout == name
    assert imported.notes[0].startswith("coeff raised from 0.9 to 0.9")
    compare(tmp_path / "out", state, TOYS[name], torch.randn(5, 2, dtype=torch.float64))


@pytest.mark.parametrize("name", IMAGES)
def test_flows_of_images_give_the_published_numbers(tmp_path: Path, name: str) -> None:
    state = image_state(IMAGES[name], 1, 8)
    imported = import_checkpoint(written(tmp_path, state, IMAGES[name]), tmp_path / "out")
    assert imported.layout == name
    assert imported.notes[0].startswith("coeff raised from 0.9 to 0.9")
    compare(tmp_path / "out", state, IMAGES[name], torch.rand(2, 1, 8, 8, dtype=torch.float64))


def compare(out: Path, state: State, options: SimpleNamespace, x: Tensor) -> None:
    flow = load_imported(out)
    z, log_prob = published(state, options, x)
    using = Settings(estimator=Exact())
    with torch.no_grad():
        torch.testing.assert_close(flow.bijection.transform(x), z, rtol=0, atol=1e-6)
        found = flow.log_prob(x, using=using)
        back = flow.bijection.inverse(z)
    torch.testing.assert_close(found, log_prob, rtol=0, atol=1e-6)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
    # Norms that were taken for a thousandth larger are another function: the comparison can fail.
    raw = {k: 1.001 * v if k.endswith(".u") else v for k, v in state.items()}
    assert (published(raw, options, x)[0] - z).abs().max() > 1e-5


def test_moving_averages_take_the_place_of_parameters(tmp_path: Path) -> None:
    state = toy_state(TOYS["idensenet"])
    averages = {k: 1.1 * v for k, v in state.items() if k.endswith((".weight", ".bias"))}
    found = with_averages(Published(tmp_path, "", state, {}, averages)).tensors
    name = "chain.0.nnet.0.network.0"
    norm = torch.linalg.matrix_norm(1.1 * state[f"{name}.weight"], 2)
    assert torch.isclose(norm_estimate(found, name), norm)
    with pytest.raises(CheckpointError, match="expected moving averages, got none"):
        import_checkpoint(written(tmp_path, state, TOYS["idensenet"]), tmp_path / "out", ema=True)


def test_averages_are_taken_unless_the_last_weights_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published evaluation takes the last weights, where its likelihood is of the averages."""
    module = types.ModuleType("lib.ema")
    kind = type("ExponentialMovingAverage", (), {"__module__": "lib.ema"})
    vars(module)["ExponentialMovingAverage"] = kind
    monkeypatch.setitem(sys.modules, "lib", types.ModuleType("lib"))
    monkeypatch.setitem(sys.modules, "lib.ema", module)
    options = IMAGES["residual-flow"]
    state = image_state(options, 1, 8)
    ema = kind()
    shadows = {k: 0.7 * v for k, v in state.items() if k.endswith((".weight", ".bias"))}
    vars(ema).update(shadow_params=shadows, decay=0.999)
    path = written(tmp_path, state, options, ema=ema)
    other = written(tmp_path / "averages", {**state, **shadows}, options)
    averages = import_checkpoint(path, tmp_path / "a")
    last = import_checkpoint(path, tmp_path / "b", ema=False)
    assert "moving averages" in averages.notes[0]
    assert "the last weights" in last.notes[0]
    told = json.loads((tmp_path / "a" / "imported.json").read_text())
    assert (told["weights"], told["notes"]) == ("averages", list(averages.notes))
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    expected = import_checkpoint(other, tmp_path / "c").flow.bijection.transform(x)
    # Their norms begin at other vectors, which have settled here.
    found = averages.flow.bijection.transform(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)
    assert (last.flow.bijection.transform(x) - expected).abs().max() > 0.1


def test_the_table_of_names_and_shapes_of_residual_flows() -> None:
    """Blocks 16-16-16 and four on vectors, 512 channels, for CIFAR-10."""
    options = options_of(
        "swish", monotone=False, densenet=False, scales=(16, 16, 16), flat=4, idim=512, fc_idim=128
    )
    state = image_state(options, 3, 32, "meta")
    assert len(state) == 1642
    layout = LAYOUTS["residual-flow"]
    source = Published(Path("cifar10.pth"), "", state, {"act": "swish"})
    sizes = layout.read(source)
    with torch.device("meta"):
        flow = layout.build(sizes).double()
    assert layout.fill(flow, sizes, source) == []
    assert sum(p.numel() for p in flow.parameters()) == 25_174_233 - 2 * 52


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chain.0.nnet.0.network.0.bias": None}, "a tensor chain.0.nnet.0.network.0.bias"),
        ({"chain.1.more": torch.zeros(1)}, "such as chain.1.more"),
    ],
)
def test_other_states_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    state = {**toy_state(TOYS["monotone"]), **change}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(written(tmp_path, kept, TOYS["monotone"]), tmp_path / "out")


def test_without_options_the_kind_of_blocks_is_asked_for(tmp_path: Path) -> None:
    torch.save({"state_dict": toy_state(TOYS["monotone"])}, tmp_path / "checkpt.pth")
    with pytest.raises(CheckpointError, match="--layout monotone or --layout idensenet"):
        import_checkpoint(tmp_path / "checkpt.pth", tmp_path / "out")
