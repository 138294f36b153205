package app_test

import data.app

test_known_reads if app.allow with input as {"method": "GET", "user": "ada"}

test_stranger_does_not if not app.allow with input as {"method": "GET", "user": "eve"}

test_admin_writes if app.allow with input as {"method": "POST", "user": "grace"}

test_fails_plainly if app.allow with input as {"method": "POST", "user": "ada"}

test_is_false := app.allow

test_is_no_boolean := "yes"

test_other_data if app.allow with input as {"method": "GET", "user": "eve"} with data.users as ["eve"]

test_path if app.path(["a", "b"]) == "a/b"

test_mocked_function if app.label == "other" with input.method as "PUT" with data.users as []

todo_test_later if false

test_twice if true

test_twice if false

test_every if {
	every user in ["ada", "grace"] {
		app.allow with input as {"method": "GET", "user": user}
	}
}

test_every_fails if {
	every user in ["ada", "eve"] {
		app.allow with input as {"method": "GET", "user": user}
	}
}

test_conflict if app_test_conflict == 1

app_test_conflict := 1 if count(data.users) == 2

app_test_conflict := 2 if count(data.users) > 1

test_undefined_builtin if to_number("x")

test_label if {
	app.label == "read" with input as {"method": "GET"}
	app.label == "write" with input as {"method": "POST"}
}
