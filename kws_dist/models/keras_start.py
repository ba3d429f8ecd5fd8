"""What Keras begins a training with, for architectures whose published recipe was run in it; torch begins otherwise."""

from functools import partial

import torch
from torch import Tensor, nn

KerasNorm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
"""Batch norm with Keras's defaults, where a momentum of 0.99 is the share that is kept."""


@torch.no_grad()
def begin_as_keras(model: nn.Module) -> None:
    """Draw the weights of all layers as Keras does: Glorot's uniform ones, orthogonal recurrent ones, no biases.

    An LSTM's forget gates have a bias of 1 (`unit_forget_bias`).
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            for name, parameter in module.named_parameters():
                _begin_recurrent(name, parameter)
            open_forget_gates(module)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _begin_recurrent(name: str, parameter: Tensor) -> None:
    if name.startswith("weight_ih"):
        nn.init.xavier_uniform_(parameter)  # of all gates at once, as Keras has them in one kernel
    elif name.startswith("weight_hh"):
        nn.init.orthogonal_(parameter)
    else:
        nn.init.zeros_(parameter)


@torch.no_grad()
def open_forget_gates(rnn: nn.RNNBase) -> None:
    """Begin with the forget gates of an LSTM at a bias of 1; a GRU is left as it is.

    At torch's 0 a cell loses half of what it knows in every frame, and the last state of a clip says little about the
    word in its middle (Jozefowicz et al., 2015, "An empirical exploration of recurrent network architectures").
    """
    if not isinstance(rnn, nn.LSTM):
        return
    forget = slice(rnn.hidden_size, 2 * rnn.hidden_size)  # torch's order: input, forget, cell, output
    for name, parameter in rnn.named_parameters():
        if name.startswith("bias_"):  # two for each layer and direction, which are added
            parameter[forget] = 1.0 if name.startswith("bias_ih") else 0.0
