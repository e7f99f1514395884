"""Typed services: names, numbers, descriptors and fingerprints: pure functions of a signature."""

import keyword
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc_tools.protoc
import pytest
from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace.typed import FieldNumbers, describe, drift, file_of, fingerprint
from headrace.typed.description import service_name
from headrace.typed.names import cleaned, field_names
from strategies import awkward_names
from strategies import mlflow_signatures as signatures

names = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8, unique=True)
odd_names = st.lists(awkward_names, min_size=1, max_size=6, unique=True)


def columns(*names: str, kind: str = "double", datatype: str = "FP64") -> Signature:
    specs = tuple(TensorSpec(name, datatype, (-1,), kind) for name in names)
    return Signature(specs, (TensorSpec("output-0", "INT64", (-1,)),))


def pool_of(file: FileDescriptorProto) -> DescriptorPool:
    pool = DescriptorPool()
    for module in (timestamp_pb2, struct_pb2):
        needed = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(needed)
        pool.Add(needed)
    pool.Add(file)
    return pool


def message_class(signature: Signature, name: str, known: FieldNumbers | None = None) -> Any:
    service = describe("iris", signature, known)
    return GetMessageClass(
        pool_of(file_of(service)).FindMessageTypeByName(f"{service.package}.{name}")
    )


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("sepal_length", "sepal_length"),
        ("SepalLength", "SepalLength"),
        ("sepal length (cm)", "sepal_length_cm"),
        ("größe", "gro_e"),
        ("é", "e"),
        ("0", "input_0"),
        ("input-0", "input_0"),
        ("_private", "private"),
        ("class", "class"),
        ("温度", "input_x3732e2"),
        ("%", "input_xbbf3f1"),
    ],
)
def test_a_name_that_is_no_identifier_is_cleaned(name: str, field: str) -> None:
    assert cleaned(name, "input") == field


def test_a_long_name_is_cut_and_told_from_others_by_its_hash() -> None:
    long = [cleaned("a" * 500 + end, "input") for end in ("", "b")]
    assert all(len(field) < 80 for field in long)
    assert long[0] != long[1]


def test_a_python_keyword_gets_an_underscore_in_python_alone() -> None:
    (item,) = describe("iris", columns("class")).inputs
    assert (item.field, item.python, item.json) == ("class", "class_", "class")


@given(names)
def test_fields_are_identifiers_and_differ_in_every_language(names: list[str]) -> None:
    fields = field_names(names, "input", ["params"])
    assert all(field.isascii() and field.isidentifier() for field in fields)
    assert len({field.replace("_", "").lower() for field in [*fields, "params"]}) == len(names) + 1


@given(names)
def test_python_names_are_no_keywords_and_differ(names: list[str]) -> None:
    pythons = [item.python for item in describe("iris", columns(*names)).inputs]
    assert len(set(pythons)) == len(names)
    assert not any(map(keyword.iskeyword, pythons))


@given(names, st.data())
def test_names_and_numbers_outlive_new_columns_and_another_order(
    names: list[str], data: st.DataObject
) -> None:
    first = data.draw(st.integers(1, len(names)))
    before = describe("iris", columns(*names[:first]))
    now = describe("iris", columns(*data.draw(st.permutations(names))), before.numbers)
    was = {item.name: (item.field, item.number) for item in before.inputs}
    now_is = {item.name: (item.field, item.number) for item in now.inputs}
    assert {name: now_is[name] for name in was} == was
    assert len({number for _, number in now_is.values()}) == len(names)


@given(names, st.data())
def test_a_number_is_never_given_to_another_column(names: list[str], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    before = describe("iris", columns(*names))
    between = describe("iris", columns(*kept), before.numbers)
    gone = {item.number for item in before.inputs if item.name not in kept}
    assert {one.number for one in between.retired_inputs} == gone
    after = describe("iris", columns(*kept, "brand new \0"), between.numbers)
    assert {item.number for item in after.inputs}.isdisjoint(gone)
    again = describe("iris", columns(*names), after.numbers)
    assert [item.number for item in again.inputs] == [item.number for item in before.inputs]


def test_a_column_of_another_type_gets_another_number() -> None:
    before = describe("iris", columns("a", "b"))
    now = describe("iris", columns("a", "b", datatype="INT64", kind="long"), before.numbers)
    assert [item.number for item in now.inputs] == [3, 4]
    assert [(one.number, one.field) for one in now.retired_inputs] == [(1, ""), (2, "")]


@given(names)
def test_numbers_survive_their_text(names: list[str]) -> None:
    numbers = describe("iris", columns(*names)).numbers
    assert FieldNumbers.from_text(numbers.to_text()) == numbers


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", '{"inputs": 3}', '{"other": []}', '{"inputs": ["a"]}', '{"inputs": [1]}'),
        '{"inputs": ["double a", "double a"]}',
    ],
)
def test_what_are_no_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|Expecting|each once"):
        FieldNumbers.from_text(text)


@pytest.mark.parametrize("count", [300, 3000])
def test_many_columns_have_a_legal_descriptor(count: int) -> None:
    names = [f"column {index}" for index in range(count)]
    service = describe("wide", columns(*names, kind="string", datatype="BYTES"))
    assert [item.number for item in service.inputs] == list(range(1, count + 1))
    pool_of(file_of(service)).FindServiceByName("headrace.typed.wide.WidePredictor")


# Masks of missing values.


def texts(*names: str) -> Signature:
    return columns(*names, kind="string", datatype="BYTES")


@given(st.lists(awkward_names, min_size=1, max_size=6, unique=True), st.data())
def test_a_mask_has_its_columns_number_and_200000_for_good(
    names: list[str], data: st.DataObject
) -> None:
    before = describe("iris", texts(*names))
    more = data.draw(st.permutations([*names, "brand new \0"]))
    now = describe("iris", texts(*more), before.numbers)

    for service in (before, now):
        number = {item.name: item.number for item in service.inputs}
        assert {mask.name: mask.number for mask in service.masks} == {
            f"{name}.is_null": 200_000 + number[name]
            for name in number
            if f"{name}.is_null" not in number
        }
        fields = [item.field.replace("_", "").lower() for item in (*service.inputs, *service.masks)]
        assert len({*fields, "params"}) == len(fields) + 1
        pool_of(file_of(service))


@given(signatures())
def test_masks_change_neither_numbers_nor_names_nor_fingerprints(signature: Signature) -> None:
    without = replace(
        signature, inputs=tuple(replace(spec, no_nulls=True) for spec in signature.inputs)
    )

    service, bare = describe("iris", signature), describe("iris", without)

    assert bare.masks == ()
    assert service.numbers == bare.numbers
    assert fingerprint(signature) == fingerprint(without)
    for item, plain in zip(service.inputs, bare.inputs, strict=True):
        told = (item.field, item.python, item.json, item.number, item.type)
        assert told == (plain.field, plain.python, plain.json, plain.number, plain.type)


def test_only_columns_without_a_null_of_their_own_have_a_mask() -> None:
    kinds = {"double": "FP64", "datetime": "INT64", "long": "INT64", "json": "BYTES"}
    kinds |= {"string": "BYTES", "boolean": "BOOL", "binary": "BYTES"}
    specs = [TensorSpec(kind, datatype, (-1,), kind) for kind, datatype in kinds.items()]

    service = describe("iris", Signature((*specs, TensorSpec("x", "BYTES", (-1, 2)))))

    assert [(mask.name, mask.field, mask.json) for mask in service.masks] == [
        (f"{kind}.is_null", f"{kind}_is_null", f"{kind}.is_null")
        for kind in ("string", "boolean", "binary")
    ]


def test_a_mask_makes_way_for_a_column_of_its_name() -> None:
    service = describe("iris", texts("a", "a_is_null", "b", "b.is_null"))

    assert [(item.name, item.field) for item in service.inputs] == [
        *(("a", "a"), ("a_is_null", "a_is_null")),
        *(("b", "b"), ("b.is_null", "b_is_null")),
    ]
    assert [mask.name for mask in service.masks] == [
        *("a.is_null", "a_is_null.is_null", "b.is_null.is_null"),
    ]
    assert service.masks[0].field.startswith("a_is_null_x")


@pytest.mark.parametrize(("count", "masks"), [(1500, 1500), (1501, 0)])
def test_masks_are_left_out_where_a_message_would_have_too_many_fields(
    count: int, masks: int
) -> None:
    service = describe("wide", texts(*(f"column {index}" for index in range(count))))

    assert len(service.masks) == masks
    pool_of(file_of(service)).FindServiceByName("headrace.typed.wide.WidePredictor")


def test_more_columns_than_protobuf_takes_are_an_error() -> None:
    with pytest.raises(ValueError, match="at most 3000 inputs, got 3001"):
        describe("wide", columns(*map(str, range(3001))))


def test_numbers_that_protobuf_keeps_for_itself_are_left_out() -> None:
    gone = FieldNumbers(tuple(f"double {index}" for index in range(18_998)))
    service = describe("old", columns("a", "b"), gone)
    assert [item.number for item in service.inputs] == [18_999, 20_000]


@pytest.mark.parametrize(
    ("model", "service"),
    [
        ("iris", "headrace.typed.iris.IrisPredictor"),
        ("my-model", "headrace.typed.my_model.MyModelPredictor"),
        ("churn_v2", "headrace.typed.churn_v2.ChurnV2Predictor"),
        ("7seas", "headrace.typed.model_7seas.Model7seasPredictor"),
        ("模型", "headrace.typed.model_xc98e11.ModelXc98e11Predictor"),
    ],
)
def test_a_service_is_called_after_its_model(model: str, service: str) -> None:
    assert service_name(model) == service
    described = describe(model, columns("a"))
    assert f"{described.package}.{described.service}" == service


def test_two_columns_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="different names"):
        describe("iris", columns("a", "a"))


def test_json_has_the_columns_own_names() -> None:
    message = message_class(columns("sepal length (cm)", "温度"), "IrisRequest")()
    json_format.ParseDict({"sepal length (cm)": [5.1], "温度": [20.0]}, message)
    assert list(message.sepal_length_cm) == [5.1]
    assert json_format.MessageToDict(message) == {"sepal length (cm)": [5.1], "温度": [20.0]}


@pytest.mark.parametrize(
    "names", [("a b", "a_b"), ("1st", "input_1st"), ("a_b", "a b"), ("input_1st", "1st")]
)
def test_a_column_called_like_the_field_of_another_has_a_name_of_its_own_in_json(
    names: tuple[str, ...],
) -> None:
    message = message_class(columns(*names), "IrisRequest")
    fields = [field.name for field in message.DESCRIPTOR.fields]
    in_json = [field.json_name for field in message.DESCRIPTOR.fields]
    # The first has its own name; the second has it where it is no field.
    assert in_json == [names[0], fields[1] if names[1] in fields else names[1]]
    for at, name in enumerate(in_json):
        read = json_format.ParseDict({name: [1.5]}, message())
        assert [list(getattr(read, field)) for field in fields][at] == [1.5]


def test_a_column_whose_name_begins_with_an_underscore_is_called_as_its_field() -> None:
    (item,) = describe("iris", columns("_private")).inputs
    assert (item.field, item.json) == ("private", "private")


@given(signatures())
def test_protobuf_takes_the_descriptor_of_every_signature(signature: Signature) -> None:
    assert pool_of(file_of(describe("iris", signature)))


@given(odd_names, odd_names)
def test_later_columns_change_no_name_in_json(first: list[str], later: list[str]) -> None:
    before = describe("iris", columns(*first))
    added = [name for name in later if name not in first]
    after = describe("iris", columns(*added, *first), before.numbers)
    assert {item.name: item.json for item in before.inputs}.items() <= {
        item.name: item.json for item in after.inputs
    }.items()


def test_columns_called_as_our_own_fields_are_called_otherwise() -> None:
    signature = Signature(
        columns("params", "a").inputs,
        (TensorSpec("model_version", "INT64", (-1,)),),
        (ParamSpec("t", "double", 1.0),),
    )
    service = describe("iris", signature)
    assert service.inputs[0].field.startswith("params_x")
    assert service.inputs[0].json == service.inputs[0].field
    assert service.outputs[0].field.startswith("model_version_x")
    pool_of(file_of(service))


EVERYTHING = Signature(
    (
        *(
            TensorSpec(kind, datatype, (-1,), kind, optional=kind == "string")
            for kind, datatype in [
                ("boolean", "BOOL"),
                ("integer", "INT32"),
                ("long", "INT64"),
                ("float", "FP32"),
                ("double", "FP64"),
                ("string", "BYTES"),
                ("binary", "BYTES"),
                ("datetime", "INT64"),
            ]
        ),
        TensorSpec("any", "BYTES", (-1,), "json"),
        TensorSpec(
            "list", "BYTES", (-1,), "json", schema='{"type":"array","items":{"type":"double"}}'
        ),
        TensorSpec(
            "deep", "BYTES", (-1,), "json", schema='{"type":"array","items":{"type":"any"}}'
        ),
        TensorSpec("a__b", "FP64", (-1,), "double"),
        TensorSpec("aB", "FP64", (-1,), "double"),
        TensorSpec("message", "FP64", (-1,), "double"),
    ),
    (TensorSpec("images", "UINT8", (-1, 2, 2)), TensorSpec("labels", "BYTES", (-1,))),
    (
        ParamSpec("temperature", "double", 1.0),
        ParamSpec("stop", "string", ["a"], (-1,)),
        ParamSpec("at", "datetime", None),
        ParamSpec("extra", "object", None),
    ),
)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("iris", "headrace.typed.iris"),
        ("class", "headrace.typed.class_"),
        ("int", "headrace.typed.int_"),
    ],
)
def test_the_package_in_java_is_no_keyword(model: str, expected: str) -> None:
    file = file_of(describe(model, Signature((TensorSpec("x", "FP64", (-1,), "double"),))))

    assert file.options.java_package == expected
    assert file.package == f"headrace.typed.{model}"


def test_the_compiler_reads_a_proto_that_says_the_same(tmp_path: Path) -> None:
    """The text is written here once more, by hand."""
    source = tmp_path / "headrace" / "typed" / "iris.proto"
    source.parent.mkdir(parents=True)
    source.write_text(
        """
        syntax = "proto3";
        package headrace.typed.iris;
        import "google/protobuf/timestamp.proto";
        option go_package = "headrace/typed/iris";
        option java_multiple_files = true;
        option java_package = "headrace.typed.iris";
        service IrisPredictor {
          rpc Predict(IrisRequest) returns (IrisResponse);
          rpc PredictRow(IrisRow) returns (IrisPrediction);
        }
        message IrisRequest {
          reserved 2;
          reserved "b_c";
          repeated double a = 1 [json_name = "a"];
          repeated google.protobuf.Timestamp at = 3 [json_name = "at"];
          IrisParams params = 100000;
        }
        message IrisResponse {
          Float32Tensor scores = 1 [json_name = "scores"];
          string model_version = 100000 [json_name = "model_version"];
        }
        message IrisRow {
          reserved 2;
          reserved "b_c";
          optional double a = 1 [json_name = "a"];
          google.protobuf.Timestamp at = 3 [json_name = "at"];
          IrisParams params = 100000;
        }
        message IrisPrediction {
          Float32Tensor scores = 1 [json_name = "scores"];
          string model_version = 100000 [json_name = "model_version"];
        }
        message IrisParams {
          optional bool loud = 1;
          repeated string stop = 2;
        }
        message Float32Tensor {
          repeated int64 shape = 1;
          repeated float values = 2;
          bytes raw = 3;
        }
        """
    )
    out = tmp_path / "set.binpb"
    arguments = ["protoc", f"-I{tmp_path}", f"--descriptor_set_out={out}", str(source)]
    assert grpc_tools.protoc.main([*arguments, f"-I{_well_known()}"]) == 0
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    (compiled,) = FileDescriptorSet.FromString(out.read_bytes()).file
    signature = Signature(
        (
            TensorSpec("a", "FP64", (-1,), "double"),
            TensorSpec("at", "INT64", (-1,), "datetime"),
        ),
        (TensorSpec("scores", "FP32", (-1, 3)),),
        (ParamSpec("loud", "boolean", False), ParamSpec("stop", "string", [], (-1,))),
    )
    known = FieldNumbers(("double a", "double b c"))
    assert _plain(compiled) == _plain(file_of(describe("iris", signature, known)))


def _plain(file: FileDescriptorProto) -> FileDescriptorProto:
    for message in file.message_type:
        for field in message.field:
            # Compilers say them, or not, where they are what they would be anyway.
            field.ClearField("json_name")
    return file


def _well_known() -> Path:
    return Path(grpc_tools.protoc.__file__).parent / "_proto"


@pytest.mark.parametrize("name", ["EverythingRequest", "EverythingRow", "EverythingParams"])
def test_every_kind_of_column_has_a_field(name: str) -> None:
    service = describe("everything", EVERYTHING)
    descriptor = pool_of(file_of(service)).FindMessageTypeByName(f"{service.package}.{name}")
    wanted = service.params if name.endswith("Params") else service.inputs
    by_number = descriptor.fields_by_number
    assert {by_number[item.number].name for item in wanted} == {item.field for item in wanted}


def test_a_descriptor_compiles_with_every_kind_of_column(tmp_path: Path) -> None:
    """The compiler is stricter than a pool: names must differ in camel case too."""
    from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest

    assert CodeGeneratorRequest is not None
    service = describe("everything", EVERYTHING)
    out = tmp_path / "in.binpb"
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    files = []
    for module in (timestamp_pb2, struct_pb2):
        needed = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(needed)
        files.append(needed)
    out.write_bytes(FileDescriptorSet(file=[*files, file_of(service)]).SerializeToString())
    made = tmp_path / "made"
    made.mkdir()
    code = grpc_tools.protoc.main(
        ["protoc", f"--descriptor_set_in={out}", f"--python_out={made}", service.file]
    )
    assert code == 0


def test_equal_signatures_give_equal_files() -> None:
    one, two = (file_of(describe("everything", EVERYTHING)) for _ in range(2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


# Fingerprints.


def with_inputs(*specs: TensorSpec) -> Signature:
    return replace(columns(), inputs=specs)


A = TensorSpec("a", "FP64", (-1,), "double")
B = TensorSpec("b", "BYTES", (-1,), "string")


@given(names, st.randoms())
def test_another_order_is_the_same_signature(names: list[str], random: Any) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)
    assert fingerprint(columns(*names)) == fingerprint(columns(*shuffled))


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ((A,), (A, replace(B, optional=True))),
        ((A, replace(B, optional=True)), (A, B.__class__("b", "BYTES", (-1,), "string", True))),
        ((A, B), (replace(B, optional=True), A)),
    ],
)
def test_what_asks_for_nothing_more_is_compatible(
    then: Sequence[TensorSpec], now: Sequence[TensorSpec]
) -> None:
    found = drift(fingerprint(with_inputs(*then)), with_inputs(*now))
    assert found.is_compatible, str(found)


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ((A,), (A, B), "input 'b' is new, and not optional"),
        ((A, B), (A,), "1 input is gone; there are 'a'"),
        ((A,), (replace(A, datatype="FP32", kind="float"),), "input 'a' has another type"),
        ((replace(A, optional=True),), (A,), "input 'a' is not optional any more"),
        ((replace(A, schema='{"x":1}'),), (replace(A, schema='{"x":2}'),), "another type"),
    ],
)
def test_what_asks_for_more_or_otherwise_is_named(
    then: Sequence[TensorSpec], now: Sequence[TensorSpec], said: str
) -> None:
    found = drift(fingerprint(with_inputs(*then)), with_inputs(*now))
    assert not found.is_compatible
    assert said in str(found)


def test_what_is_gone_is_named_by_those_who_know_its_number() -> None:
    before = with_inputs(A, B)
    known = describe("iris", before).numbers
    assert str(drift(fingerprint(before), with_inputs(A), known)) == "input 'b' is gone"


def test_outputs_and_parameters_may_be_added_but_not_taken_away() -> None:
    more = replace(EVERYTHING, outputs=(*EVERYTHING.outputs, A), params=EVERYTHING.params)
    assert drift(fingerprint(EVERYTHING), more).is_compatible
    less = drift(fingerprint(more), replace(EVERYTHING, params=EVERYTHING.params[1:]))
    assert "1 output is gone" in str(less)
    assert "1 parameter is gone" in str(less)


def test_another_default_is_compatible() -> None:
    other = replace(EVERYTHING.params[0], default=7.0)
    now = replace(EVERYTHING, params=(other, *EVERYTHING.params[1:]))
    assert fingerprint(now) == fingerprint(EVERYTHING)


def test_a_signature_too_large_for_records_is_the_same_or_not() -> None:
    wide = columns(*map(str, range(2000)))
    assert len(fingerprint(wide)) < 100
    assert drift(fingerprint(wide), columns(*map(str, reversed(range(2000))))).is_compatible
    assert not drift(fingerprint(wide), columns(*map(str, range(1999)))).is_compatible


@pytest.mark.parametrize("text", ["", "1", "2.a.b.c", "1.ab.cd.ef", "1.é..", "x" * 9999])
def test_what_is_no_fingerprint_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        drift(text, columns("a"))
