"""The one place that imports torchaudio, and only its pure-Python transforms.

torchaudio ships a compiled extension that loads only beside the torch it was built with: not beside a CPU-only
torch, nor one built for another CUDA. Nothing here needs it, so where it does not load it is replaced by a stub
that says it is absent, which is a state torchaudio itself knows (it is how a source build without it behaves).
"""

import sys
from types import ModuleType, SimpleNamespace


def _identity(function):
    return function


def _import_without_extension() -> ModuleType:
    """Import torchaudio with its `_extension` module replaced by one that reports "not built"."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]  # what the failed import left behind
    stub = ModuleType("torchaudio._extension")
    stub.__dict__.update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False, fail_if_no_align=_identity)
    # Asked for by torchaudio up to 2.8.
    stub.__dict__.update(lazy_import_sox_ext=lambda: SimpleNamespace(is_available=lambda: False))
    sys.modules["torchaudio._extension"] = stub
    import torchaudio

    return torchaudio


try:
    import torchaudio
except (OSError, RuntimeError):
    # OSError: the library does not load; RuntimeError: it was compiled for a different CUDA version.
    torchaudio = _import_without_extension()

transforms = torchaudio.transforms
functional = torchaudio.functional
