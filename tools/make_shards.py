"""Make WebDataset shards of recordings, wherever they are, or of synthesised speech.

    python tools/make_shards.py folder --root my_recordings.zip --out data/mine
    python tools/make_shards.py speech-commands --version 0.02 --download --task v2-12 --out data/v2-12

A command that is stopped goes on where it stopped when it is given again. What cannot be used is left out, counted
and listed in OUT/rejected.jsonl.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro

from kws_dist.corpus.clip import Source
from kws_dist.corpus.download import BASE_URL
from kws_dist.corpus.folder import open_folder
from kws_dist.corpus.librispeech import open_librispeech
from kws_dist.corpus.manifest import open_manifest
from kws_dist.corpus.naming import word_list
from kws_dist.corpus.recordings import Long
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.errors import UsageError, main_guard
from kws_dist.shards_job import Output, fetched, listing, make, merge_parts

Common = tyro.conf.OmitArgPrefixes[Output]


def speech_commands(
    output: Common,
    version: Literal["0.01", "0.02"] | None = None,
    download: bool = False,
    download_test: bool = False,
    base_url: str = BASE_URL,
    cache: Path | None = None,
    archive: Path | None = None,
    root: Path | None = None,
    test_archive: Path | None = None,
    task: str | None = None,
    words: str = "",
    unknown: Literal["none", "rule", "all"] = "none",
    silence: bool = False,
) -> int:
    """Google Speech Commands, or recordings laid out like it.

    Args:
        output: What every source has in common.
        version: Which release to download, and without a task of its own all its words.
        download: Fetch the official archive, checked against its published SHA-256, and keep it in the cache.
        download_test: With --download, fetch the canonical 12-class test archive too and take the test clips from it.
        base_url: Where the archives are, for a mirror.
        cache: Folder for downloads; $KWS_CACHE or ~/.cache/kws_dist if left out.
        archive: The .tar.gz as it is downloaded; it is streamed, never unpacked.
        root: A folder with the same layout, instead of an archive.
        test_archive: The canonical 12-class test archive, from which all test clips are then taken.
        task: v1-30, v2-35: all words. v1-12, v2-12: ten words, _unknown_ and _silence_. v2-10: the ten words alone.
        words: Instead of a task: the vocabulary in label order, separated by commas. All words if left out.
        unknown: Other words as _unknown_: all of them, or by the 12-class rule a tenth as many as keyword clips.
        silence: Add _silence_ by the 12-class rule.
    """

    def build() -> Source:
        main, test = archive, test_archive
        if download:
            if main is not None or root is not None:
                raise UsageError("--download takes the place of --archive and --root; pass one of them")
            main, fetched_test = fetched(version or "0.02", base_url, cache, download_test)
            test = test or fetched_test
        whole = not (words or silence or unknown != "none")
        default_task = {"0.01": "v1-30", "0.02": "v2-35"}[version] if version and download and whole else None
        with listing():
            return SpeechCommands(
                main,
                root=root,
                words=_words(words),
                task=task or default_task,
                unknown=unknown,
                silence=silence,
                test_archive=test,
            )

    return _run(build, task or "speech-commands", output)


def folder(
    output: Common,
    root: Path,
    words: str = "",
    split: str | None = None,
    speaker_from: str | None = None,
    long: Long = "crop",
    clip_seconds: float = 1.0,
) -> int:
    """Recordings of your own: word/anything.wav in a folder, a .zip or a .tar.gz.

    Any sampling rate, bit depth, number of channels and format (WAV, FLAC, OGG, Opus, MP3) will do. Folders called
    train, val and test around the words give the split, otherwise it is made. A folder _background_noise_ is noise.

    Args:
        output: What every source has in common.
        root: The folder or archive.
        words: The vocabulary in label order, separated by commas; all words, sorted, if left out.
        split: Shares of train/val/test such as 80/10/10 or 80/0/20, kept for every word. Default 80/10/10.
        speaker_from: Regular expression that finds the speaker in a file name; no speaker is then in two splits.
        long: What becomes of a recording longer than a clip: its loudest part, several clips, or an error.
        clip_seconds: Longest clip.
    """

    def build() -> Source:
        with listing():
            return open_folder(
                root, words=_words(words), speaker_from=speaker_from, split=split, long=long, clip_seconds=clip_seconds
            )

    return _run(build, "folder", output)


def manifest(
    output: Common,
    csv: Path | None = None,
    jsonl: Path | None = None,
    words: str = "",
    split: str | None = None,
    long: Long = "crop",
    clip_seconds: float = 1.0,
) -> int:
    """Recordings listed in a file with the columns path, word and, if you like, start, end, speaker, split.

    Args:
        output: What every source has in common.
        csv: The list as a table with a header line, separated by commas, semicolons or tabs.
        jsonl: The list as one JSON object a line.
        words: The vocabulary in label order, separated by commas; all words, sorted, if left out.
        split: Shares of train/val/test such as 80/10/10, if the list says nothing of splits.
        long: What becomes of a recording longer than a clip: its loudest part, several clips, or an error.
        clip_seconds: Longest clip.
    """

    def build() -> Source:
        with listing():
            return open_manifest(csv, jsonl, words=_words(words), split=split, long=long, clip_seconds=clip_seconds)

    return _run(build, "manifest", output)


def librispeech(
    output: Common,
    root: Path,
    alignments: Path,
    words: str,
    unknown_percent: float = 100.0,
    split: str | None = None,
    margin_ms: float = 50.0,
    long: Literal["reject", "crop"] = "reject",
    clip_seconds: float = 1.0,
) -> int:
    """Words cut out of LibriSpeech utterances by word alignments.

    Args:
        output: What every source has in common.
        root: The folder LibriSpeech, or one subset of it.
        alignments: Folder with .alignment.txt or .TextGrid files.
        words: The vocabulary in label order, separated by commas.
        unknown_percent: How many clips of other words to add as _unknown_, in percent of the keyword clips.
        split: Shares of train/val/test such as 80/10/10, instead of the official subsets.
        margin_ms: How much is kept before and after a word.
        long: A word that lasts longer than a clip is left out, or its loudest part is kept.
        clip_seconds: Longest clip.
    """

    def build() -> Source:
        with listing():
            return open_librispeech(
                root,
                alignments,
                words=word_list("--words", words),
                unknown_percent=unknown_percent,
                split=split,
                margin_ms=margin_ms,
                long=long,
                clip_seconds=clip_seconds,
            )

    return _run(build, "librispeech", output)


def synth(output: Common, words: str, voices: int | None = None, per_word: int = 200, confusable: int = 0) -> int:
    """Words spoken by a speech synthesiser, with nothing to download.

    Args:
        output: What every source has in common.
        words: The vocabulary in label order, separated by commas.
        voices: How many speakers, each in one split only; all the synthesiser has if left out.
        per_word: Clips of each word, all splits together.
        confusable: Add _unknown_, spoken in so many other words that sound most like the vocabulary.
    """

    def build() -> Source:
        from kws_dist.corpus.synth import VOICES, Synth  # needs the optional synthesiser

        speakers = len(VOICES) if voices is None else voices
        named = word_list("--words", words)
        with listing():
            return Synth(named, voices=speakers, per_word=per_word, seed=output.seed, confusable=confusable)

    return _run(build, "synth", output)


def merge(out: Path, workers: int = 0, debug: bool = False) -> int:
    """Finish a folder to which several jobs have written their parts: check every shard, write dataset.json.

    Args:
        out: The folder.
        workers: Threads that check shards; 0 is one for each processor core.
        debug: Show the traceback of an error.
    """

    return main_guard(lambda: merge_parts(out, workers), debug)


def _run(build: Callable[[], Source], kind: str, output: Output) -> int:
    return main_guard(lambda: make(build, kind, output), output.debug)


def _words(words: str) -> list[str] | None:
    return word_list("--words", words) if words.strip() else None


def main() -> int:
    """Run the subcommand that the command line names."""
    commands = {
        "speech-commands": speech_commands,
        "folder": folder,
        "manifest": manifest,
        "librispeech": librispeech,
        "synth": synth,
        "merge": merge,
    }
    return tyro.extras.subcommand_cli_from_dict(
        commands, description=__doc__, use_underscores=True, config=(tyro.conf.FlagCreatePairsOff,)
    )


if __name__ == "__main__":
    raise SystemExit(main())
