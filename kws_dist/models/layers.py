"""A model's parameters layer by layer, from input to output: what freezing and layer-wise rates go by."""

from torch import nn

Layer = tuple[str, ...]
"""Names of parameters."""


def layers(model: nn.Module) -> list[Layer]:
    """Return the names of the parameters of each layer, in the order in which data flow through them.

    A layer is a child of the model, or of a list of its children. One with nothing but vectors, such as a norm, is a
    part of the layer before it. What belongs to the model itself, such as positions, goes with the first layer.
    """
    found: list[list[str]] = []
    has_matrix = False  # a norm before the first matrix is a part of its layer
    for prefix, module in _children(model):
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters()]
        starts_one = any(parameter.dim() > 1 for parameter in module.parameters()) and has_matrix
        if starts_one or not found:
            found.append(names)
        else:
            found[-1] += names
        has_matrix = has_matrix or any(parameter.dim() > 1 for parameter in module.parameters())
    own = [name for name, _ in model.named_parameters(recurse=False)]
    first, *others = found or [[]]
    return [tuple(own + first), *map(tuple, others)]


def from_last_block(model: nn.Module) -> int:
    """Return how many layers there are from the last of the repeated blocks on, the classifier among them."""
    last_repeated = [name for name, module in model.named_children() if _is_list(module)][-1:]
    all_layers = layers(model)
    if not last_repeated:
        return min(2, len(all_layers))
    of_blocks = [number for number, names in enumerate(all_layers) if any(_inside(n, last_repeated[0]) for n in names)]
    return len(all_layers) - of_blocks[-1]


def _children(model: nn.Module) -> list[tuple[str, nn.Module]]:
    opened = []
    for name, child in model.named_children():
        if _is_list(child):
            opened += [(f"{name}.{inner}", module) for inner, module in child.named_children()]
        else:
            opened.append((name, child))
    return [(name, module) for name, module in opened if any(True for _ in module.parameters())]


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.Sequential))


def _inside(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.")
