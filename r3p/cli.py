"""The front door: `r3p COMMAND`, see `COMMANDS`. Bad input ends in a sentence and status 2."""

import argparse
import sys
from collections.abc import Sequence

from r3p import __version__
from r3p.errors import InputError

COMMANDS = {
    "demo": "a talking video of a public-domain portrait: the first thing to run",
    "talk": "a portrait and speech, or a driving video, to a talking video",
    "prepare": "clips of talking people to the shards that training reads",
    "data": "check shards, or show what is in them",
    "train": "train one stage",
    "plan": "whether a training step fits a pod, and what bounds its speed, without the pod",
    "convert": "an official checkpoint to weights of r3p, and back",
    "parity": "the networks against recorded runs of the official code",
    "eval": "any systems' videos against a manifest: figures with intervals, as a report",
    "doctor": "what is installed, what is missing, and how to mend it",
    "assets": "fetch the face models (once; after that no network is needed)",
}
EXAMPLES = """examples:
  r3p demo
  r3p talk --image me.jpg --audio speech.wav --out me.mp4
  r3p talk --portrait me.r3p --video driver.mp4 --out driven.mp4
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for cases out of parity, 2 for input that cannot be used."""
    listed = "\n".join(f"  {name:8}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="r3p",
        description=f"One portrait plus speech or a driving video: a 3D-aware talking video.\n\ncommands:\n{listed}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"r3p {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of the above; each has --help")
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = parser.parse_args(arguments[:1]).command
    try:
        # Imported here, so that `--help` and `assets` do not wait for jax.
        if command == "demo":
            from r3p.talk import demo

            return demo(arguments[1:])
        if command == "talk":
            from r3p.talk import talk

            return talk(arguments[1:])
        if command == "prepare":
            from data_pipelines.prepare import main as prepare

            return prepare(arguments[1:])
        if command == "data":
            from data_pipelines.shards_check import main as data

            return data(arguments[1:])
        if command == "train":
            from r3p.train import main as train

            return train(arguments[1:])
        if command == "plan":
            from r3p.plan import main as plan

            return plan(arguments[1:])
        if command == "convert":
            from r3p.exchange import main as convert

            return convert(arguments[1:])
        if command == "parity":
            from r3p.parity.command import main as parity

            return parity(arguments[1:])
        if command == "eval":
            from r3p.evaluate.command import main as evaluate

            return evaluate(arguments[1:])
        if command == "doctor":
            from r3p.doctor import main as doctor

            return doctor(arguments[1:])
        from r3p.assets.fetch import main as fetch

        fetch(arguments[1:])
        return 0
    except InputError as error:
        print(f"r3p {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"r3p {command}: stopped; nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
