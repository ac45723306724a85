"""Proven bounds of every layer of a bijection on a domain."""

from collections.abc import Iterator

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.combinators import Chain
from flow_core.domain import Domain


def layer_bounds(bijection: Bijection, domain: Domain) -> dict[str, Bounds]:
    """Bi-Lipschitz bounds of the layers of a chain, each where the ones before it lead.

    Chains inside of chains are taken apart; an inverted composition and a multiscale model count as
    one layer. The products bound the whole on the domain. Source: Behrmann et al. 2021, table 1.

    Args:
        bijection: A chain of layers, or one layer.
        domain: Of x.

    Returns:
        The bounds by the names of the layers, in the order of use.
    """
    return dict(_on("", bijection, domain)[0])


def _on(name: str, bijection: Bijection, domain: Domain) -> tuple[list[tuple[str, Bounds]], Domain]:
    if not isinstance(bijection, Chain):
        bounds, image = bijection.bounds_on(domain)
        return [(name, bounds)], image
    found: list[tuple[str, Bounds]] = []
    for child, layer in _named(name, bijection):
        inner, domain = _on(child, layer, domain)
        found += inner
    return found, domain


def _named(name: str, chain: Chain) -> Iterator[tuple[str, Bijection]]:
    prefix = f"{name}." if name else ""
    return ((f"{prefix}layers.{i}", layer) for i, layer in enumerate(chain))
