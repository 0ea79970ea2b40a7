"""The verbs' table is the service of the ``.proto`` file."""

from __future__ import annotations

from collab.codec.pb import control_pb2 as pb
from collab.codec.verbs import VERBS


def test_every_verb_takes_and_gives_what_the_service_says():
    methods = pb.DESCRIPTOR.services_by_name["Control"].methods
    service = {m.name: (m.input_type.full_name, m.output_type.full_name) for m in methods}
    table = {
        name: (verb.request.DESCRIPTOR.full_name, verb.reply.DESCRIPTOR.full_name)
        for name, verb in VERBS.items()
    }
    assert table == service
