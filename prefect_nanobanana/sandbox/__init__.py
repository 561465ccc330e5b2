"""A local Nano Banana server that keeps the API's contract, for tests, demos and trying things out.

`python -m prefect_nanobanana.sandbox --port 8765` starts one; `Sandbox()` starts one in a test;
`pytest_plugins = ["prefect_nanobanana.sandbox.fixtures"]` makes it a fixture.
"""

from prefect_nanobanana.sandbox.account import Account, SandboxModel
from prefect_nanobanana.sandbox.faults import FAULTS
from prefect_nanobanana.sandbox.server import Sandbox

__all__ = ["FAULTS", "Account", "Sandbox", "SandboxModel"]
