"""The settings of what leaves the project: mail, alerts, lineage."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class MessageSettings(BaseSettings):
    """Where messages go."""

    smtp_host: str = Field("", description="SMTP server that mailings are handed to.")
    smtp_port: int = Field(587, ge=1, le=65535, description="Its port.")
    smtp_security: Literal["starttls", "ssl", "none"] = Field(
        "starttls", description="How the connection is encrypted; none only on a network of one's own."
    )
    smtp_user: str = Field("", description="User to log in as; none: no login.")
    smtp_password: str = Field("", repr=False, description="The user's password.")
    smtp_timeout_s: float = Field(30.0, gt=0, le=60, description="Time that the SMTP server has for an answer.")

    dagster_port: int = Field(3000, ge=1, le=65535, description="Port of the Dagster UI in `make dev`.")
