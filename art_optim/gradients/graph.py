"""What losses depend on, read off their graph on the host."""

from __future__ import annotations

from torch import Tensor


def leaves(values: Tensor) -> tuple[Tensor, ...]:
    """Return the leaf tensors that a backward pass from ``values`` would give gradients, in a fixed order.

    Raises:
        ValueError: ``DistributedDataParallel`` takes the first backward pass for the one that trains.
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
            found.append(getattr(node, "variable"))  # noqa: B009, which the type of a node does not have
        stack.extend(following for following, _ in node.next_functions)
    return tuple(found) or (values,)
