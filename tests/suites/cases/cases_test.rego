package cases_test

add(a, b) := a + b

test_add[name] if {
	some name, case in {
		"one and two": {"a": 1, "b": 2, "sum": 3},
		"wrong": {"a": 1, "b": 1, "sum": 3},
	}
	add(case.a, case.b) == case.sum
}

test_all_hold[case.note] if {
	some case in [{"note": "x", "n": 1}, {"note": "y", "n": 2}]
	case.n < 3
}

test_none[name] if {
	some name in []
	name == "x"
}

test_nested[group][name] if {
	some group, cases in {"g": {"a": 1, "b": 2}, "h": {"c": 1}}
	some name, n in cases
	n == 1
}

test_late[name] if {
	some name, n in {"a": 1, "b": 2}
	n > 5
	n < 7
}
