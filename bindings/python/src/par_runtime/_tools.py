"""Python functions as tools: the JSON Schema comes from the type hints, the description from the docstring.

Understood hints: str, int, float, bool, None, list, dict, tuple, Literal, Enum, Optional and unions, TypedDict, dataclasses,
and Annotated[T, "description"]. A parameter without a hint takes anything.
"""

import dataclasses
import enum
import inspect
import json
import types
import typing

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema_of(hint) -> dict:
    """The JSON Schema of a type hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (inspect.Parameter.empty, typing.Any):
        return {}
    if origin is typing.Annotated:
        schema = schema_of(arguments[0])
        described = next((note for note in arguments[1:] if isinstance(note, str)), None)
        return {**schema, "description": described} if described else schema
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(option) for option in arguments]}
    if hint in (list, tuple, set) or origin in (list, set, frozenset) or _is_sequence(origin):
        return {"type": "array", "items": schema_of(arguments[0])} if arguments else {"type": "array"}
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": schema_of(arguments[0])}
        return {"type": "array", "prefixItems": [schema_of(item) for item in arguments], "minItems": len(arguments),
                "maxItems": len(arguments)}
    if hint is dict or origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])} if arguments else {"type": "object"}
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        no_default = dataclasses.MISSING
        required = [f.name for f in dataclasses.fields(hint) if f.default is no_default and f.default_factory is no_default]
        return _object({f.name: schema_of(hints[f.name]) for f in dataclasses.fields(hint)}, required)
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        return _object({name: schema_of(value) for name, value in hints.items()}, sorted(hint.__required_keys__))
    raise TypeError(f"the hint {hint!r} has no JSON Schema: use plain types, or pass input_schema=")


def _is_sequence(origin):
    return inspect.isclass(origin) and origin.__module__ == "collections.abc" and "Sequence" in origin.__name__


def _object(properties, required):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


class Tool:
    """A registered function. Calling it calls the function."""

    def __init__(self, function, name=None, description=None, input_schema=None, **options):
        self.function = function
        self.name = name or function.__name__
        self.is_async = inspect.iscoroutinefunction(function)
        description = description if description is not None else inspect.getdoc(function) or ""
        self.definition = {"name": self.name, "description": description, "input_schema": input_schema, **options}
        if input_schema is None:
            self.definition["input_schema"] = self._schema()
        self.__doc__, self.__name__ = function.__doc__, self.name

    def __call__(self, *arguments, **keywords):
        return self.function(*arguments, **keywords)

    def _schema(self):
        hints = typing.get_type_hints(self.function, include_extras=True)
        properties, required = {}, []
        self._converts = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(f"{self.name}({parameter}) cannot be called by name: give the tool named parameters")
            hint = hints.get(name, parameter.empty)
            properties[name] = schema_of(hint)
            bare = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
            if inspect.isclass(bare) and issubclass(bare, enum.Enum):
                self._converts[name] = bare
            elif dataclasses.is_dataclass(bare):
                self._converts[name] = lambda fields, made=bare: made(**fields)
            if parameter.default is parameter.empty:
                required.append(name)
            else:
                try:
                    json.dumps(parameter.default)
                    properties[name] = {**properties[name], "default": parameter.default}
                except TypeError:
                    pass
        return _object(properties, required)

    def run(self, arguments: dict):
        """Calls the function with the model's arguments; a coroutine if it is async."""
        for name, convert in getattr(self, "_converts", {}).items():
            if name in arguments:
                arguments[name] = convert(arguments[name])
        return self.function(**arguments)


def encode_result(value) -> bytes:
    """A tool's return value as JSON; what has no JSON form is its str."""
    return json.dumps(value, ensure_ascii=False, default=_plain).encode()


def _plain(value):
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)


def encode_failure(error: BaseException) -> bytes:
    """An exception, as the model is told of it."""
    return json.dumps({"message": str(error) or type(error).__name__, "code": type(error).__name__}).encode()
