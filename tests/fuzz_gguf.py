"""``make test-long``: the GGUF reader and the memory account under a coverage-guided fuzzer (atheris).

A header is read or refused with the reader's own error, and its account made or refused with the account's own; nothing
else is raised, and no input takes more than five seconds. ``python -m tests.fuzz_gguf SECONDS``; what fails is left in
build/fuzz, one file a find. Atheris comes for x86-64 Linux alone; elsewhere the target says so and does nothing.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "build" / "fuzz"
SECONDS = 120
PACKAGE = "ansible_collections.onprem.llm"


def _mount() -> None:
    """This checkout as the collection, whatever is installed."""
    for name, path in ((PACKAGE.split(".")[0], []), (PACKAGE.rsplit(".", 1)[0], []), (PACKAGE, [str(ROOT)])):
        module = types.ModuleType(name)
        module.__path__ = path
        sys.modules[name] = module


def main(arguments: list[str]) -> int:
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("fuzz: atheris is not to be had here, so the GGUF reader is not fuzzed")
        return 0
    _mount()
    utils = f"{PACKAGE}.plugins.module_utils"
    with atheris.instrument_imports(include=[utils]):
        gguf = importlib.import_module(f"{utils}._gguf")
        memory = importlib.import_module(f"{utils}._memory")
        architectures = importlib.import_module(f"{utils}._architectures")
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    files = importlib.import_module("gguf_files")

    def one(data: bytes) -> None:
        try:
            header = gguf.read_bytes(data)
            model = memory.shape_from_header(header)
            for devices in (memory.Devices(), memory.Devices((1.0, 2.0), 2)):
                memory.place(model, memory.Run(512, 2, batch=64), devices)
        except (gguf.GgufError, memory.ShapeError):
            pass

    corpus = CORPUS / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for name in sorted({*architectures.DECODERS, *architectures.OTHERS, "novel"}):
        (corpus / name).write_bytes(files.llama(layers=2, vocabulary=8, architecture=name))
    seconds = arguments[0] if arguments else str(SECONDS)
    options = [
        f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=2048", "-max_len=8192", "-len_control=0",
        f"-artifact_prefix={CORPUS}/", "-print_final_stats=1", str(corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
