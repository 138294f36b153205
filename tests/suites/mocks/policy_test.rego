package mocks_test

import data.mocks

mock_double(x) := x * 10

test_builtin_mocked_by_a_value if mocks.old with time.now_ns as 5

test_builtin_not_mocked if not mocks.old

test_function_mocked_by_a_function if mocks.big(1) with data.mocks.double as mock_double

test_function_not_mocked if not mocks.big(1)

test_function_mocked_by_a_value if mocks.big(1) with data.mocks.double as 9

test_rule_mocked if mocks.level == "high" with mocks.total as 11

test_data_mocked if mocks.level == "low" with data.sub.deep.names as {}

test_data_mocked_wrong if mocks.level == "low" with data.sub.deep.limit as 0

test_nested_data if mocks.total == 12 with data.sub.deep.names.b as 11

test_objects if mocks.by_name == {"a": 1, "b": 2}

test_dotted if {
	mocks.servers.eu.count == 2
	mocks.servers.us.count == 2
}

test_set if mocks.deny == {"b is 2"}

test_set_wrong if "a is 1" in mocks.deny

test_division_by_zero if mocks.ratio == 1 with input.by as 0

test_division_by_zero_is_undefined if not mocks.ratio with input.by as 0

test_input_twice if {
	a := mocks.ratio with input.by as 1
	b := mocks.ratio with input.by as 3
	a == b * 3
}

test_some_with[by] if {
	some by in [1, 3]
	mocks.ratio == 3 with input.by as by
}

test_chained := true if false else := true if true

test_null := null

test_empty_object := {}
