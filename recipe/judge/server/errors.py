"""What went wrong, as the JSON that OpenAI's clients read; every route answers errors in this shape.

{"error": {"message": "expected ...", "type": "invalid_request_error", "param": "rubric", "code": "bad_request"}}
"""

from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from recipe.errors import SreError
from recipe.judge.service import QueueFull, Refused, Stopped

GONE = 499  # as nginx counts a client that went away before its answer


class Problem(HTTPException):
    """What a request is refused with: `code` for programs, `message` for people, and the field at fault as a path
    ("conversation.0.role").
    """

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code, self.field = code, field

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status_code < 500 else "server_error"
        return {"error": {"message": self.detail, "type": kind, "param": self.field, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status_code, self.headers)


def problem(error: BaseException) -> Problem:
    """The answer to an error of the service, of a request's body, or of the routing."""
    match error:
        case Problem():
            return error
        case QueueFull():
            return Problem(429, "queue_full", str(error), headers={"Retry-After": str(error.retry_after)})
        case Stopped():
            return Problem(503, "unavailable", str(error))
        case Refused():
            return Problem(400, "not_judged", str(error))
        case SreError():
            return Problem(400, "bad_request", str(error), error.field)
        case TimeoutError():
            return Problem(504, "timeout", "the answer took longer than this server allows; ask for less, or try later")
        case ClientDisconnect():
            return Problem(GONE, "gone", "the client went away")
        case RequestValidationError():
            # Of several, the one that lies deepest. Of a union pydantic names the member too ("str", "list[Turn]"):
            # nothing that the client wrote.
            worst = max(error.errors(), key=lambda one: len(one["loc"]))
            path = [str(part) for part in worst["loc"][1:] if part != "str"]
            field = ".".join(part for part in path if part.isdigit() or (part.islower() and part.isidentifier()))
            said = worst["msg"].removeprefix("Value error, ")
            if not path:
                said = "expected a JSON object, sent with the header Content-Type: application/json"
            return Problem(422, "invalid", f"{said} (field {field or 'body'})", field or None)
        case HTTPException():
            return Problem(error.status_code, "http", f"{error.detail}; see /docs. OpenAI's routes begin at /v1/")
    return Problem(500, "internal", "the server failed at this request; its log says why")
