package odd

test_in_a_file_of_any_name if true

group.test_inside_a_name if true

test_set contains 1 if true

test_value := {"a": 1}

test_bodies if {
	1 == 2
} else := true

nested := {"a": [1, 2, 3]}

test_object if nested.a[_] == 3

test_comprehension if {
	found := [x | some x in nested.a; x > 1]
	found == [2, 3]
}

test_negated if not 7 in nested.a

test_bare_variable if {
	nested.a[i] == 2
	i == 1
}
