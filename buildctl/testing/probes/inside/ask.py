"""Put in front of every probe by what asks them, so that a probe needs no file in the image.

Prints, before and after every question, the answers so far as one JSON object on a line: the last line is the most
complete one, even when a later question kills the interpreter. An answer: {"value", "error": TEXT or null, "seconds"}.
"""

import json
import sys
import time
import traceback

OPTIONS = json.loads(sys.argv[1])
ANSWERS = {}


def ask(name, question):
    print(json.dumps({"doing": name, "answers": ANSWERS}), flush=True)
    started = time.monotonic()
    value = error = None
    try:
        value = question()
    except BaseException as problem:
        error = "".join(traceback.format_exception_only(type(problem), problem)).strip()[-2000:]
    ANSWERS[name] = {"value": value, "error": error, "seconds": round(time.monotonic() - started, 3)}
    print(json.dumps({"doing": None, "answers": ANSWERS}), flush=True)
