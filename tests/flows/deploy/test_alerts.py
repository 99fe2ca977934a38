"""deploy/automations.yaml as Prefect takes it, and whom an alert reaches."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml

from flows.deploy import alerts, deployments
from flows.runtime.events import Event
from notellm2.errors import InputError
from tests.conftest import ROOT

FILE = ROOT / "deploy" / "automations.yaml"
SPECIFICATIONS = alerts.load_specifications(FILE)
RETRAIN = UUID(int=7)
DEPLOYMENTS = {"retrain/retrain": RETRAIN}
BLOCKS = {"webhook/notellm2": UUID(int=1), "slack-webhook/notellm2": UUID(int=2)}


def named(name: str) -> dict[str, Any]:
    return next(one for one in SPECIFICATIONS if one["name"] == alerts.PREFIX + name)


def built(name: str, blocks: dict[str, UUID] = BLOCKS) -> Any:
    return alerts.build(named(name), DEPLOYMENTS, blocks)


@pytest.mark.parametrize("one", SPECIFICATIONS, ids=lambda one: one["name"])
def test_prefect_s_server_takes_each_automation(one: dict[str, Any]) -> None:
    from prefect.server.events.schemas.automations import AutomationCreate

    made = alerts.build(one, DEPLOYMENTS, BLOCKS)
    assert made is not None
    AutomationCreate.model_validate(made.model_dump(mode="json"))


@pytest.mark.parametrize("one", SPECIFICATIONS, ids=lambda one: one["name"])
def test_an_automation_that_is_there_is_updated_only_where_it_differs(one: dict[str, Any]) -> None:
    from prefect.events.schemas.automations import Automation
    from prefect.server.events.schemas.automations import AutomationUpdate

    made = alerts.build(one, DEPLOYMENTS, BLOCKS)
    assert made is not None
    before = Automation(id=uuid4(), **made.model_dump() | {"enabled": False})
    assert deployments.automation_update(before, made) is None, "switched off by somebody is no difference"
    update = deployments.automation_update(before.model_copy(update={"description": "as it was"}), made)
    assert update is not None
    assert (update.enabled, update.description) == (False, made.description)
    AutomationUpdate.model_validate(update.model_dump(mode="json", exclude_unset=True))


def test_new_data_starts_a_retraining_once_a_day() -> None:
    made = built("new data, new model")
    (action,) = made.actions
    assert (action.type, action.deployment_id) == ("run-deployment", RETRAIN)
    assert made.trigger.expect == {Event.DATA_VERSION}
    assert made.trigger.within.total_seconds() == 86400


def test_a_silent_run_is_crashed_and_a_crashed_one_is_taken_up_again_twice_at_most() -> None:
    silent, again = built("silent run"), built("taken up again")
    assert silent.trigger.posture == "Proactive"
    assert silent.trigger.for_each == {"prefect.resource.id"}
    assert silent.trigger.within.total_seconds() >= 3 * 30, "three heartbeats may be lost"
    assert [action.state for action in silent.actions] == ["CRASHED"]
    assert [action.state for action in again.actions] == ["SCHEDULED"]
    assert again.trigger.match.root["prefect.run-count"] == ["1", "2"]


def test_everything_that_goes_wrong_has_an_alert() -> None:
    expected = {event for one in SPECIFICATIONS for event in one["trigger"]["expect"]}
    flows = {name.partition("/")[0] for name in deployments.named_deployments(ROOT / "prefect.yaml")[0]}
    assert {f"notellm2.{flow}.failed" for flow in flows} <= expected
    assert set(Event) - {Event.REFRESHED} <= expected, "an hourly refresh that went well is no news to a person"


def test_all_blocks_that_the_recipe_names_get_an_alert() -> None:
    kinds = [action.type for action in built("alert: run failed").actions]
    assert kinds == ["call-webhook", "send-notification"]
    assert built("alert: run failed", {}) is None, "nobody is named: there is nothing to make"


def test_a_webhook_gets_json_whatever_the_text_holds() -> None:
    from prefect.server.utilities.user_templates import render_user_template

    webhook = built("alert: gate refused").actions[0]
    event = {
        "event": "notellm2.gate.refused",
        "resource": {"name": "notellm2"},
        "payload": {
            "time": "2026-11-24 10:00 UTC",
            "version": 3,
            "verdict": 'R@10 "0.1" < 0.2\n— refused',
            "flow_run_url": "http://x/1",
        },
    }
    text = asyncio.run(render_user_template(webhook.payload, {"event": event}))
    assert json.loads(text) == {
        "event": "notellm2.gate.refused",
        "subject": "Version 3 of notellm2 was refused",
        "text": '2026-11-24 10:00 UTC: R@10 "0.1" < 0.2\n— refused\nhttp://x/1',
    }


def text(name: str, event: dict[str, Any], **others: Any) -> str:
    """What people read of an alert."""
    from prefect.server.utilities.user_templates import render_user_template

    webhook = built(name).actions[0]
    return str(json.loads(asyncio.run(render_user_template(webhook.payload, {"event": event, **others})))["text"])


@pytest.mark.parametrize(("attempt", "said"), [("1", "started again by itself"), ("3", "not started again")])
def test_a_crash_says_whether_it_is_taken_up_again(attempt: str, said: str) -> None:
    import types

    from prefect.server.events.schemas.automations import AutomationCreate

    AutomationCreate.model_validate(built("alert: run crashed").model_dump(mode="json"))
    specification = named("alert: run crashed")["actions"][0]["notify"]
    assert "flow_run|ui_url" in specification["body"]
    changed = {**named("alert: run crashed"), "actions": [{"notify": {**specification}}]}
    changed["actions"][0]["notify"]["body"] = specification["body"].replace("{{ flow_run|ui_url }}", "")
    from prefect.server.utilities.user_templates import render_user_template

    made = alerts.build(changed, DEPLOYMENTS, BLOCKS)
    assert made is not None
    event = {"event": "prefect.flow-run.Crashed", "occurred": "2026-11-24", "resource": {"prefect.run-count": attempt}}
    run = types.SimpleNamespace(name="r", state=types.SimpleNamespace(message="no heartbeat"))
    context = {"event": event, "flow_run": run, "flow": types.SimpleNamespace(name="retrain")}
    rendered = asyncio.run(render_user_template(made.actions[0].payload, context))
    assert said in json.loads(rendered)["text"]


def test_who_waits_is_told_with_the_page_where_one_decides() -> None:
    payload = {"time": "2026-11-24 10:00 UTC", "version": "3", "verdict": "passes", "link": "http://page"}
    event = {"event": "notellm2.model.waiting", "resource": {"name": "notellm2"}, "payload": payload}
    assert "notellm2 promote 3, or notellm2 refuse 3: http://page" in text("alert: approval waiting", event)
    event["payload"] = {**payload, "until": "2026-11-25T10:00:00+00:00"}
    assert "Decide until 2026-11-25T10:00:00+00:00 on http://page" in text("alert: approval waiting", event)


def test_no_alert_holds_a_path_that_only_the_worker_knows() -> None:
    payload = {"time": "now", "data_md5": "1.dir", "report": "/var/lib/notellm2/store/x", "flow_run_url": "http://x/1"}
    event = {"event": "notellm2.data.quality-failed", "resource": {"name": "posts"}, "payload": payload}
    assert "/var/lib" not in text("alert: data refused", event)
    assert "http://x/1" in text("alert: data refused", event)


def test_a_block_that_is_missing_says_how_to_make_it() -> None:
    wanted = ("webhook/notellm2", "pager-duty-webhook/oncall")
    assert alerts.missing_blocks(wanted, dict.fromkeys(wanted, uuid4()), "team") is None
    told = str(alerts.missing_blocks(wanted, {}, "team"))
    assert "webhook/notellm2: set NOTELLM2_ALERT_WEBHOOK_URL" in told
    assert "pager-duty-webhook/oncall: make it in Prefect's pages (Blocks), of type pager-duty-webhook" in told


def test_blocks_are_made_from_secrets_in_the_environment_or_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in alerts.block_variables().values():
        monkeypatch.delenv(variable, raising=False)
    assert alerts.blocks_from_environment() == {}
    monkeypatch.setenv("NOTELLM2_ALERT_WEBHOOK_URL", "http://127.0.0.1/hook")
    secret = tmp_path / "slack"
    secret.write_text("https://hooks.example.com/services/T/B/secret\n")
    monkeypatch.setenv("NOTELLM2_ALERT_SLACK_URL_FILE", str(secret))
    monkeypatch.setenv("NOTELLM2_ALERT_EMAIL_URL", "mailtos://ops:planted@mail.example.com?to=team@example.com")
    made: dict[str, Any] = alerts.blocks_from_environment()
    assert set(made) == {"webhook/notellm2", "slack-webhook/notellm2", "slack-webhook/notellm2-email"}
    assert made["slack-webhook/notellm2"].url.get_secret_value().endswith("/secret")
    assert len(made["slack-webhook/notellm2-email"]._apprise_client) == 1, "Apprise knows how to send to it"
    assert "planted" not in repr(made)
    monkeypatch.setenv("NOTELLM2_ALERT_WEBHOOK_URL", "planted-and-no-address")
    with pytest.raises(InputError, match="NOTELLM2_ALERT_WEBHOOK_URL: expected an address") as refused:
        alerts.blocks_from_environment()
    assert "planted" not in str(refused.value)
    monkeypatch.setenv("NOTELLM2_ALERT_WEBHOOK_URL_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="No such file"):
        alerts.blocks_from_environment()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"actions": [{"run": "retrain/nightly"}]}, "no deployment retrain/nightly; there are retrain/retrain"),
        ({"trigger": {"posture": "Sometimes"}}, "posture"),
        ({"trigger": {"posture": "Proactive", "within": 3}}, "10 seconds"),
    ],
)
def test_a_wrong_automation_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=rf"automation 'notellm2: new data, new model': .*{told}"):
        alerts.build({**named("new data, new model"), **change}, DEPLOYMENTS, BLOCKS)


def test_a_name_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "automations.yaml"
    path.write_text(yaml.safe_dump({"automations": [{"name": "mine"}]}))
    with pytest.raises(InputError, match="automation 'mine': expected a name that begins with 'notellm2: '"):
        alerts.load_specifications(path)
    with pytest.raises(InputError, match="no such file"):
        alerts.load_specifications(tmp_path / "nowhere.yaml")


def test_check_reads_the_files_and_needs_no_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    files = (Path("prefect.yaml"), Path("deploy/automations.yaml"))
    assert deployments.deploy(*files, "process", check_only=True) == 0
    assert "retrain/retrain" in capsys.readouterr().out
    with pytest.raises(InputError, match="PREFECT_API_URL is not set"):
        deployments.deploy(*files, "process")
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        deployments.deploy(Path("nowhere.yaml"), files[1], "process")
