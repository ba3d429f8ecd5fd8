"""A model's parameters layer by layer, from input to output: what freezing and layer-wise rates go by."""

from collections import defaultdict

from torch import nn

Layer = tuple[str, ...]
"""Names of parameters."""


def layers(model: nn.Module) -> list[Layer]:
    """Return the names of the parameters of each layer, in the order in which data flow through them.

    A layer is a child of the model, or of a list of its children, or one of the layers that an LSTM or a GRU stacks.
    One with nothing but vectors, such as a norm, is a part of the layer before it. What belongs to the model itself,
    such as positions, goes with the first layer.
    """
    by_name = dict(model.named_parameters())
    found: list[list[str]] = []
    has_matrix = False  # a norm before the first matrix is a part of its layer
    for names in _children(model):
        is_matrix = any(by_name[name].dim() > 1 for name in names)
        if not found or (is_matrix and has_matrix):
            found.append(names)
        else:
            found[-1] += names
        has_matrix = has_matrix or is_matrix
    own = [name for name, _ in model.named_parameters(recurse=False)]
    first, *others = found or [[]]
    return [tuple(own + first), *map(tuple, others)]


def from_last_block(model: nn.Module) -> int:
    """Return how many layers there are from the last of the repeated blocks on, the classifier among them.

    Each recurrent layer is such a block, also one alone; a list of dense layers is none: they belong to the head.
    """
    last_repeated = [name for name, module in model.named_children() if _has_blocks(module)][-1:]
    all_layers = layers(model)
    if not last_repeated:
        return min(2, len(all_layers))
    of_blocks = [number for number, names in enumerate(all_layers) if any(_inside(n, last_repeated[0]) for n in names)]
    return len(all_layers) - of_blocks[-1]


def _children(model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters of each child that has any, lists of children and stacked layers opened."""
    found = []
    for name, child in model.named_children():
        inside = [(f"{name}.{inner}", module) for inner, module in child.named_children()] if _is_list(child) else []
        for prefix, module in inside or [(name, child)]:
            of_layer: defaultdict[str, list[str]] = defaultdict(list)
            for parameter, _ in module.named_parameters():
                of_layer[_layer_in(module, parameter)].append(f"{prefix}.{parameter}")
            found += of_layer.values()
    return found


def _layer_in(module: nn.Module, parameter: str) -> str:
    """Return which of the stacked layers of an LSTM or a GRU has a parameter: of `weight_ih_l1_reverse`, `l1`."""
    return parameter.removesuffix("_reverse").rpartition("_")[2] if isinstance(module, nn.RNNBase) else ""


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.Sequential))


def _has_blocks(module: nn.Module) -> bool:
    trained = [child for child in module.children() if any(True for _ in child.parameters())]
    is_dense = all(isinstance(child, nn.Linear) for child in trained)
    return isinstance(module, nn.RNNBase) or (_is_list(module) and not is_dense)


def _inside(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.")
