"""The settings of messages to the outside: mail, alerts, lineage."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class MessageSettings(BaseSettings):
    """Servers and receivers of messages."""

    smtp_host: str = Field("", description="SMTP server that mailings are handed to.")
    smtp_port: int = Field(587, ge=1, le=65535, description="Its port.")
    smtp_security: Literal["starttls", "ssl", "none"] = Field(
        "starttls", description="How the connection is encrypted; none only on a network of one's own."
    )
    smtp_user: str = Field("", description="User to log in as; none: no login.")
    smtp_password: str = Field("", repr=False, description="The user's password.")
    smtp_timeout_s: float = Field(30.0, gt=0, le=60, description="Time that the SMTP server has for an answer.")

    alert_webhook: str = Field("", repr=False, description="URL that alerts are posted to as JSON.")
    alert_webhook_token: str = Field("", repr=False, description="Bearer token for that URL; none: no token is sent.")
    alert_slack: str = Field(
        "", repr=False, description="URL of an incoming webhook of Slack, or of what takes its format."
    )
    alert_alertmanager: str = Field(
        "", repr=False, description="Base URL of a Prometheus Alertmanager, such as http://alertmanager:9093."
    )
    alert_email: str = Field(
        "", description="Addresses that get alerts through the SMTP server, with commas between them."
    )
    alert_email_from: str = Field("", description="Sender of these mails, such as Forecache <forecache@example.org>.")
    alert_repeat_h: float = Field(
        24.0, ge=0, description="Hours after which an alert that lasts is sent again; 0: never."
    )
    alert_messages_per_hour: int = Field(
        20, ge=1, description="Most messages to a receiver in an hour; further alerts wait and go together in the next."
    )
    alert_timeout_s: float = Field(10.0, gt=0, le=60, description="Time that a receiver of alerts has for an answer.")

    openlineage_url: str = Field(
        "", repr=False, description="Base URL of a server that takes OpenLineage events, such as http://marquez:5000."
    )
    openlineage_api_key: str = Field(
        "", repr=False, description="Bearer token for that server; none: no token is sent."
    )
    openlineage_file: str = Field("", description="File that OpenLineage events are appended to, one in a line.")
    openlineage_namespace: str = Field(
        "", description="Namespace of the jobs in OpenLineage events. Default: the project's package."
    )
    openlineage_stream_every_s: int = Field(
        60, ge=1, description="Seconds between the OpenLineage events of a running stream."
    )
    openlineage_code_url: str = Field(
        "", description="URL of the project's repository, for the source code location in OpenLineage events."
    )
