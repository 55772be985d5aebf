"""The command `tubelet`: one file a command, and what they say.

    tubelet encode    files -> packed tokens in a safetensors file
    tubelet show      a picture with its patch grid, or the sampled frames of a clip with their times, as PNG
    tubelet select    fewer tokens of pictures and clips, chosen, and a picture of which they are
    tubelet compare   several ways to choose tokens beside each other: pictures and numbers
    tubelet ask       a question about pictures and videos, answered by a vision-language model
    tubelet serve     a page in the browser: what the model sees, which tokens stay, what they cost
    tubelet scene     cameras, depth and points of a video or of pictures of one place, as a folder
    tubelet eval      a model's answers to a public benchmark, with all tokens and with fewer
    tubelet plan      what an input costs before it is read: tokens, FLOPs, memory; and what fits
    tubelet data      what training data hold, and what is wrong with them
    tubelet train     a projector, adapters or a model, as a file says, on one process or many
    tubelet convert   checkpoints between the formats of a family
    tubelet models    what can be loaded
    tubelet bench     the encoders against where they came from, timed on this machine
    tubelet pages     pages to train and test a reader with, their questions and answers

FILE is a file, a folder, a pattern or - for stdin; nothing is replaced without `--overwrite`.
Exit codes: 0 done; 1 something failed (also when `--on-error skip` left a file out); 2 the command line is wrong;
130 interrupted. Results go to stdout, everything else to stderr, and an error is one line. With `--json`, stdout holds
one JSON document and nothing else, whatever happens; of `encode --out OUT/` an object a line, and its exit codes are
also 3, too many bad files, and 143, SIGTERM. A reader of stdout who leaves early does not change the result.
Nothing heavy is imported before a command really runs, so that help and usage errors come at once.
"""

import sys
from collections.abc import Sequence

from tubelet.cli.terminal import Boundary, Terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (by default this process's) and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0].startswith("--local_rank="):  # DeepSpeed's launcher puts it first; LOCAL_RANK says the same
        del args[0]
    before = args[: args.index("--")] if "--" in args else args
    terminal = Terminal(json="--json" in before, debug="--debug" in before, quiet="--quiet" in before)
    with Boundary(terminal) as outcome:
        if args[:1] in (["--version"], ["-V"]):
            from tubelet import __version__

            terminal.line(f"tubelet {__version__}")
        else:
            from tubelet.cli.parse import parse

            outcome.code = parse(args).run(terminal)
        terminal.close()
    return outcome.code
