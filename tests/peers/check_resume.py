"""A run of llm-quantize that is killed, interrupted or short of disk goes on where it was, and ends in the same bytes.

Each round starts a run, ends it at a random moment, notes how many pieces the journal holds, and runs the same command
again: the output must have the hash of an undisturbed one, at least the noted pieces must not have been done again, and
nothing else may be left in the folder. `--seed` repeats the moments of an earlier check.
"""

import dataclasses
import hashlib
import random
import shutil
import signal
import subprocess
import time

from common import Check, ToolError



@dataclasses.dataclass
class Task:
    """What is made of a model: arguments of `quantize` behind it, and the name of the file or folder."""

    arguments: list
    name: str


GGUF = Task(["gguf", "-q", "Q4_K_M"], "m.gguf")


class Rounds:
    """Runs of one model in fresh folders."""

    def __init__(self, check, model, work, task=GGUF):
        self.check, self.work, self.task = check, work / "resume", task
        self.work.mkdir(exist_ok=True)
        self.source = check.model(model, work)
        self.random = random.Random(check.args.seed)
        whole = self.folder()
        started = time.monotonic()
        self.undisturbed = check.run(*self.arguments(whole))
        self.seconds = time.monotonic() - started
        self.hash = self.hash_of(whole)
        self.totals = {"killed": 0, "recorded": 0, "resumed": 0, "nothing yet": 0, "finished": 0}
        print(f"{model}: {self.undisturbed['metadata']['pieces_total']} pieces in {self.seconds:.2f} s, sha256 {self.hash[:16]}")

    def arguments(self, out):
        return ["quantize", self.source, *self.task.arguments, "-o", out, "-n", self.task.name]

    def folder(self):
        """A fresh output folder."""
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out

    def hash_of(self, out):
        """Of the output file; of a folder, of all its files and their names."""
        made = out / self.task.name
        digest = hashlib.sha256()
        for path in sorted(made.iterdir()) if made.is_dir() else [made]:
            digest.update(path.name.encode())
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def recorded(self, out):
        """Pieces in the journal: whole lines after the header."""
        journal = out / ".checkpoint" / f"{self.task.name}.journal"
        if not journal.exists():
            return 0
        lines = journal.read_bytes().split(b"\n")[1:-1]
        return len({line for line in lines if b'"piece"' in line})

    def disturb(self, out, number):
        """Starts a run and sends it a signal at a random moment; returns its exit code."""
        command = [self.check.binary, "--format", "json", *map(str, self.arguments(out))]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self.random.random() * self.seconds)
        process.send_signal(number)
        return process.wait(timeout=60)

    def round(self, number, times):
        """One output with up to `times` disturbances; returns problems."""
        out = self.folder()
        recorded, problems = 0, []
        for _ in range(times):
            code = self.disturb(out, number)
            self.totals["killed"] += 1
            if (out / self.task.name).exists():
                break
            # An interrupt in the first milliseconds comes before its handler.
            if code not in (-number, 130 if number == signal.SIGINT else -number):
                problems.append(f"the disturbed run ended with {code}")
            now = self.recorded(out)
            if now < recorded:
                problems.append(f"the journal had {recorded} pieces and has {now}")
            recorded = now
        if (out / self.task.name).exists():
            self.totals["finished"] += 1
        else:
            resumed = self.check.run(*self.arguments(out))["metadata"]["pieces_resumed"]
            self.totals["recorded"] += recorded
            self.totals["resumed"] += resumed
            self.totals["nothing yet"] += recorded == 0
            if resumed < recorded:
                problems.append(f"{recorded} pieces were recorded, only {resumed} resumed")
            left = sorted(path.name for path in out.iterdir())
            if left != [self.task.name]:
                problems.append(f"left behind: {left}")
        if self.hash_of(out) != self.hash:
            problems.append("the output has other bytes")
        return problems

    def rounds(self, label, number, count):
        """`count` disturbances, every third of them of a run that resumes already."""
        problems = []
        before = dict(self.totals)
        while self.totals["killed"] - before["killed"] < count:
            problems += self.round(number, 1 + (self.totals["killed"] % 3 == 0))
        detail = ", ".join(f"{self.totals[key] - before[key]} {key}" for key in self.totals)
        if count >= 10 and self.totals["recorded"] == before["recorded"]:
            problems.append("no run was caught with a piece in its journal")
        self.check.verdict(label, problems, detail)

    def full_disk(self):
        """A disk of the output's size and little more: too full at first, then filled while the run is stopped."""
        label = "a disk that is full, then is not"
        out = self.folder()
        size = self.undisturbed["file_size"] + 8_000_000
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(out)], capture_output=True)
        if mounted.returncode != 0:
            print(f"skip  {label}: this machine mounts nothing for us")
            return
        try:
            self.check.verdict(label, self._full_disk(out))
        finally:
            subprocess.run(["umount", str(out)], check=True)

    def _full_disk(self, out):
        problems = []
        filler = out / "filler"
        filler.write_bytes(bytes(10_000_000))
        try:
            self.check.run(*self.arguments(out))
            problems.append("a run succeeded without space")
        except ToolError as error:
            if "exit 13" not in str(error) or "are missing" not in str(error):
                problems.append(str(error))
        if sorted(path.name for path in out.iterdir()) != ["filler"]:
            problems.append("the refused run left something")
        filler.unlink()
        self.disturb_when_recorded(out)
        recorded = self.recorded(out)
        # Somebody else takes all that is left; the output and the journal have their space.
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        resumed = self.check.run(*self.arguments(out))["metadata"]["pieces_resumed"]
        if resumed < recorded or recorded == 0:
            problems.append(f"{recorded} pieces were recorded, {resumed} resumed")
        if self.hash_of(out) != self.hash:
            problems.append("the output has other bytes")
        return problems

    def disturb_when_recorded(self, out):
        """Kills a run when its journal has a piece; again, if the run was faster than we are."""
        command = [self.check.binary, "--threads", "1", *map(str, self.arguments(out))]
        for _ in range(20):
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and self.recorded(out) == 0:
                time.sleep(0.005)
            process.kill()
            process.wait()
            if not (out / self.task.name).exists():
                return
            (out / self.task.name).unlink()


def main():
    seed = random.SystemRandom().randrange(1 << 32)
    check = Check(__doc__.splitlines()[0], kills={"type": int, "default": 50}, interrupts={"type": int, "default": 10},
                  seed={"type": int, "default": seed, "help": "of the moments (default: another one each time)"})
    print(f"seed {check.args.seed}")
    with check.folder() as work:
        for model in check.args.models:
            rounds = check.attempt(f"{model} preparation", Rounds, check, model, work)
            if rounds is None:
                continue
            check.attempt(f"{model} SIGKILL", rounds.rounds, f"{model} SIGKILL", signal.SIGKILL, check.args.kills)
            check.attempt(f"{model} SIGINT", rounds.rounds, f"{model} SIGINT", signal.SIGINT, check.args.interrupts)
            check.attempt(f"{model} full disk", rounds.full_disk)
    check.finish()


if __name__ == "__main__":
    main()
