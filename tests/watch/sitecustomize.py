"""Python imports this file when it starts, where its folder is on the path: it writes down what should not be imported.

`UNWANTED` has the names of modules, with commas between; `SAID` is the file that gets a line for each that is imported,
with the modules by which that came about. Processes that are started from there are watched, too.
"""

import os
import sys


class Watch:
    """A finder that finds nothing, and so is asked about every module first."""

    def __init__(self, unwanted: set[str], said: str) -> None:
        self.unwanted, self.said = unwanted, said

    def find_spec(self, name: str, *_: object) -> None:
        # `importlib.util.find_spec` asks as well, where a library is looked for and not imported.
        if name not in self.unwanted or sys._getframe(2).f_code.co_name == "find_spec":
            return
        self.unwanted.discard(name)
        chain, frame = [name], sys._getframe(1)
        while frame:
            module = str(frame.f_globals.get("__name__", ""))
            # Of other libraries the names alone: how they are put together is their own affair.
            module = module if module.startswith("limbeck") else module.partition(".")[0]
            if module not in ("importlib", "_frozen_importlib", "runpy", "__main__", chain[-1]):
                chain.append(module)
            frame = frame.f_back
        with open(self.said, "a", encoding="utf-8") as stream:  # noqa: PTH123 - pathlib may be what is imported
            stream.write(" > ".join(reversed(chain)) + "\n")


sys.meta_path.insert(0, Watch(set(os.environ["UNWANTED"].split(",")), os.environ["SAID"]))  # type: ignore[arg-type]
