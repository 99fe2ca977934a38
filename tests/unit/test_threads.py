"""How numeric threads wait, and what the log says of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from notellm2.threads import describe_threads, let_idle_threads_sleep


def test_idle_threads_sleep() -> None:
    environment: dict[str, str] = {}
    let_idle_threads_sleep(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_a_user_s_own_choice_stands(name: str) -> None:
    environment = {name: "7"}
    let_idle_threads_sleep(environment)
    assert environment == {name: "7"}


def test_the_log_says_how_many_and_why() -> None:
    assert describe_threads(1, {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}) == (
        "1 threads (OMP_NUM_THREADS=1); while idle they wait by OMP_WAIT_POLICY=PASSIVE"
    )
    assert "torch's own choice for" in describe_threads(2, {})
    assert describe_threads(2, {}).endswith("while idle they spin")


def test_the_runtime_of_a_command_reads_it() -> None:
    """The OpenMP runtime shows the policy it took from an environment that was set before torch was imported."""
    program = (
        "import os; os.environ.pop('OMP_WAIT_POLICY', None); os.environ['OMP_DISPLAY_ENV'] = 'true'\n"
        "from notellm2.threads import let_idle_threads_sleep; let_idle_threads_sleep()\n"
        "import torch"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
