"""One command from nothing to weights: `make mouth`, or `python -m training.mouth`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from sonic_runtime.mouth import spectrum
from training.mouth import corpus, espeak, evaluate, flite, kokoro, network, quiet, train
from training.mouth.corpus import Utterance
from training.mouth.evaluate import Score

SEED = 1


@dataclasses.dataclass(frozen=True)
class Part:
    """Of the corpus; `repeated` is how often it is heard in a round, the most natural voices the most."""

    name: str
    source: Callable[[int], Iterator[Utterance]]
    seed: int
    hours: float
    repeated: int


PARTS = (
    Part("espeak", espeak.utterances, 1, 3.0, 1),
    Part("flite", flite.utterances, 2, 0.75, 1),
    Part("kokoro", kokoro.utterances, 3, 0.6, 3),
    Part("kokoro2", kokoro.utterances, 13, 0.6, 3),
    Part("quiet", quiet.utterances, 4, 0.3, 1),
)
HELD_OUT = 40  # every so many utterances are not trained on
WEIGHTS = Path(__file__).parent.parent.parent / "sonic_runtime" / "mouth" / "mouth.onnx"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--work", type=Path, default=Path("build/mouth"), help="where the corpus is kept (build/mouth)"
    )
    options.add_argument("--out", type=Path, default=WEIGHTS, help="the weights, as ONNX")
    options.add_argument("--test", type=Path, help="a folder of labelled recordings to measure on as well")
    options.add_argument("--epochs", type=int, default=16)
    options.add_argument(
        "--hearings", type=int, default=4, help="how often each utterance is heard, each time otherwise"
    )
    given = options.parse_args()
    trained, held = speech(given.work)
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    print(f"hearing {sum(u.duration_s for u in trained) / 3600:.1f} hours {given.hearings} times …", flush=True)
    heard = train.hear(trained, given.hearings, SEED, cores)
    network.export(train.train(heard, given.epochs, SEED), given.out)
    print(json.dumps(report(given.out, held, given.test), indent=2))


def speech(folder: Path) -> tuple[list[Utterance], list[Utterance]]:
    """What is trained on, and what is held out. Made once, then read from the folder."""
    trained: list[Utterance] = []
    held: list[Utterance] = []
    for part in PARTS:
        if part.source is flite.utterances and not flite.available():
            print("flite is not installed and is left out; for the weights as published: apt install flite")
            continue
        corpus.save(folder, part.name, part.source(part.seed), part.hours)
        utterances = corpus.load(folder, part.name)
        held += utterances[::HELD_OUT]
        trained += [one for at, one in enumerate(utterances) if at % HELD_OUT] * part.repeated
    return trained, held


def report(weights: Path, held: list[Utterance], test: Path | None) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by language on what was held out, and by recording and condition on a folder of others."""
    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])

    def predict(samples: NDArray[np.float32]) -> NDArray[np.float32]:
        (found,) = session.run(None, {"mel": spectrum.normalised(spectrum.log_mel(samples))[None]})
        return np.asarray(found[0], np.float32)

    languages: dict[str, list[Score]] = defaultdict(list)
    for utterance in held:
        languages[utterance.language].append(evaluate.score(utterance, predict))
    figures = {"held out": {name: _plain(evaluate.mean(scores)) for name, scores in sorted(languages.items())}}
    if test:
        recordings = evaluate.recordings(test)
        figures["recordings"] = {name: _plain(evaluate.score(one, predict)) for name, one in recordings}
        figures["conditions"] = {
            name: _plain(
                evaluate.mean(
                    evaluate.score(dataclasses.replace(one, samples=change(one.samples)), predict)
                    for _, one in recordings
                )
            )
            for name, change in evaluate.conditions().items()
        }
    return figures


def _plain(score: Score) -> dict[str, float]:
    return {name: round(value, 3) for name, value in dataclasses.asdict(score).items()}


if __name__ == "__main__":
    main()
