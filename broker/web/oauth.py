"""The token endpoint, sign-in, and what the broker publishes about itself."""

from __future__ import annotations

import orjson

from broker.assembly import Broker
from broker.audit import trail
from broker.errors import BrokerError, InvalidClient, InvalidRequest, Malformed
from broker.formats import canonical_json
from broker.tokens import metadata, nonces
from broker.tokens.request import ACCESS_TOKEN_TYPE, MAX_FORM_BYTES
from broker.web import asgi, errors
from broker.web.asgi import ClientLeft, Handler, Receive, Scope, Send

_FORM = b"application/x-www-form-urlencoded"
_BODY_TIMEOUT_S = 10.0


def token_endpoint(broker: Broker) -> Handler:
    """`POST /token` (RFC 6749 §3.2): a hot route, plain ASGI."""
    proxy = broker.settings.server.trusted_proxy

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = broker.new_request_id()
        source = asgi.source(scope, proxy)
        try:
            try:
                if asgi.header(scope, b"authorization") is not None:
                    # RFC 6749 §2.3: one method a request; ours are in the body.
                    raise InvalidClient("Authenticate with private_key_jwt in the body, without Authorization header.")
                content_type = asgi.header(scope, b"content-type") or b""
                if content_type.partition(b";")[0].strip().lower() != _FORM:
                    raise InvalidRequest("Send the parameters as application/x-www-form-urlencoded.")
                body = await asgi.read_body(scope, receive, max_bytes=MAX_FORM_BYTES, timeout_s=_BODY_TIMEOUT_S)
            except ClientLeft:
                return
            except BrokerError as refusal:
                broker.refusals.count(source, refusal.reason, broker.clock.now())
                raise
            granted = await broker.tokens.exchange(
                body, proofs=asgi.values(scope, b"dpop"), source=source, request_id=request_id
            )
        except Exception as error:  # noqa: BLE001  the one table decides what is shown
            await asgi.send_shown(send, errors.oauth(error, request_id))
            return
        document: dict[str, object] = {
            "access_token": granted.token,
            "issued_token_type": ACCESS_TOKEN_TYPE,
            "token_type": granted.token_type,
            "expires_in": granted.expires_in_s,
        }
        if _wants_receipt(scope):
            try:
                receipt = await broker.read(lambda session: trail.receipt(session, granted.record))
            except Exception as error:  # noqa: BLE001  the one table decides what is shown
                await asgi.send_shown(send, errors.oauth(error, request_id))
                return
            document["receipt"] = receipt.to_members()
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"x-request-id", request_id.encode()),
            (b"broker-record", str(granted.record).encode()),
        ]
        if broker.rules.require_dpop_nonce:
            headers.append((b"dpop-nonce", nonces.current(broker.keys.nonce_key, broker.clock.now()).encode()))
        await asgi.send_bytes(send, 200, headers, orjson.dumps(document))

    return answer


def _wants_receipt(scope: Scope) -> bool:
    """Whether the request prefers an answer with a receipt (RFC 7240 §2: unknown preferences are passed over)."""
    given = ",".join(asgi.values(scope, b"prefer"))
    return any(part.strip().lower() == "receipt" for part in given.split(","))


def sign_in(broker: Broker) -> Handler:
    """`POST /login`: spends a one-time link for the key that the request proves."""
    proxy = broker.settings.server.trusted_proxy

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = broker.new_request_id()
        source = asgi.source(scope, proxy)
        try:
            try:
                body = await asgi.read_body(scope, receive, max_bytes=4096, timeout_s=_BODY_TIMEOUT_S)
                code = _code(body)
            except ClientLeft:
                return
            except BrokerError as refusal:
                broker.refusals.count(source, refusal.reason, broker.clock.now())
                raise
            operator = await broker.sign_in.spend(
                code,
                proofs=asgi.values(scope, b"dpop"),
                source=source,
                from_loopback=source in ("127.0.0.1", "::1"),
                request_id=request_id,
            )
        except Exception as error:  # noqa: BLE001  the one table decides what is shown
            await asgi.send_shown(send, errors.problem(error, request_id, broker.rules.issuer))
            return
        document = {"client_id": operator.id, "issuer": broker.rules.issuer, "roles": list(operator.roles)}
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await asgi.send_bytes(send, 200, headers, orjson.dumps(document))

    return answer


def _code(body: bytes) -> str:
    try:
        members = canonical_json.parse(body)
    except Malformed as error:
        raise InvalidRequest("Send a JSON object with the link's `code`.") from error
    code = members.get("code") if isinstance(members, dict) else None
    if not isinstance(code, str) or not 0 < len(code) <= 200:
        raise InvalidRequest("Send a JSON object with the link's `code`.")
    return code


def published(broker: Broker) -> dict[str, bytes]:
    """The documents that anybody may read, by path; made once, from the configured origin. Keys change: see `jwks`."""
    server = orjson.dumps(metadata.authorization_server(broker.rules))
    documents = {
        "/.well-known/oauth-authorization-server": server,
        "/.well-known/openid-configuration": server,
    }
    for resource in broker.rules.audiences:
        path = resource.removeprefix(broker.rules.issuer)
        documents[f"/.well-known/oauth-protected-resource{path}"] = orjson.dumps(
            metadata.protected_resource(broker.rules, resource)
        )
    return documents


def jwks(broker: Broker) -> bytes:
    """The keys that verify access tokens now (RFC 7517 §5)."""
    return orjson.dumps(broker.keys.jwks())
