"""The answers of `/oauth2`, as the RFCs of OAuth 2.0 have them.

Knows pydantic and what a token claims; knows no HTTP and no store.
"""

from typing import Literal, Self, get_args

from pydantic import BaseModel

from keys.records import Scope
from keys.tokens import AUDIENCE, ISSUER, Claims

GRANT = "client_credentials"
CLIENT_METHODS = ["client_secret_basic", "client_secret_post"]


class Token(BaseModel):
    """RFC 6749 §5.1."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a scheme, not a secret
    expires_in: int
    scope: str


class ActiveToken(BaseModel):
    """RFC 7662 §2.2: what a token may do now. `client_id` and `sub` are the id of the key it was made for."""

    active: Literal[True] = True
    scope: str
    client_id: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a scheme, not a secret
    exp: int
    iat: int
    sub: str
    aud: str = AUDIENCE
    iss: str = ISSUER
    jti: str

    @classmethod
    def of(cls, claims: Claims) -> Self:
        """What is said of a token with these claims."""
        return cls(
            scope=" ".join(sorted(claims.scopes)),
            client_id=claims.key_id,
            exp=int(claims.expires_at),
            iat=int(claims.issued_at),
            sub=claims.key_id,
            jti=claims.jti,
        )


class InactiveToken(BaseModel):
    """The same answer for a token that is unknown, forged, expired, revoked or another client's."""

    active: Literal[False] = False


class Revoked(BaseModel):
    """Nothing (RFC 7009 §2.2): the status says it."""


class AuthorizationServer(BaseModel):
    """RFC 8414 §2."""

    issuer: str
    token_endpoint: str
    token_endpoint_auth_methods_supported: list[str] = CLIENT_METHODS
    grant_types_supported: list[str] = [GRANT]
    response_types_supported: list[str] = []
    scopes_supported: list[str] = list(get_args(Scope))
    introspection_endpoint: str
    introspection_endpoint_auth_methods_supported: list[str] = [*CLIENT_METHODS, "Bearer"]
    revocation_endpoint: str
    revocation_endpoint_auth_methods_supported: list[str] = CLIENT_METHODS

    @classmethod
    def at(cls, issuer: str) -> Self:
        """The server that callers reach at the address `issuer`."""
        return cls(
            issuer=issuer,
            token_endpoint=f"{issuer}/oauth2/token",
            introspection_endpoint=f"{issuer}/oauth2/introspect",
            revocation_endpoint=f"{issuer}/oauth2/revoke",
        )
