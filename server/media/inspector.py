"""`python -m server.media.inspector`: checks untrusted files, one after the other, in a process that can be killed.

A task is one line of JSON on standard input, its answer one line on standard output: {} for a good file, {"error": …},
or {"slow": true} for a file that must be sent again with `slow`. Memory is limited per process, CPU time per task.
Knows: the checks. Does not know: where files come from, who owns them. Imports neither torch nor numpy.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipelines import child
from pipelines.lora import file as lora_file
from pipelines.lora.layout import LoraError, layers_of
from pipelines.video import picture, probe
from pipelines.video.process import MediaUnreadable

MEMORY_BYTES = 1536 * 2**20  # the largest accepted image takes about 950 MiB
QUICK_CPU_SECONDS = 3.0
SLOW_CPU_SECONDS = 15.0
NICE = 5  # lower priority than the API process, higher than the workers
SLOW_NICE = 10  # added to the process's niceness for slow tasks: lower priority than the workers
QUICK_HEADER = 2**20  # bytes; a LoRA file with a longer header is a slow task

Answer = dict[str, Any]


def main() -> None:
    child.confine(MEMORY_BYTES)
    os.nice(NICE)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the CPU time limit ends the process
    # libraries may write to standard output; only answers belong there
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for line in sys.stdin:
        task = json.loads(line)
        if task["slow"]:  # this task is the last of this process
            os.nice(SLOW_NICE)
        signal.setitimer(signal.ITIMER_PROF, SLOW_CPU_SECONDS if task["slow"] else QUICK_CPU_SECONDS)
        answer = answered(task)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def answered(task: dict[str, Any]) -> Answer:
    try:
        return CHECKS[task["check"]](task)
    except MediaUnreadable as e:
        return {"error": str(e), "code": e.code}
    except LoraError as e:
        return {"error": str(e)}
    except MemoryError:
        return {"error": "it takes too much memory to read", "code": task["code"]}
    except OSError as e:
        return {"error": f"it cannot be read: {e.strerror}", "code": task["code"]}
    except RecursionError:
        return {"error": "it is nested too deeply", "code": task["code"]}


def _image(task: dict[str, Any]) -> Answer:
    opened = picture.look(Path(task["path"]).read_bytes())
    if not (opened.is_quick or task["slow"]):
        return {"slow": True}
    picture.decode(opened)
    return {}


def _clip(task: dict[str, Any]) -> Answer:
    probe.check_clip(Path(task["path"]), longest=task["longest"], pixels=task["pixels"])
    return {}


def _lora(task: dict[str, Any]) -> Answer:
    """Task fields: `config`, the config.json of the transformer that the LoRA must fit, or None; `alpha` from the
    request."""
    path = Path(task["path"])
    with path.open("rb") as file:
        if not task["slow"] and int.from_bytes(file.read(8), "little") > QUICK_HEADER:
            return {"slow": True}
    found = lora_file.content(path)
    if task["config"] is not None:
        layers = layers_of(json.loads(Path(task["config"]).read_text("utf-8")))
        lora_file.alpha_of(found, lora_file.matched(found, layers), task["alpha"])
    return {}


CHECKS = {"image": _image, "clip": _clip, "lora": _lora}


if __name__ == "__main__":
    main()
