"""What Node clients make of the gateway: openai-node and the Vercel AI SDK; `make test-compat` installs and runs them.

Their tests are JavaScript (tests/compat/node), run by Node's own runner against a served gateway. The file is not named
`test_…`: the unit run needs no Node.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.compat.test_openai import SCRIPT
from tests.served.world import a_policy, serving
from tests.upstream import Flavour, Upstream

FOLDER = Path(__file__).parent / "node"

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("flavour", list(Flavour))
@pytest.mark.parametrize("file", ["openai.test.mjs", "ai_sdk.test.mjs"])
async def test_node_clients_get_what_they_expect(tmp_path: Path, file: str, flavour: Flavour):
    node = shutil.which("node")
    assert node is not None, "Node 20 or newer is needed (on Debian: apt-get install nodejs npm)"
    async with Upstream(SCRIPT, flavour=flavour) as upstream, serving(tmp_path, a_policy([upstream.url])) as gateway:
        given = {"FAREGATE_URL": gateway.base_url, "FAREGATE_KEY": gateway.secrets["acme"]}
        program = await asyncio.create_subprocess_exec(
            *(node, "--test", "--test-reporter=tap", file),
            cwd=FOLDER,
            env={"PATH": os.defpath, **given},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await program.communicate()
    assert program.returncode == 0, output.decode(errors="replace")[-6000:]
