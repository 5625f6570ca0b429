"""How long writing down what leaves takes: target at most 1 ms a frame of ordinary size."""

import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from fedhealth.link.frames import Answer, ReleaseReply, pack
from fedhealth.site.egress import EgressLog

_FRAMES = 2_000


def main() -> None:
    """Print the time of one line for a small release and for the largest one."""
    question = pack(Answer(study="a" * 64, step="train", round=1), bytes(8_000))
    with tempfile.TemporaryDirectory() as folder:
        log = EgressLog(Path(folder), lambda: time.time_ns() // 10**6)
        for name, size, count, target in (
            ("8 KB", 8_000, _FRAMES, "target: p50 <= 1 ms"),
            ("3 MB", 3_000_000, _FRAMES // 20, "nearly all of it SHA-256"),
        ):
            taken = []
            for number in range(count):
                reply = pack(ReleaseReply(release=f"{size + number:064x}", signature="c" * 128), bytes(size))
                start = time.perf_counter()
                log.record(question, reply)
                taken.append((time.perf_counter() - start) * 1000)
            p99 = quantiles(taken, n=100)[98]
            print(f"egress line, release of {name}: p50 {median(taken):.3f} ms, p99 {p99:.3f} ms ({target})")
        log.close()


if __name__ == "__main__":
    main()
