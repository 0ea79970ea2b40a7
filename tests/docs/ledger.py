"""Commands of pages that are only parsed, each with the reason why it is not run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Parsed:
    """Commands of one page that match a pattern from their beginning."""

    page: str
    pattern: str
    why: str

    def covers(self, page: str, command: str) -> bool:
        """Whether a command of a page is one of them."""
        return page == self.page and re.match(self.pattern, command) is not None


INSTALLS: Final = "installs; tests/deployments does it in machines of its own"
KERAS: Final = "needs TensorFlow; tests/toolchain runs it"
PREPARES: Final = "needs scikit-learn and somebody's data; tests/toolchain runs it"
SETTLES: Final = "sets up the checkout that the tests are run from"
ENGINE: Final = "needs a container engine"
KUBERNETES: Final = "needs a Kubernetes; tests/deployments checks the manifests"
SERVICES: Final = "needs a machine with systemd; tests/deployments boots one"
LONG: Final = "takes minutes or hours"

PARSED: Final = (
    Parsed("README.md", r"make ?|export PATH", SETTLES),
    Parsed(
        "README.md",
        r"collab node --listen 10.0.0.7:7070,coap",
        "needs a broker; tests/integration/test_transports.py",
    ),
    Parsed("README.md", r"collab plan m.tflite --at 12", "needs that broker"),
    Parsed("CONTRIBUTING.md", r"make |\.ci/run", SETTLES),
    Parsed(
        "docs/coap.md", r"collab node", "tests/integration/test_coap_clients.py and test_oscore.py run it"
    ),
    Parsed("docs/coap.md", r"coap-client", "tests/integration/test_coap_clients.py runs libcoap's clients"),
    Parsed("docs/coap.md", r"collab cluster oscore", "tests/integration/test_oscore.py runs it"),
    Parsed(
        "docs/dashboard.md",
        r"collab dashboard plan.yaml --listen",
        "docs/how-to/serve.md runs a server with TLS and keys",
    ),
    Parsed("docs/deploying.md", r"sudo|make|pipx|wheels=", INSTALLS),
    Parsed("docs/emulation.md", r"collab emulate", "docs/how-to/emulate.md runs the same"),
    Parsed(
        "docs/ensembles.md",
        r"collab (ensemble|cascade)",
        "tests/integration/test_ensembles.py runs it with models that differ",
    ),
    Parsed("docs/experiments.md", r"python -m simulations|make", LONG),
    Parsed("docs/failover.md", r"collab plan", "tests/integration/test_offline.py runs it with three nodes"),
    Parsed(
        "docs/federated.md",
        r"collab fed run|collab model bake|collab plan|collab deploy",
        "docs/how-to/learn.md runs rounds, test_swaps.py deploys them",
    ),
    Parsed("docs/federated/simulation.md", r"collab fed simulate", "docs/how-to/learn.md runs a small one"),
    Parsed("docs/federated/simulation.md", r"scripts/tff-environment|python -m simulations.parity", LONG),
    Parsed("docs/federated/training.md", r"collab model (export-trainable|bake|verify)", KERAS),
    Parsed("docs/how-to/learn.md", r"collab model export-trainable", KERAS),
    Parsed("docs/monitoring.md", r"pip install", INSTALLS),
    Parsed("docs/monitoring.md", r"collab node|curl", "docs/how-to/watch.md runs the same"),
    Parsed(
        "docs/releases.md",
        r"softhsm2-util|pkcs11-tool|export PYKCS11LIB",
        "tests/integration/test_keys_in_hardware.py does it",
    ),
    Parsed(
        "docs/releases.md", r"collab release .* --key ", "tests/integration/test_keys_in_hardware.py runs it"
    ),
    Parsed(
        "docs/releases/devices.md",
        r"collab controller|collab release status",
        "tests/integration/test_release_agent.py runs it",
    ),
    Parsed(
        "docs/releases/plans.md",
        r"collab release (update|undo)",
        "tests/integration/test_plan_updates.py runs it",
    ),
    Parsed(
        "docs/releases/policies.md",
        r"collab release policy explain",
        "tests/unit/cli/test_release_policy.py runs it",
    ),
    Parsed(
        "docs/releases/rollouts.md",
        r"collab release rollout start",
        "tests/integration/test_rollouts.py runs it",
    ),
    Parsed(
        "docs/releases/sources.md",
        r"collab release fetch|coap-client",
        "tests/integration/test_release_sources.py runs it",
    ),
    Parsed(
        "docs/releases/store.md",
        r"collab release rollback",
        "there is nothing yet to go back to; tests/unit/cli/test_release_store.py runs it",
    ),
    Parsed("docs/security.md", r"collab cluster (init|invite|join)", "the tutorial runs the same"),
    Parsed(
        "docs/serving.md",
        r"curl -s -F",
        "needs a packaged model of pictures; tests/integration/test_serving.py sends files",
    ),
    Parsed(
        "docs/serving.md",
        r"collab serve plan.yaml --listen",
        "docs/how-to/serve.md runs a server with TLS and keys",
    ),
    Parsed(
        "docs/simulation.md",
        r"collab simulate scenario.yaml --(sweep|seeds)",
        "docs/how-to/emulate.md runs a small sweep",
    ),
    Parsed(
        "docs/sources.md",
        r"collab run .* --source",
        "needs cameras; tests/integration/test_streams.py runs it",
    ),
    Parsed(
        "docs/sources.md",
        r"collab (stream|deploy)",
        "needs a camera; tests/integration/test_streams.py runs it",
    ),
    Parsed("docs/toolchain.md", r"collab (data|model|plan|deploy|run)", PREPARES),
    Parsed("docs/toolchain/compress.md", r"collab model compress", KERAS),
    Parsed("docs/toolchain/convert.md", r"collab model (convert|validate)", KERAS),
    Parsed("docs/toolchain/data.md", r"collab data prepare", PREPARES),
    Parsed("docs/toolchain/models.md", r"collab model (new|train|import)", KERAS),
    Parsed("docs/toolchain/package.md", r"collab model (package|snippet)|collab run", PREPARES),
    Parsed("docs/tutorial.md", r"make core|export PATH", SETTLES),
    Parsed("deployments/ansible/README.md", r"ansible", "tests/deployments/test_ansible.py runs it"),
    Parsed("deployments/container/README.md", r"docker|token=|sudo|collab api-key", ENGINE),
    Parsed("deployments/deb/README.md", r"make deb|sudo", INSTALLS),
    Parsed("deployments/k3s/README.md", r"kubectl", KUBERNETES),
    Parsed(
        "deployments/monitoring/README.md",
        r"promtool|prometheus",
        "tests/frontdoor/test_prometheus.py runs it",
    ),
    Parsed("deployments/mosquitto/README.md", r"collab cluster broker", "docs/how-to/secure.md runs it"),
    Parsed("deployments/mosquitto/README.md", r"apt-get|install|systemctl", INSTALLS),
    Parsed("deployments/systemd/README.md", r"sudo|systemctl|journalctl|sudoedit|SERVE_OPTIONS", SERVICES),
    Parsed("deployments/wheelhouse/README.md", r"make wheelhouse|sudo|\./install", INSTALLS),
)
