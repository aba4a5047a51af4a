"""Parse the JSON of a request into columns; an error names the field, the value and the remedy."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from forecache.base.errors import InputError
from forecache.declare.realtime.request import Candidates
from forecache.declare.realtime.request_rows import RowsBuilder
from forecache.kit.http import problems
from forecache.kit.http.problems import Problem, describe_type, parse_json_object, quote_value
from forecache.realtime.release.format import Release
from forecache.realtime.request.request_answer import ParsedRequest

REQUEST_ID = "request_id"
MAX_REQUEST_ID_CHARS = 128


class RequestParser:
    def __init__(self, release: Release) -> None:
        self._builder = RowsBuilder(release)
        self._candidates = release.candidates
        self._doubles = tuple(field.name for field in release.all_fields if field.type == "double")
        self._refuses_unknown = release.on_unknown == "refuse"
        self._refuses_nan = release.on_nan == "refuse"
        names = [field.name for field in release.request]
        if self._candidates is not None:
            names.append(self._candidates.name)
            self._names_of_one = tuple(field.name for field in self._candidates.fields)
            self._is_plain = len(self._names_of_one) == 1
        self._has_own_id = REQUEST_ID in names
        self._allowed = frozenset([*names, REQUEST_ID])

    def parse(self, body: bytes) -> ParsedRequest:
        """Parse the body of a request.

        Raises:
            Problem: 400 or 422, with the field that is wrong.
        """
        return self.parse_members(parse_json_object(body), body=body)

    def parse_members(self, data: Mapping[str, Any], *, body: bytes = b"") -> ParsedRequest:
        """Parse the members of a JSON object.

        Args:
            data: As parsed; another server's parser may accept numbers that are not finite.
        """
        if self._refuses_unknown and not data.keys() <= self._allowed:
            refuse_unknown_field(data.keys() - self._allowed, self._allowed, "request")
        lists: Mapping[str, Sequence[Any]] | None = None
        if self._candidates is not None:
            lists = self._candidate_columns(self._candidate_list(data, self._candidates), self._candidates)
        return self.parse_values(data, lists, body=body)

    def parse_values(
        self, request: Mapping[str, Any], candidates: Mapping[str, Any] | None, *, body: bytes = b""
    ) -> ParsedRequest:
        """Parse the values of a request in another protocol; arguments as of `RowsBuilder.columns`.

        Args:
            body: The same request in the reader's own JSON.
        """
        items: Sequence[Any] = ()
        if self._candidates is not None and candidates is not None:
            named: Any = candidates.get(self._candidates.item.name, ())
            items = named.tolist() if isinstance(named, np.ndarray) else named
            _check_count(len(items), self._candidates)
        try:
            columns = self._builder.build_columns(request, candidates)
        except InputError as error:
            raise Problem(problems.BAD_REQUEST, str(error)) from None
        if self._refuses_nan:
            for name in self._doubles:
                if not np.isfinite(columns.values[name]).all():
                    raise Problem(
                        problems.BAD_REQUEST,
                        f"The request field {name!r} has a number that is not finite; send finite numbers.",
                    )
        request_id = request.get(REQUEST_ID) or ""
        if not self._has_own_id and request_id:
            _check_id(request_id)
        return ParsedRequest(columns.length, columns.values, items, body, str(request_id))

    def parse_candidates_only(self, body: bytes) -> tuple[ParsedRequest, Mapping[str, Any]]:
        """Parse only the candidates and the request id, for a request without time for more; also return its members.

        Raises:
            Problem: 400 or 422: the list of candidates is missing or malformed, or the request id is wrong.
        """
        data = parse_json_object(body)
        items: Sequence[Any] = ()
        if self._candidates is not None:
            items = listed = self._candidate_list(data, self._candidates)
            if not self._is_plain or not set(map(type, listed)) <= _PLAIN:
                items = self._candidate_columns(listed, self._candidates)[self._candidates.item.name]
        length = 1 if self._candidates is None else len(items)
        request_id = data.get(REQUEST_ID) or ""
        if not self._has_own_id and request_id:
            _check_id(request_id)
        return ParsedRequest(length, {}, items, body, str(request_id)), data

    def _candidate_list(self, data: Mapping[str, Any], candidates: Candidates) -> list[Any]:
        listed = data.get(candidates.name)
        if type(listed) is not list:
            found = describe_type(listed) if candidates.name in data else "missing"
            raise Problem(
                problems.BAD_REQUEST, f"The request field {candidates.name!r} is {found}; it must be an array."
            )
        _check_count(len(listed), candidates)
        return listed

    def _candidate_columns(self, listed: list[Any], candidates: Candidates) -> Mapping[str, Sequence[Any]]:
        kinds = set(map(type, listed))
        if self._is_plain and dict not in kinds:
            return {candidates.item.name: listed}
        if kinds != {dict} and kinds:
            place = next(place for place, each in enumerate(listed) if type(each) is not dict)
            raise Problem(
                problems.BAD_REQUEST,
                f"The candidate at place {place} is {describe_type(listed[place])}; "
                f"{'if one is an object, ' if self._is_plain else ''}each is an object with "
                f"{', '.join(self._names_of_one)}.",
            )
        if self._refuses_unknown:
            known = frozenset(self._names_of_one)
            for each in listed:
                if not each.keys() <= known:
                    refuse_unknown_field(each.keys() - known, known, "candidate")
        return {name: [each.get(name) for each in listed] for name in self._names_of_one}


_PLAIN = frozenset({int, str})


def _check_count(count: int, candidates: Candidates) -> None:
    if count > candidates.most:
        raise Problem(
            problems.TOO_MANY_CANDIDATES,
            f"The request has {count} {candidates.name}; the most is {candidates.most}. Send the likeliest.",
            members={"max_candidates": candidates.most},
        )


def _check_id(request_id: Any) -> None:
    if type(request_id) is not str or len(request_id) > MAX_REQUEST_ID_CHARS:
        raise Problem(
            problems.BAD_REQUEST,
            f"The member {REQUEST_ID!r} is {quote_value(request_id)}; it is text of at most {MAX_REQUEST_ID_CHARS} "
            "characters.",
        )


def refuse_unknown_field(unknown: set[str], known: frozenset[str], where: str) -> NoReturn:
    raise Problem(
        problems.BAD_REQUEST,
        f"The {where} has the unknown field {quote_value(min(unknown))}; it takes {', '.join(sorted(known))}.",
    )
