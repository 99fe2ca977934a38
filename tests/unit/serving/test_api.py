"""What the service answers: right notes, one publication an answer, clear refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.publication.pointer import POINTER
from tests.unit.index.examples import BUNDLE, DATA_MD5, clustered, index_artifact, publish
from tests.unit.serving.conftest import NOTES, ODD, Service

Open = Callable[..., Service]


def exact(model: int, k: int) -> list[int]:
    """Rows nearest to the first note."""
    vectors = clustered(NOTES, seed=model)
    return [int(row) for row in np.argsort(-(vectors @ vectors[0])) if row != 0][:k]


def test_similar_notes_and_what_answered(open_service: Open, published: Path, indexes: list[Artifact]) -> None:
    pointer = publish(published, indexes[0], model_version="7")
    answer = open_service().get("/similar/asked", params={"k": 5})
    assert answer.status_code == 200
    told = answer.json()
    names = ["asked", ODD, *(f"m0-{row}" for row in range(2, NOTES))]
    assert [note["note_id"] for note in told["similar"]] == [names[row] for row in exact(0, 5)]
    scores = [note["score"] for note in told["similar"]]
    assert scores == sorted(scores, reverse=True)
    assert told["note_id"] == "asked"
    assert "title" not in told, "this index has no titles"
    assert "title" not in told["similar"][0]
    assert told["served_by"] == {
        "publication": pointer.version,
        "model_name": "notes",
        "model_version": "7",
        "bundle": BUNDLE,
        "index_key": indexes[0].key,
        "data_md5": DATA_MD5,
        "notes": NOTES,
        "published": pointer.published,
    }


def test_titles_are_told_where_the_index_has_them(open_service: Open, published: Path, tmp_path: Path) -> None:
    titles = ["Sourdough", *(f"Walk {row}" for row in range(1, NOTES))]
    publish(published, index_artifact(Store(tmp_path / "store"), clustered(NOTES), titles=titles))
    service = open_service()
    told = service.get("/similar/n00000?k=3").json()
    assert told["title"] == "Sourdough"
    assert [note["title"] for note in told["similar"]] == [f"Walk {row}" for row in exact(0, 3)]


def test_ten_are_given_where_nobody_says_how_many(open_service: Open, published: Path, indexes: list[Artifact]) -> None:
    publish(published, indexes[0])
    service = open_service()
    assert len(service.get("/similar/asked").json()["similar"]) == 10
    assert len(service.get("/similar/asked?k=1000").json()["similar"]) == NOTES - 1


def test_an_id_of_any_characters_is_found(open_service: Open, published: Path, indexes: list[Artifact]) -> None:
    publish(published, indexes[0])
    answer = open_service().get(f"/similar/{quote(ODD, safe='')}?k=1")
    assert (answer.status_code, answer.json()["note_id"]) == (200, ODD)


def test_an_unknown_note_is_answered_with_ids_near_it(
    open_service: Open, published: Path, indexes: list[Artifact]
) -> None:
    pointer = publish(published, indexes[0])
    service = open_service()
    answer = service.get("/similar/m0-39x")
    assert answer.status_code == 404
    told = answer.json()
    assert "note 'm0-39x' is not in the published index (60 notes of data" in told["detail"]
    assert "m0-39" in told["near"]
    assert told["served_by"]["publication"] == pointer.version
    assert service.get("/similar/").status_code == 404


@pytest.mark.parametrize("k", ["0", "-1", "1001", "ten", "1.5", ""])
def test_a_wrong_number_of_neighbours_is_refused(
    open_service: Open, published: Path, indexes: list[Artifact], k: str
) -> None:
    publish(published, indexes[0])
    answer = open_service().get(f"/similar/asked?k={k}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "k"]


def test_a_random_note_is_one_of_the_index(open_service: Open, published: Path, indexes: list[Artifact]) -> None:
    publish(published, indexes[2])
    service = open_service()
    drawn = {service.get("/random").json()["note_id"] for _ in range(20)}
    assert len(drawn) > 1
    for note_id in drawn:
        assert service.get(f"/similar/{quote(note_id, safe='')}").status_code == 200


def test_before_the_first_publication_it_is_alive_and_not_ready(
    open_service: Open, published: Path, indexes: list[Artifact]
) -> None:
    service = open_service()
    assert service.get("/healthz").status_code == 200
    ready = service.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["ready"] is False
    assert "nothing is published in" in ready.json()["problem"]
    for path in ("/similar/asked", "/random"):
        answer = service.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "nothing is published in" in answer.json()["detail"]
    assert service.get("/version").json()["loaded"] is None
    pointer = publish(published, indexes[0])
    assert service.follower.look()
    assert service.get("/readyz").json() == {"ready": True, "publication": pointer.version, "problem": None}
    assert service.get("/similar/asked").status_code == 200


def test_a_damaged_publication_is_told_everywhere_and_the_old_one_answers(
    open_service: Open, published: Path, indexes: list[Artifact], caplog: pytest.LogCaptureFixture
) -> None:
    old = publish(published, indexes[0], model_version="1")
    service = open_service()
    new = publish(published, indexes[1], model_version="2")
    file = published / new.folder / "index.faiss"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert not service.follower.look()
    assert not service.follower.look()
    ready = service.get("/readyz")
    assert (ready.status_code, ready.json()["publication"]) == (200, old.version)
    assert f"the published index {new.version} is damaged" in ready.json()["problem"]
    running = service.get("/version").json()
    assert (running["loaded"]["publication"], running["pointer"]["publication"]) == (old.version, new.version)
    assert running["problem"] == ready.json()["problem"]
    told = service.get("/similar/asked").json()
    assert told["served_by"]["publication"] == old.version
    assert {note["note_id"].partition("-")[0] for note in told["similar"]} <= {"m0", ODD}
    values = metrics(service)
    assert (values["notellm2_ready"], values["notellm2_following"]) == (1, 0)
    assert (values["notellm2_switches_total"], values["notellm2_follow_failures_total"]) == (1, 2)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, "a fault that stays is logged once"
    assert warnings[0].startswith(f"still serving {old.version}: the published index {new.version} is damaged")
    repaired = publish(published, indexes[2], model_version="3")
    assert service.follower.look()
    assert service.get("/readyz").json() == {"ready": True, "publication": repaired.version, "problem": None}
    assert metrics(service)["notellm2_following"] == 1


def test_a_pointer_that_is_gone_or_torn_changes_nothing_served(
    open_service: Open, published: Path, indexes: list[Artifact]
) -> None:
    old = publish(published, indexes[0])
    service = open_service()
    whole = (published / POINTER).read_bytes()
    for torn in (whole[:40], None):
        (published / POINTER).unlink() if torn is None else (published / POINTER).write_bytes(torn)
        assert not service.follower.look()
        assert service.get("/similar/asked").json()["served_by"]["publication"] == old.version
        assert service.get("/readyz").json()["problem"]
    (published / POINTER).write_bytes(whole)
    assert not service.follower.look()
    assert service.get("/readyz").json()["problem"] is None


def test_switching_under_load_fails_no_answer_and_mixes_none(
    open_service: Open, published: Path, indexes: list[Artifact]
) -> None:
    publish(published, indexes[0], model_name="m0")
    service = open_service()
    stop, faults, seen = threading.Event(), list[str](), set[str]()
    answered = threading.Semaphore(0)

    def ask() -> None:
        while not stop.is_set():
            answer = service.get("/similar/asked?k=20")
            told = answer.json()
            if answer.status_code != 200:
                faults.append(answer.text)
                continue
            of = {note["note_id"].partition("-")[0] for note in told["similar"]} - {ODD}
            if of != {told["served_by"]["model_name"]}:
                faults.append(f"{told['served_by']} answered with {of}")
            seen.add(told["served_by"]["publication"])
            answered.release()

    readers = [threading.Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for step in range(1, 13):
            model = step % 4
            publish(published, indexes[model], model_name=f"m{model}", model_version=str(step), keep=1)
            assert service.follower.look()
            for _ in range(6):
                assert answered.acquire(timeout=60)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert faults == []
    assert len(seen) > 6


def test_it_follows_by_itself(open_service: Open, published: Path, indexes: list[Artifact]) -> None:
    publish(published, indexes[0])
    service = open_service(every_s=0.01)
    new = publish(published, indexes[1], model_version="2")
    for _ in range(6000):
        if service.get("/readyz").json()["publication"] == new.version:
            break
    assert service.get("/similar/asked").json()["served_by"]["model_version"] == "2"


def test_metrics_name_routes_and_never_ids(open_service: Open, published: Path, indexes: list[Artifact]) -> None:
    pointer = publish(published, indexes[0], model_version="7")
    service = open_service()
    for path in ("/similar/asked", "/similar/unknown-one", "/similar/asked?k=0", "/nowhere"):
        service.get(path)
    answer = service.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "unknown-one" not in answer.text
    assert "nowhere" not in answer.text
    values = metrics(service)
    route = "/similar/{note_id}"
    for status, count in (("200", 1), ("404", 1), ("422", 1)):
        assert values[f'notellm2_requests_total{{route="{route}",status="{status}"}}'] == count
    assert values['notellm2_requests_total{route="none",status="404"}'] == 1
    assert values[f'notellm2_request_seconds_count{{route="{route}"}}'] == 3
    assert values["notellm2_index_notes"] == NOTES
    assert 0 <= values["notellm2_index_age_seconds"] < 600
    assert 0 <= values["notellm2_pointer_age_seconds"] < 600
    (told,) = [name for name in values if name.startswith("notellm2_index_info")]
    assert 'model_version="7"' in told
    assert f'publication="{pointer.version}"' in told


def test_a_failure_inside_is_counted_and_told_without_its_insides(
    open_service: Open, published: Path, indexes: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    from notellm2.publication.reader import OpenVersion

    def broken(*_: object) -> None:
        raise RuntimeError("an inside")

    publish(published, indexes[0])
    service = open_service()
    monkeypatch.setattr(OpenVersion, "similar", broken)
    answer = service.get("/similar/asked")
    assert answer.status_code == 500
    assert "an inside" not in answer.text
    assert metrics(service)['notellm2_requests_total{route="/similar/{note_id}",status="500"}'] == 1


def test_the_schema_is_there_and_no_page_that_loads_scripts_from_elsewhere(open_service: Open) -> None:
    service = open_service()
    paths = service.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/similar/{note_id}", "/random", "/healthz", "/readyz", "/version"}
    assert {service.get(path).status_code for path in ("/docs", "/redoc")} == {404}
    json.dumps(paths)


def metrics(service: Service) -> dict[str, float]:
    """Every sample by its name and labels."""
    lines = [line for line in service.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
