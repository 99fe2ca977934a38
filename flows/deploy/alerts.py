"""Automations as Prefect takes them, from deploy/automations.yaml and the blocks that the recipe's `alerts` names.

A block holds a secret (an address with a token in it), so it is never in a file of the project: it is made on the
Prefect server from an environment variable, or from the file that the variable with ``_FILE`` after it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import yaml
from pydantic import ValidationError

from notellm2.credentials import secret
from notellm2.errors import InputError

if TYPE_CHECKING:
    from prefect.blocks.core import Block
    from prefect.events.schemas.automations import AutomationCore

PREFIX = "notellm2: "
"""Automations with such a name are ours: made, changed and removed as the file says."""

_WEBHOOK_BODY = (
    "{{% set subject %}}{subject}{{% endset %}}{{% set text %}}{body}{{% endset %}}"
    '{{"event": {{{{ event.event|tojson }}}}, "subject": {{{{ subject|trim|tojson }}}}, '
    '"text": {{{{ text|trim|tojson }}}}}}'
)


def block_variables() -> dict[str, str]:
    """Name the blocks that can be made from the environment, and the variable of each."""
    return {
        "webhook/notellm2": "NOTELLM2_ALERT_WEBHOOK_URL",
        "slack-webhook/notellm2": "NOTELLM2_ALERT_SLACK_URL",
        "ms-teams-webhook/notellm2": "NOTELLM2_ALERT_TEAMS_URL",
        # Prefect has no block for plain e-mail; its Slack block passes any other address on to Apprise, which has.
        "slack-webhook/notellm2-email": "NOTELLM2_ALERT_EMAIL_URL",
    }


def blocks_from_environment() -> dict[str, Block]:
    """Make the blocks whose variable is set, by name; not saved anywhere.

    Raises:
        InputError: an address is none of its kind, or its file cannot be read; the address is not shown.
    """
    from prefect.blocks.notifications import MicrosoftTeamsWebhook, SlackWebhook
    from prefect.blocks.webhook import Webhook

    makers: dict[str, Callable[[str], Block]] = {
        "webhook": lambda url: Webhook(url=url, headers={"Content-Type": "application/json"}),
        "slack-webhook": lambda url: SlackWebhook(url=url),
        "ms-teams-webhook": lambda url: MicrosoftTeamsWebhook(url=url),
    }
    blocks = {}
    for name, variable in block_variables().items():
        address = secret(variable)
        if address is None:
            continue
        if "://" not in address:
            raise InputError(f"{variable}: expected an address such as https://… (for e-mail: mailtos://…)")
        blocks[name] = makers[name.partition("/")[0]](address)
    return blocks


def load_specifications(path: Path) -> list[dict[str, Any]]:
    """Read the automations of a file, as they stand there.

    Raises:
        InputError: the file is missing or is no list of automations, or a name lacks the prefix.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    specifications = tree.get("automations") if isinstance(tree, dict) else None
    if not isinstance(specifications, list):
        raise InputError(f"{path}: expected a mapping with a list `automations`")
    for one in specifications:
        if not str(one.get("name", "")).startswith(PREFIX):
            raise InputError(f"{path}: automation {one.get('name')!r}: expected a name that begins with {PREFIX!r}")
    return specifications


def build(
    specification: Mapping[str, Any], deployments: Mapping[str, UUID], blocks: Mapping[str, UUID]
) -> AutomationCore | None:
    """Build an automation, its short forms resolved; None where it only notifies people, and nobody is named.

    Args:
        specification: of one automation, as in the file.
        deployments: ids by FLOW/DEPLOYMENT.
        blocks: ids of the blocks that get every alert, by TYPE/NAME.

    Raises:
        InputError: it names a deployment that is not there, or Prefect refuses it; says which and why.
    """
    from prefect.events.schemas.automations import AutomationCore

    name, actions = specification["name"], []
    for action in specification["actions"]:
        if "run" in action:
            if action["run"] not in deployments:
                raise InputError(f"automation {name!r}: no deployment {action['run']}; there are {_list(deployments)}")
            number = str(deployments[action["run"]])
            actions.append({**action, "type": "run-deployment", "source": "selected", "deployment_id": number})
            actions[-1].pop("run")
        elif "notify" in action:
            actions += [_notification(block, number, action["notify"]) for block, number in blocks.items()]
        else:
            actions.append(action)
    if not actions:
        return None
    try:
        return AutomationCore.model_validate({**specification, "actions": actions})
    except ValidationError as error:
        # An action is one of many kinds: the problems of the kind it says it is are the ones to read.
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise InputError(f"automation {name!r}: {problems}") from None


def missing_blocks(wanted: Sequence[str], there: Mapping[str, UUID], recipe: str) -> InputError | None:
    """Say which blocks a recipe names and the Prefect server lacks; None: all are there."""
    lacking = [name for name in wanted if name not in there]
    if not lacking:
        return None
    known = block_variables()
    ways = [
        f"  {name}: set {known[name]} (or {known[name]}_FILE) and run `notellm2 deploy` again"
        if name in known
        else f"  {name}: make it in Prefect's pages (Blocks), of type {name.partition('/')[0]}"
        for name in lacking
    ]
    return InputError(f"recipe {recipe}: alerts.notify names blocks that Prefect does not have\n" + "\n".join(ways))


def _notification(block: str, number: UUID, message: Mapping[str, str]) -> dict[str, Any]:
    if block.startswith("webhook/"):
        return {"type": "call-webhook", "block_document_id": str(number), "payload": _WEBHOOK_BODY.format(**message)}
    return {"type": "send-notification", "block_document_id": str(number), **message}


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
