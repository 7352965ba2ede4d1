"""Stands for `kedro run --config FILE` in tests of sweeps: what a trial does follows its seed."""

import json
import signal
import sys
import time
from pathlib import Path

import yaml

params = yaml.safe_load(Path(sys.argv[1]).read_text())["run"]["params"]
folder, training = Path(params["data_root"]), params.get("training", {})
seed, kimg = params.get("seed", 0), training.get("budget_kimg", 0.64)


def write(name: str, content: object) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{name.replace('/', '-')}.aside")
    aside.write_text(json.dumps(content) + "\n")
    aside.replace(path)


def save_and_end(signum: int, frame: object) -> None:
    while (folder / "saving.txt").exists():
        time.sleep(0.02)
    write("saved.json", time.time())
    sys.exit(128 + signum)


signal.signal(signal.SIGTERM, save_and_end)
with open(folder / "starts.txt", "a") as starts:
    print(f"{kimg:g} at {time.time()}", file=starts)
write("06_models/trainings/one/training_log.jsonl", {"images_seen": 500 * kimg})
if seed == 1:
    print("11-26 02:00:00 INFO    training")
    sys.exit("Error: the losses have no finite value")
while seed == 2 and not (folder / "go.txt").exists():
    write("waits.json", time.time())
    time.sleep(0.02)
write("06_models/trainings/one/training_log.jsonl", {"images_seen": 1000 * kimg})
score = abs(training.get("optimizer", {}).get("lr", 0.3) - 0.3) + 1 / kimg
stamp = str(params.get("evaluation", {}).get("seed", "usual"))
metrics = {"mind": score, "mind_interval": 0.01, "recall": score, "stamp": stamp}
write("08_reporting/metrics.json", {} if seed == 3 else metrics)
card = folder / "08_reporting/training_card.json"
before = json.loads(card.read_text())["images_seen"] if card.exists() else 0
write("08_reporting/training_card.json", {"images_seen": max(before, round(1000 * kimg))})
