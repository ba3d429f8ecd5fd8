"""The settings of training, a section of those of a run (`kws_dist.config`)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the model is trained."""

    epochs: int = 30
    """Length of the run; an epoch is as many draws as there are training clips."""
    steps: int = 0
    """Length of the run in optimizer steps; 0: as many as `epochs` have."""
    max_minutes: float = 0.0
    """End the training after so many minutes of it, over all jobs of the run; 0 is off."""
    job_minutes: float = 0.0
    """Stop this job in good order after so many minutes, for the same command to go on with; 0 is off."""
    stop_grace_s: float = 100.0
    """How long a stop may take, once it was asked for, before the process leaves by force."""
    global_batch: int = 100
    """Clips per optimizer step, over all processes and accumulation steps."""
    accumulate: int = 1
    """Micro-batches per optimizer step on each process."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the model. `auto`: bf16 on GPUs and CPUs that have it, else fp32."""
    tf32: bool = True
    """Let fp32 models round the inputs of products to TF32 on GPUs that have it; features never do."""
    optimizer: Literal["sgd", "adam", "adamw", "muon", "novograd"] = "sgd"
    """sgd is with momentum. muon takes the matrices inside the model, in steps of adamw's size, and adamw the rest."""
    learning_rate: float = 0.1
    """Peak rate."""
    momentum: float = 0.9
    """Of sgd and muon; the first beta of the others."""
    beta2: float = 0.999
    """The second beta of adam, adamw and novograd."""
    nesterov: bool = False
    """Nesterov's form of momentum, for sgd and muon."""
    weight_decay: float = 1e-3
    """Applied to all weights; in adamw, muon and novograd whatever the size of the gradient."""
    decay_norms: bool = True
    """Also decay biases, the weights of norms, and what a model exempts (positions); else only matrices and kernels."""
    layer_decay: float = 1.0
    """The rate of each layer is this times that of the next one towards the output; 1 is the same for all."""
    schedule: Literal["cosine", "linear", "exponential", "step", "hold", "one_cycle", "constant"] = "cosine"
    """After the warm-up: half a cosine, a line or an exponential down to the end; drops at `step_epochs`; held for
    `hold_epochs`, then a polynomial down; or one_cycle: from peak / 25 up to the peak while it warms up, then down to
    peak / 250,000. Where it goes down to would be reached one step after the last."""
    warmup_epochs: float = 5.0
    """The rate rises to its peak for so long: along a line from 0, or half a cosine for one_cycle."""
    final_share: float = 0.0
    """cosine, linear, exponential and hold end at this share of the peak."""
    step_epochs: tuple[float, ...] = (10.0, 20.0)
    """`step`: where the rate drops."""
    step_factor: float = 0.1
    """`step`: what it is multiplied by there."""
    hold_epochs: float = 10.0
    """`hold`: how long the peak is held."""
    decay_power: float = 2.0
    """`hold`: power of the polynomial by which it then falls."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """focal counts clips the less, the surer the model is of their word already."""
    focal_gamma: float = 2.0
    """How much less: a loss is multiplied by (1 - probability) to this power."""
    label_smoothing: float = 0.0
    """Share of the target spread over all words."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: losses are weighted so that each word counts the same, however often it is drawn (--data.balance 0)."""
    teacher: str = ""
    """Run folder, or checkpoint, whose model is to be imitated (knowledge distillation); it hears the same clips."""
    teacher_weight: float = 0.5
    """Share of the loss that is about the teacher's answer; the rest is about the label."""
    teacher_labels: Literal["soft", "hard"] = "soft"
    """The teacher's answer: its probabilities, or its most likely word."""
    teacher_temperature: float = 2.0
    """`soft`: the logits of both are divided by this first."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that stay as they are, such as 'blocks.*' or '*norm*'."""
    train_last_layers: int = 0
    """Freeze all layers but the last so many, of which the classifier is one; 0 is off."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 is no clipping."""
    compile: bool = False
    """Compile model and features with torch.compile: a slow start, then often faster, on GPUs above all."""
    cuda_graph: bool = False
    """Replay each step, from the draws to the weights, as a recorded CUDA graph: for small models on a GPU."""
    sync_batchnorm: bool = False
    """Batch norm over the clips of all processes instead of each process's own."""
    bucket_mb: float = 25.0
    """Gradients are summed over processes in buckets of this size, while the backward pass goes on."""
    compress_gradients: bool = False
    """Send gradients between processes in bf16, on GPUs: half the bytes, with 8 bits of mantissa."""
    ema_decay: float = 0.0
    """Evaluate an exponential moving average of the weights with this decay per step; 0 is off."""
    eval_every_epochs: int = 1
    """Validate and save a checkpoint each so many epochs (always at the end)."""
    eval_every_steps: int = 0
    """Validate and save each so many steps instead; 0: by epochs."""
    best_by: str = "accuracy"
    """Figure of validation by which a checkpoint is best: accuracy, loss, balanced_accuracy, worst_word_recall, or
    recall/WORD; or last: the newest that was validated, which at the end of the run is its end."""
    test_each_epoch: bool = False
    """Also report the accuracy on the test split whenever the model is validated. Nothing is chosen by it."""
    patience_epochs: int = 0
    """End the training when validation has not improved for so many epochs; 0 is off."""
    save_every_steps: int = 0
    """Save a checkpoint each so many steps as well; 0 is off."""
    log_every_steps: int = 10
    """Read figures back from the device and log them each so many steps."""
    max_bad_steps: int = 20
    """After so many steps in a row whose loss or gradient was not finite, go back to the last checkpoint, or end."""
    rollback_factor: float = 0.5
    """There the rate is multiplied by this, once; 0: end at once."""
    profile: int = 0
    """Write a profile of so many steps to the run folder, and print where their time went; 0 is off."""
