"""The text of a broker's configuration and access rules; `test_mqtt_transport` runs it."""

from __future__ import annotations

import pytest

from collab.errors import CollabError, ConfigError
from collab.security.broker import mosquitto_acl, mosquitto_config


def test_with_certificates_nobody_else_gets_in_and_the_common_name_is_the_user():
    text = mosquitto_config(authority="/ca.pem", certificate="/c.pem", key="/k.pem", acl_file="/acl")
    for line in (
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
        "tls_version tlsv1.3",
        "set_tcp_nodelay true",
        "acl_file /acl",
        "persistence false",
    ):
        assert line in text.splitlines()


def test_passwords_keep_out_who_has_none():
    lines = mosquitto_config(password_file="/p", persistence="/var/lib/m").splitlines()
    assert "allow_anonymous false" in lines
    assert "persistence_location /var/lib/m/" in lines


def test_certificates_come_all_or_not_at_all():
    with pytest.raises(ConfigError, match="authority, certificate and key"):
        mosquitto_config(authority="/ca.pem")


@pytest.mark.parametrize("field", ["host", "password_file", "acl_file", "persistence"])
def test_a_value_cannot_add_lines(field):
    with pytest.raises(ConfigError):
        mosquitto_config(**{field: "x\nallow_anonymous true"})
    with pytest.raises(CollabError):
        mosquitto_acl("collab\ntopic #")


def test_access_rules_bind_each_name_to_its_own_topics():
    assert mosquitto_acl("site").splitlines() == [
        "pattern read site/in/%u/#",
        "pattern write site/in/+/%u/#",
        "pattern write site/presence/%u",
        "pattern read site/presence/+",
    ]
