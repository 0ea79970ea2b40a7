# Steps of a trial inside a booted machine; sourced, with $collab the program that was installed.
set -eu

fail() {
    echo "trial: $*"
    systemctl --no-pager --lines=0 status 'collab-*' || true
    journalctl --no-pager --lines=60 --unit='collab-*' || true
    exit 1
}

as() { # USER COMMAND...
    user=$1
    shift
    runuser -u "$user" -- "$@"
}

expect_state() { # UNIT STATE
    [ "$(systemctl is-active "$1")" = "$2" ] || fail "$1 is not $2"
}

# The controller's user makes a cluster; its service enrols the device; the node's service starts.
enrol_and_start() {
    (cd /var/lib/collab-controller && as collab-controller "$collab" cluster init lab \
        --authority /var/lib/collab-controller/authority --identity /var/lib/collab-controller/operator)
    mkdir -p /etc/collab
    echo 'CONTROLLER_OPTIONS=--listen 127.0.0.1:7443' >/etc/collab/controller.env
    systemctl start collab-controller || fail "the controller does not start"
    token=$(as collab-controller "$collab" cluster invite pi-1 --no-serve --address 127.0.0.1:7443 \
        --authority /var/lib/collab-controller/authority --json | sed 's/.*"token": *"\([^"]*\)".*/\1/')
    (cd /var/lib/collab && as collab "$collab" cluster join --identity /var/lib/collab/identity "$token")
    echo 'listen = ["127.0.0.1:7070"]' >/etc/collab/node.toml
    systemctl start collab-node || fail "the node does not start"
    expect_state collab-node active
    expect_state collab-controller active
}

operator() { (cd /var/lib/collab-controller && as collab-controller "$collab" --identity /var/lib/collab-controller/operator "$@"); }

# Ask a plan for answers and compare every byte with the whole model's.
ask() {
    operator run plan.yaml --input in.npz --expect out.npz --json || fail "the answers are not the model's"
}

deploy_and_ask() {
    work=/var/lib/collab-controller
    "${collab%/*}/python" - "$work" <<'END'
import sys
from pathlib import Path
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from collab.assets import path
work = Path(sys.argv[1])
model = path("digits.tflite")
(work / "model.tflite").write_bytes(Path(model).read_bytes())
whole = Interpreter(str(model), num_threads=1)
whole.allocate_tensors()
(given,), (got,) = whole.get_input_details(), whole.get_output_details()
with np.load(path("digits_heldout.npz")) as held_out:
    images = held_out["images"][:20, None].astype(np.float32) / 255
answers = []
for image in images:
    whole.set_tensor(given["index"], image)
    whole.invoke()
    answers.append(whole.get_tensor(got["index"]).copy())
np.savez(work / "in.npz", **{given["name"]: images})
np.savez(work / "out.npz", **{got["name"]: np.stack(answers)})
END
    chown collab-controller "$work/model.tflite" "$work/in.npz" "$work/out.npz"
    operator plan model.tflite --peers 127.0.0.1:7070 --at 6 --assign pi-1,pi-1 --revisit --out plan.yaml >/dev/null ||
        fail "no plan"
    operator deploy plan.yaml || fail "not deployed"
    ask
}
