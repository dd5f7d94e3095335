# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command, or a function that calls a native library, and never wait for it longer than told.

A process stuck in a driver cannot be killed, so after the time is up nothing waits for it any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
import typing as t

Run = t.Callable[[t.Sequence[str], float], "tuple[int, str, str]"]


class NotAnswering(Exception):
    """The command did not end in time."""


def run_bounded(argv: t.Sequence[str], timeout: float) -> tuple[int, str, str]:
    """Run ``argv``; give its exit status, stdout and stderr.

    :raises NotAnswering: it did not end within ``timeout`` seconds.
    :raises OSError: it cannot be started.
    """
    # AnsibleModule.run_command has no time limit, and waits for a process that cannot be killed.
    process = subprocess.Popen(  # pylint: disable=ansible-bad-function
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=dict(os.environ, LC_ALL="C", LANGUAGE="C"),
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=1)
        raise NotAnswering(f"no answer within {timeout:g} seconds") from None
    return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


def call_apart(function: t.Callable[[], t.Any], timeout: float) -> t.Any:
    """What ``function`` gives, called in a child process: a native library in trouble may hang or crash there.

    The answer must be of JSON's types. None where the child died or raised.

    :raises NotAnswering: it did not end within ``timeout`` seconds.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            # Whoever reads this process's output must not wait for a child that nothing can kill.
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            os.close(reader)
            with os.fdopen(writer, "w", encoding="utf-8") as stream:
                json.dump(function(), stream)
        finally:
            os._exit(0)
    os.close(writer)
    answer = b""
    end = time.monotonic() + timeout
    try:
        while True:
            ready = select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]
            if not ready:
                raise NotAnswering(f"no answer within {timeout:g} seconds")
            part = os.read(reader, 65536)
            if not part:
                break
            answer += part
    finally:
        os.close(reader)
        _leave(child)
    try:
        return json.loads(answer.decode("utf-8")) if answer else None
    except ValueError:
        return None


def _leave(child: int) -> None:
    """End a child and collect it, unless nothing ends it."""
    with contextlib.suppress(OSError):
        os.kill(child, signal.SIGKILL)
    for _attempt in range(20):
        try:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(0.05)
