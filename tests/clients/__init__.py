"""The examples of docs/clients.md, taken from the page and run as a user would run them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "clients.md"
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
ENVIRONMENT = ROOT / "build" / "clients" / "venv"
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PATIENCE = 120


@dataclass(frozen=True)
class Example:
    """``name``: the heading that it stands under, numbered from the second on. ``prints``: what it has to print."""

    name: str
    language: str
    code: str
    prints: str

    def matches(self, output: str) -> bool:
        """Whether the output is what the page says, where … stands for anything."""
        pattern = ".*".join(map(re.escape, self.prints.strip().split("…")))
        return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


def examples(page: str) -> list[Example]:
    """ValueError if a block of code is not followed by what it prints, so that none goes untested."""
    found: list[Example] = []
    blocks = list(BLOCK.finditer(page))
    for block, following in zip(blocks, [*blocks[1:], None]):
        if block["language"] == "text":
            continue
        heading = HEADING.findall(page[: block.start()])[-1]
        if following is None or following["language"] != "text":
            raise ValueError(f"an example under {heading!r} is not followed by what it prints")
        number = sum(example.name.partition(" (")[0] == heading for example in found) + 1
        name = heading if number == 1 else f"{heading} ({number})"
        found.append(Example(name, block["language"], block["text"], following["text"]))
    return found


def python() -> Path:
    """The interpreter of an environment with the pinned clients, below build/; made where it is not there yet."""
    mark = ENVIRONMENT / hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not mark.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        install = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile", "--requirement"]
        subprocess.run([ENVIRONMENT / "bin" / "python", *install, REQUIREMENTS], check=True)
        mark.touch()
    return ENVIRONMENT / "bin" / "python"


def run(example: Example, interpreter: Path, variables: dict[str, str]) -> tuple[int, str]:
    """Exit status and output. Of this process's environment the example gets what programs need, and no more."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "example"
        script.write_text(example.code, encoding="utf-8")
        program = [interpreter] if example.language == "python" else ["sh", "-eu"]
        environment = {"PATH": os.environ["PATH"], "HOME": directory, "TMPDIR": directory, **variables}
        done = subprocess.run(
            [*program, script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    return done.returncode, done.stdout


def variables(url: str, ca_file: str, api_key: str, model: str, embedding_model: str) -> dict[str, str]:
    return {
        "LLM_URL": url,
        "LLM_API_KEY": api_key,
        "SSL_CERT_FILE": ca_file,
        "CURL_CA_BUNDLE": ca_file,
        "LLM_MODEL": model,
        "LLM_EMBEDDING_MODEL": embedding_model,
    }
