"""The parameters that losses depend on, found in their graph."""

from __future__ import annotations

from torch import Tensor


def leaves(values: Tensor) -> tuple[Tensor, ...]:
    """Return the leaf tensors to which a backward pass from ``values`` accumulates gradients, in a fixed order.

    Raises:
        ValueError: The graph contains ``DistributedDataParallel(static_graph=True)``.
    """
    found: list[Tensor] = []
    seen, stack = set(), [values.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "ddp_weakref") and node.ddp_weakref().static_graph:
            raise ValueError(
                "the network is in DistributedDataParallel(static_graph=True), which takes the first backward pass for "
                "the one that trains; a method that looks at gradients needs static_graph=False"
            )
        if type(node).__name__ == "AccumulateGrad":
            found.append(getattr(node, "variable"))  # noqa: B009, unknown to the type of a node
        stack.extend(following for following, _ in node.next_functions)
    return tuple(found) or (values,)
