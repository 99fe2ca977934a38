"""Readers that ask a published place without a pause, as a program: `index_readers.py PLACE THREADS`.

Each version begins with notes of its own, whose ids end in what the version's model is called; one note, "asked", is in
all of them. Prints the name of each version as it gives its first answer after another, and when standard input ends
one JSON object: the number of answers, and the faults (an error, or neighbours that are not of the version named).
"""

from __future__ import annotations

import json
import sys
import threading

from notellm2.publication import Published

LOOK_S = 0.002


def ask(published: Published, stop: threading.Event, answers: list[str], faults: list[str]) -> None:
    named = ""
    try:
        while not stop.is_set():
            version = published.current
            publication = version.publication
            found = {neighbour.note_id.partition("-")[0] for neighbour in version.similar("asked", 20)}
            if found != {publication.model_name}:
                faults.append(f"{publication.version} of {publication.model_name} answered with {sorted(found)}")
            loose = {neighbour.note_id.partition("-")[0] for neighbour in published.similar("asked", 20)}
            if len(loose) != 1:
                faults.append(f"one answer of {sorted(loose)}")
            answers.append(publication.version)
            if publication.version != named:
                named = publication.version
                sys.stdout.write(f"{named}\n")  # in one piece: `print` would write the end of the line by itself
                sys.stdout.flush()
    except Exception as error:
        faults.append(repr(error))
        print(repr(error), flush=True)


def main(place: str, threads: int) -> None:
    sys.setswitchinterval(0.0005)  # so that the follower is not starved by threads that never wait
    stop, answers, faults = threading.Event(), list[str](), list[str]()
    with Published(place, follow_s=LOOK_S) as published:
        readers = [threading.Thread(target=ask, args=(published, stop, answers, faults)) for _ in range(threads)]
        for reader in readers:
            reader.start()
        sys.stdin.read()
        stop.set()
        for reader in readers:
            reader.join()
        problem = published.problem
    told = {"answers": len(answers), "faults": faults, "problem": problem and repr(problem)}
    print(json.dumps({**told, "served": published.publication.version}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
