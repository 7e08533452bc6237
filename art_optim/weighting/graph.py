"""What losses depend on, read off their graph on the host."""

from __future__ import annotations

from torch import Tensor


def leaves(values: Tensor) -> tuple[Tensor, ...]:
    """Return the leaf tensors that a backward pass from ``values`` would give gradients, in a fixed order."""
    found, seen, stack = [], set(), [values.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # the node that accumulates the gradient of a leaf
            found.append(node.variable)
        stack.extend(following for following, _ in node.next_functions)
    return tuple(found) or (values,)
